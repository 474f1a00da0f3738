// Layer norm: plain, after a residual addition, and with dropout and what training keeps; and backward.
//
// With an addition: a warp has a row: it adds, then reads the row three times (mean, squares of the distances from
// it, output), which after the first time comes from the cache. Plain, and in training, a block has a row, and a
// thread keeps a group of neighbours of it in registers from the one time that they are read. Backward, with z the
// normalised row and u = d_out weight:
//   d = scale (u - mean(u) - z mean(u z));  d_weight = sum over rows of d_out z;  d_bias = that of d_out.
// The sums over rows, that of d_x too, are made in the same pass: a thread adds up its columns over the rows of its
// block.
#include <algorithm>
#include <initializer_list>

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
  let_next_begin();
  wait_for_previous();
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

// Of training: rows of up to 3072 columns in groups of 4, one a thread; others in groups of 1, of which a thread may
// have several: all but the first are then read again where they are needed, and their sums over rows kept in memory.
constexpr int most_threads = 768;
constexpr int most_warps = most_threads / warp_size;
constexpr std::int64_t backward_rows = 64;  // of a block

template <typename T, int count>
__device__ Neighbours<T, count> load(const T* from) {
  return *reinterpret_cast<const Neighbours<T, count>*>(from);
}
template <typename T, int count>
__device__ void store(T* to, const Neighbours<T, count>& group) {
  *reinterpret_cast<Neighbours<T, count>*>(to) = group;
}

// function(the first column, whether it is in the thread's first group), for each group of the thread.
template <int count, typename Function>
__device__ void for_own_groups(std::int64_t width, Function&& function) {
  std::int64_t column = std::int64_t{threadIdx.x} * count;
  if (column < width) function(column, true);
  if constexpr (count == 1) {
    for (column += blockDim.x; column < width; column += blockDim.x) function(column, false);
  }
}

// A block a row, with no addition: a generation step's few rows.
template <typename T>
__global__ void __launch_bounds__(most_threads)
    normalise_by_fours(const float* x, std::int64_t width, Norm norm, T* out) {
  using Floats = Neighbours<float, 4>;
  __shared__ float of_warps[2][most_warps][1];
  let_next_begin();
  const std::int64_t own = std::int64_t{threadIdx.x} * 4;
  const bool has = own < width;
  Floats weight = {}, bias = {}, values = {};
  if (has) {
    weight = load<float, 4>(norm.weight + own);
    bias = load<float, 4>(norm.bias + own);
  }
  wait_for_previous();
  if (has) values = load<float, 4>(x + blockIdx.x * width + own);
  float sum[1] = {}, squares[1] = {};
  for (const float value : values.values) sum[0] += value;
  block_sums(sum, of_warps[0]);
  const float mean = sum[0] / static_cast<float>(width);
  for (const float value : values.values) squares[0] += has ? (value - mean) * (value - mean) : 0.0f;
  block_sums(squares, of_warps[1]);
  if (!has) return;
  const float scale = rsqrtf(squares[0] / static_cast<float>(width) + norm.epsilon);
  Neighbours<T, 4> normalised;
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    normalised.values[c] = from_float<T>((values.values[c] - mean) * scale * weight.values[c] + bias.values[c]);
  }
  store(out + blockIdx.x * width + own, normalised);
}

// A block a row.
template <typename T, int count>
__global__ void __launch_bounds__(most_threads)
    add_dropped_and_normalise(const T* x, const float* residual, DropoutMask dropout, std::int64_t width, Norm norm,
                              float* residual_out, T* out, float* kept) {
  using Floats = Neighbours<float, count>;
  __shared__ float of_warps[2][most_warps][1];
  const std::int64_t row = blockIdx.x, begin = row * width;
  Floats first;
  const auto sums_at = [&](std::int64_t i, bool is_first) {
    return is_first ? first : load<float, count>(residual_out + begin + i);
  };

  float sum[1] = {};
  for_own_groups<count>(width, [&](std::int64_t i, bool is_first) {
    float factors[count];
    dropout.factors(begin + i, factors);
    Floats sums = load<float, count>(residual + begin + i);
    if (x != nullptr) {
      const auto added = load<T, count>(x + begin + i);
#pragma unroll
      for (int c = 0; c < count; ++c) sums.values[c] += factors[c] * to_float(added.values[c]);
    } else {
#pragma unroll
      for (int c = 0; c < count; ++c) sums.values[c] *= factors[c];
    }
    store(residual_out + begin + i, sums);
    if (is_first) first = sums;
#pragma unroll
    for (const float value : sums.values) sum[0] += value;
  });
  block_sums(sum, of_warps[0]);
  const float mean = sum[0] / static_cast<float>(width);

  float squares[1] = {};
  for_own_groups<count>(width, [&](std::int64_t i, bool is_first) {
    const Floats sums = sums_at(i, is_first);
#pragma unroll
    for (const float value : sums.values) squares[0] += (value - mean) * (value - mean);
  });
  block_sums(squares, of_warps[1]);
  const float scale = rsqrtf(squares[0] / static_cast<float>(width) + norm.epsilon);

  for_own_groups<count>(width, [&](std::int64_t i, bool is_first) {
    const Floats sums = sums_at(i, is_first), weight = load<float, count>(norm.weight + i),
                 bias = load<float, count>(norm.bias + i);
    Neighbours<T, count> normalised;
#pragma unroll
    for (int c = 0; c < count; ++c) {
      const float z = (sums.values[c] - mean) * scale;
      normalised.values[c] = from_float<T>(z * weight.values[c] + bias.values[c]);
    }
    store(out + begin + i, normalised);
  });
  if (threadIdx.x == 0) {
    kept[2 * row] = mean;
    kept[2 * row + 1] = scale;
  }
}

template <typename T>
struct NormBackward {
  const T* d_out;
  const float* residual_out;
  const float* kept;
  DropoutMask dropout;
  std::int64_t rows, width;
  const float* weight;
  float* d_residual;
  T* d_x;
  float* parts;  // (2, blocks, width): of d_weight, of d_bias; (3, blocks, width) with those of d_x_sum
  bool sums_d_x, overwrite;

  NormBackward(const ResidualNormBackwardArgs& args, const Tensor& parts_tensor)
      : d_out(data<T>(args.d_out)),
        residual_out(data<float>(args.residual_out)),
        kept(data<float>(args.statistics)),
        dropout(args.dropout),
        rows(args.d_out.shape[0]),
        width(args.d_out.shape[1]),
        weight(data<float>(args.norm.weight)),
        d_residual(data<float>(args.d_residual)),
        d_x(data<T>(args.d_x)),
        parts(data<float>(parts_tensor)),
        sums_d_x(args.d_x_sum),
        overwrite(args.overwrite) {}
};

// A group of a row, and the statistics of the row.
template <typename T, int count>
struct NormGroup {
  float mean, scale;
  Neighbours<T, count> d_out;
  Neighbours<float, count> residual_out, d_residual;

  NormGroup() = default;
  __device__ NormGroup(const NormBackward<T>& norm, std::int64_t row, std::int64_t i)
      : mean(norm.kept[2 * row]),
        scale(norm.kept[2 * row + 1]),
        d_out(load<T, count>(norm.d_out + row * norm.width + i)),
        residual_out(load<float, count>(norm.residual_out + row * norm.width + i)),
        d_residual(norm.overwrite ? Neighbours<float, count>{}
                                  : load<float, count>(norm.d_residual + row * norm.width + i)) {}

  __device__ float z(int c) const { return (residual_out.values[c] - mean) * scale; }
  __device__ float gradient(int c) const { return to_float(d_out.values[c]); }
};

// A block has `backward_rows` rows, one after the other; the next one is on its way while it works on one.
template <typename T, int count>
__global__ void __launch_bounds__(most_threads) rows_backward(NormBackward<T> norm) {
  using Floats = Neighbours<float, count>;
  using Group = NormGroup<T, count>;
  __shared__ float of_warps[2][most_warps][2];
  const std::int64_t own = std::int64_t{threadIdx.x} * count;  // the column of the first group
  const std::int64_t begin = blockIdx.x * backward_rows, end = min(norm.rows, begin + backward_rows);
  float* const d_weight = norm.parts + blockIdx.x * norm.width;
  float* const d_bias = d_weight + gridDim.x * norm.width;
  float* const d_x_sum = d_bias + gridDim.x * norm.width;
  const auto inverse_width = 1.0f / static_cast<float>(norm.width);
  Floats own_d_weight = {}, own_d_bias = {}, own_d_x_sum = {};
  Group first, next;
  if (own < norm.width) next = Group(norm, begin, own);
  for (std::int64_t row = begin; row < end; ++row) {
    first = next;
    float sums[2] = {};  // of u, of u z
    for_own_groups<count>(norm.width, [&](std::int64_t i, bool is_first) {
      const Group group = is_first ? first : Group(norm, row, i);
      const Floats weight = load<float, count>(norm.weight + i);
#pragma unroll
      for (int c = 0; c < count; ++c) {
        const float u = group.gradient(c) * weight.values[c];
        sums[0] += u;
        sums[1] += u * group.z(c);
      }
      Floats d_weights = is_first ? own_d_weight : row == begin ? Floats{} : load<float, count>(d_weight + i);
      Floats d_biases = is_first ? own_d_bias : row == begin ? Floats{} : load<float, count>(d_bias + i);
#pragma unroll
      for (int c = 0; c < count; ++c) {
        d_weights.values[c] += group.gradient(c) * group.z(c);
        d_biases.values[c] += group.gradient(c);
      }
      if (is_first) {
        own_d_weight = d_weights;
        own_d_bias = d_biases;
      } else {
        store(d_weight + i, d_weights);
        store(d_bias + i, d_biases);
      }
    });
    if (own < norm.width && row + 1 < end) next = Group(norm, row + 1, own);
    block_sums(sums, of_warps[row % 2]);
    const float mean = sums[0] * inverse_width, projection = sums[1] * inverse_width;
    for_own_groups<count>(norm.width, [&](std::int64_t i, bool is_first) {
      const Group group = is_first ? first : Group(norm, row, i);
      const Floats weight = load<float, count>(norm.weight + i);
      float factors[count];
      norm.dropout.factors(row * norm.width + i, factors);
      Floats d_residual;
      Neighbours<T, count> d_x;
#pragma unroll
      for (int c = 0; c < count; ++c) {
        const float u = group.gradient(c) * weight.values[c];
        const float gradient = group.d_residual.values[c] + group.scale * (u - mean - group.z(c) * projection);
        const float dropped = gradient * factors[c];
        d_residual.values[c] = norm.d_x != nullptr ? gradient : dropped;
        d_x.values[c] = from_float<T>(dropped);
      }
      store(norm.d_residual + row * norm.width + i, d_residual);
      if (norm.d_x != nullptr) store(norm.d_x + row * norm.width + i, d_x);
      if (!norm.sums_d_x) return;
      Floats d_x_sums = is_first ? own_d_x_sum : row == begin ? Floats{} : load<float, count>(d_x_sum + i);
#pragma unroll
      for (int c = 0; c < count; ++c) d_x_sums.values[c] += to_float(d_x.values[c]);
      if (is_first) {
        own_d_x_sum = d_x_sums;
      } else {
        store(d_x_sum + i, d_x_sums);
      }
    });
  }
  if (own < norm.width) {
    store(d_weight + own, own_d_weight);
    store(d_bias + own, own_d_bias);
    if (norm.sums_d_x) store(d_x_sum + own, own_d_x_sum);
  }
}

unsigned threads_of(std::int64_t width, int count) {
  const std::int64_t warps = divide_up(width / count, warp_size);
  return static_cast<unsigned>(warp_size * std::min<std::int64_t>(warps, most_warps));
}

// Whether rows of these tensors, empty ones left out, can be read in groups of 4.
bool by_four(std::int64_t width, std::initializer_list<Tensor> tensors) {
  return width % 4 == 0 && width <= 4 * most_threads &&
         std::all_of(tensors.begin(), tensors.end(),
                     [](const Tensor& tensor) { return at_16_bytes(data<void>(tensor)); });
}

}  // namespace

void launch_layer_norm(Launch turn, const Tensor& x, const NormWeights& norm, const Tensor& out) {
  const std::int64_t rows = out.shape[0], width = out.shape[1];
  const bool vectors = by_four(width, {x, norm.weight, norm.bias, out});
  with_activation(out.dtype, [&](auto type) {
    using T = decltype(type);
    if (vectors) {
      launch_in_turn(normalise_by_fours<T>, grid_of(rows), threads_of(width, 4), 0, turn, data<float>(x), width,
                     Norm(norm), data<T>(out));
    } else {
      launch_in_turn(normalise_rows<T>, row_grid(rows), row_threads, 0, turn, nullptr, data<float>(x), rows, width,
                     Norm(norm), data<T>(out));
    }
  });
}

void CudaEncoder::record_add_layer_norm(const AddLayerNormArgs& args) {
  if (!args.x) {
    add_in_turn("add_layer_norm", {args.norm.weight, args.norm.bias}, {args.out},
                [args](Launch turn) { launch_layer_norm(turn, args.residual, args.norm, args.out); });
    return;
  }
  add_in_turn("add_layer_norm", {}, {args.residual, args.out}, [args](Launch turn) {
    const std::int64_t rows = args.residual.shape[0], width = args.residual.shape[1];
    with_activation(args.out.dtype, [&](auto type) {
      using T = decltype(type);
      launch_in_turn(normalise_rows<T>, row_grid(rows), row_threads, 0, turn, data<T>(args.x),
                     data<float>(args.residual), rows, width, Norm(args.norm), data<T>(args.out));
    });
  });
}

void CudaEncoder::record_residual_norm(const ResidualNormArgs& args) {
  add("residual_norm", [args](cudaStream_t stream) {
    const std::int64_t rows = args.residual.shape[0], width = args.residual.shape[1];
    const bool vectors =
        by_four(width, {args.x, args.residual, args.norm.weight, args.norm.bias, args.residual_out, args.out});
    with_activation(args.out.dtype, [&](auto type) {
      using T = decltype(type);
      launch(vectors ? add_dropped_and_normalise<T, 4> : add_dropped_and_normalise<T, 1>, grid_of(rows),
             threads_of(width, vectors ? 4 : 1), 0, stream, data<T>(args.x), data<float>(args.residual),
             DropoutMask(args.dropout), width, Norm(args.norm), data<float>(args.residual_out), data<T>(args.out),
             data<float>(args.statistics));
    });
  });
}

void CudaEncoder::record_residual_norm_backward(const ResidualNormBackwardArgs& args) {
  const std::int64_t rows = args.d_out.shape[0], width = args.d_out.shape[1];
  const std::int64_t blocks = divide_up(rows, backward_rows);
  ScratchScope scope(*this);
  const Tensor parts = scratch(DType::f32, {args.d_x_sum ? 3 : 2, blocks, width});
  add("residual_norm_backward", [=](cudaStream_t stream) {
    const bool vectors =
        by_four(width, {args.d_out, args.residual_out, args.norm.weight, args.d_residual, args.d_x, parts});
    with_activation(args.d_out.dtype, [&](auto type) {
      using T = decltype(type);
      launch(vectors ? rows_backward<T, 4> : rows_backward<T, 1>, grid_of(blocks), threads_of(width, vectors ? 4 : 1),
             0, stream, NormBackward<T>(args, parts));
    });
    const ColumnSums sums = {{data<float>(args.d_weight), data<float>(args.d_bias), data<float>(args.d_x_sum)}};
    launch_add_parts(stream, data<float>(parts), blocks, width, sums);
  });
}

}  // namespace riverhorse::cuda
