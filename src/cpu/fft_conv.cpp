// Causal convolution through the frequency domain: an own radix-2 FFT in double, padded so that nothing wraps.
//
// Backward of y = act(p), p = conv(u, kernel) + skip u, with d_p = act'(p) d_y:
//   d_u_s = sum_{t >= s} d_p_t kernel_{t-s} + skip d_p_s;  d_kernel_l = sum_{t >= l} d_p_t u_{t-l};
//   d_skip = sum_t d_p_t u_t
#include <algorithm>
#include <cmath>
#include <numbers>

#include "cpu/cpu_encoder.h"
#include "cpu/ssm.h"

namespace riverhorse::cpu {

namespace {

// In place, size a power of two. `sign` -1: forward, +1: inverse without the factor 1/size.
void fourier_transform(std::vector<Complex>& values, int sign) {
  const std::size_t size = values.size();
  for (std::size_t i = 1, reversed = 0; i < size; ++i) {
    std::size_t bit = size >> 1;
    for (; (reversed & bit) != 0; bit >>= 1) reversed ^= bit;
    reversed ^= bit;
    if (i < reversed) std::swap(values[i], values[reversed]);
  }
  std::vector<Complex> roots(size / 2);  // each from its own angle: no error builds up
  for (std::size_t i = 0; i < size / 2; ++i) {
    const double angle = sign * 2 * std::numbers::pi * static_cast<double>(i) / static_cast<double>(size);
    roots[i] = {std::cos(angle), std::sin(angle)};
  }
  for (std::size_t half = 1; half < size; half *= 2) {
    const std::size_t stride = size / (2 * half);
    for (std::size_t begin = 0; begin < size; begin += 2 * half) {
      for (std::size_t i = 0; i < half; ++i) {
        const Complex odd = values[begin + half + i] * roots[i * stride];
        values[begin + half + i] = values[begin + i] - odd;
        values[begin + i] += odd;
      }
    }
  }
}

// d/dp of p Phi(p), Phi the normal distribution; erfc keeps what erf loses far below zero.
double gelu_erf_derivative(double p) {
  const double density = std::exp(-p * p / 2) / std::sqrt(2 * std::numbers::pi);
  return 0.5 * std::erfc(-p / std::numbers::sqrt2) + p * density;
}

}  // namespace

std::vector<double> causal_convolution(const std::vector<double>& u, const std::vector<double>& kernel) {
  const std::size_t length = u.size();
  std::size_t size = 1;
  while (size < 2 * length) size *= 2;
  std::vector<Complex> u_spectrum(size), kernel_spectrum(size);
  for (std::size_t t = 0; t < length; ++t) {
    u_spectrum[t] = u[t];
    kernel_spectrum[t] = kernel[t];
  }
  fourier_transform(u_spectrum, -1);
  fourier_transform(kernel_spectrum, -1);
  for (std::size_t i = 0; i < size; ++i) u_spectrum[i] *= kernel_spectrum[i];
  fourier_transform(u_spectrum, +1);
  std::vector<double> y(length);
  for (std::size_t t = 0; t < length; ++t) y[t] = u_spectrum[t].real() / static_cast<double>(size);
  return y;
}

// Reversed in time, the adjoint is causal itself.
std::vector<double> causal_correlation(const std::vector<double>& g, const std::vector<double>& x) {
  std::vector<double> sums = causal_convolution({g.rbegin(), g.rend()}, x);
  std::reverse(sums.begin(), sums.end());
  return sums;
}

void CpuEncoder::record_fft_conv(const FftConvArgs& args) {
  require_f32("fft_conv", {&args.u, &args.y});
  add("fft_conv", [args] {
    const std::int64_t heads = args.u.shape[1];
    const std::int64_t length = args.u.shape[2];
#pragma omp parallel for schedule(dynamic)
    for (std::int64_t row = 0; row < args.u.shape[0] * heads; ++row) {
      const std::int64_t head = row % heads;
      const float* u = floats(args.u) + row * length;
      const float* kernel = floats(args.kernel) + head * length;
      float* y = floats(args.y) + row * length;
      const double skip = args.skip ? floats(args.skip)[head] : 0.0;
      const std::vector<double> sums =
          causal_convolution({u, u + length}, std::vector<double>(kernel, kernel + length));
      for (std::int64_t t = 0; t < length; ++t) {
        const double p = sums[static_cast<std::size_t>(t)] + skip * u[t];
        y[t] = static_cast<float>(args.gelu_erf ? p * 0.5 * (1 + std::erf(p / std::numbers::sqrt2)) : p);
      }
    }
  });
}

// A head's sequences one after the other: the sums over them have one order.
void CpuEncoder::record_fft_conv_backward(const FftConvBackwardArgs& args) {
  require_f32("fft_conv_backward", {&args.u, &args.d_y, &args.d_u});
  add("fft_conv_backward", [args] {
    const std::int64_t heads = args.u.shape[1];
    const std::int64_t length = args.u.shape[2];
#pragma omp parallel for schedule(dynamic)
    for (std::int64_t head = 0; head < heads; ++head) {
      const float* kernel_row = floats(args.kernel) + head * length;
      const std::vector<double> kernel(kernel_row, kernel_row + length);
      const double skip = args.skip ? floats(args.skip)[head] : 0.0;
      std::vector<double> d_kernel(static_cast<std::size_t>(length), 0.0);
      double d_skip = 0;
      for (std::int64_t sequence = 0; sequence < args.u.shape[0]; ++sequence) {
        const std::int64_t begin = (sequence * heads + head) * length;
        const float* u_row = floats(args.u) + begin;
        const float* d_y = floats(args.d_y) + begin;
        const std::vector<double> u(u_row, u_row + length);
        std::vector<double> d_p(d_y, d_y + length);
        if (args.gelu_erf) {
          const std::vector<double> sums = causal_convolution(u, kernel);
          for (std::size_t t = 0; t < d_p.size(); ++t) d_p[t] *= gelu_erf_derivative(sums[t] + skip * u[t]);
        }
        const std::vector<double> d_u = causal_correlation(d_p, kernel), lags = causal_correlation(d_p, u);
        for (std::size_t t = 0; t < d_p.size(); ++t) {
          floats(args.d_u)[begin + static_cast<std::int64_t>(t)] = static_cast<float>(d_u[t] + skip * d_p[t]);
          d_kernel[t] += lags[t];
          d_skip += d_p[t] * u[t];
        }
      }
      for (std::int64_t lag = 0; lag < length; ++lag) {
        floats(args.d_kernel)[head * length + lag] += static_cast<float>(d_kernel[static_cast<std::size_t>(lag)]);
      }
      if (args.d_skip) floats(args.d_skip)[head] += static_cast<float>(d_skip);
    }
  });
}

}  // namespace riverhorse::cpu
