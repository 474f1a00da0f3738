// y = activation(x' W^T + bias), or y += that; and backward: d_x = d_y W, d_W += d_y^T x, d_bias += sum of d_y.
//
// Few rows (a generation step) are memory bound and go through products of our own (gemv.h), whose result for a row
// does not depend on how many rows there are. More rows go to OpenBLAS, which threads by itself: its thread count is
// a global of the process, which belongs to the host application, so nothing here touches it and no call is made from
// inside an OpenMP region. It is given a quantised weight some rows at a time, in f32. For a given shape a row of
// sgemm depends on that row of x only, bit for bit; for another number of rows OpenBLAS may block the sums otherwise,
// so whole and pieces agree within rounding. The backward pass is OpenBLAS's whatever the rows.
#include <cblas.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/column_sums.h"
#include "cpu/cpu_encoder.h"
#include "cpu/gelu.h"
#include "cpu/gemv.h"
#include "cpu/layer_norm.h"
#include "cpu/quantised.h"

namespace riverhorse::cpu {

namespace {

constexpr std::int64_t panel_elements = std::int64_t{1} << 20;  // of a quantised weight, in f32 at a time

constexpr double sqrt_2_over_pi = 0.7978845608028654;

double gelu_tanh_derivative(double x) {
  const double tanh = std::tanh(sqrt_2_over_pi * (x + 0.044715 * x * x * x));
  const double slope = sqrt_2_over_pi * (1.0 + 3 * 0.044715 * x * x);
  return 0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * slope;
}

struct Product {
  const float* x;
  bool x_transposed;
  std::int64_t rows, inputs, outputs;
  float* y;  // (R, M) or, transposed, (M, R)
  bool y_transposed;

  bool few() const { return rows <= most_gemv_rows && !x_transposed; }
};

// Some rows of W, from `begin` on: y = x W^T, for those columns of y.
void multiply_part(const Product& product, const float* weight, std::int64_t begin, std::int64_t outputs) {
  const auto r = static_cast<blasint>(product.rows);
  const auto k = static_cast<blasint>(product.inputs);
  const auto m = static_cast<blasint>(outputs);
  const blasint x_stride = product.x_transposed ? r : k;
  if (product.y_transposed) {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, product.x_transposed ? CblasNoTrans : CblasTrans, m, r, k, 1.0f, weight,
                k, product.x, x_stride, 0.0f, product.y + begin * product.rows, r);
  } else {
    cblas_sgemm(CblasRowMajor, product.x_transposed ? CblasTrans : CblasNoTrans, CblasTrans, r, m, k, 1.0f, product.x,
                x_stride, weight, k, 0.0f, product.y + begin, static_cast<blasint>(product.outputs));
  }
}

// Each thread has one stretch of the outputs, of whole cache lines of y.
void multiply_few(const Product& product, DType dtype, const std::byte* weight) {
  const Gemv whole{dtype,
                   weight,
                   product.x,
                   product.rows,
                   product.inputs,
                   product.y,
                   product.y_transposed ? 1 : product.outputs,
                   product.y_transposed ? product.rows : 1};
  constexpr std::int64_t line = 16;
#pragma omp parallel
  {
    const std::int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
    const auto begin_of = [&](std::int64_t index) {
      return index == threads ? product.outputs : product.outputs * index / threads / line * line;
    };
    gemv(whole, begin_of(thread), begin_of(thread + 1));
  }
}

void multiply(const Product& product, const Tensor& weight) {
  if (product.few()) return multiply_few(product, weight.dtype, host_bytes(weight));
  multiply_part(product, floats(weight), 0, product.outputs);
}

void multiply_quantised(const Product& product, DType dtype, const std::byte* weight) {
  const std::int64_t row_bytes = row_size_bytes(dtype, product.inputs);
  if (product.few()) return multiply_few(product, dtype, weight);
  const std::int64_t step = std::clamp<std::int64_t>(panel_elements / product.inputs, 1, product.outputs);
  std::vector<float> panel(static_cast<std::size_t>(step * product.inputs));
  for (std::int64_t begin = 0; begin < product.outputs; begin += step) {
    const std::int64_t length = std::min(step, product.outputs - begin);
    dequantise(dtype, weight + begin * row_bytes, length, product.inputs, panel.data());
    multiply_part(product, panel.data(), begin, length);
  }
}

}  // namespace

void CpuEncoder::record_linear(const LinearArgs& args) {
  require_f32("linear", {&args.x, &args.y, &args.pre_activation});
  if (!is_quantised(args.weight.dtype)) require_f32("linear", {&args.weight});
  add("linear", [args] {
    const std::int64_t outputs = args.weight.shape[0];
    const std::int64_t inputs = args.weight.shape[1];
    const std::int64_t rows = args.x_transposed ? args.x.shape[1] : args.x.shape[0];
    const float* x = floats(args.x);
    std::vector<float> normalised;
    if (args.norm) {
      normalised.resize(static_cast<std::size_t>(rows * inputs));
#pragma omp parallel for
      for (std::int64_t row = 0; row < rows; ++row) {
        layer_norm_row(x + row * inputs, inputs, *args.norm, normalised.data() + row * inputs);
      }
      x = normalised.data();
    }

    float* y = floats(args.y);
    std::vector<float> separate(args.accumulate ? static_cast<std::size_t>(rows * outputs) : 0);
    float* product = args.accumulate ? separate.data() : y;
    const Product whole{x, args.x_transposed, rows, inputs, outputs, product, args.y_transposed};
    if (is_quantised(args.weight.dtype)) {
      multiply_quantised(whole, args.weight.dtype, host_bytes(args.weight));
    } else {
      multiply(whole, args.weight);
    }

    const float* bias = args.bias ? floats(args.bias) : nullptr;
    float* pre_activation = args.pre_activation ? floats(args.pre_activation) : nullptr;
    if (bias == nullptr && args.activation == Activation::none && !args.accumulate && pre_activation == nullptr)
      return;
    constexpr std::int64_t stretch = 256;
#pragma omp parallel for schedule(static)
    for (std::int64_t begin = 0; begin < rows * outputs; begin += stretch) {
      const std::int64_t count = std::min(stretch, rows * outputs - begin);
      float values[stretch];
      std::copy_n(product + begin, count, values);
      if (bias != nullptr) {
        // Of row and column in memory; an output's bias is that of its column, or transposed of its row.
        const std::int64_t width = args.y_transposed ? rows : outputs;
        std::int64_t row = begin / width, column = begin % width;
        for (std::int64_t i = 0; i < count; ++i) {
          values[i] += bias[args.y_transposed ? row : column];
          if (++column < width) continue;
          column = 0;
          ++row;
        }
      }
      if (pre_activation != nullptr) std::copy_n(values, count, pre_activation + begin);
      if (args.activation == Activation::gelu_tanh) gelu_tanh(values, count);
      for (std::int64_t i = 0; i < count; ++i) y[begin + i] = args.accumulate ? y[begin + i] + values[i] : values[i];
    }
  });
}

void CpuEncoder::record_linear_backward(const LinearBackwardArgs& args) {
  require_f32("linear_backward", {&args.d_y, &args.x, &args.weight, &args.pre_activation, &args.d_x});
  add("linear_backward", [args] {
    const std::int64_t outputs = args.weight.shape[0];
    const std::int64_t inputs = args.weight.shape[1];
    const std::int64_t rows = args.x_transposed ? args.x.shape[1] : args.x.shape[0];
    const auto r = static_cast<blasint>(rows);
    const auto k = static_cast<blasint>(inputs);
    const auto m = static_cast<blasint>(outputs);
    const float* d_y = floats(args.d_y);
    // As (R, M) and as (M, R).
    const CBLAS_TRANSPOSE rows_first = args.y_transposed ? CblasTrans : CblasNoTrans;
    const CBLAS_TRANSPOSE outputs_first = args.y_transposed ? CblasNoTrans : CblasTrans;
    const blasint d_y_stride = args.y_transposed ? r : m;

    cblas_sgemm(CblasRowMajor, outputs_first, args.x_transposed ? CblasTrans : CblasNoTrans, m, k, r, 1.0f, d_y,
                d_y_stride, floats(args.x), args.x_transposed ? r : k, args.overwrite ? 0.0f : 1.0f,
                floats(args.d_weight), k);
    if (args.d_bias) {
      add_column_sums(rows, outputs, floats(args.d_bias), [&](std::int64_t row, std::int64_t column) {
        return static_cast<double>(d_y[args.y_transposed ? column * rows + row : row * outputs + column]);
      });
    }
    if (!args.d_x) return;
    float* d_x = floats(args.d_x);
    const float* weight = floats(args.weight);
    if (args.x_transposed) {
      cblas_sgemm(CblasRowMajor, CblasTrans, outputs_first, k, r, m, 1.0f, weight, k, d_y, d_y_stride, 0.0f, d_x, r);
    } else {
      cblas_sgemm(CblasRowMajor, rows_first, CblasNoTrans, r, k, m, 1.0f, d_y, d_y_stride, weight, k, 0.0f, d_x, k);
    }
    if (!args.pre_activation) return;
    const float* pre_activation = floats(args.pre_activation);
#pragma omp parallel for
    for (std::int64_t i = 0; i < rows * inputs; ++i) {
      d_x[i] = static_cast<float>(d_x[i] * gelu_tanh_derivative(pre_activation[i]));
    }
  });
}

}  // namespace riverhorse::cpu
