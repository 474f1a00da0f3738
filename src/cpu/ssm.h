// The diagonal SSM of one head, in double, as the H3 operations share it.
#pragma once

#include <complex>
#include <cstdint>
#include <vector>

#include "backend/ops.h"

namespace riverhorse::cpu {

using Complex = std::complex<double>;

struct HeadFilter {
  std::vector<Complex> a, b, c;  // (n)
  double d = 0;
};

HeadFilter head_filter(const H3Filter& filter, std::int64_t head);

// kernel[l] = 2 Re sum_n c b a^l, no skip
std::vector<double> ssm_kernel_values(const HeadFilter& filter, std::int64_t length);

// y[t] = sum_{s <= t} kernel[t - s] u[s] for t < u.size(); kernel at least as long. By FFT, in double.
std::vector<double> causal_convolution(const std::vector<double>& u, const std::vector<double>& kernel);

// Adds to `z` what the SSM makes of w from state s (n), and moves the state on: z_t = D w_t + 2 Re sum c s,
// s <- a s + b w. Three ways to the same numbers.
void ssm_recurrence(const HeadFilter& filter, const std::vector<double>& w, std::vector<Complex>& s,
                    std::vector<double>& z);
void ssm_chunked(const HeadFilter& filter, const std::vector<double>& w, std::vector<Complex>& s,
                 std::vector<double>& z);
void ssm_fft(const HeadFilter& filter, const std::vector<double>& w, std::vector<Complex>& s, std::vector<double>& z);

}  // namespace riverhorse::cpu
