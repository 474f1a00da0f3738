// attention_step: the one query of a sequence looks at its cache in parts of a fixed length, a block each, so that
// long texts fill the device; then a block a head joins the parts.
//
// Where rows of a head are whole units of 16 bytes, neighbouring lanes have the units of a key, a thread a few keys,
// and all keys and values of a part are requested at once, before the kernel's turn (kernel.cuh): the new token's own
// come from qkv, and that block of a head writes them to the cache. Each warp makes a softmax over its keys; warps,
// then parts, are joined by their maxima.
#include <algorithm>
#include <cfloat>

#include "attention_source.cuh"

namespace riverhorse::cuda {

namespace {

using namespace attention;

constexpr int part = 64;  // keys a block
constexpr int threads = 128;
constexpr int warps = threads / warp_size;
constexpr int part_threads = 256;  // of rows that are no whole units
constexpr int join_threads = 256;

// Grid: parts of the cache, heads, sequences. Leaves (maximum, total, head_width sums) of each part. `lanes` have a
// key.
template <typename T, int lanes>
__global__ void __launch_bounds__(threads) attend_part_by_units(Source<T> source, float* partial) {
  constexpr int count = 16 / static_cast<int>(sizeof(T));
  constexpr int groups = threads / lanes, keys_of_thread = part / groups;
  constexpr bool values_ahead = lanes < warp_size;  // else they would not fit in registers with the keys
  using Unit = Neighbours<T, count>;
  __shared__ float maxima[warps], totals[warps];
  __shared__ float outputs[warps][lanes * count];
  let_next_begin();
  const int head = static_cast<int>(blockIdx.y), sequence = static_cast<int>(blockIdx.z);
  const Rows<T> keys = source.keys(sequence, head), values = source.values(sequence, head);
  const std::int64_t begin = std::int64_t{blockIdx.x} * part, newest = source.past(sequence);
  if (begin >= keys.count) return;
  const int self = static_cast<int>(threadIdx.x), group = self / lanes, unit = self % lanes;
  const bool has_unit = unit * count < source.head_width;
  const auto at = [&](const T* row) { return reinterpret_cast<const Unit*>(row) + unit; };
  Unit own_keys[keys_of_thread] = {}, own_values[keys_of_thread] = {};
#pragma unroll
  for (int i = 0; i < keys_of_thread; ++i) {
    const std::int64_t key = begin + group + i * groups;
    if (key >= keys.count || key == newest || !has_unit) continue;
    own_keys[i] = *at(keys.data + key * keys.stride);
    if (values_ahead) own_values[i] = *at(values.data + key * values.stride);
  }
  wait_for_previous();
  const T* own = source.queries(sequence, head).data;
  Unit query = {};
  if (has_unit) query = *at(own);
#pragma unroll
  for (int i = 0; i < keys_of_thread; ++i) {
    const std::int64_t key = begin + group + i * groups;
    if (key != newest || key >= keys.count || !has_unit) continue;
    own_keys[i] = *at(own + source.width);
    const Unit value = *at(own + 2 * source.width);
    if (values_ahead) own_values[i] = value;
    const std::int64_t row =
        (source.slots[sequence] * source.capacity + newest) * source.width + head * source.head_width;
    reinterpret_cast<Unit*>(source.cache_k + row)[unit] = own_keys[i];
    reinterpret_cast<Unit*>(source.cache_v + row)[unit] = value;
  }

  float scores[keys_of_thread], maximum = -FLT_MAX;
#pragma unroll
  for (int i = 0; i < keys_of_thread; ++i) {
    float sum = 0;
#pragma unroll
    for (int c = 0; c < count; ++c) sum += to_float(query.values[c]) * to_float(own_keys[i].values[c]);
#pragma unroll
    for (int distance = lanes / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(all_lanes, sum, distance);
    scores[i] = begin + group + i * groups < keys.count ? sum * source.scale : -FLT_MAX;
    maximum = fmaxf(maximum, scores[i]);
  }
#pragma unroll
  for (int distance = lanes; distance < warp_size; distance *= 2) {
    maximum = fmaxf(maximum, __shfl_xor_sync(all_lanes, maximum, distance));
  }
  float total = 0, sums[count] = {};
#pragma unroll
  for (int i = 0; i < keys_of_thread; ++i) {
    const float weight = scores[i] > -FLT_MAX ? expf(scores[i] - maximum) : 0.0f;
    total += weight;
    if (!values_ahead && scores[i] > -FLT_MAX && has_unit) {
      const std::int64_t key = begin + group + i * groups;  // its own thread has written the newest
      own_values[i] = *at(values.data + key * values.stride);
    }
#pragma unroll
    for (int c = 0; c < count; ++c) sums[c] += weight * to_float(own_values[i].values[c]);
  }
#pragma unroll
  for (int distance = lanes; distance < warp_size; distance *= 2) {
    total += __shfl_xor_sync(all_lanes, total, distance);
    for (float& sum : sums) sum += __shfl_xor_sync(all_lanes, sum, distance);
  }
  const int warp = self / warp_size;
  if (self % warp_size < lanes) {
#pragma unroll
    for (int c = 0; c < count; ++c) outputs[warp][unit * count + c] = sums[c];
  }
  if (self % warp_size == 0) {
    maxima[warp] = maximum;
    totals[warp] = total;
  }
  __syncthreads();
  maximum = maxima[0];
  for (int other = 1; other < warps; ++other) maximum = fmaxf(maximum, maxima[other]);
  float factors[warps];
  total = 0;
#pragma unroll
  for (int other = 0; other < warps; ++other) {
    factors[other] = expf(maxima[other] - maximum);
    total += factors[other] * totals[other];
  }
  float* out =
      partial + ((std::int64_t{sequence} * source.heads + head) * gridDim.x + blockIdx.x) * (source.head_width + 2);
  for (int c = self; c < source.head_width; c += threads) {
    float sum = 0;
#pragma unroll
    for (int other = 0; other < warps; ++other) sum += factors[other] * outputs[other][c];
    out[2 + c] = sum;
  }
  if (self == 0) {
    out[0] = maximum;
    out[1] = total;
  }
}

// The largest, or the sum, of what the warps of a block give; every thread gets it.
constexpr int step_warps = part_threads / warp_size;
static_assert(part_threads == join_threads);
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

// The same for any rows, whose newest is in the cache: a warp a key for the scores; for the values, a warp takes keys
// of its own and a lane a channel.
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

// Grid: heads, sequences. Threads take channels, as many parts at a time as there are lots of them in the block.
template <typename T>
__global__ void __launch_bounds__(join_threads) join_parts(Source<T> source, float* partial, int most_parts, T* y) {
  __shared__ float of_warps[join_threads / warp_size];
  __shared__ float outputs[join_threads];
  let_next_begin();
  const int head = static_cast<int>(blockIdx.x), sequence = static_cast<int>(blockIdx.y);
  const auto parts = static_cast<int>((source.keys(sequence, head).count + part - 1) / part);
  const std::int64_t index = std::int64_t{sequence} * source.heads + head;
  const int stride = source.head_width + 2, self = static_cast<int>(threadIdx.x);
  float* first = partial + index * most_parts * stride;
  wait_for_previous();
  float maximum = -FLT_MAX;
  for (int i = self; i < parts; i += join_threads) maximum = fmaxf(maximum, first[i * stride]);
  maximum = block_max(maximum, of_warps);
  float total = 0;
  for (int i = self; i < parts; i += join_threads) {
    const float factor = expf(first[i * stride] - maximum);
    total += first[i * stride + 1] * factor;
    first[i * stride] = factor;
  }
  total = block_sum(total, of_warps);  // and all factors are where all threads see them
  const int channels = min((source.head_width + warp_size - 1) / warp_size * warp_size, join_threads);
  const int lots = join_threads / channels, lot = self / channels;
  for (int c_begin = 0; c_begin < source.head_width; c_begin += channels) {
    const int c = c_begin + self % channels;
    const bool has_channel = c < source.head_width && lot < lots;
    float sum = 0;
#pragma unroll 8
    for (int i = lot; i < parts && has_channel; i += lots) sum += first[i * stride] * first[i * stride + 2 + c];
    __syncthreads();
    outputs[self] = sum;
    __syncthreads();
    if (lot != 0 || !has_channel) continue;
    for (int other = 1; other < lots; ++other) sum += outputs[other * channels + self];
    y[index * source.head_width + c] = from_float<T>(sum / total);
  }
}

template <typename T>
void attend_parts(Launch turn, const AttentionArgs& args, const Source<T>& source, std::int64_t parts,
                  float* partial) {
  constexpr int count = 16 / static_cast<int>(sizeof(T));
  const std::int64_t batch = args.qkv.shape[0];
  const dim3 grid = grid_of(parts, source.heads, batch);
  const bool whole = source.head_width % count == 0 && source.head_width <= warp_size * count &&
                     at_16_bytes(source.qkv) && at_16_bytes(source.cache_k) && at_16_bytes(source.cache_v);
  if (!whole) {
    launch(write_cache<T>, grid_of(batch), cache_threads, 0, turn, source);
    launch(attend_part<T>, grid, part_threads, 0, turn, source, partial);
    return;
  }
  const int units = source.head_width / count;
  const auto kernel = units <= 8    ? attend_part_by_units<T, 8>
                      : units <= 16 ? attend_part_by_units<T, 16>
                                    : attend_part_by_units<T, 32>;
  launch_in_turn(kernel, grid, threads, 0, turn, source, partial);
}

}  // namespace

void CudaEncoder::record_attention_step(const AttentionArgs& args) {
  if (!args.slots) return record_attention(args);
  const std::int64_t batch = args.qkv.shape[0];
  const std::int64_t head_width = args.y.shape[2] / args.heads;
  const std::int64_t parts = divide_up(args.cache.k.shape[1], part);
  ScratchScope scope(*this);
  const Tensor partial = scratch(DType::f32, {batch * args.heads, parts, head_width + 2});
  const auto run = [=](Launch turn) {
    with_activation(args.qkv.dtype, [&](auto act) {
      using T = decltype(act);
      const Source<T> source(args);
      attend_parts(turn, args, source, parts, data<float>(partial));
      launch_in_turn(join_parts<T>, grid_of(args.heads, batch), join_threads, 0, turn.next(), source,
                     data<float>(partial), parts, data<T>(args.y));
    });
  };
  add_in_turn("attention_step", {args.slots, args.positions, args.cache.k, args.cache.v},
              {args.cache.k, args.cache.v, args.y, partial}, run);
}

}  // namespace riverhorse::cuda
