// attention: online softmax, memory linear in the length. A block takes 64 queries of one head of one sequence and
// walks over the keys, 64 at a time (attention.cuh), on tensor cores where they can. Where cuDNN is faster, it takes
// their place (fused_attention.h).
#include <algorithm>
#include <cfloat>
#include <cmath>

#include "attention_source.cuh"
#include "attention_tiles.cuh"
#include "dropout.cuh"

namespace riverhorse::cuda {

namespace {

using namespace attention;

// Grid: tiles of queries times passes over the channels, heads, sequences.
template <typename T, typename Tiles>
__global__ void __launch_bounds__(Tiles::threads)
    attend(Source<T> source, int passes, DropoutMask mask, T* y, float* log_sum_exp) {
  SHARED_MEMORY(unsigned char, shared);
  const int head = static_cast<int>(blockIdx.y), sequence = static_cast<int>(blockIdx.z);
  const int channel_begin = static_cast<int>(blockIdx.x) % passes * Tiles::pass;
  const Tiles tiles(shared, channel_begin);
  const std::int64_t query_tiles = gridDim.x / passes;
  const std::int64_t query_begin = (query_tiles - 1 - blockIdx.x / passes) * tile;  // the longest ones first
  const std::int64_t past = source.past(sequence);
  const std::int64_t last_query = query_begin + tile < source.tokens ? query_begin + tile - 1 : source.tokens - 1;
  const std::int64_t key_end = past + last_query + 1;
  const std::int64_t first_index = (std::int64_t{sequence} * source.heads + head) * source.tokens;

  float sums[Tiles::rows][Tiles::channels] = {};
  float maximum[Tiles::rows], total[Tiles::rows] = {};
  for (float& each : maximum) each = -FLT_MAX;  // of the products before they are scaled
  const float scale = source.scale * log2_e;
  const auto queries = tiles.load(0, source.queries(sequence, head), query_begin);
  const auto attend_tile = [&](std::int64_t key_begin, const auto& keys, const auto& values) {
    float weights[Tiles::rows][Tiles::columns];
    tiles.multiply(queries, keys, weights);
    if (key_begin + tile > past + query_begin + 1) {  // not every query sees every key
      const auto first_seen = static_cast<int>(past + query_begin + 1 - key_begin);
#pragma unroll
      for (int i = 0; i < Tiles::rows; ++i) {
        for (int j = 0; j < Tiles::columns; ++j) {
          if (tiles.column(j) >= first_seen + tiles.row(i)) weights[i][j] = -FLT_MAX;
        }
      }
    }
#pragma unroll
    for (int i = 0; i < Tiles::rows; ++i) {
      float largest = maximum[i];
#pragma unroll
      for (int j = 0; j < Tiles::columns; ++j) largest = fmaxf(largest, weights[i][j]);
      largest = tiles.row_max(largest);
      const float shrink = exp2f((maximum[i] - largest) * scale), shift = largest * scale;
      maximum[i] = largest;
      float sum = 0;
#pragma unroll
      for (int j = 0; j < Tiles::columns; ++j) {
        weights[i][j] = exp2f(fmaf(weights[i][j], scale, -shift));
        sum += weights[i][j];
      }
      total[i] = total[i] * shrink + tiles.row_sum(sum);
      for (float& each : sums[i]) each *= shrink;
    }
    drop<Tiles, false>(
        mask,
        [&](int i, int j) {
          return (first_index + query_begin + tiles.row(i)) * source.tokens + key_begin + tiles.column(j);
        },
        weights);
    tiles.add_weighted(weights, values, sums);
  };
  over_tiles(tiles, 1, source.keys(sequence, head), source.values(sequence, head), 0, key_end, attend_tile);

  float factors[Tiles::rows];
#pragma unroll
  for (int i = 0; i < Tiles::rows; ++i) {
    const std::int64_t query = query_begin + tiles.row(i);
    factors[i] = 1.0f / total[i];
    if (log_sum_exp != nullptr && channel_begin == 0 && tiles.column(0) == 0 && query < source.tokens) {
      log_sum_exp[first_index + query] = maximum[i] * source.scale + logf(total[i]);
    }
  }
  T* out = y + std::int64_t{sequence} * source.tokens * source.width + head * source.head_width;
  tiles.store(sums, factors, out, source.width, query_begin, source.tokens, source.head_width);
}

}  // namespace

void CudaEncoder::record_attention(const AttentionArgs& args) {
  if (const auto workspace_bytes = fused_attention_.workspace_bytes(args)) {
    ScratchScope scope(*this);
    const Tensor workspace = scratch(DType::u8, {std::max<std::int64_t>(*workspace_bytes, 1)});
    if (!preparing()) add("attention", fused_attention_.plan(args, workspace));
    return;
  }
  add("attention", [args](cudaStream_t stream) {
    with_activation(args.qkv.dtype, [&](auto act) {
      using T = decltype(act);
      const Source<T> source(args);
      const std::int64_t batch = args.qkv.shape[0];
      if (args.slots) launch(write_cache<T>, grid_of(batch * source.tokens), cache_threads, 0, stream, source);
      const bool aligned = fit_tensor_cores({args.qkv, args.cache.k, args.cache.v, args.y});
      with_tiles<T>(source.head_width, aligned, [&](auto tiles) {
        using Tiles = typename decltype(tiles)::type;
        const std::int64_t passes = divide_up(source.head_width, Tiles::pass);
        launch(attend<T, Tiles>, grid_of(divide_up(source.tokens, tile) * passes, source.heads, batch),
               Tiles::threads, Tiles::shared_bytes(5), stream, source, passes, DropoutMask(args.dropout),
               data<T>(args.y), data<float>(args.log_sum_exp));
      });
    });
  });
}

}  // namespace riverhorse::cuda
