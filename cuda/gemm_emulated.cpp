// Dense products of the emulated CUDA: operands widened to fp32, sgemm of OpenBLAS, results rounded.
#include <cblas.h>

#include <vector>

#include "base/dtype.h"
#include "core.h"
#include "gelu.cuh"
#include "gemm.h"

namespace riverhorse::cuda {

struct Gemms::Implementation {};

namespace {

std::vector<float> widened(const Tensor& tensor, std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    switch (tensor.dtype) {
      case DType::f16:
      case DType::bf16: values[i] = half_to_float(data<std::uint16_t>(tensor)[i], tensor.dtype); break;
      default: values[i] = data<float>(tensor)[i];
    }
  }
  return values;
}

// What follows the product, for element i of c.
float finish(const Gemm& gemm, std::int64_t i, float value) {
  const DType dtype = gemm.c.dtype;
  if (gemm.bias) value += half_to_float(data<std::uint16_t>(gemm.bias)[i % gemm.n], dtype);
  if (gemm.after == AfterGemm::nothing) return value;
  std::uint16_t* const kept = gemm.pre_activation ? data<std::uint16_t>(gemm.pre_activation) + i : nullptr;
  if (gemm.after == AfterGemm::gelu_gradient) return value * gelu_tanh_derivative(half_to_float(*kept, dtype));
  if (kept != nullptr) *kept = float_to_half(value, dtype);
  return gelu_tanh(value);
}

void compute(const Gemm& gemm) {
  const std::vector<float> a = widened(gemm.a, gemm.m * gemm.k), b = widened(gemm.b, gemm.k * gemm.n);
  std::vector<float> c(static_cast<std::size_t>(gemm.m * gemm.n));
  const auto m = static_cast<blasint>(gemm.m), n = static_cast<blasint>(gemm.n), k = static_cast<blasint>(gemm.k);
  cblas_sgemm(CblasRowMajor, gemm.a_transposed ? CblasTrans : CblasNoTrans,
              gemm.b_transposed ? CblasTrans : CblasNoTrans, m, n, k, 1.0f, a.data(), gemm.a_transposed ? m : k,
              b.data(), gemm.b_transposed ? k : n, 0.0f, c.data(), n);
  for (std::int64_t i = 0; i < gemm.m * gemm.n; ++i) {
    if (gemm.c.dtype == DType::f32) {
      float* out = data<float>(gemm.c) + i;
      *out = gemm.accumulate ? *out + c[i] : c[i];
    } else {
      std::uint16_t* out = data<std::uint16_t>(gemm.c) + i;
      const float before = gemm.accumulate ? half_to_float(*out, gemm.c.dtype) : 0.0f;
      *out = float_to_half(finish(gemm, i, before + c[i]), gemm.c.dtype);
    }
  }
}

}  // namespace

Gemms::Gemms(int) {}
Gemms::~Gemms() = default;

std::function<void(cudaStream_t)> Gemms::plan(const Gemm& gemm) {
  return [gemm](cudaStream_t stream) { emulator::enqueue(stream, [gemm] { compute(gemm); }); };
}

}  // namespace riverhorse::cuda
