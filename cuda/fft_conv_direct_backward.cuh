// The backward pass of p = conv(u, kernel) + skip u as products on tensor cores. d_u is the adjoint of the
// convolution (fft_conv_direct.cuh). The gradient of the filter is the sum of the diagonals of products too:
//   D_d = sum over sequences and chunks c of  (chunk c of d_p)^T (chunk c - d of u)     64 x 64
//   d_kernel of lag l = sum of D_d[i, j] over 64 d + i - j = l
// With all sequences and chunks as what is summed over, L^2 flops a row, as the forward pass. Both operands are the
// activations as they are, so that nothing is rounded on the way.
//
// A block has a head, a warp the whole of some D_d: 128 sums a lane, operands by transposed loads of the rows in
// shared memory. Its diagonals are added up in registers, then among lanes. Blocks that share a head leave sums of
// their own, which are added in order.
#pragma once

#include "fft_conv_direct.cuh"

namespace riverhorse::cuda {

constexpr int correlation_most_rows = 256;  // of u, and as many of d_p: two blocks a multiprocessor
constexpr int diagonal_sums = 2 * 15;       // of a lane

struct DirectCorrelation {
  DirectPlan rows;  // but for its tables
  int splits;       // blocks of a head

  // Offsets in shared memory: rows of zeros, rows of u, of d_p; sums of lags of D_d's lower and upper half;
  // diagonals.
  static constexpr int u_offset = 16 * row_bytes;
  __host__ __device__ int rows_bytes() const { return rows.tiles() * direct_tile_rows * row_bytes; }
  __host__ __device__ int lags() const { return rows.chunks * direct_chunk; }
  __host__ __device__ int lower_offset() const { return u_offset + 2 * rows_bytes(); }
  __host__ __device__ int diagonals_offset() const { return lower_offset() + 2 * 4 * lags(); }
  int warps() const { return std::min(rows.chunks, direct_warps); }
  std::size_t shared_bytes() const {
    return static_cast<std::size_t>(diagonals_offset() + 4 * diagonal_sums * warps() * warp_size);
  }

  // Of the same convolution as `plan`: as many sequences at a time as fit, blocks for all multiprocessors.
  DirectCorrelation(const DirectPlan& plan, int multiprocessors) : rows(plan) {
    rows.sequences_log = 0;
    while (rows.sequences() < rows.batch && 2 * rows.rows() <= correlation_most_rows) ++rows.sequences_log;
    rows.groups = static_cast<int>(divide_up(rows.batch, rows.sequences()));
    splits = static_cast<int>(std::min<std::int64_t>(divide_up(4 * multiprocessors, rows.heads), rows.groups));
  }
};

// Adds the diagonals of D_d, of which a lane holds the tiles of 8 x 8 that `products` has, to the sums of lags from
// that of the main diagonal on and before it; `upper` is null where lags before are of the future.
__device__ inline void add_diagonals(const float (&products)[4][8][4], float* diagonals, float* lower, float* upper) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
#pragma unroll
  for (int tile = -7; tile <= 7; ++tile) {  // rows less columns, in tiles
    float sums[2] = {};
#pragma unroll
    for (int row = 0; row < 8; ++row) {
      if (row - tile < 0 || row - tile > 7) continue;
      const float* pair = products[row / 2][row - tile] + row % 2 * 2;
      sums[0] += pair[0];
      sums[1] += pair[1];
    }
    for (int i = 0; i < 2; ++i) diagonals[((tile + 7) * 2 + i) * warp_size + lane] = sums[i];
  }
  __syncwarp();
  // A lane's element is at row 8 tile + g - 2 t - i of its columns.
  for (int lag = lane - direct_chunk + 1; lag < direct_chunk; lag += warp_size) {
    float sum = 0;
#pragma unroll
    for (int column = 0; column < 8; ++column) {
      const int row = lag + column + direct_chunk, tile = row / 8 - 8;
      if (-7 <= tile && tile <= 7) {
        sum += diagonals[((tile + 7) * 2 + column % 2) * warp_size + row % 8 * 4 + column / 2];
      }
    }
    if (lag >= 0) {
      lower[lag] += sum;
    } else if (upper != nullptr) {
      upper[lag] += sum;
    }
  }
  __syncwarp();
}

// sums: (splits, H, L)
template <typename T>
__global__ void __launch_bounds__(direct_threads, 2)
    correlate_direct(DirectCorrelation c, DirectRows<const T> u, DirectRows<const T> d_p, float* sums) {
  SHARED_MEMORY(unsigned char, memory);
  const DirectPlan& plan = c.rows;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % warp_size, warp = thread / warp_size;
  const auto splits = static_cast<unsigned>(c.splits);
  const std::int64_t head = blockIdx.x / splits;
  const auto split = static_cast<int>(blockIdx.x % splits);
  const std::uint32_t base = shared_address(memory), u_at = base + DirectCorrelation::u_offset;
  const std::uint32_t d_p_at = u_at + static_cast<std::uint32_t>(c.rows_bytes());
  auto* const lower = reinterpret_cast<float*>(memory + c.lower_offset());
  float* const upper = lower + c.lags();
  float* const diagonals = reinterpret_cast<float*>(memory + c.diagonals_offset()) + warp * diagonal_sums * warp_size;

  for (int i = thread; i < 2 * c.lags(); i += block_threads()) lower[i] = 0;
  clear_rows(base, DirectCorrelation::u_offset / row_bytes);
  const int tail = plan.tiles() * direct_tile_rows - plan.rows();
  for (const std::uint32_t at : {u_at, d_p_at}) {
    clear_rows(at + static_cast<std::uint32_t>(plan.rows() * row_bytes), tail);
  }
#pragma unroll 1
  for (int group = split; group < plan.groups; group += c.splits) {
    load_rows(plan, u, head, group, u_at);
    load_rows(plan, d_p, head, group, d_p_at);
    wait_for_copies<0>();
    __syncthreads();
    // From the most rows on.
#pragma unroll 1
    for (int turn = 0;; ++turn) {
      const int d = place_in_turn(turn);
      if (d >= plan.chunks) break;
      float products[4][8][4] = {};
      const int shift = d << plan.sequences_log;
#pragma unroll 1
      for (int k = shift & ~15; k < plan.rows(); k += 16) {  // rows before the first of u are zeros
        const int row = k + lane % 8 + lane / 16 * 8;
        const std::uint32_t left_at = unit_offset(row, lane / 8 % 2);
        const std::uint32_t right_at = unit_offset(row - shift, lane / 8 % 2);
        std::uint32_t right[4][4];  // (b0, b0, b1, b1) of two columns of tiles
#pragma unroll
        for (int i = 0; i < 4; ++i) load_matrices_transposed(right[i], u_at + (right_at ^ (32 * i)));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          std::uint32_t left[4];
          load_matrices_transposed(left, d_p_at + (left_at ^ (32 * i)));
#pragma unroll
          for (int column = 0; column < 8; ++column) {
            multiply_add<T>(products[i][column], left, right[column / 2][column % 2],
                            right[column / 2][column % 2 + 2]);
          }
        }
      }
      add_diagonals(products, diagonals, lower + d * direct_chunk, d > 0 ? upper + d * direct_chunk : nullptr);
    }
    __syncthreads();
  }
  for (int lag = thread; lag < plan.length; lag += block_threads()) {
    sums[(split * plan.heads + head) * plan.length + lag] = lower[lag] + upper[lag];
  }
}

// d_kernel += sums, d_skip that of lag 0; d_skip may be null.
__global__ void add_correlations(std::int64_t heads, std::int64_t length, int splits, const float* sums,
                                 float* d_kernel, float* d_skip) {
  for (std::int64_t i = first_element(); i < heads * length; i += element_stride()) {
    float sum = 0;
    for (int split = 0; split < splits; ++split) sum += sums[split * heads * length + i];
    d_kernel[i] += sum;
    if (d_skip != nullptr && i % length == 0) d_skip[i / length] += sum;
  }
}

template <typename T>
void launch_direct_correlation(cudaStream_t stream, const DirectCorrelation& c, const T* u, const T* d_p, float* sums,
                               float* d_kernel, float* d_skip) {
  const std::int64_t heads = c.rows.heads, length = c.rows.length;
  launch(correlate_direct<T>, grid_of(heads * c.splits), static_cast<unsigned>(c.warps() * warp_size),
         c.shared_bytes(), stream, c, DirectRows<const T>(u, length), DirectRows<const T>(d_p, length), sums);
  launch(add_correlations, element_grid(heads * length), element_threads, 0, stream, heads, length, c.splits, sums,
         d_kernel, d_skip);
}

}  // namespace riverhorse::cuda
