// out[column] += the sum over all rows of value(row, column), in an order that depends on the shape only: partial
// sums of `column_sum_rows` rows each, then a sum of those.
#pragma once

#include <cstdint>

#include "kernel.cuh"

namespace riverhorse::cuda {

constexpr std::int64_t column_sum_rows = 256;

// The scratch that add_column_sums needs: (parts, columns) f32.
constexpr std::int64_t column_sum_parts(std::int64_t rows) { return divide_up(rows, column_sum_rows); }

// A block of 32 x 8 threads has 32 columns of one part: a warp reads neighbouring columns of a row.
template <typename Value>
__global__ void sum_column_parts(Value value, std::int64_t rows, std::int64_t columns, float* parts) {
  __shared__ float sums[8][warp_size];
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * warp_size + threadIdx.x;
  for (std::int64_t part = blockIdx.y; part * column_sum_rows < rows; part += gridDim.y) {
    const std::int64_t end = min(rows, (part + 1) * column_sum_rows);
    float sum = 0;
    for (std::int64_t row = part * column_sum_rows + threadIdx.y; row < end && column < columns; row += 8) {
      sum += value(row, column);
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < columns) {
      float total = 0;
      for (int y = 0; y < 8; ++y) total += sums[y][threadIdx.x];
      parts[part * columns + column] = total;
    }
    __syncthreads();
  }
}

// Anonymous, as all kernels here that are no templates: a copy a file.
namespace {
__global__ void add_parts(const float* parts, std::int64_t count, std::int64_t columns, float* out) {
  for (std::int64_t column = first_element(); column < columns; column += element_stride()) {
    float sum = 0;
    for (std::int64_t part = 0; part < count; ++part) sum += parts[part * columns + column];
    out[column] += sum;
  }
}
}  // namespace

// `value`: a function object of (row, column), callable on the device.
template <typename Value>
void add_column_sums(cudaStream_t stream, const Value& value, std::int64_t rows, std::int64_t columns, float* parts,
                     float* out) {
  const std::int64_t count = column_sum_parts(rows);
  launch(sum_column_parts<Value>, grid_of(divide_up(columns, warp_size), std::min<std::int64_t>(count, 65535)),
         dim3(warp_size, 8), 0, stream, value, rows, columns, parts);
  launch(add_parts, element_grid(columns), element_threads, 0, stream, parts, count, columns, out);
}

}  // namespace riverhorse::cuda
