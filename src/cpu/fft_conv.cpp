// Causal convolution through the frequency domain: an own radix-2 FFT in double, padded so that nothing wraps.
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

}  // namespace riverhorse::cpu
