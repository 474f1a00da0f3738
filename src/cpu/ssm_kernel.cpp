// The diagonal SSM. The recurrence is the definition; the kernel K_l = 2 Re sum_n c_n b_n a_n^l is its impulse
// response. The two other ways compute what the GPU backends compute, in double:
//
// chunked, T = 64, per chunk with entry state s:
//   z_t = D w_t + sum_{r <= t} K_{t-r} w_r + 2 Re sum_n (c_n a_n^{t+1}) s_n
//   s  <- a^T s + sum_t a^{T-1-t} b w_t
// fft: the same with one chunk of any length, the convolution through the frequency domain.
//
// Backward, with gain = c b, so that x_t = a x_{t-1} + w_t and z_t = D w_t + 2 Re sum_n gain_n x_{n,t}:
//   r_t = d_z_t + conj(a) r_{t+1};  the gradient of x_t is 2 conj(gain) r_t
//   d_w_t = D d_z_t + 2 Re sum_n conj(gain_n) r_{n,t};  d_gain = 2 sum_t conj(x_t) d_z_t
//   d_log_a = conj(a) d_a = 2 conj(gain) sum_t conj(a x_{t-1}) r_t
// The gradient of a state left behind, g of x_{L-1}, adds conj(a)^(L-1-t) g to that of x_t, whatever the gain.
// or, through the kernel (for all sequences of a head at once where they are short), whose gradient is d_K_l = sum_t
// d_z_t w_{t-l}:
//   d_gain = 2 sum_l conj(a^l) d_K_l;  d_log_a = 2 conj(gain) sum_l l conj(a^l) d_K_l
#include <algorithm>

#include "cpu/cpu_encoder.h"
#include "cpu/ssm.h"

namespace riverhorse::cpu {

HeadFilter head_filter(const H3Filter& filter, std::int64_t head) {
  const std::int64_t modes = filter.a.shape[1];
  HeadFilter result;
  for (std::int64_t mode = 0; mode < modes; ++mode) {
    const std::int64_t index = head * modes + mode;
    const float* a = floats(filter.a) + 4 * index;
    const float* b = floats(filter.b) + 2 * index;
    const float* c = floats(filter.c) + 2 * index;
    result.a.emplace_back(static_cast<double>(a[0]) + a[2], static_cast<double>(a[1]) + a[3]);
    result.b.emplace_back(b[0], b[1]);
    result.c.emplace_back(c[0], c[1]);
  }
  result.d = floats(filter.d)[head];
  return result;
}

std::vector<double> ssm_kernel_values(const HeadFilter& filter, std::int64_t length) {
  std::vector<double> kernel(static_cast<std::size_t>(length), 0.0);
  for (std::size_t mode = 0; mode < filter.a.size(); ++mode) {
    Complex value = 2.0 * filter.c[mode] * filter.b[mode];
    for (double& element : kernel) {
      element += value.real();
      value *= filter.a[mode];
    }
  }
  return kernel;
}

// Real and imaginary parts apart, so that the loop over modes becomes vector instructions: this is the hot loop of
// the backend.
void ssm_recurrence(const HeadFilter& filter, const std::vector<double>& w, std::vector<Complex>& s,
                    std::vector<double>& z) {
  const std::size_t modes = s.size();
  std::vector<double> parts(8 * modes);
  double* const a_re = parts.data();
  double* const a_im = a_re + modes;
  double* const b_re = a_im + modes;
  double* const b_im = b_re + modes;
  double* const c_re = b_im + modes;
  double* const c_im = c_re + modes;
  double* const s_re = c_im + modes;
  double* const s_im = s_re + modes;
  for (std::size_t mode = 0; mode < modes; ++mode) {
    a_re[mode] = filter.a[mode].real();
    a_im[mode] = filter.a[mode].imag();
    b_re[mode] = filter.b[mode].real();
    b_im[mode] = filter.b[mode].imag();
    c_re[mode] = 2 * filter.c[mode].real();
    c_im[mode] = 2 * filter.c[mode].imag();
    s_re[mode] = s[mode].real();
    s_im[mode] = s[mode].imag();
  }
  for (std::size_t t = 0; t < w.size(); ++t) {
    double sum = filter.d * w[t];
    const double input = w[t];
#pragma omp simd reduction(+ : sum)
    for (std::size_t mode = 0; mode < modes; ++mode) {
      const double re = a_re[mode] * s_re[mode] - a_im[mode] * s_im[mode] + b_re[mode] * input;
      const double im = a_re[mode] * s_im[mode] + a_im[mode] * s_re[mode] + b_im[mode] * input;
      s_re[mode] = re;
      s_im[mode] = im;
      sum += c_re[mode] * re - c_im[mode] * im;
    }
    z[t] += sum;
  }
  for (std::size_t mode = 0; mode < modes; ++mode) s[mode] = {s_re[mode], s_im[mode]};
}

void ssm_chunked(const HeadFilter& filter, const std::vector<double>& w, std::vector<Complex>& s,
                 std::vector<double>& z) {
  const std::size_t length = w.size();
  const std::size_t chunk = std::min<std::size_t>(H3Filter::chunk, length);
  const std::vector<double> kernel = ssm_kernel_values(filter, static_cast<std::int64_t>(chunk));
  std::vector<std::vector<Complex>> powers(chunk + 1, std::vector<Complex>(s.size(), 1.0));  // a^0 ... a^T
  for (std::size_t t = 1; t <= chunk; ++t) {
    for (std::size_t mode = 0; mode < s.size(); ++mode) powers[t][mode] = powers[t - 1][mode] * filter.a[mode];
  }
  for (std::size_t begin = 0; begin < length; begin += chunk) {
    const std::size_t size = std::min(chunk, length - begin);
    for (std::size_t t = 0; t < size; ++t) {
      double sum = filter.d * w[begin + t];
      for (std::size_t r = 0; r <= t; ++r) sum += kernel[t - r] * w[begin + r];
      for (std::size_t mode = 0; mode < s.size(); ++mode) {
        sum += 2 * (filter.c[mode] * powers[t + 1][mode] * s[mode]).real();
      }
      z[begin + t] += sum;
    }
    for (std::size_t mode = 0; mode < s.size(); ++mode) {
      Complex added = 0;
      for (std::size_t t = 0; t < size; ++t) added += powers[size - 1 - t][mode] * w[begin + t];
      s[mode] = powers[size][mode] * s[mode] + filter.b[mode] * added;
    }
  }
}

void ssm_fft(const HeadFilter& filter, const std::vector<double>& w, std::vector<Complex>& s,
             std::vector<double>& z) {
  const std::vector<double> kernel = ssm_kernel_values(filter, static_cast<std::int64_t>(w.size()));
  const std::vector<double> inside = causal_convolution(w, kernel);
  for (std::size_t t = 0; t < w.size(); ++t) z[t] += inside[t] + filter.d * w[t];
  for (std::size_t mode = 0; mode < s.size(); ++mode) {
    Complex decayed = filter.a[mode] * s[mode];  // a^{t+1} s: what the past adds at t
    Complex added = 0;
    for (std::size_t t = 0; t < w.size(); ++t) {
      z[t] += 2 * (filter.c[mode] * decayed).real();
      added = filter.a[mode] * added + w[t];
      if (t + 1 < w.size()) decayed *= filter.a[mode];
    }
    s[mode] = decayed + filter.b[mode] * added;
  }
}

void ssm_kernel_gradient(const HeadFilter& filter, const std::vector<double>& d_kernel,
                         HeadFilterGradient& gradient) {
  for (std::size_t mode = 0; mode < filter.a.size(); ++mode) {
    Complex power = 1.0, sum = 0.0, weighted = 0.0;
    for (std::size_t lag = 0; lag < d_kernel.size(); ++lag) {
      sum += power * d_kernel[lag];
      weighted += power * (static_cast<double>(lag) * d_kernel[lag]);
      power *= filter.a[mode];
    }
    gradient.gain[mode] += 2.0 * std::conj(sum);
    gradient.log_a[mode] += 2.0 * std::conj(filter.c[mode] * filter.b[mode] * weighted);
  }
}

void ssm_short_with_adjoint(const std::vector<double>& kernel, double skip, const std::vector<double>& w,
                            const std::vector<double>& d_z, std::vector<double>& z, std::vector<double>& d_w,
                            std::vector<double>& d_kernel) {
  const std::size_t length = w.size();
  for (std::size_t s = 0; s < length; ++s) {
    const double input = w[s];
    const double* later = d_z.data() + s;
    double* outputs = z.data() + s;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::size_t lag = 0; lag < length - s; ++lag) {
      outputs[lag] += kernel[lag] * input;
      sum += kernel[lag] * later[lag];
      d_kernel[lag] += input * later[lag];
    }
    z[s] += skip * input;
    d_w[s] += sum + skip * d_z[s];
  }
}

void ssm_recurrence_backward(const HeadFilter& filter, const std::vector<double>& w, const std::vector<double>& d_z,
                             const std::vector<Complex>& entry, std::vector<Complex>& d_state,
                             std::vector<double>& d_w, HeadFilterGradient& gradient) {
  for (std::size_t t = 0; t < w.size(); ++t) {
    d_w[t] += filter.d * d_z[t];
    gradient.d += w[t] * d_z[t];
  }
  std::vector<Complex> past(w.size());  // a x_{t-1}
  for (std::size_t mode = 0; mode < filter.a.size(); ++mode) {
    const Complex a = filter.a[mode];
    const Complex gain = filter.c[mode] * filter.b[mode];
    Complex decayed = a * entry[mode];
    for (std::size_t t = 0; t < w.size(); ++t) {
      past[t] = decayed;
      decayed = a * (decayed + w[t]);
    }
    Complex r = 0.0, later = d_state[mode], gain_sum = 0.0, a_sum = 0.0, a_sum_of_later = 0.0;
    for (std::size_t t = w.size(); t-- > 0;) {
      r = d_z[t] + std::conj(a) * r;
      d_w[t] += 2 * (std::conj(gain) * r).real() + later.real();
      gain_sum += std::conj(past[t] + w[t]) * d_z[t];
      a_sum += std::conj(past[t]) * r;
      a_sum_of_later += std::conj(past[t]) * later;
      later *= std::conj(a);
    }
    gradient.gain[mode] += 2.0 * gain_sum;
    gradient.log_a[mode] += 2.0 * std::conj(gain) * a_sum + a_sum_of_later;
    d_state[mode] = 2.0 * std::conj(gain * a) * r + later;
  }
}

void ssm_fft_backward(const HeadFilter& filter, const std::vector<double>& w, const std::vector<double>& d_z,
                      std::vector<double>& d_w, HeadFilterGradient& gradient) {
  const std::vector<double> kernel = ssm_kernel_values(filter, static_cast<std::int64_t>(w.size()));
  const std::vector<double> inside = causal_correlation(d_z, kernel);
  for (std::size_t t = 0; t < w.size(); ++t) {
    d_w[t] += inside[t] + filter.d * d_z[t];
    gradient.d += w[t] * d_z[t];
  }
  ssm_kernel_gradient(filter, causal_correlation(d_z, w), gradient);
}

void store_modes(const HeadFilterGradient& gradient, const H3FilterGradient& out, std::int64_t head) {
  const auto store = [&](const std::vector<Complex>& values, const Tensor& tensor) {
    float* row = floats(tensor) + 2 * head * static_cast<std::int64_t>(values.size());
    for (const Complex value : values) {
      *row++ = static_cast<float>(value.real());
      *row++ = static_cast<float>(value.imag());
    }
  };
  store(gradient.log_a, out.log_a);
  store(gradient.gain, out.gain);
}

void CpuEncoder::record_ssm_kernel(const SsmKernelArgs& args) {
  add("ssm_kernel", [args] {
    const std::int64_t length = args.kernel.shape[1];
#pragma omp parallel for
    for (std::int64_t head = 0; head < args.kernel.shape[0]; ++head) {
      const std::vector<double> kernel = ssm_kernel_values(head_filter(args.filter, head), length);
      std::transform(kernel.begin(), kernel.end(), floats(args.kernel) + head * length,
                     [](double value) { return static_cast<float>(value); });
    }
  });
}

void CpuEncoder::record_ssm_kernel_backward(const SsmKernelBackwardArgs& args) {
  add("ssm_kernel_backward", [args] {
    const std::int64_t length = args.d_kernel.shape[1];
#pragma omp parallel for
    for (std::int64_t head = 0; head < args.d_kernel.shape[0]; ++head) {
      const HeadFilter filter = head_filter(args.filter, head);
      const float* d_kernel = floats(args.d_kernel) + head * length;
      HeadFilterGradient gradient(filter.a.size());
      ssm_kernel_gradient(filter, {d_kernel, d_kernel + length}, gradient);
      store_modes(gradient, args.d_filter, head);
    }
  });
}

}  // namespace riverhorse::cpu
