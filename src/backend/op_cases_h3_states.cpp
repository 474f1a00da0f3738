// The states that a forward pass keeps for the backward pass, by the recurrence in double.
#include <algorithm>
#include <complex>

#include "backend/op_cases_h3.h"

namespace riverhorse::op_cases_detail {

std::vector<float> entry_states(CaseBuilder& builder, const MixerShape& m, const FilterTensors& filter, int qkv) {
  constexpr std::int64_t every = H3Filter::superchunk;
  const auto values = [&](int index) { return builder.tensor(index).floats.data(); };
  const std::int64_t part = m.width * m.batch * m.tokens, modes = m.state / 2;
  const std::int64_t count = (m.tokens + every - 1) / every;
  std::vector<float> states(static_cast<std::size_t>(m.width * m.batch * count * m.state));
  if (count == 1) return states;
  for (std::int64_t row = 0; row < m.width * m.batch; ++row) {
    const std::int64_t channel = row / m.batch;
    const float *keys = values(qkv) + part + row * m.tokens, *factors = keys + part;
    const float* taps = values(filter.shift_taps) + channel * m.state;
    const auto weight = [&](int index, std::int64_t mode, int stride) {
      const float* parts = values(index) + (channel * modes + mode) * stride;
      return std::complex<double>(parts[0], parts[1]);
    };
    std::vector<std::complex<double>> s(static_cast<std::size_t>(modes));
    for (std::int64_t t = 0; t < m.tokens; ++t) {
      double shifted = 0;
      for (std::int64_t lag = 0; lag < std::min(m.state, t + 1); ++lag) shifted += taps[lag] * keys[t - lag];
      for (std::int64_t mode = 0; mode < modes; ++mode) {
        if (t % every == 0) {
          float* state = states.data() + (row * count + t / every) * m.state + 2 * mode;
          state[0] = static_cast<float>(s[mode].real());
          state[1] = static_cast<float>(s[mode].imag());
        }
        s[mode] = weight(filter.a, mode, 4) * s[mode] + weight(filter.b, mode, 2) * (shifted * factors[t]);
      }
    }
  }
  return states;
}

}  // namespace riverhorse::op_cases_detail
