// Where attention and its step read queries, keys and values, and how the cache is written.
#pragma once

#include <cmath>

#include "attention.cuh"

namespace riverhorse::cuda::attention {

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

}  // namespace riverhorse::cuda::attention
