// Sums of the columns of a matrix, and of its rows, in an order that depends on the shape only. Columns: partial sums
// of a few rows each, then a sum of those.
#pragma once

#include <cstdint>

#include "kernel.cuh"

namespace riverhorse::cuda {

constexpr int column_sum_warps = 8;
constexpr std::int64_t column_sum_rows = 128;  // of a partial sum

// The scratch that add_column_sums needs: (parts, columns) f32.
constexpr std::int64_t column_sum_parts(std::int64_t rows) { return divide_up(rows, column_sum_rows); }

// A block has one part of 32 groups of `count` columns, a group a lane; its warps take the rows in turn.
template <typename T, int count>
__global__ void sum_column_parts(const T* matrix, std::int64_t rows, std::int64_t columns, float* parts) {
  using Group = Neighbours<T, count>;
  __shared__ float sums[column_sum_warps][count][warp_size];
  const int lane = static_cast<int>(threadIdx.x), warp = static_cast<int>(threadIdx.y);
  const std::int64_t column = (static_cast<std::int64_t>(blockIdx.x) * warp_size + lane) * count;
  for (std::int64_t part = blockIdx.y; part * column_sum_rows < rows; part += gridDim.y) {
    const std::int64_t begin = part * column_sum_rows, end = min(rows, begin + column_sum_rows);
    float own[count] = {};
    if (column < columns) {
#pragma unroll 8
      for (std::int64_t row = begin + warp; row < end; row += column_sum_warps) {
        const Group group = *reinterpret_cast<const Group*>(matrix + row * columns + column);
#pragma unroll
        for (int i = 0; i < count; ++i) own[i] += to_float(group.values[i]);
      }
    }
    for (int i = 0; i < count; ++i) sums[warp][i][lane] = own[i];
    __syncthreads();
    // Warp w adds up the w-th column of every group.
    for (int i = warp; i < count && column < columns; i += column_sum_warps) {
      float total = 0;
      for (int other = 0; other < column_sum_warps; ++other) total += sums[other][i][lane];
      parts[part * columns + column + i] = total;
    }
    __syncthreads();
  }
}

// What sums are added to, (columns) each; null from the one on that there is not.
struct ColumnSums {
  float* of_matrix[3];
  int count() const { return of_matrix[1] == nullptr ? 1 : of_matrix[2] == nullptr ? 2 : 3; }
};

// The sums of one matrix of parts, or of several that follow each other in memory. A block has 32 columns of the
// matrix blockIdx.y; its warps take the parts in turn. Anonymous, as all kernels here that are no templates: a copy a
// file.
namespace {
constexpr int part_warps = 32;
__global__ void add_parts(const float* parts, std::int64_t count, std::int64_t columns, ColumnSums outs) {
  __shared__ float sums[part_warps][warp_size];
  const int lane = static_cast<int>(threadIdx.x), warp = static_cast<int>(threadIdx.y);
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * warp_size + lane;
  const float* matrix = parts + blockIdx.y * count * columns;
  float sum = 0;
  if (column < columns) {
#pragma unroll 8
    for (std::int64_t part = warp; part < count; part += part_warps) sum += matrix[part * columns + column];
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || column >= columns) return;
  float total = 0;
  for (int other = 0; other < part_warps; ++other) total += sums[other][lane];
  float* const out = blockIdx.y == 0 ? outs.of_matrix[0] : blockIdx.y == 1 ? outs.of_matrix[1] : outs.of_matrix[2];
  out[column] += total;
}

// `parts`: (outs.count(), count, columns).
void launch_add_parts(cudaStream_t stream, const float* parts, std::int64_t count, std::int64_t columns,
                      const ColumnSums& outs) {
  launch(add_parts, grid_of(divide_up(columns, warp_size), outs.count()), dim3(warp_size, part_warps), 0, stream,
         parts, count, columns, outs);
}
}  // namespace

// out += the sums of the columns of `matrix`, (rows, columns).
template <typename T>
void add_column_sums(cudaStream_t stream, const T* matrix, std::int64_t rows, std::int64_t columns, float* parts,
                     float* out) {
  const std::int64_t count = column_sum_parts(rows);
  const auto start = [&](auto kernel, int columns_of_lane) {
    launch(kernel, grid_of(divide_up(columns, warp_size * columns_of_lane), std::min<std::int64_t>(count, 65535)),
           dim3(warp_size, column_sum_warps), 0, stream, matrix, rows, columns, parts);
  };
  constexpr int most = 16 / sizeof(T);
  if (columns % most == 0 && at_16_bytes(matrix)) {
    start(sum_column_parts<T, most>, most);
  } else {
    start(sum_column_parts<T, 1>, 1);
  }
  launch_add_parts(stream, parts, count, columns, {{out, nullptr, nullptr}});
}

// A block a row.
constexpr int row_sum_threads = 256;
template <typename T, int count>
__global__ void sum_rows(const T* matrix, std::int64_t columns, float* out) {
  __shared__ float of_warps[row_sum_threads / warp_size][1];
  const auto* row = reinterpret_cast<const Neighbours<T, count>*>(matrix + blockIdx.x * columns);
  float sum[1] = {};
#pragma unroll 8
  for (std::int64_t i = threadIdx.x; i < columns / count; i += row_sum_threads) {
    const Neighbours<T, count> group = row[i];
    float of_group = 0;
#pragma unroll
    for (const T& value : group.values) of_group += to_float(value);
    sum[0] += of_group;
  }
  block_sums(sum, of_warps);
  if (threadIdx.x == 0) out[blockIdx.x] += sum[0];
}

// out += the sums of the rows of `matrix`, (rows, columns).
template <typename T>
void add_row_sums(cudaStream_t stream, const T* matrix, std::int64_t rows, std::int64_t columns, float* out) {
  constexpr int most = 16 / sizeof(T);
  const bool whole = columns % most == 0 && at_16_bytes(matrix);
  launch(whole ? sum_rows<T, most> : sum_rows<T, 1>, grid_of(rows), row_sum_threads, 0, stream, matrix, columns, out);
}

}  // namespace riverhorse::cuda
