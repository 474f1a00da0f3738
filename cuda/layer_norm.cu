// Layer norm: plain, after a residual addition, and with dropout and what training keeps; and backward.
//
// A warp has a row: it adds, then reads the row three times (mean, squares of the distances from it, output), which
// after the first time comes from the cache. Backward, with z the normalised row and u = d_out weight:
//   d = scale (u - mean(u) - z mean(u z));  d_weight = sum over rows of d_out z;  d_bias = that of d_out.
#include "column_sums.cuh"
#include "dropout.cuh"
#include "encoder.h"
#include "kernel.cuh"
#include "norm.h"

namespace riverhorse::cuda {

namespace {

constexpr int warps_in_block = 4;
constexpr int loads_at_once = 8;  // by a lane: with one row there is nothing else to hide the latency of memory

dim3 row_grid(std::int64_t rows) { return grid_of(divide_up(rows, warps_in_block)); }
constexpr int row_threads = warps_in_block * warp_size;

__device__ std::int64_t row_of_warp() {
  return static_cast<std::int64_t>(blockIdx.x) * warps_in_block + threadIdx.x / warp_size;
}
__device__ int lane_of_thread() { return static_cast<int>(threadIdx.x) % warp_size; }

struct Norm {
  const float* weight;
  const float* bias;
  float epsilon;

  explicit Norm(const NormWeights& norm)
      : weight(data<float>(norm.weight)), bias(data<float>(norm.bias)), epsilon(norm.epsilon) {}
};

struct Statistics {
  float mean, scale;
};

__device__ Statistics statistics_of(const float* row, std::int64_t width, float epsilon) {
  const int lane = lane_of_thread();
  float sum = 0;
#pragma unroll loads_at_once
  for (std::int64_t i = lane; i < width; i += warp_size) sum += row[i];
  const float mean = warp_sum(sum) / static_cast<float>(width);
  float squares = 0;
#pragma unroll loads_at_once
  for (std::int64_t i = lane; i < width; i += warp_size) squares += (row[i] - mean) * (row[i] - mean);
  return {mean, rsqrtf(warp_sum(squares) / static_cast<float>(width) + epsilon)};
}

template <typename T>
__device__ void write_normalised(const float* row, std::int64_t width, const Norm& norm, Statistics statistics,
                                 T* out) {
#pragma unroll loads_at_once
  for (std::int64_t i = lane_of_thread(); i < width; i += warp_size) {
    const float z = (row[i] - statistics.mean) * statistics.scale;
    out[i] = from_float<T>(z * norm.weight[i] + norm.bias[i]);
  }
}

template <typename T>
__global__ void normalise_rows(const T* x, float* residual, std::int64_t rows, std::int64_t width, Norm norm,
                               T* out) {
  const std::int64_t row = row_of_warp();
  if (row >= rows) return;
  float* sums = residual + row * width;
  // Each lane reads back only what it wrote itself.
#pragma unroll loads_at_once
  for (std::int64_t i = lane_of_thread(); x != nullptr && i < width; i += warp_size) {
    sums[i] += to_float(x[row * width + i]);
  }
  write_normalised(sums, width, norm, statistics_of(sums, width, norm.epsilon), out + row * width);
}

template <typename T>
__global__ void add_dropped_and_normalise(const T* x, const float* residual, DropoutMask dropout, std::int64_t rows,
                                          std::int64_t width, Norm norm, float* residual_out, T* out, float* kept) {
  const std::int64_t row = row_of_warp();
  if (row >= rows) return;
  float* sums = residual_out + row * width;
  for (std::int64_t i = lane_of_thread(); i < width; i += warp_size) {
    const std::int64_t element = row * width + i;
    const float factor = dropout.factor(element);
    sums[i] = x != nullptr ? residual[element] + factor * to_float(x[element]) : factor * residual[element];
  }
  const Statistics statistics = statistics_of(sums, width, norm.epsilon);
  write_normalised(sums, width, norm, statistics, out + row * width);
  if (lane_of_thread() == 0) {
    kept[2 * row] = statistics.mean;
    kept[2 * row + 1] = statistics.scale;
  }
}

template <typename T>
__global__ void rows_backward(const T* d_out, const float* residual_out, const float* kept, DropoutMask dropout,
                              std::int64_t rows, std::int64_t width, Norm norm, float* d_residual, T* d_x) {
  const std::int64_t row = row_of_warp();
  if (row >= rows) return;
  const Statistics statistics{kept[2 * row], kept[2 * row + 1]};
  const auto z = [&](std::int64_t i) { return (residual_out[row * width + i] - statistics.mean) * statistics.scale; };
  const auto u = [&](std::int64_t i) { return to_float(d_out[row * width + i]) * norm.weight[i]; };
  float sum = 0, product = 0;
  for (std::int64_t i = lane_of_thread(); i < width; i += warp_size) {
    sum += u(i);
    product += u(i) * z(i);
  }
  const float mean = warp_sum(sum) / static_cast<float>(width);
  const float projection = warp_sum(product) / static_cast<float>(width);
  for (std::int64_t i = lane_of_thread(); i < width; i += warp_size) {
    const std::int64_t element = row * width + i;
    const float gradient = d_residual[element] + statistics.scale * (u(i) - mean - z(i) * projection);
    const float dropped = gradient * dropout.factor(element);
    d_residual[element] = d_x != nullptr ? gradient : dropped;
    if (d_x != nullptr) d_x[element] = from_float<T>(dropped);
  }
}

template <typename T>
struct WeightGradient {
  const T* d_out;
  const float* residual_out;
  const float* kept;
  std::int64_t width;
  __device__ float operator()(std::int64_t row, std::int64_t column) const {
    const std::int64_t i = row * width + column;
    return to_float(d_out[i]) * (residual_out[i] - kept[2 * row]) * kept[2 * row + 1];
  }
};

template <typename T>
struct BiasGradient {
  const T* d_out;
  std::int64_t width;
  __device__ float operator()(std::int64_t row, std::int64_t column) const {
    return to_float(d_out[row * width + column]);
  }
};

}  // namespace

void launch_layer_norm(cudaStream_t stream, const Tensor& x, const NormWeights& norm, const Tensor& out) {
  const std::int64_t rows = out.shape[0], width = out.shape[1];
  with_activation(out.dtype, [&](auto type) {
    using T = decltype(type);
    launch(normalise_rows<T>, row_grid(rows), row_threads, 0, stream, nullptr, data<float>(x), rows, width,
           Norm(norm), data<T>(out));
  });
}

void CudaEncoder::record_add_layer_norm(const AddLayerNormArgs& args) {
  add("add_layer_norm", [args](cudaStream_t stream) {
    const std::int64_t rows = args.residual.shape[0], width = args.residual.shape[1];
    with_activation(args.out.dtype, [&](auto type) {
      using T = decltype(type);
      launch(normalise_rows<T>, row_grid(rows), row_threads, 0, stream, data<T>(args.x), data<float>(args.residual),
             rows, width, Norm(args.norm), data<T>(args.out));
    });
  });
}

void CudaEncoder::record_residual_norm(const ResidualNormArgs& args) {
  add("residual_norm", [args](cudaStream_t stream) {
    const std::int64_t rows = args.residual.shape[0], width = args.residual.shape[1];
    with_activation(args.out.dtype, [&](auto type) {
      using T = decltype(type);
      launch(add_dropped_and_normalise<T>, row_grid(rows), row_threads, 0, stream, data<T>(args.x),
             data<float>(args.residual), DropoutMask(args.dropout), rows, width, Norm(args.norm),
             data<float>(args.residual_out), data<T>(args.out), data<float>(args.statistics));
    });
  });
}

void CudaEncoder::record_residual_norm_backward(const ResidualNormBackwardArgs& args) {
  const std::int64_t rows = args.d_out.shape[0], width = args.d_out.shape[1];
  ScratchScope scope(*this);
  const Tensor parts = scratch(DType::f32, {column_sum_parts(rows), width});
  add("residual_norm_backward", [args, parts, rows, width](cudaStream_t stream) {
    with_activation(args.d_out.dtype, [&](auto type) {
      using T = decltype(type);
      launch(rows_backward<T>, row_grid(rows), row_threads, 0, stream, data<T>(args.d_out),
             data<float>(args.residual_out), data<float>(args.statistics), DropoutMask(args.dropout), rows, width,
             Norm(args.norm), data<float>(args.d_residual), data<T>(args.d_x));
      add_column_sums(
          stream,
          WeightGradient<T>{data<T>(args.d_out), data<float>(args.residual_out), data<float>(args.statistics), width},
          rows, width, data<float>(parts), data<float>(args.d_weight));
      add_column_sums(stream, BiasGradient<T>{data<T>(args.d_out), width}, rows, width, data<float>(parts),
                      data<float>(args.d_bias));
    });
  });
}

}  // namespace riverhorse::cuda
