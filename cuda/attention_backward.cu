// attention_backward, by the formulae of src/cpu/attention.cpp. The probabilities are made again from the scores and
// log_sum_exp, once by a block of 64 queries that walks over the keys (d_q), once by a block of 64 keys that walks
// over the queries (d_k and d_v): twice the work of one pass, but every output is one block's own sum. Before, a warp
// a query leaves delta = d_y . y.
#include <cmath>

#include "attention.cuh"
#include "dropout.cuh"

namespace riverhorse::cuda {

namespace {

using namespace attention;

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

// A warp a query and head.
template <typename T>
__global__ void make_delta(Source<T> source, std::int64_t count, float* delta) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const std::int64_t index = first_element() / warp_size;  // in (B, L, heads)
  if (index >= count) return;                              // the whole warp
  const std::int64_t begin = index * source.head_width;
  float sum = 0;
  for (int c = lane; c < source.head_width; c += warp_size) {
    sum += to_float(source.d_y[begin + c]) * to_float(source.y[begin + c]);
  }
  sum = warp_sum(sum);
  const std::int64_t row = index / source.heads, head = index % source.heads;
  const std::int64_t sequence = row / source.tokens, token = row % source.tokens;
  if (lane == 0) delta[(sequence * source.heads + head) * source.tokens + token] = sum;
}

struct Pair {
  float weight;     // m p: what the value was multiplied by
  float d_product;  // the gradient of q . k
};

// Of a query and a key, from q . k and d_y . v.
template <typename T>
__device__ Pair backward_of(const Source<T>& source, const Head<T>& head, std::int64_t query, std::int64_t key,
                            float product, float d_weight, float kept) {
  if (key > query || query >= source.tokens) return {0, 0};
  const float probability = expf(source.scale * product - head.log_sum_exp[query]);
  return {kept * probability, source.scale * probability * (kept * d_weight - head.delta[query])};
}

// Grid: tiles of queries times passes over the channels, heads, sequences.
template <typename T, int groups>
__global__ void __launch_bounds__(threads) backward_queries(Source<T> source, int passes) {
  __shared__ SharedTiles shared;
  const Head<T> head(source);
  const int channel_begin = static_cast<int>(blockIdx.x) % passes * tile * groups;
  const std::int64_t tiles = gridDim.x / passes;
  const std::int64_t query_begin = (tiles - 1 - blockIdx.x / passes) * tile;  // the longest ones first
  float d_queries[side][side * groups] = {};
  for (std::int64_t key_begin = 0; key_begin <= query_begin; key_begin += tile) {
    float products[side][side], d_weights[side][side];
    multiply_tiles(head.queries, query_begin, head.keys, key_begin, shared, products);
    multiply_tiles(head.d_outputs, query_begin, head.values, key_begin, shared, d_weights);
#pragma unroll
    for (int i = 0; i < side; ++i) {
      const std::int64_t query = query_begin + thread_row() + i, key = key_begin + thread_column();
      float kept[side];
      source.mask.factors(head.first_index + query * source.tokens + key, kept);
#pragma unroll
      for (int j = 0; j < side; ++j) {
        products[i][j] =
            backward_of(source, head, query, key + j, products[i][j], d_weights[i][j], kept[j]).d_product;
      }
    }
    add_weighted<groups>(products, head.keys, key_begin, channel_begin, shared, d_queries);
  }
  const float ones[side] = {1, 1, 1, 1};
  store_rows<groups>(d_queries, ones, head.d_queries, 3 * std::int64_t{source.width}, query_begin, source.tokens,
                     channel_begin, source.head_width);
}

// Grid: tiles of keys times passes over the channels, heads, sequences. Rows are keys, columns queries.
template <typename T, int groups>
__global__ void __launch_bounds__(threads) backward_keys(Source<T> source, int passes) {
  __shared__ SharedTiles shared;
  const Head<T> head(source);
  const int channel_begin = static_cast<int>(blockIdx.x) % passes * tile * groups;
  const std::int64_t key_begin = blockIdx.x / passes * std::int64_t{tile};
  float d_keys[side][side * groups] = {}, d_values[side][side * groups] = {};
  for (std::int64_t query_begin = key_begin; query_begin < source.tokens; query_begin += tile) {
    float products[side][side], d_weights[side][side];
    multiply_tiles(head.keys, key_begin, head.queries, query_begin, shared, products);
    multiply_tiles(head.values, key_begin, head.d_outputs, query_begin, shared, d_weights);
#pragma unroll
    for (int j = 0; j < side; ++j) {
      const std::int64_t key = key_begin + thread_row(), query = query_begin + thread_column() + j;
      float kept[side];
      source.mask.factors(head.first_index + query * source.tokens + key, kept);
#pragma unroll
      for (int i = 0; i < side; ++i) {
        const Pair pair = backward_of(source, head, query, key + i, products[i][j], d_weights[i][j], kept[i]);
        products[i][j] = pair.d_product;
        d_weights[i][j] = pair.weight;
      }
    }
    add_weighted<groups>(products, head.queries, query_begin, channel_begin, shared, d_keys);
    add_weighted<groups>(d_weights, head.d_outputs, query_begin, channel_begin, shared, d_values);
  }
  const float ones[side] = {1, 1, 1, 1};
  const std::int64_t stride = 3 * std::int64_t{source.width};
  store_rows<groups>(d_keys, ones, head.d_keys, stride, key_begin, source.tokens, channel_begin, source.head_width);
  store_rows<groups>(d_values, ones, head.d_values, stride, key_begin, source.tokens, channel_begin,
                     source.head_width);
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
      launch(make_delta<T>, grid_of(divide_up(rows, threads / warp_size)), threads, 0, stream, source, rows,
             data<float>(delta));
      with_groups(source.head_width, [&](auto groups) {
        const std::int64_t passes = passes_of(source.head_width);
        const dim3 grid = grid_of(divide_up(tokens, tile) * passes, args.heads, batch);
        launch(backward_queries<T, groups()>, grid, threads, 0, stream, source, passes);
        launch(backward_keys<T, groups()>, grid, threads, 0, stream, source, passes);
      });
    });
  });
}

}  // namespace riverhorse::cuda
