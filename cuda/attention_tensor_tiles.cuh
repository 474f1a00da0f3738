// Tiles of attention (attention.cuh) on tensor cores: operands of 16 bits, sums in fp32. A warp of four has 16 rows
// of the tile; what a thread holds is the layout of tensor_core.cuh, so that weights become operands without leaving
// their registers. Tiles lie in shared memory, `width` channels a row, those beyond the head's zero; 16 bytes change
// places by row, which keeps the loads of matrices free of bank conflicts.
//
// A weight of zero is multiplied: a later token that is not a number does reach the outputs of its tile.
#pragma once

#include "attention.cuh"
#include "tensor_core.cuh"

namespace riverhorse::cuda::attention {

template <typename T, int width>
class TensorTiles {
  static constexpr int units = width / 8;  // of 16 bytes, in a row
  static constexpr int steps = width / 16;
  static constexpr int tile_bytes = tile * width * 2;

 public:
  static constexpr int threads = 128;
  static constexpr int rows = 2, columns = 16, channels = width / 4;
  static constexpr int row_run = 1, column_run = 2;
  static constexpr int pass = width;
  static constexpr std::size_t shared_bytes(int slots) { return static_cast<std::size_t>(slots) * tile_bytes; }

  using Tile = std::uint32_t;

  __device__ TensorTiles(unsigned char* shared, int) : shared_(shared_address(shared)) {}

  __device__ static int row(int i) { return first_row() + lane() / 4 + 8 * i; }
  __device__ static int column(int j) { return j / 2 * 8 + lane() % 4 * 2 + j % 2; }
  __device__ static int channel(int c) { return column(c); }

  __device__ Tile load(int slot, const Rows<T>& source, std::int64_t begin) const {
    const Tile to = shared_ + static_cast<std::uint32_t>(slot * tile_bytes);
#pragma unroll
    for (int i = 0; i < tile * units / threads; ++i) {
      const int index = i * threads + static_cast<int>(threadIdx.x), row = index / units, unit = index % units;
      const bool there = begin + row < source.count && unit * 8 < source.width;
      copy_async(address(to, row, unit), there ? source.data + (begin + row) * source.stride + unit * 8 : source.data,
                 there ? 16 : 0);
    }
    return to;
  }
  __device__ static void commit() { commit_copies(); }
  template <int groups>
  __device__ static void wait() {
    wait_for_copies<groups>();
    __syncthreads();
  }
  __device__ static void release() { __syncthreads(); }

  __device__ static float row_sum(float value) {
    value += __shfl_xor_sync(all_lanes, value, 1);
    return value + __shfl_xor_sync(all_lanes, value, 2);
  }
  __device__ static float row_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(all_lanes, value, 1));
    return fmaxf(value, __shfl_xor_sync(all_lanes, value, 2));
  }

  __device__ static void multiply(Tile a, Tile b, float (&products)[rows][columns]) {
    float c[columns / 2][4] = {};
#pragma unroll
    for (int step = 0; step < steps; ++step) {
      std::uint32_t of_a[4];
      load_matrices(of_a, address(a, first_row() + lane() % 16, 2 * step + lane() / 16));
#pragma unroll
      for (int pair = 0; pair < tile / 16; ++pair) {
        std::uint32_t of_b[4];
        load_matrices(of_b, address(b, 16 * pair + lane() / 16 * 8 + lane() % 8, 2 * step + lane() / 8 % 2));
        multiply_add<T>(c[2 * pair], of_a, of_b[0], of_b[1]);
        multiply_add<T>(c[2 * pair + 1], of_a, of_b[2], of_b[3]);
      }
    }
#pragma unroll
    for (int i = 0; i < rows; ++i) {
      for (int j = 0; j < columns; ++j) products[i][j] = c[j / 2][2 * i + j % 2];
    }
  }

  __device__ static void add_weighted(const float (&weights)[rows][columns], Tile x, float (&sums)[rows][channels]) {
#pragma unroll
    for (int step = 0; step < tile / 16; ++step) {
      std::uint32_t of_weights[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* const pair = weights[i % 2] + 4 * step + i / 2 * 2;
        of_weights[i] = pack<T>(pair[0], pair[1]);
      }
#pragma unroll
      for (int pair = 0; pair < steps; ++pair) {
        std::uint32_t of_x[4];
        load_matrices_transposed(of_x, address(x, 16 * step + lane() % 16, 2 * pair + lane() / 16));
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int at = 4 * pair + 2 * half;
          float c[4] = {sums[0][at], sums[0][at + 1], sums[1][at], sums[1][at + 1]};
          multiply_add<T>(c, of_weights, of_x[2 * half], of_x[2 * half + 1]);
          for (int i = 0; i < rows; ++i) {
            sums[i][at] = c[2 * i];
            sums[i][at + 1] = c[2 * i + 1];
          }
        }
      }
    }
  }

  // Rows from `begin` on of `out`, `stride` apart; `count` and `head_width` are those of the head.
  __device__ static void store(const float (&sums)[rows][channels], const float (&factors)[rows], T* out,
                               std::int64_t stride, std::int64_t begin, std::int64_t count, int head_width) {
#pragma unroll
    for (int i = 0; i < rows; ++i) {
      if (begin + row(i) >= count) continue;
      for (int c = 0; c < channels; c += 2) {
        if (channel(c) >= head_width) continue;
        *reinterpret_cast<std::uint32_t*>(out + (begin + row(i)) * stride + channel(c)) =
            pack<T>(sums[i][c] * factors[i], sums[i][c + 1] * factors[i]);
      }
    }
  }

 private:
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % warp_size; }
  __device__ static int first_row() { return static_cast<int>(threadIdx.x) / warp_size * 16; }
  __device__ static std::uint32_t address(Tile tile_address, int row, int unit) {
    return tile_address + static_cast<std::uint32_t>(row * width * 2 + ((unit ^ (row & 7)) << 4));
  }

  std::uint32_t shared_;
};

}  // namespace riverhorse::cuda::attention
