// The H3 mixer of one head, as ops.h defines it:
//   k'_t = sum_j f_j k_{t-j};  w_ij = k'_i v_j;  z_ij = SSM(w_ij);  y_j = sum_i q_i z_ij.
// All in double within a call; the carried state is stored in fp32 between calls. Heads and sequences share nothing,
// so they run in parallel. Every output is a sum over its own past only, in an order that the future cannot change
// (the `fft` way is causal up to rounding only: that is its nature).
#include "cpu/h3_mixer.h"

#include <algorithm>
#include <vector>

#include "cpu/cpu_encoder.h"
#include "cpu/ssm.h"

namespace riverhorse::cpu {

namespace {

// k' of one channel; afterwards the ring holds the last N keys.
std::vector<double> shift_channel(const H3HeadArgs& args, std::int64_t channel) {
  const std::int64_t state = args.filter.shift_taps.shape[1];
  const std::int64_t width = args.filter.shift_taps.shape[0];
  const float* taps = floats(args.filter.shift_taps) + channel * state;
  const float* keys = args.k + channel * args.channel_stride;
  float* ring = floats(args.state.shift) + (args.slot * width + channel) * state;

  // The last N - 1 keys before this call, then this call's.
  std::vector<double> line(static_cast<std::size_t>(state - 1 + args.tokens), 0.0);
  for (std::int64_t i = 0; i < state - 1; ++i) {
    const std::int64_t position = args.position - (state - 1) + i;
    if (position >= 0) line[i] = ring[position % state];
  }
  for (std::int64_t t = 0; t < args.tokens; ++t) line[state - 1 + t] = keys[t];

  std::vector<double> shifted(static_cast<std::size_t>(args.tokens), 0.0);
  for (std::int64_t t = 0; t < args.tokens; ++t) {
    for (std::int64_t lag = 0; lag < state; ++lag) shifted[t] += taps[lag] * line[state - 1 + t - lag];
  }
  for (std::int64_t t = std::max<std::int64_t>(0, args.tokens - state); t < args.tokens; ++t) {
    ring[(args.position + t) % state] = keys[t];
  }
  return shifted;
}

}  // namespace

void h3_mix_head(const H3HeadArgs& args) {
  const std::int64_t d = args.head_dim;
  const std::int64_t heads = args.filter.a.shape[0];
  const std::int64_t width = heads * d;
  const std::int64_t modes = args.filter.a.shape[1];
  const HeadFilter filter = head_filter(args.filter, args.head);

  std::vector<std::vector<double>> shifted;
  for (std::int64_t i = 0; i < d; ++i) shifted.push_back(shift_channel(args, args.head * d + i));

  std::vector<double> w(static_cast<std::size_t>(args.tokens)), z(w.size()), y(w.size());
  std::vector<Complex> s(static_cast<std::size_t>(modes));
  for (std::int64_t j = 0; j < d; ++j) {
    const float* value = args.v + (args.head * d + j) * args.channel_stride;
    std::fill(y.begin(), y.end(), 0.0);
    for (std::int64_t i = 0; i < d; ++i) {
      float* stored = floats(args.state.modes) + 2 * modes * (args.slot * width * d + (args.head * d + i) * d + j);
      for (std::int64_t mode = 0; mode < modes; ++mode) s[mode] = {stored[2 * mode], stored[2 * mode + 1]};
      for (std::int64_t t = 0; t < args.tokens; ++t) w[t] = shifted[i][t] * value[t];
      std::fill(z.begin(), z.end(), 0.0);
      switch (args.algorithm) {
        case ConvAlgorithm::automatic: ssm_recurrence(filter, w, s, z); break;
        case ConvAlgorithm::chunked: ssm_chunked(filter, w, s, z); break;
        case ConvAlgorithm::fft: ssm_fft(filter, w, s, z); break;
      }
      const float* query = args.q + (args.head * d + i) * args.channel_stride;
      for (std::int64_t t = 0; t < args.tokens; ++t) y[t] += query[t] * z[t];
      for (std::int64_t mode = 0; mode < modes; ++mode) {
        stored[2 * mode] = static_cast<float>(s[mode].real());
        stored[2 * mode + 1] = static_cast<float>(s[mode].imag());
      }
    }
    const std::int64_t channel = args.head_order == HeadOrder::head_major ? args.head * d + j : j * heads + args.head;
    std::transform(y.begin(), y.end(), args.y + channel * args.channel_stride,
                   [](double sum) { return static_cast<float>(sum); });
  }
}

void CpuEncoder::record_h3_mixer(const H3MixerArgs& args) {
  require_f32("h3_mixer", {&args.qkv, &args.y});
  add("h3_mixer", [args] {
    const std::int64_t width = args.y.shape[0];
    const std::int64_t batch = args.y.shape[1];
    const std::int64_t tokens = args.y.shape[2];
    const std::int64_t heads = args.filter.a.shape[0];
    const std::int64_t part = width * batch * tokens;
    check_positions("h3_mixer", args.slots, args.positions);
#pragma omp parallel for schedule(dynamic)
    for (std::int64_t index = 0; index < batch * heads; ++index) {
      const std::int64_t sequence = index % batch;
      const std::int64_t slot = integers(args.slots)[sequence];
      const float* qkv = floats(args.qkv) + sequence * tokens;
      h3_mix_head({.q = qkv,
                   .k = qkv + part,
                   .v = qkv + 2 * part,
                   .y = floats(args.y) + sequence * tokens,
                   .channel_stride = batch * tokens,
                   .tokens = tokens,
                   .filter = args.filter,
                   .head_dim = args.head_dim,
                   .head_order = args.head_order,
                   .algorithm = args.algorithm,
                   .head = index / batch,
                   .slot = slot,
                   .position = integers(args.positions)[slot],
                   .state = args.state});
    }
  });
}

}  // namespace riverhorse::cpu
