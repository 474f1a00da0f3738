// The H3 mixer's backward pass by transforms (--conv fft), between k' = shift(k) and the gradients of k' and of the
// filter (h3_mixer_backward.cu does the shift), in f32:
//   w_ij = k'_i v_j;  z_ij = conv(K, w_ij) + D w_ij;  d_q_i = sum_j d_y_j z_ij;  d_z_ij = q_i d_y_j
//   d_w, d_K and d_D as in fft_conv_backward.cuh;  d_k'_i = sum_j d_w_ij v_j;  d_v_j = sum_i d_w_ij k'_i
// with w and z as sequences of all pairs of channels: (d, d, B, H, L).
#include "encoder.h"
#include "h3_mixer.cuh"

namespace riverhorse::cuda {

namespace {

// Sizes, and where a thread's element of (H, d, B, L) is.
struct Pairing {
  std::int64_t heads, head_dim, batch, tokens;
  HeadOrder order;

  std::int64_t elements() const { return heads * head_dim * batch * tokens; }
  struct Place {
    std::int64_t head, i, b, t;
  };
  __device__ Place place(std::int64_t index) const {
    const std::int64_t channel = index / tokens / batch;
    return {channel / head_dim, channel % head_dim, index / tokens % batch, index % tokens};
  }
  __device__ std::int64_t pair(const Place& at, std::int64_t i, std::int64_t j) const {
    return (((i * head_dim + j) * batch + at.b) * heads + at.head) * tokens + at.t;
  }
  // In (H, d, B, L) and in the order of outputs.
  __device__ std::int64_t element(const Place& at, std::int64_t j) const {
    return ((at.head * head_dim + j) * batch + at.b) * tokens + at.t;
  }
  __device__ std::int64_t output(const Place& at, std::int64_t j) const {
    return (output_channel(order, heads, head_dim, at.head, j) * batch + at.b) * tokens + at.t;
  }
};

template <typename T>
__global__ void multiply_pairs(Pairing p, const float* shifted, const T* values, float* w) {
  for (std::int64_t index = first_element(); index < p.heads * p.head_dim * p.batch * p.tokens;
       index += element_stride()) {
    const auto at = p.place(index);
    for (std::int64_t j = 0; j < p.head_dim; ++j) {
      w[p.pair(at, at.i, j)] = shifted[index] * to_float(values[p.element(at, j)]);
    }
  }
}

// d_z takes the place of z.
template <typename T>
__global__ void query_gradients(Pairing p, const T* queries, const T* d_y, float* z, T* d_queries) {
  for (std::int64_t index = first_element(); index < p.heads * p.head_dim * p.batch * p.tokens;
       index += element_stride()) {
    const auto at = p.place(index);
    float sum = 0;
    for (std::int64_t j = 0; j < p.head_dim; ++j) {
      const float gradient = to_float(d_y[p.output(at, j)]);
      float& pair = z[p.pair(at, at.i, j)];
      sum += gradient * pair;
      pair = to_float(queries[index]) * gradient;
    }
    d_queries[index] = from_float<T>(sum);
  }
}

template <typename T>
__global__ void key_and_value_gradients(Pairing p, const float* d_w, const float* shifted, const T* values,
                                        float* d_shifted, T* d_values) {
  for (std::int64_t index = first_element(); index < p.heads * p.head_dim * p.batch * p.tokens;
       index += element_stride()) {
    const auto at = p.place(index);
    float d_key = 0, d_value = 0;
    for (std::int64_t other = 0; other < p.head_dim; ++other) {
      d_key += d_w[p.pair(at, at.i, other)] * to_float(values[p.element(at, other)]);
      d_value += d_w[p.pair(at, other, at.i)] * shifted[p.element(at, other)];
    }
    d_shifted[index] = d_key;
    d_values[index] = from_float<T>(d_value);
  }
}

}  // namespace

void CudaEncoder::record_h3_mixer_backward_fft(const H3MixerBackwardArgs& args, const Tensor& shifted,
                                               const Tensor& d_shifted) {
  const std::int64_t batch = args.d_y.shape[1], tokens = args.d_y.shape[2], heads = args.filter.a.shape[0];
  const Pairing p{heads, args.head_dim, batch, tokens, args.head_order};
  ScratchScope scope(*this);
  const Shape pairs{std::int64_t{args.head_dim} * args.head_dim * batch, heads, tokens};
  const Tensor w = scratch(DType::f32, pairs), z = scratch(DType::f32, pairs);
  const Tensor kernel = scratch(DType::f32, {heads, tokens}), d_kernel = scratch(DType::f32, {heads, tokens});

  record_ssm_kernel({args.filter, kernel});
  const auto add_elementwise = [&](auto&& launch_as) {
    add("h3_mixer_backward.fft",
        [=](cudaStream_t stream) { with_activation(args.d_y.dtype, [&](auto type) { launch_as(stream, type); }); });
  };
  add_elementwise([=](cudaStream_t stream, auto type) {
    using T = decltype(type);
    launch(multiply_pairs<T>, element_grid(p.elements()), element_threads, 0, stream, p, data<float>(shifted),
           data<T>(args.qkv) + 2 * p.elements(), data<float>(w));
  });
  record_fft_conv({.u = w, .kernel = kernel, .skip = args.filter.d, .y = z});
  add_elementwise([=](cudaStream_t stream, auto type) {
    using T = decltype(type);
    launch(query_gradients<T>, element_grid(p.elements()), element_threads, 0, stream, p, data<T>(args.qkv),
           data<T>(args.d_y), data<float>(z), data<T>(args.d_qkv));
    for (const Tensor& sum : {d_kernel, args.d_filter.d}) {
      check(cudaMemsetAsync(data<float>(sum), 0, sum.size_bytes(), stream), "cudaMemset");
    }
  });
  // In place: whoever reads a number of d_z later writes that of d_w.
  record_fft_conv_backward({.u = w,
                            .kernel = kernel,
                            .skip = args.filter.d,
                            .d_y = z,
                            .d_u = z,
                            .d_kernel = d_kernel,
                            .d_skip = args.d_filter.d});
  add_elementwise([=](cudaStream_t stream, auto type) {
    using T = decltype(type);
    launch(key_and_value_gradients<T>, element_grid(p.elements()), element_threads, 0, stream, p, data<float>(z),
           data<float>(shifted), data<T>(args.qkv) + 2 * p.elements(), data<float>(d_shifted),
           data<T>(args.d_qkv) + 2 * p.elements());
  });
  record_ssm_kernel_backward({args.filter, d_kernel, args.d_filter});
}

}  // namespace riverhorse::cuda
