// gelu, p Phi(p) with the normal distribution Phi, in its exact form and in its tanh form (Hendrycks and Gimpel
// 2016), and their derivatives.
#pragma once

#include <cuda_runtime.h>

#include <cmath>

namespace riverhorse::cuda {

constexpr float one_over_sqrt_2 = 0.70710678118654752f;
constexpr float one_over_sqrt_2_pi = 0.39894228040143268f;

__device__ inline float gelu_erf(float p) { return 0.5f * p * erfcf(-p * one_over_sqrt_2); }
__device__ inline float gelu_erf_derivative(float p) {
  return 0.5f * erfcf(-p * one_over_sqrt_2) + p * one_over_sqrt_2_pi * expf(-0.5f * p * p);
}

constexpr float sqrt_2_over_pi = 0.79788456080286536f;
constexpr float gelu_cubic = 0.044715f;

__device__ inline float gelu_tanh(float x) {
  return 0.5f * x * (1.0f + tanhf(sqrt_2_over_pi * (x + gelu_cubic * x * x * x)));
}

__device__ inline float gelu_tanh_derivative(float x) {
  const float tanh = tanhf(sqrt_2_over_pi * (x + gelu_cubic * x * x * x));
  return 0.5f * (1.0f + tanh) + 0.5f * x * (1.0f - tanh * tanh) * sqrt_2_over_pi * (1.0f + 3 * gelu_cubic * x * x);
}

}  // namespace riverhorse::cuda
