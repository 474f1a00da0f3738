// From the parameters that are learnt to the filter that is used, in double:
//
//   dt = exp(log_dt), A = -exp(inv_a_real) + i a_imag, z = dt A
//   bilinear: a = (1 + z/2) / (1 - z/2),  b = B dt / (1 - z/2)
//   zoh:      a = exp(z),                 b = B (exp(z) - 1) / A
//   f_j = sum_i shift_b_i shift_c_{i+j}, and shift_d on f_0
#include <cmath>
#include <complex>

#include "cpu/cpu_encoder.h"

namespace riverhorse::cpu {

namespace {

using Complex = std::complex<double>;

// exp(z) - 1 without cancellation for small z: e^x cos y - 1 = expm1(x) cos y - 2 sin^2(y/2).
Complex exp_minus_one(Complex z) {
  const double half = std::sin(z.imag() / 2);
  return {std::expm1(z.real()) * std::cos(z.imag()) - 2 * half * half, std::exp(z.real()) * std::sin(z.imag())};
}

void store(float* out, Complex value) {
  out[0] = static_cast<float>(value.real());
  out[1] = static_cast<float>(value.imag());
}

}  // namespace

void CpuEncoder::record_discretize(const DiscretizeArgs& args) {
  add("discretize", [args] {
    const H3Parameters& p = args.parameters;
    const H3Filter& filter = args.filter;
    const std::int64_t heads = filter.a.shape[0];
    const std::int64_t modes = filter.a.shape[1];
    const std::int64_t rows = p.inv_a_real.shape[0];
#pragma omp parallel for
    for (std::int64_t head = 0; head < heads; ++head) {
      const double dt = std::exp(static_cast<double>(floats(p.log_dt)[head]));
      Complex sums[H3Filter::chunk] = {};
      for (std::int64_t mode = 0; mode < modes; ++mode) {
        const std::int64_t shared = (head % rows) * modes + mode;
        const std::int64_t own = head * modes + mode;
        const Complex continuous(-std::exp(static_cast<double>(floats(p.inv_a_real)[shared])),
                                 floats(p.a_imag)[shared]);
        const Complex input(floats(p.b)[2 * shared], floats(p.b)[2 * shared + 1]);
        const Complex output(floats(p.c)[2 * own], floats(p.c)[2 * own + 1]);
        const Complex z = dt * continuous;
        Complex a, b;
        if (p.discretization == Discretization::bilinear) {
          a = (1.0 + z / 2.0) / (1.0 - z / 2.0);
          b = input * dt / (1.0 - z / 2.0);
        } else {
          a = std::exp(z);
          b = input * exp_minus_one(z) / continuous;
        }
        float* a_parts = floats(filter.a) + 4 * own;
        store(a_parts, a);
        store(a_parts + 2, a - Complex(a_parts[0], a_parts[1]));
        store(floats(filter.b) + 2 * own, b);
        store(floats(filter.c) + 2 * own, output);
        Complex power = a;
        for (int exponent = 0; exponent < H3Filter::power_count; ++exponent) {
          store(floats(filter.powers) + 2 * (own * H3Filter::power_count + exponent), power);
          power *= power;
        }
        power = 1.0;
        for (Complex& sum : sums) {
          sum += output * b * power;
          power *= a;
        }
      }
      const double skip = floats(p.d)[head];
      floats(filter.d)[head] = static_cast<float>(skip);
      for (int lag = 0; lag < H3Filter::chunk; ++lag) {
        floats(filter.toeplitz)[head * H3Filter::chunk + lag] =
            static_cast<float>(2 * sums[lag].real() + (lag == 0 ? skip : 0.0));
      }
    }

    const std::int64_t width = filter.shift_taps.shape[0];
    const std::int64_t state = filter.shift_taps.shape[1];
#pragma omp parallel for
    for (std::int64_t channel = 0; channel < width; ++channel) {
      const float* shift_b = floats(p.shift_b) + channel * state;
      const float* shift_c = floats(p.shift_c) + channel * state;
      for (std::int64_t lag = 0; lag < state; ++lag) {
        double sum = lag == 0 ? floats(p.shift_d)[channel] : 0.0;
        for (std::int64_t i = 0; i + lag < state; ++i) sum += static_cast<double>(shift_b[i]) * shift_c[i + lag];
        floats(filter.shift_taps)[channel * state + lag] = static_cast<float>(sum);
      }
    }
  });
}

}  // namespace riverhorse::cpu
