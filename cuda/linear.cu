// y = activation(x' W^T + bias), or y += that; and backward.
//
// Few rows (a generation step) are linear_gemv.cu's, those of a batch of sequences linear_batch.cu's, quantised
// weights linear_quantised.cu's. More are a product of cuBLASLt. In 16 bits it adds the bias and does the gelu, or
// its gradient, itself where it can; else the product is written to y and an elementwise kernel finishes it there; an
// f32 y from scratch memory. It knows no bias for the rows of y^T: the product is added to a y^T that is full of it.
#include "column_sums.cuh"
#include "encoder.h"
#include "kernel.cuh"
#include "linear_epilogue.cuh"
#include "norm.h"

namespace riverhorse::cuda {

namespace {

// `product` lies as y does, and may be y.
template <typename T, typename Y>
__global__ void finish_product(const Y* product, Epilogue<T, Y> epilogue) {
  const std::int64_t count = epilogue.rows * epilogue.outputs;
  for (std::int64_t i = first_element(); i < count; i += element_stride()) {
    const std::int64_t output = epilogue.transposed ? i / epilogue.rows : i % epilogue.outputs;
    epilogue.store(i, to_float(product[i]), epilogue.bias_of(output), epilogue.before(i));
  }
}

// A block a row of y^T, (outputs, rows): all of it is the bias of that output.
constexpr int fill_threads = 256;
template <typename Y, int count>
__global__ void fill_with_bias(const float* bias, std::int64_t rows, Y* y_transposed) {
  auto* to = reinterpret_cast<Neighbours<Y, count>*>(y_transposed + blockIdx.x * rows);
  Neighbours<Y, count> group;
#pragma unroll
  for (Y& value : group.values) value = from_float<Y>(bias[blockIdx.x]);
  for (std::int64_t i = threadIdx.x; i < rows / count; i += fill_threads) to[i] = group;
}

// `d_activated` may be d_x.
template <typename T>
__global__ void through_gelu(const T* d_activated, const T* pre_activation, T* d_x, std::int64_t count) {
  for (std::int64_t i = first_element(); i < count; i += element_stride()) {
    d_x[i] = from_float<T>(to_float(d_activated[i]) * gelu_tanh_derivative(to_float(pre_activation[i])));
  }
}

}  // namespace

Tensor CudaEncoder::record_norm_of_linear(const LinearArgs& args) {
  const Tensor x = scratch(activation_dtype(args), args.x.shape);
  add_in_turn("linear", {args.norm->weight, args.norm->bias}, {x},
              [args, x](Launch turn) { launch_layer_norm(turn, args.x, *args.norm, x); });
  return x;
}

void CudaEncoder::record_linear(const LinearArgs& args) {
  const std::int64_t outputs = args.weight.shape[0], inputs = args.weight.shape[1];
  const std::int64_t rows = args.x_transposed ? args.x.shape[1] : args.x.shape[0];
  if (is_quantised(args.weight.dtype)) return record_linear_quantised(args, rows);
  if (multiplies_few_rows(args, rows)) return record_linear_gemv(args, rows);
  if (multiplies_batch(args, rows)) return record_linear_batch(args, rows);
  ScratchScope scope(*this);
  const Tensor x = args.norm ? record_norm_of_linear(args) : args.x;
  const bool finished = !args.bias && args.activation == Activation::none && !args.accumulate && !args.pre_activation;
  const bool add_to_bias =
      args.bias && args.y_transposed && args.activation == Activation::none && !args.pre_activation;
  const bool in_place = finished || add_to_bias || is_half(args.y.dtype);
  Gemm gemm;
  gemm.k = inputs;
  gemm.accumulate = add_to_bias;
  gemm.c = in_place ? args.y : scratch(DType::f32, {rows, outputs});
  if (args.y_transposed) {  // y^T (M, R) = W x^T
    gemm.m = outputs;
    gemm.n = rows;
    gemm.a = args.weight;
    gemm.b = x;
    gemm.b_transposed = !args.x_transposed;
  } else {
    gemm.m = rows;
    gemm.n = outputs;
    gemm.a = x;
    gemm.a_transposed = args.x_transposed;
    gemm.b = args.weight;
    gemm.b_transposed = true;
  }
  if (add_to_bias) {
    add("linear", [args, rows, outputs](cudaStream_t stream) {
      with_activation(args.y.dtype, [&](auto type) {
        using Y = decltype(type);
        constexpr int most = 16 / sizeof(Y);
        const bool whole = rows % most == 0 && at_16_bytes(data<Y>(args.y));
        launch(whole ? fill_with_bias<Y, most> : fill_with_bias<Y, 1>, grid_of(outputs), fill_threads, 0, stream,
               data<float>(args.bias), rows, data<Y>(args.y));
      });
    });
  }
  if (finished || add_to_bias) return multiply("linear", gemm);
  if (in_place && !(args.bias && args.y_transposed) && finish_at_once(args, gemm)) return;
  multiply("linear", gemm);
  add("linear", [args, product = gemm.c, rows, outputs](cudaStream_t stream) {
    with_types(args, [&](auto type, auto y_type) {
      using T = decltype(type);
      using Y = decltype(y_type);
      launch(finish_product<T, Y>, element_grid(rows * outputs), element_threads, 0, stream, data<Y>(product),
             Epilogue<T, Y>(args, rows));
    });
  });
}

// cuBLASLt adds a bias of the dtype of y only, and along its rows.
bool CudaEncoder::finish_at_once(const LinearArgs& args, Gemm gemm) {
  if (args.pre_activation && args.activation == Activation::none) return false;
  gemm.bias = args.rounded_bias;
  if (args.bias && !gemm.bias) {
    gemm.bias = scratch(args.y.dtype, args.bias.shape);
    record_copy({.in = args.bias, .out = gemm.bias});
  }
  if (args.activation == Activation::gelu_tanh) gemm.after = AfterGemm::gelu;
  gemm.pre_activation = args.pre_activation;
  return multiply_and_finish("linear", gemm);
}

void CudaEncoder::record_bias_gradient(const LinearBackwardArgs& args, std::int64_t rows) {
  ScratchScope scope(*this);
  const std::int64_t outputs = args.weight.shape[0];
  const Tensor parts = args.y_transposed ? Tensor() : scratch(DType::f32, {column_sum_parts(rows), outputs});
  add("linear_backward", [args, parts, rows, outputs](cudaStream_t stream) {
    with_activation(args.d_y.dtype, [&](auto type) {
      const auto* d_y = data<decltype(type)>(args.d_y);
      if (args.y_transposed) {
        add_row_sums(stream, d_y, outputs, rows, data<float>(args.d_bias));
      } else {
        add_column_sums(stream, d_y, rows, outputs, data<float>(parts), data<float>(args.d_bias));
      }
    });
  });
}

void CudaEncoder::record_linear_backward(const LinearBackwardArgs& args) {
  const std::int64_t outputs = args.weight.shape[0], inputs = args.weight.shape[1];
  const std::int64_t rows = args.x_transposed ? args.x.shape[1] : args.x.shape[0];
  Gemm d_weight;  // (M, K) += d_y^T x
  d_weight.m = outputs;
  d_weight.n = inputs;
  d_weight.k = rows;
  d_weight.a = args.d_y;
  d_weight.a_transposed = !args.y_transposed;
  d_weight.b = args.x;
  d_weight.b_transposed = args.x_transposed;
  d_weight.c = args.d_weight;
  d_weight.accumulate = !args.overwrite;
  multiply("linear_backward", d_weight);
  if (args.d_bias) record_bias_gradient(args, rows);
  if (!args.d_x) return;
  ScratchScope scope(*this);
  Gemm d_x;
  d_x.k = outputs;
  const bool in_place = !args.pre_activation || is_half(args.d_x.dtype);
  d_x.c = in_place ? args.d_x : scratch(DType::f32, {rows, inputs});
  if (args.x_transposed) {  // (K, R) = W^T d_y^T
    d_x.m = inputs;
    d_x.n = rows;
    d_x.a = args.weight;
    d_x.a_transposed = true;
    d_x.b = args.d_y;
    d_x.b_transposed = !args.y_transposed;
  } else {  // (R, K) = d_y W
    d_x.m = rows;
    d_x.n = inputs;
    d_x.a = args.d_y;
    d_x.a_transposed = args.y_transposed;
    d_x.b = args.weight;
  }
  if (!args.pre_activation) return multiply("linear_backward", d_x);
  if (in_place) {
    Gemm through_gelu = d_x;
    through_gelu.after = AfterGemm::gelu_gradient;
    through_gelu.pre_activation = args.pre_activation;
    if (multiply_and_finish("linear_backward", through_gelu)) return;
  }
  multiply("linear_backward", d_x);
  add("linear_backward", [args, d_activated = d_x.c, rows, inputs](cudaStream_t stream) {
    with_activation(args.d_x.dtype, [&](auto type) {
      using T = decltype(type);
      launch(through_gelu<T>, element_grid(rows * inputs), element_threads, 0, stream, data<T>(d_activated),
             data<T>(args.pre_activation), data<T>(args.d_x), rows * inputs);
    });
  });
}

}  // namespace riverhorse::cuda
