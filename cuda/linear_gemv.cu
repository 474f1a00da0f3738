// linear for few rows of x: gemv.cuh with what follows the product. Rows of W are shared by up to 4 warps of a block
// while there are too few of them to fill the device, or while a lane had more than it can have on its way.
#include <algorithm>

#include "encoder.h"
#include "gemv.cuh"
#include "linear_epilogue.cuh"

namespace riverhorse::cuda {

namespace {

using namespace gemv;

// Units of a row that a lane requests together.
template <typename Matrix>
constexpr int at_once = Matrix::count == 32 ? 2 : 4;
constexpr int most_blocks = 4;  // of a multiprocessor, all at once: more rows of W are turns of the same warps

template <typename T, typename Matrix>
struct Operands {
  const T* x;             // or null
  const float* residual;  // what is to be normalised, or null
  const float* norm_weight;
  const float* norm_bias;
  float epsilon;
  Matrix weight;
  int inputs, split;
};

template <typename T, typename Matrix, typename Y, int most_rows, bool norm>
__global__ void __launch_bounds__(threads) multiply_few_rows(Operands<T, Matrix> operands, Epilogue<T, Y> epilogue) {
  constexpr int count = Matrix::count;
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
  using Reader = Weights<Matrix, 1, at_once<Matrix>>;
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

template <typename T, typename Y, typename Matrix>
void launch_few_rows(Launch turn, const LinearArgs& args, const Matrix& weight, std::int64_t rows,
                     int multiprocessors) {
  constexpr int units_at_once = at_once<Matrix>;
  // A lane has at least so many units of a row before others share it; those of quantised weights hold more.
  constexpr int least_units = Matrix::count > most_at_once<T> ? 1 : 3;
  const bool norm = args.norm.has_value();
  const std::int64_t outputs = args.weight.shape[0], inputs = args.weight.shape[1], units = inputs / Matrix::count;
  int split = 1;
  while (split < warps && units > least_units * warp_size * split &&
         (outputs * split < 16 * multiprocessors || units > 2 * units_at_once * warp_size * split)) {
    split *= 2;
  }
  const std::int64_t rows_of_block = warps / split;
  const std::size_t shared_bytes = norm ? static_cast<std::size_t>(rows * inputs) * sizeof(float) : 0;
  const std::int64_t blocks = divide_up(outputs, rows_of_block);
  const std::int64_t at_a_time =
      std::min<std::int64_t>(most_blocks, (192 << 10) / (shared_bytes + 1)) * multiprocessors;
  // Warps that all have as many rows finish together.
  const std::int64_t turns = divide_up(blocks, std::min(blocks, at_a_time));
  const Operands<T, Matrix> operands{.x = norm ? nullptr : data<T>(args.x),
                                     .residual = norm ? data<float>(args.x) : nullptr,
                                     .norm_weight = norm ? data<float>(args.norm->weight) : nullptr,
                                     .norm_bias = norm ? data<float>(args.norm->bias) : nullptr,
                                     .epsilon = norm ? args.norm->epsilon : 0.0f,
                                     .weight = weight,
                                     .inputs = static_cast<int>(inputs),
                                     .split = split};
  const auto start = [&](auto kernel) {
    launch_in_turn(kernel, grid_of(divide_up(blocks, turns)), threads, shared_bytes, turn, operands,
                   Epilogue<T, Y>(args, rows));
  };
  with_most_rows<T, Matrix>(rows, [&](auto most_rows) {
    if (norm) {
      start(multiply_few_rows<T, Matrix, Y, decltype(most_rows)::value, true>);
    } else {
      start(multiply_few_rows<T, Matrix, Y, decltype(most_rows)::value, false>);
    }
  });
}

// Whether all that is read of rows lies at multiples of 16 bytes.
bool aligned(const LinearArgs& args) {
  return at_16_bytes(data<void>(args.weight)) && at_16_bytes(data<void>(args.x)) &&
         (!args.norm || (at_16_bytes(data<void>(args.norm->weight)) && at_16_bytes(data<void>(args.norm->bias))));
}

}  // namespace

bool CudaEncoder::multiplies_few_rows(const LinearArgs& args, std::int64_t rows) const {
  constexpr std::int64_t most = 1 << 30;
  return rows <= few_rows && !(rows > 1 && multiplies_batch(args, rows)) && !args.x_transposed &&
         args.weight.shape[0] < most && args.weight.shape[1] < most / few_rows;
}

void CudaEncoder::record_linear_gemv(const LinearArgs& args, std::int64_t rows) {
  const std::int64_t inputs = args.weight.shape[1];
  ScratchScope scope(*this);
  LinearArgs own = args;
  if (args.norm && !normalised_rows_fit(inputs, limits_.shared_bytes)) {
    own.x = record_norm_of_linear(args);
    own.norm.reset();
  }
  const Tensor norm_weight = own.norm ? own.norm->weight : Tensor(), norm_bias = own.norm ? own.norm->bias : Tensor();
  const int multiprocessors = limits_.multiprocessors;
  const auto run = [=](Launch turn) {
    with_types(own, [&](auto type, auto y_type) {
      using T = decltype(type);
      using Y = decltype(y_type);
      constexpr int most = most_at_once<T>;
      const auto start = [&](const auto& weight) { launch_few_rows<T, Y>(turn, own, weight, rows, multiprocessors); };
      if (is_quantised(own.weight.dtype)) {
        with_quantised(own.weight.dtype, [&](auto quantised) {
          start(QuantisedMatrix<decltype(quantised)::value>(data<unsigned char>(own.weight), inputs));
        });
      } else if (inputs % most == 0 && aligned(own) && (rows == 1 || sizeof(T) == 4)) {
        start(PlainMatrix<T, most>(data<T>(own.weight), inputs));
      } else {
        start(PlainMatrix<T, 1>(data<T>(own.weight), inputs));
      }
    });
  };
  add_in_turn("linear", {args.weight, args.bias, norm_weight, norm_bias}, {args.y, args.pre_activation}, run);
}

}  // namespace riverhorse::cuda
