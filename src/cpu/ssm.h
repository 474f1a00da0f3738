// The diagonal SSM of one head, in double, as the H3 operations share it.
#pragma once

#include <complex>
#include <cstdint>
#include <vector>

#include "backend/ops.h"
#include "backend/training_ops.h"

namespace riverhorse::cpu {

using Complex = std::complex<double>;

struct HeadFilter {
  std::vector<Complex> a, b, c;  // (n)
  double d = 0;
};

HeadFilter head_filter(const H3Filter& filter, std::int64_t head);

// Gradients of complex numbers x = u + iv are g = d loss / du + i d loss / dv, so that d loss = Re(conj(g) dx).
struct HeadFilterGradient {
  std::vector<Complex> log_a, gain;  // (n); gain = c b
  double d = 0;

  explicit HeadFilterGradient(std::size_t modes) : log_a(modes), gain(modes) {}
};

// Writes log_a and gain of one head.
void store_modes(const HeadFilterGradient& gradient, const H3FilterGradient& out, std::int64_t head);

// kernel[l] = 2 Re sum_n c b a^l, no skip
std::vector<double> ssm_kernel_values(const HeadFilter& filter, std::int64_t length);

// y[t] = sum_{s <= t} kernel[t - s] u[s] for t < u.size(); kernel at least as long. By FFT, in double.
std::vector<double> causal_convolution(const std::vector<double>& u, const std::vector<double>& kernel);

// Its adjoint in either argument: out[s] = sum_{t >= s} g[t] x[t - s] for s < g.size(); x at least as long.
std::vector<double> causal_correlation(const std::vector<double>& g, const std::vector<double>& x);

// Adds to `z` what the SSM makes of w from state s (n), and moves the state on: z_t = D w_t + 2 Re sum c s,
// s <- a s + b w. Three ways to the same numbers.
void ssm_recurrence(const HeadFilter& filter, const std::vector<double>& w, std::vector<Complex>& s,
                    std::vector<double>& z);
void ssm_chunked(const HeadFilter& filter, const std::vector<double>& w, std::vector<Complex>& s,
                 std::vector<double>& z);
void ssm_fft(const HeadFilter& filter, const std::vector<double>& w, std::vector<Complex>& s, std::vector<double>& z);

// Of ssm_kernel_values; adds to log_a and gain.
void ssm_kernel_gradient(const HeadFilter& filter, const std::vector<double>& d_kernel, HeadFilterGradient& gradient);

// The SSM from state 0 and its adjoint in one, for short sequences: L^2 / 2 steps, whatever the number of modes. Adds
// to z, d_w and d_kernel, (L) each as `kernel`, w and d_z are; the skip's own gradient is left to the caller.
void ssm_short_with_adjoint(const std::vector<double>& kernel, double skip, const std::vector<double>& w,
                            const std::vector<double>& d_z, std::vector<double>& z, std::vector<double>& d_w,
                            std::vector<double>& d_kernel);

// Of the SSM: adds to d_w and to the filter's gradient. Two ways to the same numbers, the second from state 0. With
// x = s / b, `entry` is x before the first token, and `d_state` (n) comes in as the gradient of x after the last one,
// and goes out as that of `entry`.
void ssm_recurrence_backward(const HeadFilter& filter, const std::vector<double>& w, const std::vector<double>& d_z,
                             const std::vector<Complex>& entry, std::vector<Complex>& d_state,
                             std::vector<double>& d_w, HeadFilterGradient& gradient);
void ssm_fft_backward(const HeadFilter& filter, const std::vector<double>& w, const std::vector<double>& d_z,
                      std::vector<double>& d_w, HeadFilterGradient& gradient);

}  // namespace riverhorse::cpu
