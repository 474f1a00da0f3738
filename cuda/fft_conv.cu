// Causal convolution with a learned filter, as direct sums:
//   p_t = sum_{s <= t} kernel_{t-s} u_s + skip u_t;  y = p, or gelu_erf(p)
//   d_u_s = sum_{t >= s} d_p_t kernel_{t-s} + skip d_p_s;  d_kernel_l = sum_{t >= l} d_p_t u_{t-l};  d_skip = sum d_p
//   u
// A block has 256 neighbouring outputs of a row and slides over the other factor, both in shared memory. Its time
// grows with the square of the length.
#include "encoder.h"
#include "kernel.cuh"

namespace riverhorse::cuda {

namespace {

constexpr int tile = 256;

constexpr float one_over_sqrt_2 = 0.70710678118654752f;
constexpr float one_over_sqrt_2_pi = 0.39894228040143268f;

__device__ float gelu_erf(float p) { return 0.5f * p * erfcf(-p * one_over_sqrt_2); }
__device__ float gelu_erf_derivative(float p) {
  return 0.5f * erfcf(-p * one_over_sqrt_2) + p * one_over_sqrt_2_pi * expf(-0.5f * p * p);
}

// Of the block's output number i = begin + thread: the sum over all s of fixed(s) sliding(i - s) when `reversed` is
// false, of fixed(s) sliding(s - i) when it is true. Both functions give 0 outside of their rows; only s in [from,
// to) count. All threads of the block must come.
template <bool reversed, typename Fixed, typename Sliding>
__device__ float slide(std::int64_t begin, std::int64_t from, std::int64_t to, const Fixed& fixed,
                       const Sliding& sliding) {
  __shared__ float fixed_tile[tile], sliding_tile[2 * tile];
  const int thread = static_cast<int>(threadIdx.x);
  float total = 0;
  for (std::int64_t s = from; s < to; s += tile) {
    // Lags i - s (or s - i) of this tile: from `least` on, 2 tile - 1 of them.
    const std::int64_t least = reversed ? s - begin - (tile - 1) : begin - s - (tile - 1);
    fixed_tile[thread] = s + thread < to ? fixed(s + thread) : 0.0f;
    sliding_tile[thread] = sliding(least + thread);
    sliding_tile[tile + thread] = sliding(least + tile + thread);
    __syncthreads();
    float sum = 0;
    for (int n = 0; n < tile; ++n) {
      const int lag = reversed ? n - thread : thread - n;
      sum += fixed_tile[n] * sliding_tile[lag + tile - 1];
    }
    total += sum;
    __syncthreads();
  }
  return total;
}

template <typename T>
struct Row {
  const T* values;
  std::int64_t length;
  __device__ float operator()(std::int64_t i) const { return i >= 0 && i < length ? to_float(values[i]) : 0.0f; }
};

// y = p or gelu_erf(p).
template <typename T>
struct Output {
  bool gelu;
  T* y;
  __device__ void store(std::int64_t i, float p) const { y[i] = from_float<T>(gelu ? gelu_erf(p) : p); }
};

// d_p, through the gelu.
template <typename T>
struct GeluGradient {
  const T* d_y;
  float* d_p;
  __device__ void store(std::int64_t i, float p) const { d_p[i] = to_float(d_y[i]) * gelu_erf_derivative(p); }
};

template <typename T, typename Finish>
__global__ void convolve(const T* u, const float* kernel, const float* skip, std::int64_t rows, std::int64_t heads,
                         std::int64_t length, Finish finish) {
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * tile, t = begin + threadIdx.x;
  for (std::int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    const std::int64_t head = row % heads;
    const Row<T> input{u + row * length, length};
    float p = slide<false>(begin, 0, min(begin + tile, length), input, Row<float>{kernel + head * length, length});
    if (t >= length) continue;
    if (skip != nullptr) p += skip[head] * input(t);
    finish.store(row * length + t, p);
  }
}

template <typename T, typename G>
__global__ void input_gradient(const G* d_p, const float* kernel, const float* skip, std::int64_t rows,
                               std::int64_t heads, std::int64_t length, T* d_u) {
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * tile, s = begin + threadIdx.x;
  for (std::int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    const std::int64_t head = row % heads;
    const Row<G> gradient{d_p + row * length, length};
    float sum = slide<true>(begin, begin, length, gradient, Row<float>{kernel + head * length, length});
    if (s >= length) continue;
    if (skip != nullptr) sum += skip[head] * gradient(s);
    d_u[row * length + s] = from_float<T>(sum);
  }
}

// A block has 256 lags of a head, and sums over the sequences in order.
template <typename T, typename G>
__global__ void kernel_gradient(const T* u, const G* d_p, std::int64_t batch, std::int64_t heads, std::int64_t length,
                                float* d_kernel, float* d_skip) {
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * tile, lag = begin + threadIdx.x;
  for (std::int64_t head = blockIdx.y; head < heads; head += gridDim.y) {
    float total = 0;
    for (std::int64_t b = 0; b < batch; ++b) {
      const std::int64_t row = (b * heads + head) * length;
      total += slide<true>(begin, begin, length, Row<G>{d_p + row, length}, Row<T>{u + row, length});
    }
    if (lag < length) d_kernel[head * length + lag] += total;
    if (lag == 0 && d_skip != nullptr) d_skip[head] += total;  // the skip is one more weight of lag 0
  }
}

}  // namespace

void CudaEncoder::record_fft_conv(const FftConvArgs& args) {
  add("fft_conv", [args](cudaStream_t stream) {
    const std::int64_t heads = args.u.shape[1], length = args.u.shape[2], rows = args.u.shape[0] * heads;
    with_activation(args.u.dtype, [&](auto type) {
      using T = decltype(type);
      launch(convolve<T, Output<T>>, grid_of(divide_up(length, tile), std::min<std::int64_t>(rows, 65535)), tile, 0,
             stream, data<T>(args.u), data<float>(args.kernel), data<float>(args.skip), rows, heads, length,
             Output<T>{args.gelu_erf, data<T>(args.y)});
    });
  });
}

void CudaEncoder::record_fft_conv_backward(const FftConvBackwardArgs& args) {
  const std::int64_t batch = args.u.shape[0], heads = args.u.shape[1], length = args.u.shape[2];
  ScratchScope scope(*this);
  const Tensor d_p = args.gelu_erf ? scratch(DType::f32, {batch, heads, length}) : Tensor();
  add("fft_conv_backward", [=](cudaStream_t stream) {
    const std::int64_t rows = batch * heads;
    const std::int64_t tiles = divide_up(length, tile);
    const dim3 row_grid = grid_of(tiles, std::min<std::int64_t>(rows, 65535));
    with_activation(args.u.dtype, [&](auto type) {
      using T = decltype(type);
      const auto from = [&](const auto* gradient) {
        using G = std::remove_cv_t<std::remove_pointer_t<decltype(gradient)>>;
        launch(input_gradient<T, G>, row_grid, tile, 0, stream, gradient, data<float>(args.kernel),
               data<float>(args.skip), rows, heads, length, data<T>(args.d_u));
        launch(kernel_gradient<T, G>, grid_of(tiles, std::min<std::int64_t>(heads, 65535)), tile, 0, stream,
               data<T>(args.u), gradient, batch, heads, length, data<float>(args.d_kernel), data<float>(args.d_skip));
      };
      if (!args.gelu_erf) {
        from(static_cast<const T*>(data<T>(args.d_y)));
        return;
      }
      launch(convolve<T, GeluGradient<T>>, row_grid, tile, 0, stream, data<T>(args.u), data<float>(args.kernel),
             data<float>(args.skip), rows, heads, length, GeluGradient<T>{data<T>(args.d_y), data<float>(d_p)});
      from(static_cast<const float*>(data<float>(d_p)));
    });
  });
}

}  // namespace riverhorse::cuda
