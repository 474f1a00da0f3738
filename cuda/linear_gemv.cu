// linear for few rows of x: gemv.cuh with what follows the product. Rows of W are shared by up to 4 warps of a block
// while there are too few of them to fill the device, or while a lane had more than it can have on its way.
#include <algorithm>

#include "encoder.h"
#include "gemv.cuh"
#include "linear_epilogue.cuh"

namespace riverhorse::cuda {

namespace {

using namespace gemv;

constexpr int at_once = 4;      // units of a row that a lane requests together
constexpr int most_blocks = 4;  // of a multiprocessor, all at once: more rows of W are turns of the same warps

template <typename T>
struct Operands {
  const T* x;             // or null
  const float* residual;  // what is to be normalised, or null
  const float* norm_weight;
  const float* norm_bias;
  float epsilon;
  const T* weight;
  int inputs, split;
};

template <typename T, typename Y, int most_rows, int count, bool norm>
__global__ void __launch_bounds__(threads) multiply_few_rows(Operands<T> operands, Epilogue<T, Y> epilogue) {
  using Rows = std::conditional_t<norm, NormalisedRows<T, count>, PlainRows<T, count>>;
  SHARED_MEMORY(float, normalised);
  __shared__ float parts[2][warps][most_rows];
  let_next_begin();
  const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
  const int inputs = operands.inputs, split = operands.split, part = warp % split;
  const int rows_of_block = warps / split, turn_step = static_cast<int>(gridDim.x) * rows_of_block;
  const auto outputs = static_cast<int>(epilogue.outputs), rows = static_cast<int>(epilogue.rows);
  const int stride = split * warp_size;
  int block_output = static_cast<int>(blockIdx.x) * rows_of_block;
  int output = block_output + warp / split;
  using Reader = Weights<T, count, 1, at_once>;
  Reader weights(operands.weight, inputs, output, turn_step, outputs, 0, part * warp_size + lane, stride);
  const int portions = Reader::portions(inputs, stride);
  const bool finishes = part == 0 && lane < rows;  // a lane a row of x
  float bias = finishes && output < outputs ? epilogue.bias_of(output) : 0.0f;

  Rows x = [&] {
    if constexpr (norm) {
      RowNorm<Rows> row_norm(operands.norm_weight, operands.norm_bias, operands.epsilon, inputs);
      const Rows rows_of_x{normalised, rows, inputs};
      wait_for_previous();
      row_norm.template normalise<most_rows>(operands.residual, rows_of_x);
      __syncthreads();
      return rows_of_x;
    } else {
      wait_for_previous();
      return Rows{operands.x, rows, inputs};
    }
  }();

  float sums[1][most_rows] = {};
  int portion = 0, turn = 0;
  float before = finishes && output < outputs ? epilogue.before(epilogue.index(lane, output)) : 0.0f;
  const auto finish = [&] {
    float value = 0;
#pragma unroll
    for (int row = 0; row < most_rows; ++row) {
      const float sum = warp_sum(sums[0][row]);
      sums[0][row] = 0;
      if (lane == row) value = sum;
    }
    if (split > 1) {
      if (lane < most_rows) parts[turn % 2][warp][lane] = value;
      __syncthreads();
      if (finishes) {
        for (int other = 1; other < split; ++other) value += parts[turn % 2][warp + other][lane];
      }
    }
    if (finishes && output < outputs) epilogue.store(epilogue.index(lane, output), value, bias, before);
    ++turn;
    portion = 0;
    block_output += turn_step;
    output += turn_step;
    if (finishes && output < outputs) {
      bias = epilogue.bias_of(output);
      before = epilogue.before(epilogue.index(lane, output));
    }
  };
  while (block_output < outputs) {
    weights.template multiply<0>(x, portion, sums);
    if (++portion == portions) finish();
    if (block_output >= outputs) break;
    weights.template multiply<1>(x, portion, sums);
    if (++portion == portions) finish();
  }
}

}  // namespace

bool CudaEncoder::multiplies_few_rows(const LinearArgs& args, std::int64_t rows) const {
  constexpr std::int64_t most = 1 << 30;
  return rows <= few_rows && !args.x_transposed && args.weight.shape[0] < most &&
         args.weight.shape[1] < most / few_rows;
}

void CudaEncoder::record_linear_gemv(const LinearArgs& args, std::int64_t rows) {
  const std::int64_t outputs = args.weight.shape[0], inputs = args.weight.shape[1];
  ScratchScope scope(*this);
  LinearArgs plain = args;
  const bool norm = args.norm && normalised_rows_fit(inputs, limits_.shared_bytes);
  if (args.norm && !norm) {
    plain.x = record_norm_of_linear(args);
    plain.norm.reset();
  }
  const Tensor norm_weight = plain.norm ? plain.norm->weight : Tensor(),
               norm_bias = plain.norm ? plain.norm->bias : Tensor();
  const int multiprocessors = limits_.multiprocessors;
  const auto run = [=](Launch turn) {
    with_types(plain, [&](auto type, auto y_type) {
      using T = decltype(type);
      using Y = decltype(y_type);
      constexpr int most = most_at_once<T>;
      const bool whole = inputs % most == 0 && at_16_bytes(data<T>(plain.weight)) &&
                         at_16_bytes(data<void>(plain.x)) && at_16_bytes(data<void>(norm_weight)) &&
                         at_16_bytes(data<void>(norm_bias));
      const std::int64_t units = whole ? inputs / most : inputs;
      int split = 1;
      while (split < warps && units > 3 * warp_size * split &&
             (outputs * split < 16 * multiprocessors || units > 2 * at_once * warp_size * split)) {
        split *= 2;
      }
      const std::int64_t rows_of_block = warps / split;
      const std::size_t shared_bytes = norm ? static_cast<std::size_t>(rows * inputs) * sizeof(float) : 0;
      const std::int64_t blocks = divide_up(outputs, rows_of_block);
      const std::int64_t at_a_time =
          std::min<std::int64_t>(most_blocks, (192 << 10) / (shared_bytes + 1)) * multiprocessors;
      // Warps that all have as many rows finish together.
      const std::int64_t turns = divide_up(blocks, std::min(blocks, at_a_time));
      const Operands<T> operands{.x = norm ? nullptr : data<T>(plain.x),
                                 .residual = norm ? data<float>(plain.x) : nullptr,
                                 .norm_weight = data<float>(norm_weight),
                                 .norm_bias = data<float>(norm_bias),
                                 .epsilon = norm ? plain.norm->epsilon : 0.0f,
                                 .weight = data<T>(plain.weight),
                                 .inputs = static_cast<int>(inputs),
                                 .split = split};
      const auto start = [&](auto kernel) {
        launch_in_turn(kernel, grid_of(divide_up(blocks, turns)), threads, shared_bytes, turn, operands,
                       Epilogue<T, Y>(plain, rows));
      };
      const auto with_norm = [&](auto has_norm) {
        constexpr bool normalises = decltype(has_norm)::value;
        if (!whole) {
          start(multiply_few_rows<T, Y, few_rows, 1, normalises>);
        } else if (rows == 1) {
          start(multiply_few_rows<T, Y, 1, most, normalises>);
        } else {
          start(multiply_few_rows<T, Y, few_rows, most, normalises>);
        }
      };
      if (norm) {
        with_norm(std::true_type());
      } else {
        with_norm(std::false_type());
      }
    });
  };
  add_in_turn("linear", {args.weight, args.bias, norm_weight, norm_bias}, {args.y, args.pre_activation}, run);
}

}  // namespace riverhorse::cuda
