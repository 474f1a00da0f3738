// The H3 mixer's backward pass from an empty or a carried state, for every shape and dtype
// (h3_mixer_chunked_backward.cu has the fast one); formulae in src/cpu/ssm.cpp, with x_t = a x_{t-1} + w_t and gain =
// c b. A warp has one head of one sequence and the lanes change sides as in h3_mixer.cu. For each pair of channels
// and each group of 32 modes it walks twice:
//   forward, for z (of which d_q is made), leaving the state before every 32 tokens in scratch memory;
//   backward, 32 tokens at a time: x again from the state that was left, then r_t = d_z_t + conj(a) r_{t+1}, from
//   which d_w, d_gain and d_log_a.
// The gradient of the state that a sequence left, g, adds conj(a)^(L-1-t) g to that of x_t: it is walked beside r, as
// no gain divides it.
// k' and its gradient are fp32 in scratch memory, made and taken back by kernels with a thread an element. What a
// sequence adds to the filter's gradient is summed over sequences last, in their order.
#include "encoder.h"
#include "h3_mixer.cuh"
#include "h3_mixer_chunked_backward.h"

namespace riverhorse::cuda {

namespace {

// Fewer warps a block than the forward pass has: each needs 12.4 KiB of shared memory.
constexpr int backward_warps = 3;

template <typename T>
struct Backward {
  const T *qkv, *d_y;
  T* d_qkv;
  const float* shifted;  // k' (D, B, L)
  float* d_shifted;      // (D, B, L)
  float *d_q, *d_v;      // sums over passes (D, B, L), or null with a single pass
  float* entries;        // (B H, chunks, 32, 2): x before each chunk
  float *log_a, *gain;   // (B, H, n, 2): of each sequence
  float* skip;           // (B, H)
  std::int64_t batch, tokens, head_dim;
  HeadOrder order;
  Filter filter;
  const std::int32_t* slots;
  const float* modes;  // the carried state, or null
  float* d_modes;
};

// Keys before the call, by channel and sequence; none where nothing is carried.
struct EntryKeys {
  const std::int32_t *slots, *positions;
  const float* shift;

  explicit EntryKeys(const H3MixerBackwardArgs& args)
      : slots(data<std::int32_t>(args.slots)),
        positions(data<std::int32_t>(args.positions)),
        shift(data<float>(args.state.shift)) {}

  __device__ std::int64_t position(std::int64_t b) const { return slots != nullptr ? positions[slots[b]] : 0; }
  // In `tensor`, (S, D, N).
  template <typename Pointer>
  __device__ Pointer ring(Pointer tensor, const Filter& filter, std::int64_t channel, std::int64_t b) const {
    return slots != nullptr ? tensor + (slots[b] * filter.width + channel) * filter.state : nullptr;
  }
};

// k'_t = sum_lag f_lag k_{t - lag}
template <typename T>
__global__ void shift_keys(Filter filter, EntryKeys entry, const T* keys, std::int64_t batch, std::int64_t tokens,
                           float* shifted) {
  for (std::int64_t i = first_element(); i < filter.width * batch * tokens; i += element_stride()) {
    const std::int64_t t = i % tokens, b = i / tokens % batch, channel = i / tokens / batch;
    const float* taps = filter.taps + channel * filter.state;
    const float* ring = entry.ring(entry.shift, filter, channel, b);
    const std::int64_t position = entry.position(b);
    float sum = 0;
    for (std::int64_t lag = 0; lag < filter.state && lag <= t + position; ++lag) {
      sum += taps[lag] * key_at(keys + (i - t), ring, position, filter.state, t - lag);
    }
    shifted[i] = sum;
  }
}

// d_k_t = sum_lag f_lag d_k'_{t + lag}, and what comes from behind, of the last N keys.
template <typename T>
__global__ void shift_keys_backward(Filter filter, EntryKeys entry, const float* d_shift, const float* d_shifted,
                                    std::int64_t batch, std::int64_t tokens, T* d_keys) {
  for (std::int64_t i = first_element(); i < filter.width * batch * tokens; i += element_stride()) {
    const std::int64_t t = i % tokens, b = i / tokens % batch, channel = i / tokens / batch;
    const float* taps = filter.taps + channel * filter.state;
    float sum = 0;
    for (std::int64_t lag = 0; lag < filter.state && t + lag < tokens; ++lag) sum += taps[lag] * d_shifted[i + lag];
    if (d_shift != nullptr && t + filter.state >= tokens) {
      sum += entry.ring(d_shift, filter, channel, b)[(entry.position(b) + t) % filter.state];
    }
    d_keys[i] = from_float<T>(sum);
  }
}

// The gradient of the ring as it was before the call, in place of that of the ring that the call left. After
// shift_keys_backward(), which reads the latter.
__global__ void entry_keys_backward(Filter filter, EntryKeys entry, const float* d_shifted, std::int64_t batch,
                                    std::int64_t tokens, float* d_shift) {
  for (std::int64_t i = first_element(); i < filter.width * batch * filter.state; i += element_stride()) {
    const std::int64_t before = i % filter.state + 1, b = i / filter.state % batch,
                       channel = i / filter.state / batch;
    const std::int64_t position = entry.position(b);
    const float* taps = filter.taps + channel * filter.state;
    const float* d_k = d_shifted + (channel * batch + b) * tokens;
    float* d_ring = entry.ring(d_shift, filter, channel, b);
    // A text that is shorter than the ring has not come to this place yet.
    const std::int64_t place = (position - before + filter.state) % filter.state;
    float sum = 0;
    if (position >= before) {
      if (before + tokens <= filter.state) sum = d_ring[place];
      for (std::int64_t lag = before; lag < filter.state && lag - before < tokens; ++lag) {
        sum += taps[lag] * d_k[lag - before];
      }
    }
    d_ring[place] = sum;
  }
}

// d_f_lag = sum_t d_k'_t k_{t - lag}, of one sequence: a warp has a channel and a sequence, a lane a lag.
template <typename T>
__global__ void shift_taps_backward(Filter filter, EntryKeys entry, const T* keys, const float* d_shifted,
                                    std::int64_t batch, std::int64_t tokens, float* d_taps) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * mixer_warps + threadIdx.x / warp_size;
  if (row >= filter.width * batch) return;
  const std::int64_t channel = row / batch, b = row % batch, position = entry.position(b);
  const float* ring = entry.ring(entry.shift, filter, channel, b);
  for (std::int64_t lag = lane; lag < filter.state; lag += warp_size) {
    float total = 0;
    for (std::int64_t begin = 0; begin < tokens; begin += 64) {  // partial sums: less rounding over a long text
      float sum = 0;
      for (std::int64_t t = max(begin, lag - position); t < min(begin + 64, tokens); ++t) {
        sum += d_shifted[row * tokens + t] * key_at(keys + row * tokens, ring, position, filter.state, t - lag);
      }
      total += sum;
    }
    d_taps[(b * filter.width + channel) * filter.state + lag] = total;
  }
}

template <typename T>
__global__ void __launch_bounds__(backward_warps* warp_size) mix_backward(Backward<T> m) {
  __shared__ Turn turns[backward_warps], past_re[backward_warps], past_im[backward_warps];
  const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
  Turn& turn = turns[warp];
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * backward_warps + warp;
  const std::int64_t modes = m.filter.modes, heads = m.filter.heads;
  if (index >= heads * m.batch) return;
  const std::int64_t head = index / m.batch, b = index % m.batch;
  const std::int64_t part = m.filter.width * m.batch * m.tokens;
  const std::int64_t chunks = divide_up(m.tokens, warp_size);
  float* entries = m.entries + index * chunks * 2 * warp_size;
  const float skip = m.filter.d[head];
  const auto at = [&](std::int64_t channel) { return (channel * m.batch + b) * m.tokens; };
  float d_skip = 0;

  for (std::int64_t group = 0; group < modes; group += warp_size) {
    const std::int64_t mode = group + lane;
    const bool has_mode = mode < modes;
    Decay decay;
    Complex<float> gain;
    if (has_mode) {
      decay = Decay(m.filter, head * modes + mode);
      const Complex<double> exact = m.filter.gain(head * modes + mode);
      gain = {static_cast<float>(exact.re), static_cast<float>(exact.im)};
    }
    Complex<float> d_gain, d_log_a, d_log_a_later;
    const Complex<float> input = has_mode ? m.filter.input(head * modes + mode) : Complex<float>();
    const bool has_state = m.modes != nullptr && has_mode && norm(input) > 0;
    const bool last_group = group + warp_size >= modes;
    for (std::int64_t i = 0; i < m.head_dim; ++i) {
      for (std::int64_t j = 0; j < m.head_dim; ++j) {
        const std::int64_t i_begin = at(head * m.head_dim + i), j_begin = at(head * m.head_dim + j);
        const float* shifted = m.shifted + i_begin;
        const T* queries = m.qkv + i_begin;
        const T* values = m.qkv + 2 * part + j_begin;
        const T* d_y = m.d_y + at(output_channel(m.order, heads, m.head_dim, head, j));
        const bool first_j = group == 0 && j == 0, last_j = last_group && j + 1 == m.head_dim;
        const bool first_i = group == 0 && i == 0, last_i = last_group && i + 1 == m.head_dim;

        const std::int64_t state_at =
            m.modes == nullptr
                ? 0
                : 2 * (((m.slots[b] * m.filter.width + head * m.head_dim + i) * m.head_dim + j) * modes + mode);
        Complex<float> x, later;
        if (has_state) {
          x = Complex<float>(m.modes[state_at], m.modes[state_at + 1]) / input;
          later = conj(input) * Complex<float>(m.d_modes[state_at], m.d_modes[state_at + 1]);
        }
        for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
          const std::int64_t t = chunk * warp_size + lane;
          const bool inside = t < m.tokens;
          entries[(chunk * warp_size + lane) * 2] = x.re;
          entries[(chunk * warp_size + lane) * 2 + 1] = x.im;
          const float w = inside ? shifted[t] * to_float(values[t]) : 0.0f;
          for (int token = 0; token < warp_size; ++token) {
            x = decay(x);
            x.re += __shfl_sync(all_lanes, w, token);
            turn.values[token][lane] = 2 * (gain.re * x.re - gain.im * x.im);
          }
          __syncwarp();
          if (inside) {
            float z = turn.sum(lane);
            if (group == 0) z += skip * w;
            add_pass(m.d_q, m.d_qkv, i_begin + t, to_float(d_y[t]) * z, first_j, last_j);
          }
          __syncwarp();
        }

        Complex<float> r;
        for (std::int64_t chunk = chunks - 1; chunk >= 0; --chunk) {
          const std::int64_t t = chunk * warp_size + lane;
          const bool inside = t < m.tokens;
          const float key = inside ? shifted[t] : 0.0f, value = inside ? to_float(values[t]) : 0.0f;
          const float w = key * value;
          const float d_z = inside ? to_float(queries[t]) * to_float(d_y[t]) : 0.0f;
          x = {entries[(chunk * warp_size + lane) * 2], entries[(chunk * warp_size + lane) * 2 + 1]};
          for (int token = 0; token < warp_size; ++token) {  // a lane reads only what it wrote: no barrier
            x = decay(x);
            past_re[warp].values[token][lane] = x.re;
            past_im[warp].values[token][lane] = x.im;
            x.re += __shfl_sync(all_lanes, w, token);
          }
          Complex<float> chunk_gain, chunk_log_a, chunk_log_a_later;
          for (int token = warp_size - 1; token >= 0; --token) {
            const float d_z_now = __shfl_sync(all_lanes, d_z, token), w_now = __shfl_sync(all_lanes, w, token);
            r = decay.conjugate(r);
            r.re += d_z_now;
            turn.values[token][lane] = 2 * (gain.re * r.re + gain.im * r.im) + later.re;
            const Complex<float> past(past_re[warp].values[token][lane], past_im[warp].values[token][lane]);
            if (chunk * warp_size + token < m.tokens) {
              chunk_log_a_later += conj(past) * later;
              later = decay.conjugate(later);
            }
            chunk_gain += d_z_now * Complex<float>(past.re + w_now, -past.im);
            chunk_log_a += conj(past) * r;
          }
          d_gain += chunk_gain;
          d_log_a += chunk_log_a;
          d_log_a_later += chunk_log_a_later;
          __syncwarp();
          if (inside) {
            float d_w = turn.sum(lane);
            if (group == 0) {
              d_w += skip * d_z;
              d_skip += w * d_z;
            }
            add_pass(m.d_shifted, m.d_shifted, i_begin + t, d_w * value, first_j, last_j);
            add_pass(m.d_v, m.d_qkv + 2 * part, j_begin + t, d_w * key, first_i, last_i);
          }
          __syncwarp();
        }
        if (m.modes != nullptr && has_mode) {
          const Complex<float> d_x = 2.0f * (conj(gain) * decay.conjugate(r)) + later;
          const Complex<float> passed = has_state ? d_x / conj(input) : Complex<float>();
          m.d_modes[state_at] = passed.re;
          m.d_modes[state_at + 1] = passed.im;
        }
      }
    }
    if (has_mode) {
      const std::int64_t out = 2 * ((b * heads + head) * modes + mode);
      const Complex<float> by_log_a = conj(gain) * d_log_a;
      m.gain[out] = 2 * d_gain.re;
      m.gain[out + 1] = 2 * d_gain.im;
      m.log_a[out] = 2 * by_log_a.re + d_log_a_later.re;
      m.log_a[out + 1] = 2 * by_log_a.im + d_log_a_later.im;
    }
  }
  d_skip = warp_sum(d_skip);
  if (lane == 0) m.skip[b * heads + head] = d_skip;
}

// out[i] = the sum of parts (count, size) over the first dimension, in order.
__global__ void sum_sequences(const float* parts, std::int64_t count, std::int64_t size, float* out) {
  for (std::int64_t i = first_element(); i < size; i += element_stride()) {
    float sum = 0;
    for (std::int64_t part = 0; part < count; ++part) sum += parts[part * size + i];
    out[i] = sum;
  }
}
void launch_sum_sequences(cudaStream_t stream, const Tensor& parts, const Tensor& out) {
  launch(sum_sequences, element_grid(out.count()), element_threads, 0, stream, data<float>(parts), parts.shape[0],
         out.count(), data<float>(out));
}

}  // namespace

void CudaEncoder::record_h3_mixer_backward(const H3MixerBackwardArgs& args) {
  const bool by_fft = args.algorithm == ConvAlgorithm::fft;
  if (!by_fft && !args.slots && fits_chunked_backward(args, limits_)) {
    const H3Filter& filter = args.filter;
    const H3FilterGradient& d_filter = args.d_filter;
    add_in_turn("h3_mixer_backward.chunked", {filter.b, filter.c, filter.shift_taps, filter.powers, filter.toeplitz},
                {args.d_qkv, d_filter.log_a, d_filter.gain, d_filter.d, d_filter.shift_taps},
                [=, limits = limits_](Launch turn) { run_chunked_backward(args, limits, turn); });
    return;
  }
  const std::int64_t width = args.d_y.shape[0], batch = args.d_y.shape[1], tokens = args.d_y.shape[2];
  const std::int64_t elements = width * batch * tokens;
  ScratchScope scope(*this);
  const Tensor shifted = scratch(DType::f32, {width, batch, tokens});
  const Tensor d_shifted = scratch(DType::f32, {width, batch, tokens});
  const Tensor taps = scratch(DType::f32, {batch, width, args.filter.shift_taps.shape[1]});
  add("h3_mixer_backward", [=](cudaStream_t stream) {
    with_activation(args.d_y.dtype, [&](auto type) {
      using T = decltype(type);
      launch(shift_keys<T>, element_grid(elements), element_threads, 0, stream, Filter(args.filter), EntryKeys(args),
             data<T>(args.qkv) + elements, batch, tokens, data<float>(shifted));
    });
  });
  if (by_fft) {
    record_h3_mixer_backward_fft(args, shifted, d_shifted);
  } else {
    record_h3_mixer_backward_walk(args, shifted, d_shifted);
  }
  add("h3_mixer_backward", [=](cudaStream_t stream) {
    const Filter filter(args.filter);
    const EntryKeys entry(args);
    float* d_shift = data<float>(args.d_state.shift);
    with_activation(args.d_y.dtype, [&](auto type) {
      using T = decltype(type);
      launch(shift_keys_backward<T>, element_grid(elements), element_threads, 0, stream, filter, entry, d_shift,
             data<float>(d_shifted), batch, tokens, data<T>(args.d_qkv) + elements);
      launch(shift_taps_backward<T>, grid_of(divide_up(width * batch, mixer_warps)), mixer_threads, 0, stream, filter,
             entry, data<T>(args.qkv) + elements, data<float>(d_shifted), batch, tokens, data<float>(taps));
    });
    if (d_shift != nullptr) {
      launch(entry_keys_backward, element_grid(width * batch * filter.state), element_threads, 0, stream, filter,
             entry, data<float>(d_shifted), batch, tokens, d_shift);
    }
    launch_sum_sequences(stream, taps, args.d_filter.shift_taps);
  });
}

void CudaEncoder::record_h3_mixer_backward_walk(const H3MixerBackwardArgs& args, const Tensor& shifted,
                                                const Tensor& d_shifted) {
  const std::int64_t width = args.d_y.shape[0], batch = args.d_y.shape[1], tokens = args.d_y.shape[2];
  const std::int64_t heads = args.filter.a.shape[0], modes = args.filter.a.shape[1];
  const bool single_pass = args.head_dim == 1 && modes <= warp_size;
  ScratchScope scope(*this);
  const auto per_element = [&] { return scratch(DType::f32, {width, batch, tokens}); };
  const Tensor d_q = single_pass ? Tensor() : per_element(), d_v = single_pass ? Tensor() : per_element();
  const Tensor entries = scratch(DType::f32, {batch * heads, divide_up(tokens, warp_size), warp_size, 2});
  const Tensor log_a = scratch(DType::f32, {batch, heads, modes, 2}),
               gain = scratch(DType::f32, {batch, heads, modes, 2});
  const Tensor skip = scratch(DType::f32, {batch, heads});
  add("h3_mixer_backward.recurrence", [=](cudaStream_t stream) {
    with_activation(args.d_y.dtype, [&](auto type) {
      using T = decltype(type);
      launch(mix_backward<T>, grid_of(divide_up(heads * batch, backward_warps)), backward_warps * warp_size, 0,
             stream,
             Backward<T>{data<T>(args.qkv), data<T>(args.d_y), data<T>(args.d_qkv), data<float>(shifted),
                         data<float>(d_shifted), data<float>(d_q), data<float>(d_v), data<float>(entries),
                         data<float>(log_a), data<float>(gain), data<float>(skip), batch, tokens, args.head_dim,
                         args.head_order, Filter(args.filter), data<std::int32_t>(args.slots),
                         data<float>(args.state.modes), data<float>(args.d_state.modes)});
    });
    launch_sum_sequences(stream, log_a, args.d_filter.log_a);
    launch_sum_sequences(stream, gain, args.d_filter.gain);
    launch_sum_sequences(stream, skip, args.d_filter.d);
  });
}

}  // namespace riverhorse::cuda
