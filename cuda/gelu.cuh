// gelu in its tanh form (Hendrycks and Gimpel 2016), and its derivative.
#pragma once

#include <cuda_runtime.h>

#include <cmath>

namespace riverhorse::cuda {

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
