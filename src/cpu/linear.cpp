// y = activation(x' W^T + bias), or y += that; and backward: d_x = d_y W, d_W += d_y^T x, d_bias += sum of d_y.
//
// Few rows (a generation step) are memory bound and go through our own dot products, whose result for a row does
// not depend on how many rows there are. More rows go to OpenBLAS, which threads by itself: its thread count is a
// global of the process, which belongs to the host application, so nothing here touches it and no call is made from
// inside an OpenMP region. For a given shape a row of sgemm depends on that row of x only, bit for bit; for another
// number of rows OpenBLAS may block the sums otherwise, so whole and pieces agree within rounding. The backward pass
// is OpenBLAS's whatever the rows.
#include <cblas.h>

#include <cmath>
#include <vector>

#include "cpu/column_sums.h"
#include "cpu/cpu_encoder.h"
#include "cpu/layer_norm.h"

namespace riverhorse::cpu {

namespace {

constexpr std::int64_t few_rows = 4;

constexpr double sqrt_2_over_pi = 0.7978845608028654;

float gelu_tanh(float x) {
  const double cubic = sqrt_2_over_pi * (x + 0.044715 * static_cast<double>(x) * x * x);
  return static_cast<float>(0.5 * x * (1.0 + std::tanh(cubic)));
}

double gelu_tanh_derivative(double x) {
  const double tanh = std::tanh(sqrt_2_over_pi * (x + 0.044715 * x * x * x));
  const double slope = sqrt_2_over_pi * (1.0 + 3 * 0.044715 * x * x);
  return 0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * slope;
}

float dot(const float* a, const float* b, std::int64_t count) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

// product (R, M) or, transposed, (M, R) = x W^T
void multiply(const float* x, bool x_transposed, const float* weight, std::int64_t rows, std::int64_t inputs,
              std::int64_t outputs, float* product, bool transposed) {
  const auto r = static_cast<blasint>(rows);
  const auto k = static_cast<blasint>(inputs);
  const auto m = static_cast<blasint>(outputs);
  if (rows <= few_rows && !x_transposed) {
#pragma omp parallel for
    for (std::int64_t column = 0; column < outputs; ++column) {
      for (std::int64_t row = 0; row < rows; ++row) {
        product[transposed ? column * rows + row : row * outputs + column] =
            dot(x + row * inputs, weight + column * inputs, inputs);
      }
    }
  } else if (transposed) {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, x_transposed ? CblasNoTrans : CblasTrans, m, r, k, 1.0f, weight, k, x,
                x_transposed ? r : k, 0.0f, product, r);
  } else {
    cblas_sgemm(CblasRowMajor, x_transposed ? CblasTrans : CblasNoTrans, CblasTrans, r, m, k, 1.0f, x,
                x_transposed ? r : k, weight, k, 0.0f, product, m);
  }
}

}  // namespace

void CpuEncoder::record_linear(const LinearArgs& args) {
  require_f32("linear", {&args.x, &args.weight, &args.y, &args.pre_activation});
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
    multiply(x, args.x_transposed, floats(args.weight), rows, inputs, outputs, product, args.y_transposed);

    const float* bias = args.bias ? floats(args.bias) : nullptr;
    float* pre_activation = args.pre_activation ? floats(args.pre_activation) : nullptr;
    if (bias == nullptr && args.activation == Activation::none && !args.accumulate && pre_activation == nullptr)
      return;
#pragma omp parallel for
    for (std::int64_t i = 0; i < rows * outputs; ++i) {
      float value = product[i];
      if (bias != nullptr) value += bias[args.y_transposed ? i / rows : i % outputs];
      if (pre_activation != nullptr) pre_activation[i] = value;
      if (args.activation == Activation::gelu_tanh) value = gelu_tanh(value);
      y[i] = args.accumulate ? y[i] + value : value;
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
