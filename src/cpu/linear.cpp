// y = activation(x' W^T + bias), or y += that.
//
// Few rows (a generation step) are memory bound and go through our own dot products, whose result for a row does
// not depend on how many rows there are. More rows go to OpenBLAS, which threads by itself: its thread count is a
// global of the process, which belongs to the host application, so nothing here touches it and no call is made from
// inside an OpenMP region. For a given shape a row of sgemm depends on that row of x only, bit for bit; for another
// number of rows OpenBLAS may block the sums otherwise, so whole and pieces agree within rounding.
#include <cblas.h>

#include <cmath>
#include <vector>

#include "cpu/cpu_encoder.h"
#include "cpu/layer_norm.h"

namespace riverhorse::cpu {

namespace {

constexpr std::int64_t few_rows = 4;

float gelu_tanh(float x) {
  const double cubic = 0.7978845608028654 * (x + 0.044715 * static_cast<double>(x) * x * x);
  return static_cast<float>(0.5 * x * (1.0 + std::tanh(cubic)));
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
  require_f32("linear", {&args.x, &args.weight, &args.y});
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
    if (bias == nullptr && args.activation == Activation::none && !args.accumulate) return;
#pragma omp parallel for
    for (std::int64_t i = 0; i < rows * outputs; ++i) {
      float value = product[i];
      if (bias != nullptr) value += bias[args.y_transposed ? i / rows : i % outputs];
      if (args.activation == Activation::gelu_tanh) value = gelu_tanh(value);
      y[i] = args.accumulate ? y[i] + value : value;
    }
  });
}

}  // namespace riverhorse::cpu
