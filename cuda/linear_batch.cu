// linear for a batch of sequences, 2 to 64 rows of x in 16 bits, on tensor cores: W is to be read once, at the speed
// of memory, and x, which every block reads, no more often than that.
//
// A block makes 64 outputs, or 64 outputs of a slice of K where those are too few blocks to fill the device: then it
// leaves fp32 sums, and a second kernel adds the slices and finishes. A warp has 16 outputs and all rows of x, in
// turn with another warp along K. Operands go from memory to registers as they lie: of 32 columns a lane takes 16
// bytes, the 8 columns from 8t on (t = lane % 4), of W and of x, which makes two products of 16 columns in an order
// that both share (tensor_core.cuh). The first columns of W are requested before the kernel's turn (kernel.cuh); of
// x, what one warp has read the others of the block find in the L1 cache.
#include <algorithm>

#include "encoder.h"
#include "gemv.cuh"
#include "linear_epilogue.cuh"
#include "tensor_core.cuh"

namespace riverhorse::cuda {

namespace {

constexpr int most_rows = 64;
constexpr int unit = 8;                                  // elements of 16 bytes
constexpr int step_units = 4, step = step_units * unit;  // columns of two products
constexpr int warp_outputs = 16, output_warps = 4, column_warps = 2;
constexpr int block_outputs = warp_outputs * output_warps;
constexpr int threads = output_warps * column_warps * warp_size;
constexpr int ahead = 4;  // steps of W on their way

template <typename T>
struct BatchOperands {
  const T* x;
  const T* weight;
  float* parts;  // (slices, rows, outputs), or null with one slice
  int inputs, slices;
};

// Grid: outputs by 64, slices. `tiles` of 8 rows of x.
template <typename T, typename Y, int tiles>
__global__ void __launch_bounds__(threads, 2) multiply_batch(BatchOperands<T> operands, Epilogue<T, Y> epilogue) {
  constexpr int x_units = 4;  // of a lane, requested together
  __shared__ float others[output_warps][tiles * 4][warp_size];
  let_next_begin();
  const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
  const int g = lane / 4, t = lane % 4;
  const int output_warp = warp % output_warps, column_warp = warp / output_warps;
  const auto outputs = static_cast<int>(epilogue.outputs), rows = static_cast<int>(epilogue.rows);
  const int units = operands.inputs / unit;
  const int first_output = static_cast<int>(blockIdx.x) * block_outputs + output_warp * warp_outputs;
  const auto row_of = [&](const T* matrix, int row, int last) {
    return reinterpret_cast<const uint4*>(matrix) + static_cast<std::int64_t>(min(row, last)) * units + t;
  };
  const uint4* low = row_of(operands.weight, first_output + g, outputs - 1);
  const uint4* high = row_of(operands.weight, first_output + g + 8, outputs - 1);
  const int steps = (units + step_units - 1) / step_units;
  const int slice_steps = (steps + operands.slices - 1) / operands.slices;
  const int begin = static_cast<int>(blockIdx.y) * slice_steps, end = min(steps, begin + slice_steps);

  uint4 weights[ahead][2] = {};
  const auto request = [&](uint4(&to)[2], int at) {
    to[0] = to[1] = uint4{};
    if (at >= end || at * step_units + t >= units) return;
    to[0] = gemv::load_once(low + at * step_units);
    to[1] = gemv::load_once(high + at * step_units);
  };
#pragma unroll
  for (int i = 0; i < ahead; ++i) request(weights[i], begin + column_warp + i * column_warps);
  wait_for_previous();

  const uint4* x = reinterpret_cast<const uint4*>(operands.x) + g * units + t;
  float sums[tiles][4] = {};
  const auto request_x = [&](int at, int tile) {
    const int row = tile * 8;
    const bool present = at < end && at * step_units + t < units && row + g < rows;
    return present ? x[row * units + at * step_units] : uint4{};
  };
  if constexpr (tiles <= x_units) {
    // Of several steps, which alone would each be a wait for the cache; one or two tiles while those before are
    // multiplied: with more there are no registers for that.
    constexpr bool x_ahead = tiles <= 2;
    constexpr int steps_at_once = x_units / tiles;
    uint4 next[x_units];
    const auto request_steps = [&](uint4(&to)[x_units], int first) {
#pragma unroll
      for (int j = 0; j < x_units; ++j) to[j] = request_x(first + j / tiles * column_warps, j % tiles);
    };
    if (x_ahead) request_steps(next, begin + column_warp);
    for (int first = begin + column_warp; first < end; first += ahead * column_warps) {
#pragma unroll
      for (int done = 0; done < ahead; done += steps_at_once) {
        uint4 columns[x_units];
        if (x_ahead) {
#pragma unroll
          for (int j = 0; j < x_units; ++j) columns[j] = next[j];
          request_steps(next, first + (done + steps_at_once) * column_warps);
        } else {
          request_steps(columns, first + done * column_warps);
        }
#pragma unroll
        for (int s = 0; s < steps_at_once; ++s) {
          const int i = done + s, at = first + i * column_warps;
          const uint4 a = weights[i][0], b = weights[i][1];
          const std::uint32_t halves[2][4] = {{a.x, b.x, a.y, b.y}, {a.z, b.z, a.w, b.w}};
          request(weights[i], at + ahead * column_warps);
          if (at >= end) continue;
#pragma unroll
          for (int j = 0; j < tiles; ++j) {
            const uint4 column = columns[s * tiles + j];
            multiply_add<T>(sums[j], halves[0], column.x, column.y);
            multiply_add<T>(sums[j], halves[1], column.z, column.w);
          }
        }
      }
    }
  } else {
    for (int first = begin + column_warp; first < end; first += ahead * column_warps) {
#pragma unroll
      for (int i = 0; i < ahead; ++i) {
        const int at = first + i * column_warps;
        if (at >= end) break;
        const uint4 a = weights[i][0], b = weights[i][1];
        const std::uint32_t halves[2][4] = {{a.x, b.x, a.y, b.y}, {a.z, b.z, a.w, b.w}};
        request(weights[i], at + ahead * column_warps);
#pragma unroll
        for (int tile = 0; tile < tiles; tile += x_units) {
          uint4 columns[x_units];
#pragma unroll
          for (int j = 0; j < x_units; ++j) columns[j] = request_x(at, tile + j);
#pragma unroll
          for (int j = 0; j < x_units; ++j) {
            multiply_add<T>(sums[tile + j], halves[0], columns[j].x, columns[j].y);
            multiply_add<T>(sums[tile + j], halves[1], columns[j].z, columns[j].w);
          }
        }
      }
    }
  }

  if (column_warp == 1) {
#pragma unroll
    for (int i = 0; i < 4 * tiles; ++i) others[output_warp][i][lane] = sums[i / 4][i % 4];
  }
  __syncthreads();
  if (column_warp == 1) return;
#pragma unroll
  for (int i = 0; i < 4 * tiles; ++i) {
    const float sum = sums[i / 4][i % 4] + others[output_warp][i][lane];
    const int output = first_output + g + (i % 4 / 2) * 8, row = i / 4 * 8 + 2 * t + i % 2;
    if (output >= outputs || row >= rows) continue;
    if (operands.parts != nullptr) {
      operands.parts[(std::int64_t{blockIdx.y} * rows + row) * outputs + output] = sum;
    } else {
      const std::int64_t index = epilogue.index(row, output);
      epilogue.store(index, sum, epilogue.bias_of(output), epilogue.before(index));
    }
  }
}

template <typename T, typename Y>
__global__ void __launch_bounds__(element_threads)
    add_slices(const float* parts, int slices, Epilogue<T, Y> epilogue) {
  let_next_begin();
  const std::int64_t count = epilogue.rows * epilogue.outputs, i = first_element();
  const std::int64_t row = i / epilogue.outputs, output = i % epilogue.outputs;
  const float bias = i < count ? epilogue.bias_of(output) : 0.0f;
  wait_for_previous();
  if (i >= count) return;
  const std::int64_t index = epilogue.index(row, output);
  const float before = epilogue.before(index);
  float sum = 0;
#pragma unroll 4
  for (int slice = 0; slice < slices; ++slice) sum += parts[slice * count + i];
  epilogue.store(index, sum, bias, before);
}

// Slices of K: one where 64 outputs a block nearly fill the device, by the shape of W and the device alone.
std::int64_t slices_of(std::int64_t outputs, std::int64_t inputs, int multiprocessors) {
  const std::int64_t blocks = divide_up(outputs, block_outputs), steps = divide_up(inputs, step);
  if (3 * blocks >= 2 * multiprocessors) return 1;
  const std::int64_t slices =
      std::max<std::int64_t>(1, std::min(divide_up(multiprocessors, blocks), steps / (2 * column_warps)));
  return divide_up(steps, divide_up(steps, slices));  // none is empty
}

void launch_batch(Launch turn, const LinearArgs& args, const Tensor& x, const Tensor& parts, std::int64_t rows,
                  std::int64_t slices) {
  const std::int64_t outputs = args.weight.shape[0];
  with_types(args, [&](auto type, auto y_type) {
    using T = decltype(type);
    using Y = decltype(y_type);
    if constexpr (sizeof(T) == 2) {
      const BatchOperands<T> operands{.x = data<T>(x),
                                      .weight = data<T>(args.weight),
                                      .parts = data<float>(parts),
                                      .inputs = static_cast<int>(args.weight.shape[1]),
                                      .slices = static_cast<int>(slices)};
      const Epilogue<T, Y> epilogue(args, rows);
      const auto kernel = rows <= 8    ? multiply_batch<T, Y, 1>
                          : rows <= 16 ? multiply_batch<T, Y, 2>
                          : rows <= 32 ? multiply_batch<T, Y, 4>
                                       : multiply_batch<T, Y, 8>;
      launch_in_turn(kernel, grid_of(divide_up(outputs, block_outputs), slices), threads, 0, turn, operands,
                     epilogue);
      if (slices == 1) return;
      launch_in_turn(add_slices<T, Y>, grid_of(divide_up(rows * outputs, element_threads)), element_threads, 0,
                     turn.next(), data<float>(parts), static_cast<int>(slices), epilogue);
    }
  });
}

}  // namespace

bool CudaEncoder::multiplies_batch(const LinearArgs& args, std::int64_t rows) const {
  constexpr std::int64_t most = 1 << 30;
  return is_half(args.weight.dtype) && rows <= most_rows && !args.x_transposed && args.weight.shape[1] % unit == 0 &&
         args.weight.offset_bytes % 16 == 0 && args.x.offset_bytes % 16 == 0 && args.weight.shape[0] < most &&
         args.weight.shape[1] < most / most_rows;
}

void CudaEncoder::record_linear_batch(const LinearArgs& args, std::int64_t rows) {
  const std::int64_t outputs = args.weight.shape[0], inputs = args.weight.shape[1];
  ScratchScope scope(*this);
  const Tensor x = args.norm ? record_norm_of_linear(args) : args.x;
  const std::int64_t slices = slices_of(outputs, inputs, limits_.multiprocessors);
  const Tensor parts = slices > 1 ? scratch(DType::f32, {slices, rows, outputs}) : Tensor();
  add_in_turn("linear", {args.weight, args.bias}, {args.y, args.pre_activation, parts},
              [args, x, parts, rows, slices](Launch turn) { launch_batch(turn, args, x, parts, rows, slices); });
}

}  // namespace riverhorse::cuda
