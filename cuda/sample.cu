// sample, as src/cpu/sample.cpp defines it. Blocks, several a row where rows are few, make keys of the logits and
// look for the largest, each in a piece of the row; then a block a row draws.
//
// No sort: what top-k and top-p keep is a prefix of the ranking, so a key and an index describe it: those with a
// larger key, and of those with this very key the ones up to that index. Keys are the adjusted logits as integers of
// the same order, made once. The key is found by radix selection (four passes over a histogram of 256 bins, of counts
// for top-k and of weights for top-p), the index among equals and the drawn token by sums over contiguous pieces of
// the row. Integers alone are added up out of order.
#include <algorithm>

#include "encoder.h"
#include "kernel.cuh"
#include "philox.cuh"

namespace riverhorse::cuda {

namespace {

constexpr int threads = 512;
constexpr int most_pieces = 32;           // of a row, a warp's lanes
constexpr int least_piece = 2 * threads;  // logits
constexpr int warps = threads / warp_size;
constexpr int bin_count = 256;
constexpr std::uint32_t none = 0xffffffffu;
constexpr std::uint32_t key_of_minus_infinity = 0x007fffffu;

struct SampleTensors {
  const float* logits;
  const std::int32_t* slots;
  SamplerRow* sampler;
  std::int32_t* counts;  // or null
  const float* bias;     // or null
  std::int32_t* tokens;
  std::int32_t* history;  // or null
  std::uint32_t* keys;    // (B, V)
  uint2* bests;           // (B, pieces): key and index
  std::int64_t vocabulary;
  std::int64_t history_capacity;
  int pieces;

  __device__ std::uint32_t limit(const SamplerRow& row) const {
    const bool limited = row.vocab_limit > 0 && row.vocab_limit < vocabulary;
    return static_cast<std::uint32_t>(limited ? row.vocab_limit : vocabulary);
  }
};

// Larger key: larger x. NaN counts as -infinity, +infinity as the largest number, -0 as 0.
__device__ std::uint32_t key_of(float x) {
  std::uint32_t bits = __float_as_uint(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) bits = 0xff800000u;
  if (bits == 0x7f800000u) bits = 0x7f7fffffu;
  if (bits == 0x80000000u) bits = 0;
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
__device__ float x_of(std::uint32_t key) {
  return __uint_as_float((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}

// Every operation rounds: no fused multiply-add.
__device__ float adjusted_logit(float logit, float bias, std::int32_t count, const SamplerRow& row) {
  float x = __fadd_rn(logit, bias);
  if (count > 0) {
    x = x > 0 ? __fdiv_rn(x, row.repetition_penalty) : __fmul_rn(x, row.repetition_penalty);
    x = __fsub_rn(x, row.presence_penalty);
    x = __fsub_rn(x, __fmul_rn(row.frequency_penalty, static_cast<float>(count)));
  }
  return x;
}

// A fraction as 16 fractional bits; `if_nan` when it is not a number.
__device__ std::uint32_t fixed_point(float fraction, std::uint32_t if_nan) {
  if (isnan(fraction)) return if_nan;
  return static_cast<std::uint32_t>(floorf(fminf(fmaxf(fraction, 0.0f), 1.0f) * 65536.0f + 0.5f));
}

__device__ std::uint32_t scaled(std::uint32_t weight, std::uint32_t fraction) {
  return (weight >> 16) * fraction + (((weight & 65535u) * fraction) >> 16);
}

// Every thread gets the sum; of integers, or of floats in one order.
template <typename T>
__device__ T block_sum(T value) {
  __shared__ T of_warps[warps];
  value = warp_sum(value);
  __syncthreads();
  if (threadIdx.x % warp_size == 0) of_warps[threadIdx.x / warp_size] = value;
  __syncthreads();
  T sum = 0;
  for (int warp = 0; warp < warps; ++warp) sum += of_warps[warp];
  return sum;
}

// The sum of the values of all threads before this one.
__device__ std::uint32_t sum_before(std::uint32_t value) {
  __shared__ std::uint32_t of_warps[warps];
  const int lane = static_cast<int>(threadIdx.x) % warp_size, warp = static_cast<int>(threadIdx.x) / warp_size;
  std::uint32_t sum = value;
  for (int distance = 1; distance < warp_size; distance *= 2) {
    const std::uint32_t other = __shfl_up_sync(all_lanes, sum, static_cast<unsigned>(distance));
    if (lane >= distance) sum += other;
  }
  __syncthreads();
  if (lane == warp_size - 1) of_warps[warp] = sum;
  __syncthreads();
  for (int i = 0; i < warp; ++i) sum += of_warps[i];
  return sum - value;
}

struct Best {
  std::uint32_t key, index;
};

__device__ bool ranks_before(Best a, Best b) { return a.key > b.key || (a.key == b.key && a.index < b.index); }

// Every thread gets the one that ranks first.
__device__ Best block_best(Best best) {
  __shared__ Best of_warps[warps];
  for (int distance = warp_size / 2; distance > 0; distance /= 2) {
    const std::uint32_t key = __shfl_xor_sync(all_lanes, best.key, distance);
    const std::uint32_t index = __shfl_xor_sync(all_lanes, best.index, distance);
    if (ranks_before({key, index}, best)) best = {key, index};
  }
  if (threadIdx.x % warp_size == 0) of_warps[threadIdx.x / warp_size] = best;
  __syncthreads();
  for (int warp = 0; warp < warps; ++warp) {
    if (ranks_before(of_warps[warp], best)) best = of_warps[warp];
  }
  return best;
}

// The candidates of a row, and which of them are kept so far. All threads of the block call its methods together.
class Candidates {
 public:
  __device__ Candidates(const std::uint32_t* keys, std::uint32_t limit, Best best, float temperature)
      : keys_(keys), limit_(limit), best_(best), temperature_(temperature) {}

  __device__ void keep_top_k(std::uint32_t count) {
    if (count >= limit_) return;
    const Best selected = select_key(false, count - 1);
    least_key_ = selected.key;
    last_index_ = find_index(false, count - selected.index - 1);
  }

  // Makes weights of those kept.
  __device__ void weigh() {
    float sum = 0;
    for (std::uint32_t i = threadIdx.x; i < limit_; i += threads) {
      if (kept(i)) sum += exponential_of(keys_[i]);
    }
    weight_scale_ = __fdiv_rn(0x1p30f, block_sum(sum));
  }

  __device__ void keep_top_p(std::uint32_t fraction) {
    if (fraction >= 65536) return;
    const std::uint32_t nucleus = max(1u, scaled(sum_of_weights(), fraction));
    const Best selected = select_key(true, nucleus - 1);
    const std::uint32_t weight = max(1u, weight_of(selected.key));
    if (selected.key > least_key_) last_index_ = none;
    least_key_ = selected.key;
    last_index_ = find_index(false, (nucleus - selected.index + weight - 1) / weight - 1);
  }

  __device__ void keep_min_p(std::uint32_t fraction) { least_weight_ = scaled(weight_of(best_.key), fraction); }

  // The token at `random` / 2^32 of the sum of weights.
  __device__ std::uint32_t draw(std::uint32_t random) const {
    const std::uint32_t token = find_index(true, __umulhi(random, sum_of_weights()));
    return token == none ? best_.index : token;
  }

 private:
  __device__ bool kept(std::uint32_t index) const {
    const std::uint32_t key = keys_[index];
    return key > least_key_ || (key == least_key_ && index <= last_index_);
  }

  __device__ float exponential_of(std::uint32_t key) const {
    if (key <= key_of_minus_infinity) return 0;
    return expf(__fdiv_rn(__fsub_rn(x_of(key), x_of(best_.key)), temperature_));
  }

  __device__ std::uint32_t weight_of(std::uint32_t key) const {
    const float value = __fmul_rn(exponential_of(key), weight_scale_);
    // From 2^23 on floats are integers, and a half more could round up.
    return static_cast<std::uint32_t>(value >= 8388608.0f ? value : floorf(value + 0.5f));
  }

  __device__ std::uint32_t final_weight(std::uint32_t index) const {
    const std::uint32_t weight = kept(index) ? weight_of(keys_[index]) : 0;
    return weight >= least_weight_ ? weight : 0;
  }

  __device__ std::uint32_t sum_of_weights() const {
    std::uint32_t sum = 0;
    for (std::uint32_t i = threadIdx.x; i < limit_; i += threads) sum += final_weight(i);
    return block_sum(sum);
  }

  // Of those kept, by falling key: the key at which the running sum (of weights, or of ones) first exceeds `target`,
  // and, as `index`, the sum of all with larger keys.
  __device__ Best select_key(bool weighted, std::uint32_t target) const {
    __shared__ std::uint32_t bins[bin_count];
    __shared__ std::uint32_t found[2];
    std::uint32_t prefix = 0, before = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
      __syncthreads();
      for (int i = static_cast<int>(threadIdx.x); i < bin_count; i += threads) bins[i] = 0;
      __syncthreads();
      for (std::uint32_t i = threadIdx.x; i < limit_; i += threads) {
        const std::uint32_t key = keys_[i];
        if ((shift < 24 && key >> (shift + 8) != prefix) || !kept(i)) continue;
        const std::uint32_t amount = weighted ? weight_of(key) : 1;
        if (amount != 0) atomicAdd(&bins[key >> shift & (bin_count - 1)], amount);
      }
      __syncthreads();
      // Threads take the bins from the highest down; the one within whose bin the target lies tells.
      const std::uint32_t bin = bin_count - 1 - threadIdx.x;
      const std::uint32_t amount = threadIdx.x < bin_count ? bins[bin] : 0;
      const std::uint32_t sum = before + sum_before(amount);
      if (threadIdx.x < bin_count && sum <= target && target - sum < amount) {
        found[0] = bin;
        found[1] = sum;
      }
      __syncthreads();
      prefix = prefix << 8 | found[0];
      before = found[1];
    }
    return {prefix, before};
  }

  // What an index counts for in find_index: its final weight, or one if it is among the last ones kept.
  __device__ std::uint32_t amount_at(bool weighted, std::uint32_t index) const {
    return weighted ? final_weight(index) : kept(index) && keys_[index] == least_key_ ? 1 : 0;
  }

  // The first index at which the running sum over indices exceeds `target`; `none` if it never does.
  __device__ std::uint32_t find_index(bool weighted, std::uint32_t target) const {
    __shared__ std::uint32_t found[3];
    const std::uint32_t piece = (limit_ + threads - 1) / threads;
    const std::uint32_t begin = threadIdx.x * piece, end = min(begin + piece, limit_);
    std::uint32_t sum = 0;
    for (std::uint32_t i = begin; i < end; ++i) sum += amount_at(weighted, i);
    const std::uint32_t before = sum_before(sum);
    if (threadIdx.x == 0) found[0] = none;
    __syncthreads();
    if (before <= target && target - before < sum) {
      found[0] = begin;
      found[1] = before;
    }
    __syncthreads();
    const std::uint32_t found_begin = found[0], found_before = found[1];
    __syncthreads();
    if (found_begin == none) return none;
    // Within the piece, a thread an index.
    std::uint32_t running = found_before;
    for (std::uint32_t i = found_begin; i < min(found_begin + piece, limit_); i += threads) {
      const std::uint32_t index = i + threadIdx.x;
      const bool within = index < min(found_begin + piece, limit_);
      const std::uint32_t amount = within ? amount_at(weighted, index) : 0;
      const std::uint32_t until = running + sum_before(amount);
      if (threadIdx.x == 0) found[2] = none;
      __syncthreads();
      if (until <= target && target - until < amount) found[2] = index;
      __syncthreads();
      if (found[2] != none) return found[2];
      running += block_sum(amount);
    }
    return none;
  }

  const std::uint32_t* keys_;
  std::uint32_t limit_;
  Best best_;
  float temperature_;
  float weight_scale_ = 0;  // 2^30 / sum of exponentials
  std::uint32_t least_key_ = 0;
  std::uint32_t last_index_ = none;
  std::uint32_t least_weight_ = 0;
};

__device__ std::uint32_t draw_token(const std::uint32_t* keys, std::uint32_t limit, Best best,
                                    const SamplerRow& row) {
  if (!(row.temperature > 0) || best.key <= key_of_minus_infinity) return best.index;
  Candidates candidates(keys, limit, best, row.temperature);
  if (row.top_k > 0) candidates.keep_top_k(static_cast<std::uint32_t>(row.top_k));
  candidates.weigh();
  candidates.keep_top_p(fixed_point(row.top_p, 65536));
  candidates.keep_min_p(fixed_point(row.min_p, 0));
  return candidates.draw(philox({{row.draws, 0, 0, 0}}, row.seed_low, row.seed_high).words[0]);
}

// Grid: rows, pieces.
__global__ void __launch_bounds__(threads) make_keys(SampleTensors tensors) {
  let_next_begin();
  wait_for_previous();
  const std::int64_t slot = tensors.slots[blockIdx.x];
  const SamplerRow row = tensors.sampler[slot];
  const float* logits = tensors.logits + blockIdx.x * tensors.vocabulary;
  const float* bias = tensors.bias != nullptr ? tensors.bias + slot * tensors.vocabulary : nullptr;
  const std::int32_t* counts = tensors.counts != nullptr ? tensors.counts + slot * tensors.vocabulary : nullptr;
  std::uint32_t* keys = tensors.keys + blockIdx.x * tensors.vocabulary;
  const std::uint32_t limit = tensors.limit(row);
  const std::uint32_t piece = (limit + gridDim.y - 1) / gridDim.y;
  const std::uint32_t end = min(limit, (blockIdx.y + 1) * piece);

  Best best = {0, none};
#pragma unroll 4
  for (std::uint32_t i = blockIdx.y * piece + threadIdx.x; i < end; i += threads) {
    const float x =
        adjusted_logit(logits[i], bias != nullptr ? bias[i] : 0.0f, counts != nullptr ? counts[i] : 0, row);
    keys[i] = key_of(x);
    if (ranks_before({keys[i], i}, best)) best = {keys[i], i};
  }
  best = block_best(best);
  if (threadIdx.x == 0) tensors.bests[blockIdx.x * gridDim.y + blockIdx.y] = make_uint2(best.key, best.index);
}

// A block a row.
__global__ void __launch_bounds__(threads) sample_row(SampleTensors tensors) {
  let_next_begin();
  wait_for_previous();
  const std::int64_t slot = tensors.slots[blockIdx.x];
  const SamplerRow row = tensors.sampler[slot];
  std::int32_t* counts = tensors.counts != nullptr ? tensors.counts + slot * tensors.vocabulary : nullptr;
  const std::uint32_t* keys = tensors.keys + blockIdx.x * tensors.vocabulary;
  const std::uint32_t limit = tensors.limit(row);
  Best best = {0, none};
  if (static_cast<int>(threadIdx.x) < tensors.pieces) {
    const uint2 of_piece = tensors.bests[blockIdx.x * tensors.pieces + threadIdx.x];
    best = {of_piece.x, of_piece.y};
  }
  best = block_best(best);
  const std::uint32_t token = draw_token(keys, limit, best, row);
  __syncthreads();  // all have read the sampler's row and the counts
  if (threadIdx.x != 0) return;
  tensors.tokens[blockIdx.x] = static_cast<std::int32_t>(token);
  if (counts != nullptr) ++counts[token];
  if (tensors.history != nullptr) {
    tensors.history[slot * tensors.history_capacity + row.draws % tensors.history_capacity] =
        static_cast<std::int32_t>(token);
  }
  tensors.sampler[slot].draws = row.draws + 1;
}

}  // namespace

void CudaEncoder::record_sample(const SampleArgs& args) {
  const std::int64_t batch = args.logits.shape[0], vocabulary = args.logits.shape[1];
  const std::int64_t pieces = std::clamp<std::int64_t>(
      std::min(divide_up(2 * limits_.multiprocessors, batch), vocabulary / least_piece), 1, most_pieces);
  ScratchScope scope(*this);
  const Tensor keys = scratch(DType::i32, {batch, vocabulary});
  const Tensor bests = scratch(DType::i32, {batch, pieces, 2});
  const auto run = [=](Launch turn) {
    const SampleTensors tensors{.logits = data<float>(args.logits),
                                .slots = data<std::int32_t>(args.slots),
                                .sampler = data<SamplerRow>(args.sampler),
                                .counts = data<std::int32_t>(args.counts),
                                .bias = data<float>(args.bias),
                                .tokens = data<std::int32_t>(args.tokens),
                                .history = data<std::int32_t>(args.history),
                                .keys = data<std::uint32_t>(keys),
                                .bests = data<uint2>(bests),
                                .vocabulary = vocabulary,
                                .history_capacity = args.history ? args.history.shape[1] : 1,
                                .pieces = static_cast<int>(pieces)};
    launch_in_turn(make_keys, grid_of(batch, pieces), threads, 0, turn, tensors);
    launch_in_turn(sample_row, grid_of(batch), threads, 0, turn.next(), tensors);
  };
  add_in_turn("sample", {}, {args.tokens, args.sampler, args.counts, args.history, keys}, run);
}

}  // namespace riverhorse::cuda
