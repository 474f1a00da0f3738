// What follows the product of linear, for the element (row, output).
#pragma once

#include "backend/ops.h"
#include "gelu.cuh"
#include "kernel.cuh"

namespace riverhorse::cuda {

template <typename T, typename Y>
struct Epilogue {
  const float* bias;
  bool gelu;
  bool accumulate;
  bool transposed;
  Y* y;
  T* pre_activation;
  std::int64_t rows, outputs;

  Epilogue(const LinearArgs& args, std::int64_t row_count)
      : bias(data<float>(args.bias)),
        gelu(args.activation == Activation::gelu_tanh),
        accumulate(args.accumulate),
        transposed(args.y_transposed),
        y(data<Y>(args.y)),
        pre_activation(data<T>(args.pre_activation)),
        rows(row_count),
        outputs(args.weight.shape[0]) {}

  __device__ std::int64_t index(std::int64_t row, std::int64_t output) const {
    return transposed ? output * rows + row : row * outputs + output;
  }
  // Of an output.
  __device__ float bias_of(std::int64_t output) const { return bias != nullptr ? bias[output] : 0.0f; }
  // What y has at `i`, if it is added to.
  __device__ float before(std::int64_t i) const { return accumulate ? to_float(y[i]) : 0.0f; }
  __device__ void store(std::int64_t i, float value, float own_bias, float own_before) const {
    value += own_bias;
    if (pre_activation != nullptr) pre_activation[i] = from_float<T>(value);
    if (gelu) value = gelu_tanh(value);
    y[i] = from_float<Y>(value + own_before);
  }
};

// Calls `function` with values of the types of activations and of y.
template <typename Function>
void with_types(const LinearArgs& args, Function&& function) {
  const DType act = activation_dtype(args);
  with_activation(act, [&](auto type) {
    if (args.y.dtype == act) {
      function(type, type);
    } else {
      function(type, float());
    }
  });
}

}  // namespace riverhorse::cuda
