// Tiles of attention (attention.cuh) by plain arithmetic, any dtype and head width. Thread (row, column) =
// (t / 16, t % 16) of 256 has four rows by four columns of scores, and of the outputs four rows by four channels of
// every 64. Loops over these are unrolled, which keeps them in registers. Channels pass through shared memory 32 at a
// time.
#pragma once

#include "attention.cuh"

namespace riverhorse::cuda::attention {

template <typename T, int groups>
class PlainTiles {
  static constexpr int side = 4;
  static constexpr int lanes = 16;        // threads of a row: half a warp
  static constexpr int depth = 32;        // channels, or weighted rows, in shared memory at a time
  static constexpr int pitch = tile + 4;  // of shared memory: keeps float4 aligned

 public:
  static constexpr int threads = 256;
  static constexpr int rows = side, columns = side, channels = side * groups;
  static constexpr int row_run = side, column_run = side;
  // Heads are done in passes of as many channels, each with the scores made again.
  static constexpr int pass = tile * groups;
  static constexpr std::size_t shared_bytes(int) { return sizeof(float) * (2 * depth + tile) * pitch; }

  // Nothing is kept: a tile is read when it is used.
  struct Tile {
    Rows<T> rows;
    std::int64_t begin;
  };

  __device__ PlainTiles(unsigned char* shared, int channel_begin)
      : factors_(reinterpret_cast<float*>(shared)),
        weights_(factors_ + 2 * depth * pitch),
        channel_begin_(channel_begin) {}

  __device__ static int row(int i) { return static_cast<int>(threadIdx.x) / lanes * side + i; }
  __device__ static int column(int j) { return static_cast<int>(threadIdx.x) % lanes * side + j; }
  __device__ static int channel(int c) { return c / side * tile + column(c % side); }

  __device__ static Tile load(int, const Rows<T>& rows, std::int64_t begin) { return {rows, begin}; }
  __device__ static void commit() {}
  template <int>
  __device__ static void wait() {}
  __device__ static void release() {}

  __device__ static float row_sum(float value) {
    for (int distance = lanes / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(all_lanes, value, distance);
    return value;
  }
  __device__ static float row_max(float value) {
    for (int distance = lanes / 2; distance > 0; distance /= 2) {
      value = fmaxf(value, __shfl_xor_sync(all_lanes, value, distance));
    }
    return value;
  }

  __device__ void multiply(const Tile& a, const Tile& b, float (&products)[side][side]) const {
    float* const a_tile = factors_;  // [channel][row]
    float* const b_tile = factors_ + depth * pitch;
    for (auto& row : products) {
      for (float& product : row) product = 0;
    }
    for (int begin = 0; begin < a.rows.width; begin += depth) {
      __syncthreads();
      for (int i = static_cast<int>(threadIdx.x); i < depth * tile; i += threads) {
        // 16 channels of two rows a warp: whole sectors of memory, and few conflicts in shared memory.
        const int channel = i % 16 + i / (16 * tile) * 16, row = i / 16 % tile;
        a_tile[channel * pitch + row] = a.rows.at(a.begin + row, begin + channel);
        b_tile[channel * pitch + row] = b.rows.at(b.begin + row, begin + channel);
      }
      __syncthreads();
      for (int channel = 0; channel < depth; ++channel) {
        const float4 x = *reinterpret_cast<const float4*>(a_tile + channel * pitch + row(0));
        const float4 y = *reinterpret_cast<const float4*>(b_tile + channel * pitch + column(0));
        const float of_rows[side] = {x.x, x.y, x.z, x.w}, of_columns[side] = {y.x, y.y, y.z, y.w};
#pragma unroll
        for (int i = 0; i < side; ++i) {
          for (int j = 0; j < side; ++j) products[i][j] += of_rows[i] * of_columns[j];
        }
      }
    }
  }

  // What has weight zero is not multiplied: a later token cannot change an earlier output, not even by a NaN.
  __device__ void add_weighted(const float (&weights)[side][side], const Tile& x,
                               float (&sums)[side][channels]) const {
    __syncthreads();
#pragma unroll
    for (int j = 0; j < side; ++j) {
      float4* of_column = reinterpret_cast<float4*>(weights_ + column(j) * pitch + row(0));
      *of_column = make_float4(weights[0][j], weights[1][j], weights[2][j], weights[3][j]);
    }
    for (int part = 0; part < tile; part += depth) {
      __syncthreads();
      for (int i = static_cast<int>(threadIdx.x); i < depth * pass; i += threads) {
        factors_[i] = x.rows.at(x.begin + part + i / pass, channel_begin_ + i % pass);
      }
      __syncthreads();
      for (int s = 0; s < depth; ++s) {
        const float4 of_rows = *reinterpret_cast<const float4*>(weights_ + (part + s) * pitch + row(0));
        const float weight[side] = {of_rows.x, of_rows.y, of_rows.z, of_rows.w};
        for (int group = 0; group < groups; ++group) {
          const float4 v = *reinterpret_cast<const float4*>(factors_ + (s * groups + group) * tile + column(0));
#pragma unroll
          for (int i = 0; i < side; ++i) {
            if (weight[i] == 0) continue;
            sums[i][group * side + 0] += weight[i] * v.x;
            sums[i][group * side + 1] += weight[i] * v.y;
            sums[i][group * side + 2] += weight[i] * v.z;
            sums[i][group * side + 3] += weight[i] * v.w;
          }
        }
      }
    }
  }

  // Rows from `begin` on of `out`, `stride` apart; `count` and `width` are those of the head.
  __device__ void store(const float (&sums)[side][channels], const float (&factors)[side], T* out,
                        std::int64_t stride, std::int64_t begin, std::int64_t count, int width) const {
#pragma unroll
    for (int i = 0; i < side; ++i) {
      if (begin + row(i) >= count) continue;
      for (int c = 0; c < channels; ++c) {
        const int to = channel_begin_ + channel(c);
        if (to < width) out[(begin + row(i)) * stride + to] = from_float<T>(sums[i][c] * factors[i]);
      }
    }
  }

 private:
  float* factors_;
  float* weights_;
  int channel_begin_;
};

}  // namespace riverhorse::cuda::attention
