// attention: online softmax, memory linear in the length. A block takes 64 queries of one head of one sequence and
// walks over the keys, 64 at a time (attention.cuh), on tensor cores where they can. Where cuDNN is faster, it takes
// their place (fused_attention.h).
// attention_step: the one query of a sequence looks at its cache in parts of a fixed length, a block each, so that
// long texts fill the device; then a block a head joins the parts.
#include <algorithm>
#include <cfloat>
#include <cmath>

#include "attention_tiles.cuh"
#include "dropout.cuh"

namespace riverhorse::cuda {

namespace {

using namespace attention;

constexpr int part = 64;  // keys a block of attention_step
constexpr int part_threads = 256;
constexpr int cache_threads = 256;

// What kernels are told. Where there is no cache, the keys are those of qkv, and every sequence begins at 0.
template <typename T>
struct Source {
  const T* qkv;
  T* cache_k;
  T* cache_v;
  const std::int32_t* slots;
  const std::int32_t* positions;
  std::int64_t capacity;
  int tokens, width, heads, head_width;
  float scale;

  explicit Source(const AttentionArgs& args)
      : qkv(data<T>(args.qkv)),
        cache_k(data<T>(args.cache.k)),
        cache_v(data<T>(args.cache.v)),
        slots(data<std::int32_t>(args.slots)),
        positions(data<std::int32_t>(args.positions)),
        capacity(args.cache.k ? args.cache.k.shape[1] : 0),
        tokens(static_cast<int>(args.qkv.shape[1])),
        width(static_cast<int>(args.qkv.shape[2] / 3)),
        heads(args.heads),
        head_width(width / heads),
        scale(1.0f / std::sqrt(static_cast<float>(head_width))) {}

  // Tokens before the call's first.
  __device__ std::int64_t past(int sequence) const { return slots != nullptr ? positions[slots[sequence]] : 0; }
  __device__ Rows<T> queries(int sequence, int head) const {
    const std::int64_t row = std::int64_t{sequence} * tokens;
    return {qkv + row * 3 * width + head * head_width, 3 * std::int64_t{width}, tokens, head_width};
  }
  __device__ Rows<T> keys(int sequence, int head) const { return of_past(sequence, head, cache_k, 1); }
  __device__ Rows<T> values(int sequence, int head) const { return of_past(sequence, head, cache_v, 2); }

 private:
  __device__ Rows<T> of_past(int sequence, int head, const T* cache, int part_of_row) const {
    Rows<T> rows = queries(sequence, head);
    rows.data += part_of_row * width;
    if (slots == nullptr) return rows;
    const std::int64_t end = past(sequence) + tokens;
    rows.data = cache + slots[sequence] * capacity * width + head * head_width;
    rows.stride = width;
    rows.count = end < capacity ? end : capacity;
    return rows;
  }
};

// A block a row.
template <typename T>
__global__ void write_cache(Source<T> source) {
  const int sequence = static_cast<int>(blockIdx.x) / source.tokens;
  const std::int64_t position = source.past(sequence) + static_cast<int>(blockIdx.x) % source.tokens;
  if (position >= source.capacity) return;
  const int width = source.width;
  const T* row = source.qkv + static_cast<std::int64_t>(blockIdx.x) * 3 * width;
  const std::int64_t cached = (source.slots[sequence] * source.capacity + position) * width;
  for (int i = static_cast<int>(threadIdx.x); i < width; i += cache_threads) {
    source.cache_k[cached + i] = row[width + i];
    source.cache_v[cached + i] = row[2 * width + i];
  }
}

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

// The largest, or the sum, of what the warps of a block give; every thread gets it.
constexpr int step_warps = part_threads / warp_size;
__device__ float block_sum(float value, float* of_warps) {
  value = warp_sum(value);
  __syncthreads();
  if (threadIdx.x % warp_size == 0) of_warps[threadIdx.x / warp_size] = value;
  __syncthreads();
  float sum = 0;
  for (int warp = 0; warp < step_warps; ++warp) sum += of_warps[warp];
  return sum;
}
__device__ float block_max(float value, float* of_warps) {
  value = warp_max(value);
  __syncthreads();
  if (threadIdx.x % warp_size == 0) of_warps[threadIdx.x / warp_size] = value;
  __syncthreads();
  float largest = of_warps[0];
  for (int warp = 1; warp < step_warps; ++warp) largest = fmaxf(largest, of_warps[warp]);
  return largest;
}

// Grid: parts of the cache, heads, sequences. Leaves (maximum, total, head_width sums) of each part. A warp a key for
// the scores; for the values, a warp takes keys of its own and a lane a channel.
template <typename T>
__global__ void attend_part(Source<T> source, float* partial) {
  __shared__ float weights[part];
  __shared__ float of_warps[step_warps];
  __shared__ float outputs[step_warps * warp_size];
  const int head = static_cast<int>(blockIdx.y), sequence = static_cast<int>(blockIdx.z);
  const Rows<T> keys = source.keys(sequence, head), values = source.values(sequence, head);
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * part;
  if (begin >= keys.count) return;
  const int count = keys.count - begin < part ? static_cast<int>(keys.count - begin) : part;
  const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
  const T* query = source.queries(sequence, head).data;
  float* out =
      partial + ((std::int64_t{sequence} * source.heads + head) * gridDim.x + blockIdx.x) * (source.head_width + 2);

  for (int s = warp; s < count; s += step_warps) {
    const T* key = keys.data + (begin + s) * keys.stride;
    float sum = 0;
    for (int c = lane; c < source.head_width; c += warp_size) sum += to_float(query[c]) * to_float(key[c]);
    sum = warp_sum(sum);
    if (lane == 0) weights[s] = sum * source.scale;
  }
  __syncthreads();
  const int self = static_cast<int>(threadIdx.x);  // one key a thread
  const float maximum = block_max(self < count ? weights[self] : -FLT_MAX, of_warps);
  const float weight = self < count ? expf(weights[self] - maximum) : 0.0f;
  const float total = block_sum(weight, of_warps);
  if (self < count) weights[self] = weight;

  for (int c_begin = 0; c_begin < source.head_width; c_begin += warp_size) {
    __syncthreads();
    float sum = 0;
    if (c_begin + lane < source.head_width) {
      const T* value = values.data + begin * values.stride + c_begin + lane;
      for (int s = warp; s < count; s += step_warps) sum += weights[s] * to_float(value[s * values.stride]);
    }
    outputs[self] = sum;
    __syncthreads();
    if (warp == 0 && c_begin + lane < source.head_width) {
      for (int other = 1; other < step_warps; ++other) sum += outputs[other * warp_size + lane];
      out[2 + c_begin + lane] = sum;
    }
  }
  if (self == 0) {
    out[0] = maximum;
    out[1] = total;
  }
}

// Grid: heads, sequences. A thread a channel.
template <typename T>
__global__ void join_parts(Source<T> source, const float* partial, int most_parts, T* y) {
  const int head = static_cast<int>(blockIdx.x), sequence = static_cast<int>(blockIdx.y);
  const auto parts = static_cast<int>((source.keys(sequence, head).count + part - 1) / part);
  const std::int64_t index = std::int64_t{sequence} * source.heads + head;
  const int stride = source.head_width + 2;
  const float* first = partial + index * most_parts * stride;
  float maximum = first[0];
  for (int i = 1; i < parts; ++i) maximum = fmaxf(maximum, first[i * stride]);
  float total = 0;
  for (int i = 0; i < parts; ++i) total += first[i * stride + 1] * expf(first[i * stride] - maximum);
  for (int c = static_cast<int>(threadIdx.x); c < source.head_width; c += static_cast<int>(blockDim.x)) {
    float sum = 0;
    for (int i = 0; i < parts; ++i) sum += first[i * stride + 2 + c] * expf(first[i * stride] - maximum);
    y[index * source.head_width + c] = from_float<T>(sum / total);
  }
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

void CudaEncoder::record_attention_step(const AttentionArgs& args) {
  if (!args.slots) return record_attention(args);
  const std::int64_t batch = args.qkv.shape[0];
  const std::int64_t head_width = args.y.shape[2] / args.heads;
  const std::int64_t parts = divide_up(args.cache.k.shape[1], part);
  ScratchScope scope(*this);
  const Tensor partial = scratch(DType::f32, {batch * args.heads, parts, head_width + 2});
  add("attention_step", [=](cudaStream_t stream) {
    with_activation(args.qkv.dtype, [&](auto act) {
      using T = decltype(act);
      const Source<T> source(args);
      launch(write_cache<T>, grid_of(batch), cache_threads, 0, stream, source);
      launch(attend_part<T>, grid_of(parts, args.heads, batch), part_threads, 0, stream, source,
             data<float>(partial));
      launch(join_parts<T>, grid_of(args.heads, batch), 128, 0, stream, source, data<float>(partial), parts,
             data<T>(args.y));
    });
  });
}

}  // namespace riverhorse::cuda
