// What attention's kernels share. A block of 256 threads works on tiles of 64 rows by 64 columns: queries by keys, or
// keys by queries. Thread (row, column) = (t / 16, t % 16) holds four rows by four columns of scores, and of the
// outputs four rows by four channels of every 64. Loops over these are unrolled, which keeps them in registers.
// Channels pass through shared memory 32 at a time, so any head width will do.
#pragma once

#include "encoder.h"
#include "kernel.cuh"

namespace riverhorse::cuda::attention {

constexpr int threads = 256;
constexpr int tile = 64;
constexpr int side = 4;          // rows, and columns, of a thread
constexpr int lanes = 16;        // threads of a row: half a warp
constexpr int depth = 32;        // channels, or weighted rows, in shared memory at a time
constexpr int pitch = tile + 4;  // of shared memory: keeps float4 aligned

struct alignas(16) SharedTiles {
  float factors[2 * depth * pitch];
  float weights[tile * pitch];
};

// Rows of one head; a row or a channel that is not there counts as zero.
template <typename T>
struct Rows {
  const T* data = nullptr;
  std::int64_t stride = 0;
  std::int64_t count = 0;
  int width = 0;

  __device__ float at(std::int64_t row, int channel) const {
    return row < count && channel < width ? to_float(data[row * stride + channel]) : 0.0f;
  }
};

__device__ inline int thread_row() { return static_cast<int>(threadIdx.x) / lanes * side; }
__device__ inline int thread_column() { return static_cast<int>(threadIdx.x) % lanes * side; }

// Of the 16 threads that share their rows.
__device__ inline float row_sum(float value) {
  for (int distance = lanes / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(all_lanes, value, distance);
  return value;
}
__device__ inline float row_max(float value) {
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
    value = fmaxf(value, __shfl_xor_sync(all_lanes, value, distance));
  }
  return value;
}

// products[i][j] = a[a_begin + row + i] . b[b_begin + column + j]
template <typename T>
__device__ void multiply_tiles(const Rows<T>& a, std::int64_t a_begin, const Rows<T>& b, std::int64_t b_begin,
                               SharedTiles& shared, float (&products)[side][side]) {
  float* const a_tile = shared.factors;  // [channel][row]
  float* const b_tile = shared.factors + depth * pitch;
  for (auto& row : products) {
    for (float& product : row) product = 0;
  }
  for (int begin = 0; begin < a.width; begin += depth) {
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < depth * tile; i += threads) {
      // 16 channels of two rows a warp: whole sectors of memory, and few conflicts in shared memory.
      const int channel = i % 16 + i / (16 * tile) * 16, row = i / 16 % tile;
      a_tile[channel * pitch + row] = a.at(a_begin + row, begin + channel);
      b_tile[channel * pitch + row] = b.at(b_begin + row, begin + channel);
    }
    __syncthreads();
    for (int channel = 0; channel < depth; ++channel) {
      const float4 x = *reinterpret_cast<const float4*>(a_tile + channel * pitch + thread_row());
      const float4 y = *reinterpret_cast<const float4*>(b_tile + channel * pitch + thread_column());
      const float rows[side] = {x.x, x.y, x.z, x.w}, columns[side] = {y.x, y.y, y.z, y.w};
#pragma unroll
      for (int i = 0; i < side; ++i) {
        for (int j = 0; j < side; ++j) products[i][j] += rows[i] * columns[j];
      }
    }
  }
}

// sums[i][..] += sum over s of weights[i][s] x[begin + s], channels from `channel_begin` on; each thread gives its
// weights, as multiply_tiles leaves products. What has weight zero is not multiplied: a later token cannot change an
// earlier output, not even by a NaN.
template <int groups, typename T>
__device__ void add_weighted(const float (&weights)[side][side], const Rows<T>& x, std::int64_t begin,
                             int channel_begin, SharedTiles& shared, float (&sums)[side][side * groups]) {
  __syncthreads();
#pragma unroll
  for (int j = 0; j < side; ++j) {
    float4* column = reinterpret_cast<float4*>(shared.weights + (thread_column() + j) * pitch + thread_row());
    *column = make_float4(weights[0][j], weights[1][j], weights[2][j], weights[3][j]);
  }
  for (int part = 0; part < tile; part += depth) {
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < depth * tile * groups; i += threads) {
      const int row = i / (tile * groups), channel = i % (tile * groups);
      shared.factors[i] = x.at(begin + part + row, channel_begin + channel);
    }
    __syncthreads();
    for (int s = 0; s < depth; ++s) {
      const float4 of_rows = *reinterpret_cast<const float4*>(shared.weights + (part + s) * pitch + thread_row());
      const float rows[side] = {of_rows.x, of_rows.y, of_rows.z, of_rows.w};
      for (int group = 0; group < groups; ++group) {
        const float4 v =
            *reinterpret_cast<const float4*>(shared.factors + (s * groups + group) * tile + thread_column());
#pragma unroll
        for (int i = 0; i < side; ++i) {
          if (rows[i] == 0) continue;
          sums[i][group * side + 0] += rows[i] * v.x;
          sums[i][group * side + 1] += rows[i] * v.y;
          sums[i][group * side + 2] += rows[i] * v.z;
          sums[i][group * side + 3] += rows[i] * v.w;
        }
      }
    }
  }
}

// Stores a thread's outputs, times factors[i], in rows of `width` channels, `stride` apart.
template <int groups, typename T>
__device__ void store_rows(const float (&sums)[side][side * groups], const float (&factors)[side], T* out,
                           std::int64_t stride, std::int64_t begin, std::int64_t count, int channel_begin,
                           int width) {
#pragma unroll
  for (int i = 0; i < side; ++i) {
    const std::int64_t row = begin + thread_row() + i;
    if (row >= count) continue;
    for (int c = 0; c < side * groups; ++c) {
      const int channel = channel_begin + c / side * tile + thread_column() + c % side;
      if (channel < width) out[row * stride + channel] = from_float<T>(sums[i][c] * factors[i]);
    }
  }
}

// Heads up to 64 wide take one group of 64 channels, others two at a time; those wider than 128 are done in passes,
// each with the scores made again.
inline int groups_of(int head_width) { return head_width > tile ? 2 : 1; }
inline std::int64_t passes_of(int head_width) { return divide_up(head_width, tile * groups_of(head_width)); }

// Calls `function` with a value of type std::integral_constant<int, groups>.
template <typename Function>
void with_groups(int head_width, Function&& function) {
  if (groups_of(head_width) == 1) {
    function(std::integral_constant<int, 1>());
  } else {
    function(std::integral_constant<int, 2>());
  }
}

}  // namespace riverhorse::cuda::attention
