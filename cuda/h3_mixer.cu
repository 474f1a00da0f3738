// The H3 mixer and its one-token step, for any head_dim, state size, length, starting state and activation dtype
// (h3_mixer_chunked.cu and h3_step.cu are the fast ways to most):
//   k'_t = sum_j f_j k_{t-j};  w_ij = k'_i v_j;  s <- a s + b w;  z = D w + 2 Re sum_n c_n s_n;  y_j = sum_i q_i z_ij
//
// A warp has one output channel of one sequence and walks along it, 32 tokens at a time. Its lanes are tokens while
// k', w and y are made, and modes while the recurrence runs; shared memory turns one view into the other. More than
// 32 modes, or channels i of the head, are passes one after the other. Every output is a sum over its own past in one
// order, so that the future cannot change a bit of it.
#include "encoder.h"
#include "h3_mixer.cuh"
#include "h3_mixer_chunked.cuh"

namespace riverhorse::cuda {

namespace {

// Where the elements are: channel c, sequence b, token t at c channel + b sequence + t.
struct Strides {
  std::int64_t channel, sequence;
};

template <typename T>
struct Mixing {
  const T *q, *k, *v;
  T* y;
  Strides in, out;
  float* sums;  // (D, B, L), or null with a single pass
  std::int64_t batch, tokens, head_dim;
  HeadOrder order;
  Filter filter;
  const std::int32_t *slots, *positions;
  float *shift, *modes;  // the carried state, or null
  float* entry_states;   // or null
};

template <typename T>
__global__ void __launch_bounds__(mixer_threads) mix(Mixing<T> m) {
  __shared__ Turn turns[mixer_warps];
  Turn& turn = turns[threadIdx.x / warp_size];
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * mixer_warps + threadIdx.x / warp_size;
  const std::int64_t state = m.filter.state, modes = m.filter.modes;
  if (index >= m.filter.width * m.batch) return;
  const std::int64_t b = index % m.batch, channel = index / m.batch;
  const std::int64_t head = channel / m.head_dim, j = channel % m.head_dim;
  const std::int64_t slot = m.slots != nullptr ? m.slots[b] : 0;
  const std::int64_t position = m.slots != nullptr ? m.positions[slot] : 0;
  const T* values = m.v + channel * m.in.channel + b * m.in.sequence;
  const std::int64_t out =
      output_channel(m.order, m.filter.heads, m.head_dim, head, j) * m.out.channel + b * m.out.sequence;
  const float skip = m.filter.d[head];

  for (std::int64_t group = 0; group < modes; group += warp_size) {
    const std::int64_t mode = group + lane;
    const bool has_mode = mode < modes;
    Decay decay;
    Complex<float> input, output;
    if (has_mode) {
      decay = Decay(m.filter, head * modes + mode);
      input = m.filter.input(head * modes + mode);
      output = m.filter.output(head * modes + mode);
    }
    for (std::int64_t i = 0; i < m.head_dim; ++i) {
      const std::int64_t key_channel = head * m.head_dim + i;
      const T* keys = m.k + key_channel * m.in.channel + b * m.in.sequence;
      const T* queries = m.q + key_channel * m.in.channel + b * m.in.sequence;
      const float* taps = m.filter.taps + key_channel * state;
      const float* ring = m.shift != nullptr ? m.shift + (slot * m.filter.width + key_channel) * state : nullptr;
      float* carried = m.modes != nullptr && has_mode
                           ? m.modes + 2 * (((slot * m.filter.width + key_channel) * m.head_dim + j) * modes + mode)
                           : nullptr;
      Complex<float> s;
      if (carried != nullptr) s = {carried[0], carried[1]};
      const bool first = group == 0 && i == 0;
      const bool last = group + warp_size >= modes && i + 1 == m.head_dim;

      for (std::int64_t begin = 0; begin < m.tokens; begin += warp_size) {
        const std::int64_t t = begin + lane;
        const int count = static_cast<int>(min(m.tokens - begin, static_cast<std::int64_t>(warp_size)));
        if (m.entry_states != nullptr && has_mode && begin % H3Filter::superchunk == 0) {
          const std::int64_t superchunks = divide_up(m.tokens, H3Filter::superchunk);
          const std::int64_t before = (channel * m.batch + b) * superchunks + begin / H3Filter::superchunk;
          m.entry_states[2 * (before * modes + mode)] = s.re;
          m.entry_states[2 * (before * modes + mode) + 1] = s.im;
        }
        float w = 0;
        if (m.tokens == 1) {  // one token: the lanes share its lags
          float shifted = 0;
          for (std::int64_t lag = lane; lag < state; lag += warp_size) {
            shifted += taps[lag] * key_at(keys, ring, position, state, -lag);
          }
          w = warp_sum(shifted) * to_float(values[0]);
        } else if (t < m.tokens) {
          float shifted = 0;
          for (std::int64_t lag = 0; lag < state; ++lag) {
            shifted += taps[lag] * key_at(keys, ring, position, state, t - lag);
          }
          w = shifted * to_float(values[t]);
        }
        for (int token = 0; token < count; ++token) {
          const float w_now = __shfl_sync(all_lanes, w, token);
          s = decay(s);
          s.re = fmaf(input.re, w_now, s.re);
          s.im = fmaf(input.im, w_now, s.im);
          turn.values[token][lane] = 2 * (output.re * s.re - output.im * s.im);
        }
        __syncwarp();
        if (t < m.tokens) {
          float z = turn.sum(lane);
          if (group == 0) z += skip * w;
          add_pass(m.sums, m.y, out + t, to_float(queries[t]) * z, first, last);
        }
        __syncwarp();
      }
      if (carried != nullptr) {
        carried[0] = s.re;
        carried[1] = s.im;
      }
    }
  }
}

// The last N keys of each channel and sequence go where the next call looks for them. After mix(), which reads the
// old.
template <typename T>
__global__ void keep_keys(Mixing<T> m) {
  const std::int64_t state = m.filter.state, kept = min(state, m.tokens);
  for (std::int64_t i = first_element(); i < m.filter.width * m.batch * kept; i += element_stride()) {
    const std::int64_t b = i / kept % m.batch, channel = i / kept / m.batch;
    const std::int64_t t = m.tokens - 1 - i % kept;
    const std::int64_t slot = m.slots[b];
    m.shift[(slot * m.filter.width + channel) * state + (m.positions[slot] + t) % state] =
        to_float(m.k[channel * m.in.channel + b * m.in.sequence + t]);
  }
}

// Of a call or a step; `part`: elements from q to k and from k to v.
template <typename T, typename Args>
Mixing<T> mixing_of(const Args& args, std::int64_t part, Strides in, Strides out, const Tensor& sums,
                    std::int64_t batch, std::int64_t tokens) {
  const T* q = data<T>(args.qkv);
  return {.q = q,
          .k = q + part,
          .v = q + 2 * part,
          .y = data<T>(args.y),
          .in = in,
          .out = out,
          .sums = data<float>(sums),
          .batch = batch,
          .tokens = tokens,
          .head_dim = args.head_dim,
          .order = args.head_order,
          .filter = Filter(args.filter),
          .slots = data<std::int32_t>(args.slots),
          .positions = data<std::int32_t>(args.positions),
          .shift = data<float>(args.state.shift),
          .modes = data<float>(args.state.modes),
          .entry_states = nullptr};
}

template <typename T>
void launch_walk(cudaStream_t stream, const Mixing<T>& mixing) {
  const std::int64_t channels = mixing.filter.width * mixing.batch;
  launch(mix<T>, grid_of(divide_up(channels, mixer_warps)), mixer_threads, 0, stream, mixing);
}

template <typename T>
void launch_keep_keys(cudaStream_t stream, const Mixing<T>& mixing) {
  if (mixing.shift == nullptr) return;
  const std::int64_t kept = mixing.filter.width * mixing.batch * std::min(mixing.filter.state, mixing.tokens);
  launch(keep_keys<T>, element_grid(kept), element_threads, 0, stream, mixing);
}

}  // namespace

void CudaEncoder::record_h3_mixer(const H3MixerArgs& args) {
  const std::int64_t width = args.y.shape[0], batch = args.y.shape[1], tokens = args.y.shape[2];
  const bool by_fft = args.algorithm == ConvAlgorithm::fft;
  const bool single_pass = by_fft || (args.head_dim == 1 && args.filter.a.shape[1] <= warp_size);
  ScratchScope scope(*this);
  const Tensor sums = single_pass ? Tensor() : scratch(DType::f32, {width, batch, tokens});
  const bool chunked = mixer_is_chunked(args.filter, args.head_dim, tokens);
  if (by_fft) record_h3_mixer_fft(args);
  const int multiprocessors = limits_.multiprocessors;
  const auto name = by_fft ? "h3_mixer.fft" : chunked ? "h3_mixer.chunked" : "h3_mixer.recurrence";
  const auto run = [args, sums, width, batch, tokens, by_fft, chunked, multiprocessors](Launch turn) {
    with_activation(args.y.dtype, [&](auto type) {
      using T = decltype(type);
      const Strides strides{batch * tokens, tokens};
      Mixing<T> mixing = mixing_of<T>(args, width * batch * tokens, strides, strides, sums, batch, tokens);
      mixing.entry_states = data<float>(args.entry_states);
      if (!by_fft && chunked) {
        mix_chunked(turn, args, multiprocessors);
      } else if (!by_fft) {
        launch_walk(turn.stream, mixing);
      }
      launch_keep_keys(turn.stream, mixing);
    });
  };
  if (by_fft || !chunked) return add(name, run);
  const H3Filter& filter = args.filter;
  add_in_turn(name, {filter.b, filter.c, filter.shift_taps, filter.powers, filter.toeplitz},
              {args.y, args.entry_states, args.state.shift, args.state.modes}, run);
}

void CudaEncoder::record_h3_step_walk(const H3StepArgs& args) {
  const std::int64_t batch = args.y.shape[0], width = args.y.shape[1];
  const bool single_pass = args.head_dim == 1 && args.filter.a.shape[1] <= warp_size;
  ScratchScope scope(*this);
  const Tensor sums = single_pass ? Tensor() : scratch(DType::f32, {batch, width});
  add("h3_step", [args, sums, batch, width](cudaStream_t stream) {
    with_activation(args.y.dtype, [&](auto type) {
      using T = decltype(type);
      const Mixing<T> mixing = mixing_of<T>(args, width, Strides{1, 3 * width}, Strides{1, width}, sums, batch, 1);
      launch_walk(stream, mixing);
      launch_keep_keys(stream, mixing);
    });
  });
}

}  // namespace riverhorse::cuda
