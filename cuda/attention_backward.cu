// attention_backward, by the formulae of src/cpu/attention.cpp. The probabilities are made again from the scores and
// log_sum_exp, once by a block of 64 queries that walks over the keys (d_q), once by a block of 64 keys that walks
// over the queries (d_k and d_v): twice the work of one pass, but every output is one block's own sum. Before, a few
// threads a query leave delta = d_y . y.
#include <algorithm>
#include <bit>
#include <cmath>

#include "attention_tiles.cuh"
#include "dropout.cuh"

namespace riverhorse::cuda {

namespace {

using namespace attention;

constexpr int delta_threads = 256;

template <typename T>
struct Source {
  const T* qkv;
  const T* y;
  const T* d_y;
  const float* log_sum_exp;
  const float* delta;
  T* d_qkv;
  DropoutMask mask;
  int tokens, width, heads, head_width;
  float scale;

  Source(const AttentionBackwardArgs& args, const Tensor& delta_tensor)
      : qkv(data<T>(args.qkv)),
        y(data<T>(args.y)),
        d_y(data<T>(args.d_y)),
        log_sum_exp(data<float>(args.log_sum_exp)),
        delta(data<float>(delta_tensor)),
        d_qkv(data<T>(args.d_qkv)),
        mask(args.dropout),
        tokens(static_cast<int>(args.qkv.shape[1])),
        width(static_cast<int>(args.qkv.shape[2] / 3)),
        heads(args.heads),
        head_width(width / heads),
        scale(1.0f / std::sqrt(static_cast<float>(head_width))) {}
};

// One head of one sequence, that of the block.
template <typename T>
struct Head {
  Rows<T> queries, keys, values, d_outputs;
  T* d_queries;
  T* d_keys;
  T* d_values;
  const float* log_sum_exp;
  const float* delta;
  std::int64_t first_index;  // of the dropout mask

  __device__ explicit Head(const Source<T>& source) {
    const std::int64_t head = blockIdx.y, sequence = blockIdx.z;
    const std::int64_t row = sequence * source.tokens, stride = 3 * std::int64_t{source.width};
    const std::int64_t begin = row * stride + head * source.head_width;
    queries = {source.qkv + begin, stride, source.tokens, source.head_width};
    keys = {queries.data + source.width, stride, source.tokens, source.head_width};
    values = {keys.data + source.width, stride, source.tokens, source.head_width};
    d_outputs = {source.d_y + row * source.width + head * source.head_width, source.width, source.tokens,
                 source.head_width};
    d_queries = source.d_qkv + begin;
    d_keys = d_queries + source.width;
    d_values = d_keys + source.width;
    const std::int64_t query = (sequence * source.heads + head) * source.tokens;
    log_sum_exp = source.log_sum_exp + query;
    delta = source.delta + query;
    first_index = query * source.tokens;
  }
};

// `lanes` threads, a power of two, a query and head; `count` divides the width of a head.
template <typename T, int count>
__global__ void make_delta(Source<T> source, std::int64_t queries, int lanes, float* delta) {
  using Group = Neighbours<T, count>;
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  const std::int64_t index = first_element() / lanes;  // in (B, L, heads)
  float sum = 0;
  for (int c = lane * count; index < queries && c < source.head_width; c += lanes * count) {
    const std::int64_t at = index * source.head_width + c;
    const Group d_y = *reinterpret_cast<const Group*>(source.d_y + at);
    const Group y = *reinterpret_cast<const Group*>(source.y + at);
#pragma unroll
    for (int i = 0; i < count; ++i) sum += to_float(d_y.values[i]) * to_float(y.values[i]);
  }
  for (int distance = lanes / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(all_lanes, sum, distance);
  if (index >= queries || lane != 0) return;
  const std::int64_t row = index / source.heads, head = index % source.heads;
  const std::int64_t sequence = row / source.tokens, token = row % source.tokens;
  delta[(sequence * source.heads + head) * source.tokens + token] = sum;
}

template <typename T>
void launch_make_delta(cudaStream_t stream, const Source<T>& source, std::int64_t queries, float* delta) {
  constexpr int most = 16 / sizeof(T);
  const bool whole = source.head_width % most == 0 && at_16_bytes(source.y) && at_16_bytes(source.d_y);
  const auto groups = static_cast<unsigned>(whole ? source.head_width / most : source.head_width);
  const int lanes = std::min(warp_size, static_cast<int>(std::bit_ceil(groups)));
  launch(whole ? make_delta<T, most> : make_delta<T, 1>, grid_of(divide_up(queries * lanes, delta_threads)),
         delta_threads, 0, stream, source, queries, lanes, delta);
}

// Grid: tiles of queries times passes over the channels, heads, sequences.
template <typename T, typename Tiles>
__global__ void __launch_bounds__(Tiles::threads) backward_queries(Source<T> source, int passes) {
  SHARED_MEMORY(unsigned char, shared);
  const Head<T> head(source);
  const Tiles tiles(shared, static_cast<int>(blockIdx.x) % passes * Tiles::pass);
  const std::int64_t query_tiles = gridDim.x / passes;
  const std::int64_t query_begin = (query_tiles - 1 - blockIdx.x / passes) * tile;  // the longest ones first
  float d_queries[Tiles::rows][Tiles::channels] = {};
  const auto queries = tiles.load(0, head.queries, query_begin);
  const auto d_outputs = tiles.load(1, head.d_outputs, query_begin);
  const float scale = source.scale * log2_e;
  float log_sum[Tiles::rows], delta[Tiles::rows], factors[Tiles::rows];
#pragma unroll
  for (int i = 0; i < Tiles::rows; ++i) {
    const std::int64_t query = min(query_begin + tiles.row(i), source.tokens - std::int64_t{1});
    log_sum[i] = head.log_sum_exp[query] * log2_e;
    delta[i] = head.delta[query];
    factors[i] = source.scale;
  }
  const auto add_keys = [&](std::int64_t key_begin, const auto& keys, const auto& values) {
    float products[Tiles::rows][Tiles::columns], d_weights[Tiles::rows][Tiles::columns];
    tiles.multiply(queries, keys, products);
    tiles.multiply(d_outputs, values, d_weights);
    drop<Tiles, false>(
        source.mask,
        [&](int i, int j) {
          return head.first_index + (query_begin + tiles.row(i)) * source.tokens + key_begin + tiles.column(j);
        },
        d_weights);
    const bool some_unseen = key_begin == query_begin;
#pragma unroll
    for (int i = 0; i < Tiles::rows; ++i) {
#pragma unroll
      for (int j = 0; j < Tiles::columns; ++j) {
        const float probability = exp2f(fmaf(products[i][j], scale, -log_sum[i]));
        const float d_product = probability * (d_weights[i][j] - delta[i]);
        products[i][j] = some_unseen && tiles.column(j) > tiles.row(i) ? 0.0f : d_product;
      }
    }
    tiles.add_weighted(products, keys, d_queries);
  };
  over_tiles(tiles, 2, head.keys, head.values, 0, query_begin + 1, add_keys);
  tiles.store(d_queries, factors, head.d_queries, 3 * std::int64_t{source.width}, query_begin, source.tokens,
              source.head_width);
}

// Grid: tiles of keys times passes over the channels, heads, sequences. Rows are keys, columns queries.
template <typename T, typename Tiles>
__global__ void __launch_bounds__(Tiles::threads) backward_keys(Source<T> source, int passes) {
  SHARED_MEMORY(unsigned char, shared);
  const Head<T> head(source);
  const Tiles tiles(shared, static_cast<int>(blockIdx.x) % passes * Tiles::pass);
  const std::int64_t key_begin = blockIdx.x / passes * std::int64_t{tile};
  float d_keys[Tiles::rows][Tiles::channels] = {}, d_values[Tiles::rows][Tiles::channels] = {};
  const auto keys = tiles.load(0, head.keys, key_begin), values = tiles.load(1, head.values, key_begin);
  const float scale = source.scale * log2_e;
  const auto add_queries = [&](std::int64_t query_begin, const auto& queries, const auto& d_outputs) {
    float products[Tiles::rows][Tiles::columns], d_weights[Tiles::rows][Tiles::columns];
    tiles.multiply(keys, queries, products);
    tiles.multiply(values, d_outputs, d_weights);
    const auto index_of = [&](int j, int i) {
      return head.first_index + (query_begin + tiles.column(j)) * source.tokens + key_begin + tiles.row(i);
    };
    drop<Tiles, true>(source.mask, index_of, d_weights);
    const int left = static_cast<int>(min(source.tokens - query_begin, std::int64_t{tile}));
    const bool some_unseen = key_begin == query_begin || left < tile;
#pragma unroll
    for (int j = 0; j < Tiles::columns; ++j) {
      const std::int64_t query = query_begin + min(tiles.column(j), left - 1);
      const float log_sum = head.log_sum_exp[query] * log2_e, delta = head.delta[query];
      const int last_key = tiles.column(j) >= left ? -1 : key_begin == query_begin ? tiles.column(j) : tile;
#pragma unroll
      for (int i = 0; i < Tiles::rows; ++i) {
        float probability = exp2f(fmaf(products[i][j], scale, -log_sum));
        if (some_unseen && tiles.row(i) > last_key) probability = 0;
        products[i][j] = probability * (d_weights[i][j] - delta);
        d_weights[i][j] = probability;
      }
    }
    tiles.add_weighted(products, queries, d_keys);
    drop<Tiles, true>(source.mask, index_of, d_weights);
    tiles.add_weighted(d_weights, d_outputs, d_values);
  };
  over_tiles(tiles, 2, head.queries, head.d_outputs, key_begin, source.tokens, add_queries);
  float factors[Tiles::rows], ones[Tiles::rows];
  for (float& each : factors) each = source.scale;
  for (float& each : ones) each = 1;
  const std::int64_t stride = 3 * std::int64_t{source.width};
  tiles.store(d_keys, factors, head.d_keys, stride, key_begin, source.tokens, source.head_width);
  tiles.store(d_values, ones, head.d_values, stride, key_begin, source.tokens, source.head_width);
}

}  // namespace

void CudaEncoder::record_attention_backward(const AttentionBackwardArgs& args) {
  const std::int64_t batch = args.qkv.shape[0], tokens = args.qkv.shape[1];
  ScratchScope scope(*this);
  const Tensor delta = scratch(DType::f32, {batch, args.heads, tokens});
  add("attention_backward", [args, batch, tokens, delta](cudaStream_t stream) {
    with_activation(args.qkv.dtype, [&](auto act) {
      using T = decltype(act);
      const Source<T> source(args, delta);
      const std::int64_t rows = batch * tokens * args.heads;
      launch_make_delta(stream, source, rows, data<float>(delta));
      const bool aligned = fit_tensor_cores({args.qkv, args.d_y, args.d_qkv});
      with_tiles<T>(source.head_width, aligned, [&](auto tiles) {
        using Tiles = typename decltype(tiles)::type;
        const std::int64_t passes = divide_up(source.head_width, Tiles::pass);
        const dim3 grid = grid_of(divide_up(tokens, tile) * passes, args.heads, batch);
        launch(backward_queries<T, Tiles>, grid, Tiles::threads, Tiles::shared_bytes(6), stream, source, passes);
        launch(backward_keys<T, Tiles>, grid, Tiles::threads, Tiles::shared_bytes(6), stream, source, passes);
      });
    });
  });
}

}  // namespace riverhorse::cuda
