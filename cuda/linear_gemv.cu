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
// Rows of W that a warp multiplies together, where there are several of x: what is read of these then serves them
// all.
template <typename T, typename Matrix, int most_rows>
constexpr int rows_at_once = Matrix::count <= most_at_once<T> ? 1
                             : most_rows == few_rows          ? 4
                                                              : std::min(most_rows, 2);
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
  constexpr int together = rows_at_once<T, Matrix, most_rows>, results = together * most_rows;  // of a warp
  constexpr int units_at_once = together == 1 ? at_once<Matrix> : 1;
  using PlainRow = std::conditional_t<most_rows == 1, HeldRow<T, count, units_at_once>, PlainRows<T, count>>;
  using Rows = std::conditional_t<norm, NormalisedRows<T, count>, PlainRow>;
  SHARED_MEMORY(float, normalised);
  __shared__ float parts[2][warps][results];
  let_next_begin();
  const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
  const int inputs = operands.inputs, split = operands.split, part = warp % split;
  const int rows_of_block = warps / split, row_step = static_cast<int>(gridDim.x) * rows_of_block;
  const int turn_step = together * row_step;
  const auto outputs = static_cast<int>(epilogue.outputs), rows = static_cast<int>(epilogue.rows);
  const int stride = split * warp_size;
  int block_output = static_cast<int>(blockIdx.x) * rows_of_block;
  const int output = block_output + warp / split;  // the first
  using Reader = Weights<Matrix, together, units_at_once>;
  Reader weights(operands.weight, inputs, outputs, output, turn_step, outputs, row_step, part * warp_size + lane,
                 stride);
  const int portions = Reader::portions(inputs, stride);
  // A lane has one of the results: one row of x, and one of W.
  constexpr int lanes_of_result = warp_size / results;
  const int result = lane / lanes_of_result, own_row = result % most_rows;
  const bool finishes = part == 0 && lane % lanes_of_result == 0 && own_row < rows;
  int own_output = output + result / most_rows * row_step;
  float bias = finishes && own_output < outputs ? epilogue.bias_of(own_output) : 0.0f;

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
      if constexpr (most_rows == 1) {
        return Rows(operands.x, inputs, part * warp_size + lane, stride, portions);
      } else {
        return Rows{operands.x, rows, inputs};
      }
    }
  }();

  float sums[together][most_rows] = {};
  int portion = 0, turn = 0;
  float before = finishes && own_output < outputs ? epilogue.before(epilogue.index(own_row, own_output)) : 0.0f;
  const auto finish = [&] {
    float all[results];
#pragma unroll
    for (int i = 0; i < results; ++i) {
      all[i] = sums[i / most_rows][i % most_rows];
      sums[i / most_rows][i % most_rows] = 0;
    }
    float value = spread_warp_sums(all);
    if (split > 1) {
      if (lane % lanes_of_result == 0) parts[turn % 2][warp][result] = value;
      __syncthreads();
      if (finishes) {
        for (int other = 1; other < split; ++other) value += parts[turn % 2][warp + other][result];
      }
    }
    if (finishes && own_output < outputs) epilogue.store(epilogue.index(own_row, own_output), value, bias, before);
    ++turn;
    portion = 0;
    block_output += turn_step;
    own_output += turn_step;
    if (finishes && own_output < outputs) {
      bias = epilogue.bias_of(own_output);
      before = epilogue.before(epilogue.index(own_row, own_output));
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
  with_most_rows<T, Matrix>(rows, [&](auto most_rows) {
    constexpr int most = decltype(most_rows)::value, together = rows_at_once<T, Matrix, most>;
    const auto start = [&](auto kernel) {
      launch_in_turn(kernel, grid_of(divide_up(blocks, divide_up(turns, together) * together)), threads, shared_bytes,
                     turn, operands, Epilogue<T, Y>(args, rows));
    };
    if (norm) {
      start(multiply_few_rows<T, Matrix, Y, most, true>);
    } else {
      start(multiply_few_rows<T, Matrix, Y, most, false>);
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
