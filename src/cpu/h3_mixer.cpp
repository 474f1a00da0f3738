// The H3 mixer of one head, as ops.h defines it:
//   k'_t = sum_j f_j k_{t-j};  w_ij = k'_i v_j;  z_ij = SSM(w_ij);  y_j = sum_i q_i z_ij.
// All in double within a call; the carried state is stored in fp32 between calls. Heads and sequences share nothing,
// so they run in parallel. Every output is a sum over its own past only, in an order that the future cannot change
// (the `fft` way is causal up to rounding only: that is its nature).
//
// Backward, of one head over all sequences, sums over i and j in order:
//   d_q_i = sum_j d_y_j z_ij;  d_z_ij = q_i d_y_j;  d_w_ij = the SSM's adjoint of d_z_ij
//   d_k'_i = sum_j d_w_ij v_j;  d_v_j = sum_i d_w_ij k'_i
//   d_k_t = sum_lag f_lag d_k'_{t+lag};  d_f_lag = sum_t d_k'_t k_{t-lag}
#include "cpu/h3_mixer.h"

#include <algorithm>
#include <functional>
#include <vector>

#include "cpu/cpu_encoder.h"
#include "cpu/ssm.h"

namespace riverhorse::cpu {

namespace {

// k'_t = sum_lag taps[lag] line[N - 1 + t - lag]: `line` is the N - 1 keys before the call, of which the last `known`
// are not zero, then those of the call.
std::vector<double> shift(const float* taps, std::int64_t state, const std::vector<double>& line,
                          std::int64_t known) {
  const auto tokens = static_cast<std::int64_t>(line.size()) - (state - 1);
  std::vector<double> shifted(static_cast<std::size_t>(tokens), 0.0);
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::int64_t lags = std::min(state, t + 1 + known);
    for (std::int64_t lag = 0; lag < lags; ++lag) shifted[t] += taps[lag] * line[state - 1 + t - lag];
  }
  return shifted;
}

// k' of one channel; afterwards the ring holds the last N keys.
std::vector<double> shift_channel(const H3HeadArgs& args, std::int64_t channel) {
  const std::int64_t state = args.filter.shift_taps.shape[1];
  const std::int64_t width = args.filter.shift_taps.shape[0];
  const float* taps = floats(args.filter.shift_taps) + channel * state;
  const float* keys = args.k + channel * args.channel_stride;
  float* ring = args.state.shift ? floats(args.state.shift) + (args.slot * width + channel) * state : nullptr;

  std::vector<double> line(static_cast<std::size_t>(state - 1 + args.tokens), 0.0);
  for (std::int64_t i = 0; i < state - 1; ++i) {
    const std::int64_t position = args.position - (state - 1) + i;
    if (position >= 0) line[i] = ring[position % state];
  }
  for (std::int64_t t = 0; t < args.tokens; ++t) line[state - 1 + t] = keys[t];
  for (std::int64_t t = std::max<std::int64_t>(0, args.tokens - state); t < args.tokens && ring != nullptr; ++t) {
    ring[(args.position + t) % state] = keys[t];
  }
  return shift(taps, state, line, std::min(args.position, state - 1));
}

void ssm(ConvAlgorithm algorithm, const HeadFilter& filter, const std::vector<double>& w, std::vector<Complex>& s,
         std::vector<double>& z) {
  switch (algorithm) {
    case ConvAlgorithm::automatic: return ssm_recurrence(filter, w, s, z);
    case ConvAlgorithm::chunked: return ssm_chunked(filter, w, s, z);
    case ConvAlgorithm::fft: return ssm_fft(filter, w, s, z);
  }
}

// The same in pieces, the state before each written down.
void ssm_by_superchunks(const H3HeadArgs& args, const HeadFilter& filter, const std::vector<double>& w,
                        std::vector<Complex>& s, std::vector<double>& z) {
  float* entry = args.entry_states;
  constexpr std::ptrdiff_t most = H3Filter::superchunk;
  for (std::ptrdiff_t begin = 0; begin < args.tokens; begin += most) {
    const std::ptrdiff_t end = std::min<std::ptrdiff_t>(begin + most, args.tokens);
    for (const Complex& mode : s) {
      *entry++ = static_cast<float>(mode.real());
      *entry++ = static_cast<float>(mode.imag());
    }
    const std::vector<double> piece(w.begin() + begin, w.begin() + end);
    std::vector<double> result(piece.size());
    ssm(args.algorithm, filter, piece, s, result);
    std::copy(result.begin(), result.end(), z.begin() + begin);
  }
}

std::int64_t output_channel(HeadOrder order, std::int64_t heads, std::int64_t d, std::int64_t head, std::int64_t j) {
  return order == HeadOrder::head_major ? head * d + j : j * heads + head;
}

using Rows = std::vector<std::vector<double>>;

// The state that a sequence of the backward pass begins from, if it carries one.
struct EntryState {
  const H3MixerBackwardArgs& args;
  std::int64_t sequence;

  bool carried() const { return static_cast<bool>(args.slots); }
  std::int64_t slot() const { return carried() ? integers(args.slots)[sequence] : 0; }
  std::int64_t position() const { return carried() ? integers(args.positions)[slot()] : 0; }
  float* ring(const Tensor& shift, std::int64_t channel) const {
    return floats(shift) + (slot() * shift.shape[1] + channel) * shift.shape[2];
  }
  float* modes(const Tensor& tensor, std::int64_t pair) const {
    return floats(tensor) + (slot() * tensor.shape[1] + pair) * tensor.shape[2] * 2;
  }

  // The N - 1 keys before the first token.
  std::vector<double> keys(std::int64_t channel, std::int64_t state) const {
    std::vector<double> keys(static_cast<std::size_t>(state - 1), 0.0);
    for (std::int64_t before = 1; before < state && before <= position(); ++before) {
      keys[state - 1 - before] = ring(args.state.shift, channel)[(position() - before) % state];
    }
    return keys;
  }
  // d_line: of those keys, then of the call's, to which it adds what comes from behind.
  void pass_keys(std::int64_t channel, std::int64_t state, std::vector<double>& d_line) const {
    const auto tokens = static_cast<std::int64_t>(d_line.size()) - (state - 1);
    float* d_ring = ring(args.d_state.shift, channel);
    const std::vector<float> behind(d_ring, d_ring + state);
    for (std::int64_t t = std::max<std::int64_t>(0, tokens - state); t < tokens; ++t) {
      d_line[state - 1 + t] += behind[(position() + t) % state];
    }
    std::fill_n(d_ring, state, 0.0f);
    for (std::int64_t before = 1; before <= state && before <= position(); ++before) {
      const std::int64_t place = (position() - before) % state;
      const double kept = before + tokens <= state ? behind[place] : 0.0;
      d_ring[place] = static_cast<float>(kept + (before < state ? d_line[state - 1 - before] : 0.0));
    }
  }
  // x = s / b, and its gradient.
  void load_modes(const HeadFilter& filter, std::int64_t pair, std::vector<Complex>& x,
                  std::vector<Complex>& d_x) const {
    if (!carried()) return;
    const float *s = modes(args.state.modes, pair), *d_s = modes(args.d_state.modes, pair);
    for (std::size_t mode = 0; mode < x.size(); ++mode) {
      x[mode] = filter.b[mode] == 0.0 ? 0.0 : Complex(s[2 * mode], s[2 * mode + 1]) / filter.b[mode];
      d_x[mode] = std::conj(filter.b[mode]) * Complex(d_s[2 * mode], d_s[2 * mode + 1]);
    }
  }
  void pass_modes(const HeadFilter& filter, std::int64_t pair, const std::vector<Complex>& d_x) const {
    if (!carried()) return;
    float* d_s = modes(args.d_state.modes, pair);
    for (const Complex& gradient : d_x) {
      const Complex b = filter.b[static_cast<std::size_t>(&gradient - d_x.data())];
      const Complex passed = b == 0.0 ? 0.0 : gradient / std::conj(b);
      *d_s++ = static_cast<float>(passed.real());
      *d_s++ = static_cast<float>(passed.imag());
    }
  }
};

void mix_head_backward(const H3MixerBackwardArgs& args, std::int64_t head) {
  const std::int64_t d = args.head_dim;
  const std::int64_t heads = args.filter.a.shape[0];
  const std::int64_t width = heads * d;
  const std::int64_t batch = args.d_y.shape[1];
  const std::int64_t tokens = args.d_y.shape[2];
  const std::int64_t state = args.filter.shift_taps.shape[1];
  const HeadFilter filter = head_filter(args.filter, head);
  const auto length = static_cast<std::size_t>(tokens);
  HeadFilterGradient d_filter(filter.a.size());
  const bool is_short = !args.slots && args.algorithm == ConvAlgorithm::automatic && length <= 8 * filter.a.size();
  const std::vector<double> kernel = is_short ? ssm_kernel_values(filter, tokens) : std::vector<double>();
  std::vector<double> d_kernel(kernel.size());
  Rows d_taps(static_cast<std::size_t>(d), std::vector<double>(static_cast<std::size_t>(state)));

  for (std::int64_t sequence = 0; sequence < batch; ++sequence) {
    const EntryState entry{args, sequence};
    const std::int64_t known = std::min(entry.position(), state - 1);
    const auto at = [&](std::int64_t channel) { return (channel * batch + sequence) * tokens; };
    const auto load = [&](const Tensor& tensor, std::int64_t channel) {
      const float* values = floats(tensor) + at(channel);
      return std::vector<double>(values, values + tokens);
    };
    const auto store = [&](const std::vector<double>& values, std::int64_t channel) {
      std::transform(values.begin(), values.end(), floats(args.d_qkv) + at(channel),
                     [](double sum) { return static_cast<float>(sum); });
    };

    Rows lines, shifted, d_shifted, values, d_values, d_outputs;
    for (std::int64_t i = 0; i < d; ++i) {
      const std::int64_t channel = head * d + i;
      lines.push_back(load(args.qkv, width + channel));
      const std::vector<double> before = entry.keys(channel, state);
      lines.back().insert(lines.back().begin(), before.begin(), before.end());
      shifted.push_back(shift(floats(args.filter.shift_taps) + channel * state, state, lines.back(), known));
      values.push_back(load(args.qkv, 2 * width + channel));
      d_outputs.push_back(load(args.d_y, output_channel(args.head_order, heads, d, head, i)));
      d_shifted.emplace_back(length);
      d_values.emplace_back(length);
    }
    for (std::int64_t i = 0; i < d; ++i) {
      const std::vector<double> query = load(args.qkv, head * d + i);
      std::vector<double> d_query(length);
      for (std::int64_t j = 0; j < d; ++j) {
        std::vector<double> w(length), z(length), d_w(length), d_z(length);
        for (std::size_t t = 0; t < length; ++t) {
          w[t] = shifted[i][t] * values[j][t];
          d_z[t] = query[t] * d_outputs[j][t];
        }
        if (is_short) {
          ssm_short_with_adjoint(kernel, filter.d, w, d_z, z, d_w, d_kernel);
          for (std::size_t t = 0; t < length; ++t) d_filter.d += w[t] * d_z[t];
        } else {
          const std::int64_t pair = (head * d + i) * d + j;
          std::vector<Complex> x(filter.a.size()), d_x(x.size()), s(x.size());
          entry.load_modes(filter, pair, x, d_x);
          std::transform(x.begin(), x.end(), filter.b.begin(), s.begin(), std::multiplies<>());
          ssm(args.algorithm, filter, w, s, z);
          if (args.algorithm == ConvAlgorithm::fft) {
            ssm_fft_backward(filter, w, d_z, d_w, d_filter);
          } else {
            ssm_recurrence_backward(filter, w, d_z, x, d_x, d_w, d_filter);
          }
          entry.pass_modes(filter, pair, d_x);
        }
        for (std::size_t t = 0; t < length; ++t) {
          d_query[t] += d_outputs[j][t] * z[t];
          d_shifted[i][t] += d_w[t] * values[j][t];
          d_values[j][t] += d_w[t] * shifted[i][t];
        }
      }
      store(d_query, head * d + i);
    }
    for (std::int64_t i = 0; i < d; ++i) {
      const std::int64_t channel = head * d + i;
      const float* taps = floats(args.filter.shift_taps) + channel * state;
      std::vector<double> d_line(lines[i].size());
      for (std::int64_t t = 0; t < tokens; ++t) {
        for (std::int64_t lag = 0; lag < std::min(state, t + 1 + known); ++lag) {  // before them is nothing
          d_line[state - 1 + t - lag] += taps[lag] * d_shifted[i][t];
          d_taps[i][lag] += d_shifted[i][t] * lines[i][state - 1 + t - lag];
        }
      }
      if (entry.carried()) entry.pass_keys(channel, state, d_line);
      d_line.erase(d_line.begin(), d_line.begin() + state - 1);
      store(d_line, width + channel);
      store(d_values[i], 2 * width + channel);
    }
  }

  if (is_short) ssm_kernel_gradient(filter, d_kernel, d_filter);
  store_modes(d_filter, args.d_filter, head);
  floats(args.d_filter.d)[head] = static_cast<float>(d_filter.d);
  for (std::int64_t i = 0; i < d; ++i) {
    std::transform(d_taps[i].begin(), d_taps[i].end(), floats(args.d_filter.shift_taps) + (head * d + i) * state,
                   [](double sum) { return static_cast<float>(sum); });
  }
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
      const std::int64_t pair = args.slot * width * d + (args.head * d + i) * d + j;
      float* stored = args.state.modes ? floats(args.state.modes) + 2 * modes * pair : nullptr;
      for (std::int64_t mode = 0; mode < modes; ++mode) {
        s[mode] = stored == nullptr ? 0.0 : Complex(stored[2 * mode], stored[2 * mode + 1]);
      }
      for (std::int64_t t = 0; t < args.tokens; ++t) w[t] = shifted[i][t] * value[t];
      std::fill(z.begin(), z.end(), 0.0);
      if (args.entry_states == nullptr) {
        ssm(args.algorithm, filter, w, s, z);
      } else {
        ssm_by_superchunks(args, filter, w, s, z);
      }
      const float* query = args.q + (args.head * d + i) * args.channel_stride;
      for (std::int64_t t = 0; t < args.tokens; ++t) y[t] += query[t] * z[t];
      for (std::int64_t mode = 0; mode < modes && stored != nullptr; ++mode) {
        stored[2 * mode] = static_cast<float>(s[mode].real());
        stored[2 * mode + 1] = static_cast<float>(s[mode].imag());
      }
    }
    const std::int64_t channel = output_channel(args.head_order, heads, d, args.head, j);
    std::transform(y.begin(), y.end(), args.y + channel * args.channel_stride,
                   [](double sum) { return static_cast<float>(sum); });
  }
}

void CpuEncoder::record_h3_mixer(const H3MixerArgs& args) {
  require_f32("h3_mixer", {&args.qkv, &args.y});
  constexpr std::string_view names[] = {"h3_mixer.recurrence", "h3_mixer.chunked", "h3_mixer.fft"};
  add(names[static_cast<int>(args.algorithm)], [args] {
    const std::int64_t width = args.y.shape[0];
    const std::int64_t batch = args.y.shape[1];
    const std::int64_t tokens = args.y.shape[2];
    const std::int64_t heads = args.filter.a.shape[0];
    const std::int64_t part = width * batch * tokens;
    if (args.slots) check_positions("h3_mixer", args.slots, args.positions);
#pragma omp parallel for schedule(dynamic)
    for (std::int64_t index = 0; index < batch * heads; ++index) {
      const std::int64_t sequence = index % batch;
      const std::int64_t slot = args.slots ? integers(args.slots)[sequence] : 0;
      const float* qkv = floats(args.qkv) + sequence * tokens;
      const std::int64_t entry_floats =
          (tokens + H3Filter::superchunk - 1) / H3Filter::superchunk * args.filter.a.shape[1] * 2;
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
                   .position = args.slots ? integers(args.positions)[slot] : 0,
                   .state = args.state,
                   .entry_states = args.entry_states ? floats(args.entry_states) + index * entry_floats : nullptr});
    }
  });
}

// A head's sequences one after the other: the sums over them have one order.
void CpuEncoder::record_h3_mixer_backward(const H3MixerBackwardArgs& args) {
  require_f32("h3_mixer_backward", {&args.qkv, &args.d_y, &args.d_qkv});
  const bool by_fft = args.algorithm == ConvAlgorithm::fft;
  add(by_fft ? "h3_mixer_backward.fft" : "h3_mixer_backward.recurrence", [args] {
    if (args.slots) check_positions("h3_mixer_backward", args.slots, args.positions);
#pragma omp parallel for schedule(dynamic)
    for (std::int64_t head = 0; head < args.filter.a.shape[0]; ++head) mix_head_backward(args, head);
  });
}

}  // namespace riverhorse::cpu
