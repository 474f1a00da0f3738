// What the mixer, its step and its backward pass share.
#pragma once

#include "backend/ops.h"
#include "filter.cuh"
#include "kernel.cuh"

namespace riverhorse::cuda {

constexpr int mixer_warps = 4;  // of a block
constexpr int mixer_threads = mixer_warps * warp_size;

// The key at token t of the call; negative: carried over from before.
template <typename T>
__device__ float key_at(const T* keys, const float* ring, std::int64_t position, std::int64_t state, std::int64_t t) {
  if (t >= 0) return to_float(keys[t]);
  return ring != nullptr && position + t >= 0 ? ring[(position + t) % state] : 0.0f;
}

// Sums over the passes of a kernel (pairs of channels, groups of 32 modes) that end in an activation. With one pass
// `sums` is null and the value goes straight to its place.
template <typename T>
__device__ void add_pass(float* sums, T* out, std::int64_t index, float value, bool first, bool last) {
  if (!first) value += sums[index];
  if (last) {
    out[index] = from_float<T>(value);
  } else {
    sums[index] = value;
  }
}

__host__ __device__ inline std::int64_t output_channel(HeadOrder order, std::int64_t heads, std::int64_t head_dim,
                                                       std::int64_t head, std::int64_t j) {
  return order == HeadOrder::head_major ? head * head_dim + j : j * heads + head;
}

// Each mode's contribution to each of 32 tokens, turned around: written by lanes that are modes, summed by lanes that
// are tokens.
struct Turn {
  float values[warp_size][warp_size + 1];
  __device__ float sum(int token) const {
    float total = 0;
    for (int mode = 0; mode < warp_size; ++mode) total += values[token][mode];
    return total;
  }
};

}  // namespace riverhorse::cuda
