// From the parameters that are learnt to the filter that is used, in double:
//
//   dt = exp(log_dt), A = -exp(inv_a_real) + i a_imag, z = dt A, b = B dt psi(z)
//   bilinear: a = (1 + z/2) / (1 - z/2),  psi(z) = 1 / (1 - z/2)
//   zoh:      a = exp(z),                 psi(z) = (exp(z) - 1) / z
//   f_j = sum_i shift_b_i shift_c_{i+j}, and shift_d on f_0
//
// Backward, from the gradients of log a and of gain = c b (complex ones as in ssm.h):
//   d_c = conj(b) d_gain;  d_b = conj(c) d_gain;  d_B = conj(dt psi) d_b
//   d_z = conj(d log a / dz) d_log_a + conj(B dt psi'(z)) d_b
//   d_A = dt d_z;  d_inv_a_real = -exp(inv_a_real) Re d_A;  d_a_imag = Im d_A
//   d_log_dt = Re sum_n (conj(z) d_z + conj(b) d_b)
//   d_shift_b_i = sum_j d_f_j shift_c_{i+j};  d_shift_c_m = sum_j d_f_j shift_b_{m-j};  d_shift_d = d_f_0
#include <cmath>
#include <complex>
#include <vector>

#include "cpu/cpu_encoder.h"

namespace riverhorse::cpu {

namespace {

using Complex = std::complex<double>;

// exp(z) - 1 without cancellation for small z: e^x cos y - 1 = expm1(x) cos y - 2 sin^2(y/2).
Complex exp_minus_one(Complex z) {
  const double half = std::sin(z.imag() / 2);
  return {std::expm1(z.real()) * std::cos(z.imag()) - 2 * half * half, std::exp(z.real()) * std::sin(z.imag())};
}

// The derivative of (exp(z) - 1) / z: sum_k (k + 1) z^k / (k + 2)!, where the closed form would cancel.
Complex zoh_input_derivative(Complex z) {
  if (std::norm(z) > 1) return (std::exp(z) - exp_minus_one(z) / z) / z;
  Complex sum = 0.0, term = 0.5;  // z^k / (k + 2)!
  for (int k = 0; k < 20; ++k) {
    sum += static_cast<double>(k + 1) * term;
    term *= z / static_cast<double>(k + 3);
  }
  return sum;
}

void store(float* out, Complex value) {
  out[0] = static_cast<float>(value.real());
  out[1] = static_cast<float>(value.imag());
}

void accumulate(float* out, Complex value) {
  out[0] += static_cast<float>(value.real());
  out[1] += static_cast<float>(value.imag());
}

Complex load(const Tensor& tensor, std::int64_t index) {
  return {floats(tensor)[2 * index], floats(tensor)[2 * index + 1]};
}

// One mode of one head.
struct Mode {
  Complex z, a, psi;
  Complex b, c;
};

Mode mode_of(const H3Parameters& p, double dt, std::int64_t shared, std::int64_t own) {
  const Complex continuous(-std::exp(static_cast<double>(floats(p.inv_a_real)[shared])), floats(p.a_imag)[shared]);
  Mode mode;
  mode.z = dt * continuous;
  if (p.discretization == Discretization::bilinear) {
    mode.a = (1.0 + mode.z / 2.0) / (1.0 - mode.z / 2.0);
    mode.psi = 1.0 / (1.0 - mode.z / 2.0);
  } else {
    mode.a = std::exp(mode.z);
    mode.psi = exp_minus_one(mode.z) / mode.z;
  }
  mode.b = load(p.b, shared) * dt * mode.psi;
  mode.c = load(p.c, own);
  return mode;
}

// The heads of one row of A and B, in order: they share its gradients.
void modes_backward(const DiscretizeBackwardArgs& args, std::int64_t row) {
  const H3Parameters& p = args.parameters;
  const std::int64_t heads = args.filter.a.shape[0];
  const std::int64_t modes = args.filter.a.shape[1];
  const std::int64_t rows = p.inv_a_real.shape[0];
  std::vector<Complex> d_continuous(static_cast<std::size_t>(modes)), d_input(d_continuous.size());
  for (std::int64_t head = row; head < heads; head += rows) {
    const double dt = std::exp(static_cast<double>(floats(p.log_dt)[head]));
    double d_log_dt = 0;
    for (std::int64_t n = 0; n < modes; ++n) {
      const std::int64_t own = head * modes + n;
      const Mode mode = mode_of(p, dt, row * modes + n, own);
      Complex log_a_derivative = 1.0, psi_derivative;
      if (p.discretization == Discretization::bilinear) {
        log_a_derivative = 1.0 / ((1.0 + mode.z / 2.0) * (1.0 - mode.z / 2.0));
        psi_derivative = mode.psi * mode.psi / 2.0;
      } else {
        psi_derivative = zoh_input_derivative(mode.z);
      }
      const Complex d_gain = load(args.d_filter.gain, own);
      const Complex d_b = std::conj(mode.c) * d_gain;
      const Complex input = load(p.b, row * modes + n) * dt;
      const Complex d_z =
          std::conj(log_a_derivative) * load(args.d_filter.log_a, own) + std::conj(input * psi_derivative) * d_b;
      accumulate(floats(args.d_parameters.c) + 2 * own, std::conj(mode.b) * d_gain);
      d_input[n] += std::conj(dt * mode.psi) * d_b;
      d_continuous[n] += dt * d_z;
      d_log_dt += (std::conj(mode.z) * d_z + std::conj(mode.b) * d_b).real();
    }
    floats(args.d_parameters.log_dt)[head] += static_cast<float>(d_log_dt);
    floats(args.d_parameters.d)[head] += floats(args.d_filter.d)[head];
  }
  for (std::int64_t n = 0; n < modes; ++n) {
    const std::int64_t shared = row * modes + n;
    const double real = -std::exp(static_cast<double>(floats(p.inv_a_real)[shared]));
    accumulate(floats(args.d_parameters.b) + 2 * shared, d_input[n]);
    floats(args.d_parameters.inv_a_real)[shared] += static_cast<float>(real * d_continuous[n].real());
    floats(args.d_parameters.a_imag)[shared] += static_cast<float>(d_continuous[n].imag());
  }
}

void shift_taps_backward(const DiscretizeBackwardArgs& args, std::int64_t channel) {
  const std::int64_t state = args.filter.shift_taps.shape[1];
  const float* shift_b = floats(args.parameters.shift_b) + channel * state;
  const float* shift_c = floats(args.parameters.shift_c) + channel * state;
  const float* d_taps = floats(args.d_filter.shift_taps) + channel * state;
  for (std::int64_t i = 0; i < state; ++i) {
    double b_sum = 0, c_sum = 0;
    for (std::int64_t lag = 0; i + lag < state; ++lag) b_sum += static_cast<double>(d_taps[lag]) * shift_c[i + lag];
    for (std::int64_t lag = 0; lag <= i; ++lag) c_sum += static_cast<double>(d_taps[lag]) * shift_b[i - lag];
    floats(args.d_parameters.shift_b)[channel * state + i] += static_cast<float>(b_sum);
    floats(args.d_parameters.shift_c)[channel * state + i] += static_cast<float>(c_sum);
  }
  floats(args.d_parameters.shift_d)[channel] += d_taps[0];
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
        const std::int64_t own = head * modes + mode;
        const auto [z, a, psi, b, c] = mode_of(p, dt, (head % rows) * modes + mode, own);
        float* a_parts = floats(filter.a) + 4 * own;
        store(a_parts, a);
        store(a_parts + 2, a - Complex(a_parts[0], a_parts[1]));
        store(floats(filter.b) + 2 * own, b);
        store(floats(filter.c) + 2 * own, c);
        Complex power = a;
        for (int exponent = 0; exponent < H3Filter::power_count; ++exponent) {
          store(floats(filter.powers) + 2 * (own * H3Filter::power_count + exponent), power);
          power *= power;
        }
        power = 1.0;
        for (Complex& sum : sums) {
          sum += c * b * power;
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

void CpuEncoder::record_discretize_backward(const DiscretizeBackwardArgs& args) {
  add("discretize_backward", [args] {
#pragma omp parallel for
    for (std::int64_t row = 0; row < args.parameters.inv_a_real.shape[0]; ++row) modes_backward(args, row);
#pragma omp parallel for
    for (std::int64_t channel = 0; channel < args.filter.shift_taps.shape[0]; ++channel) {
      shift_taps_backward(args, channel);
    }
  });
}

}  // namespace riverhorse::cpu
