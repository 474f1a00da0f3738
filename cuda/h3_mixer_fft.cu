// The mixer by transforms (--conv fft), for any filter the state-space parameters give, in f32 between kernels:
//   gate      w_ij = shift(k_i) v_j
//   remember  what the carried modes add to z: 2 Re sum_n c_n a_n^{t+1} s_n
//   advance   the modes after the call, and those that the backward pass starts from
//   transforms (fft_conv.cuh) of w by the filter's response, D in its lag 0; with head_dim 1, y = q z as they store
//   sum_pairs y_j = sum_i q_i z_ij, with head_dim above 1
// The future changes earlier outputs by rounding, as it does in any transform.
#include "encoder.h"
#include "fft_conv.cuh"
#include "h3_mixer.cuh"

namespace riverhorse::cuda {

namespace {

struct Call {
  Filter filter;
  std::int64_t batch, tokens, head_dim;
  const std::int32_t *slots, *positions;  // null: every sequence begins here
  float *shift, *modes;
  float* w;  // (H, d, d, B, L)

  std::int64_t pair_rows() const { return filter.width * head_dim * batch; }
  __device__ std::int64_t slot(std::int64_t b) const { return slots != nullptr ? slots[b] : 0; }
  // Of the pair of channels that a row of w has.
  __device__ float* carried(std::int64_t row) const {
    const std::int64_t pair = row / batch;
    return modes + 2 * (slot(row % batch) * filter.width * head_dim + pair) * filter.modes;
  }
  __device__ std::int64_t head(std::int64_t row) const { return row / batch / (head_dim * head_dim); }
};

// A block has 1024 tokens of a channel; a thread sums 8 neighbours, over keys that move along its registers.
constexpr int gate_threads = 128, gate_values = 8, gate_tile = gate_threads * gate_values;
// One place is left out after every 8, so that threads 8 apart do not meet in a bank.
__host__ __device__ inline std::int64_t gate_place(std::int64_t i) { return i + i / gate_values; }

template <typename T>
__global__ void __launch_bounds__(gate_threads) gate(Call call, const T* keys, const T* values, std::int64_t tiles) {
  SHARED_MEMORY(float, tile);
  const std::int64_t row = blockIdx.x / tiles, begin = blockIdx.x % tiles * gate_tile;
  const std::int64_t channel = row / call.batch, b = row % call.batch;
  const std::int64_t state = call.filter.state, slot = call.slot(b);
  const std::int64_t position = call.positions != nullptr ? call.positions[slot] : 0;
  const float* ring = call.shift != nullptr ? call.shift + (slot * call.filter.width + channel) * state : nullptr;
  const float* taps = call.filter.taps + channel * state;
  for (std::int64_t i = threadIdx.x; i < gate_tile + state - 1; i += gate_threads) {
    const std::int64_t t = begin + i - (state - 1);
    tile[gate_place(i)] = t < call.tokens ? key_at(keys + row * call.tokens, ring, position, state, t) : 0.0f;
  }
  __syncthreads();
  const std::int64_t first = static_cast<std::int64_t>(threadIdx.x) * gate_values + state - 1;
  float window[gate_values], sums[gate_values] = {};
#pragma unroll
  for (int r = 1; r < gate_values; ++r) window[r - 1] = tile[gate_place(first + r)];
#pragma unroll 8
  for (std::int64_t lag = 0; lag < state; ++lag) {
#pragma unroll
    for (int r = gate_values - 1; r > 0; --r) window[r] = window[r - 1];
    window[0] = tile[gate_place(first - lag)];
#pragma unroll
    for (int r = 0; r < gate_values; ++r) sums[r] = fmaf(taps[lag], window[r], sums[r]);
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < gate_values; ++r) tile[gate_place(static_cast<int>(threadIdx.x) * gate_values + r)] = sums[r];
  __syncthreads();
  const std::int64_t head = channel / call.head_dim;
  for (std::int64_t j = 0; j < call.head_dim; ++j) {
    const T* value = values + ((head * call.head_dim + j) * call.batch + b) * call.tokens;
    float* w = call.w + ((channel * call.head_dim + j) * call.batch + b) * call.tokens;
    for (std::int64_t i = threadIdx.x; i < min(call.tokens - begin, std::int64_t{gate_tile}); i += gate_threads) {
      w[begin + i] = tile[gate_place(i)] * to_float(value[begin + i]);
    }
  }
}

// A warp has 256 tokens of a row. Its lanes are modes while they go along, tokens where they are summed.
constexpr int remember_turns = 8, remember_tokens = remember_turns * warp_size;

__global__ void __launch_bounds__(mixer_threads)
    remember(Call call, std::int64_t rows, std::int64_t segments, float* past) {
  __shared__ Turn turns[mixer_warps];
  Turn& turn = turns[threadIdx.x / warp_size];
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * mixer_warps + threadIdx.x / warp_size;
  if (index >= rows * segments) return;
  const std::int64_t row = index / segments, begin = index % segments * remember_tokens, head = call.head(row);
  float sums[remember_turns] = {};
  if (call.positions[call.slot(row % call.batch)] != 0) {  // a text that has not begun has no past
    for (std::int64_t group = 0; group < call.filter.modes; group += warp_size) {
      Decay decay;
      Complex<float> s, output;
      if (group + lane < call.filter.modes) {
        const std::int64_t mode = head * call.filter.modes + group + lane;
        decay = Decay(call.filter, mode);
        output = call.filter.output(mode);
        const Complex<double> faded = power(call.filter.exact_a(mode), begin);
        const Complex<float> before = load_complex(call.carried(row), group + lane);
        s = Complex<float>(static_cast<float>(faded.re), static_cast<float>(faded.im)) * before;
      }
#pragma unroll
      for (int part = 0; part < remember_turns; ++part) {
        for (int token = 0; token < warp_size; ++token) {
          s = decay(s);
          turn.values[token][lane] = 2 * (output.re * s.re - output.im * s.im);
        }
        __syncwarp();
        sums[part] += turn.sum(lane);
        __syncwarp();
      }
    }
  }
#pragma unroll
  for (int part = 0; part < remember_turns; ++part) {
    const std::int64_t t = begin + part * warp_size + lane;
    if (t < call.tokens) past[row * call.tokens + t] = sums[part];
  }
}

// A block has a row: its warps sum superchunks, s = sum_t a^(last - t) b w_t, each its own; the first warp chains
// them.
constexpr int advance_warps = 8;

__global__ void __launch_bounds__(advance_warps* warp_size) advance_modes(Call call, float* entry_states) {
  __shared__ float sums[advance_warps][warp_size][2];
  const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
  const std::int64_t row = blockIdx.x, head = call.head(row), modes = call.filter.modes;
  const std::int64_t superchunks = divide_up(call.tokens, H3Filter::superchunk);
  const float* w = call.w + row * call.tokens;
  for (std::int64_t group = 0; group < modes; group += warp_size) {
    const bool has_mode = group + lane < modes;
    Decay decay;
    Complex<float> input, carried;
    Complex<double> a;
    if (has_mode) {
      const std::int64_t mode = head * modes + group + lane;
      decay = Decay(call.filter, mode);
      input = call.filter.input(mode);
      a = call.filter.exact_a(mode);
      if (call.modes != nullptr) carried = load_complex(call.carried(row), group + lane);
    }
    for (std::int64_t first = 0; first < superchunks; first += advance_warps) {
      const std::int64_t begin = (first + warp) * H3Filter::superchunk;
      const std::int64_t end = min(begin + H3Filter::superchunk, call.tokens);
      Complex<float> s;
      for (std::int64_t t = begin; t < end; t += warp_size) {
        const float w_own = t + lane < end ? w[t + lane] : 0.0f;
        for (int i = 0; i < min(end - t, std::int64_t{warp_size}); ++i) {
          s = decay(s) + __shfl_sync(all_lanes, w_own, i) * input;
        }
      }
      sums[warp][lane][0] = s.re;
      sums[warp][lane][1] = s.im;
      __syncthreads();
      for (std::int64_t chunk = first; warp == 0 && has_mode && chunk < min(first + advance_warps, superchunks);
           ++chunk) {
        if (entry_states != nullptr) {
          float* entry = entry_states + 2 * ((row * superchunks + chunk) * modes + group + lane);
          entry[0] = carried.re;
          entry[1] = carried.im;
        }
        const std::int64_t left = call.tokens - chunk * H3Filter::superchunk;
        const Complex<double> faded = power(a, min(left, std::int64_t{H3Filter::superchunk}));
        const float* sum = sums[chunk - first][lane];
        carried = Complex<float>(static_cast<float>(faded.re), static_cast<float>(faded.im)) * carried +
                  Complex<float>(sum[0], sum[1]);
      }
      __syncthreads();
    }
    if (warp == 0 && has_mode && call.modes != nullptr) {
      call.carried(row)[2 * (group + lane)] = carried.re;
      call.carried(row)[2 * (group + lane) + 1] = carried.im;
    }
  }
}

// z + past, times q; `past` and `q` may be null.
template <typename T, typename Q>
struct Outputs {
  Rows<T> y;
  const float* past;
  const Q* q;
  struct OutputRow {
    Row<T> y;
    Row<const float> past;
    Row<const Q> q;
    __device__ void store(std::int64_t n, float z) const {
      if (past.values != nullptr) z += past(n);
      y.store(n, q.values != nullptr ? q(n) * z : z);
    }
  };
  template <typename U>
  __device__ Row<const U> beside(const U* values, Item item, std::int64_t from) const {
    if (values == nullptr) return {};
    return Rows<const U>{values, y.batch, y.length, y.head_stride, y.batch_stride}.row(item, from);
  }
  __device__ OutputRow row(Item item, std::int64_t from) const {
    return {y.row(item, from), beside(past, item, from), beside(q, item, from)};
  }
  __host__ __device__ std::int32_t sequences() const { return y.sequences(); }
  Outputs part(std::int32_t head, std::int32_t sequence, std::int32_t sequences) const {
    const Rows<T> some = y.part(head, sequence, sequences);
    const std::int64_t offset = some.values - y.values;
    return {some, past != nullptr ? past + offset : nullptr, q != nullptr ? q + offset : nullptr};
  }
};

template <typename T>
__global__ void sum_pairs(Call call, const T* q, HeadOrder order, T* y) {
  const std::int64_t row_elements = call.batch * call.tokens, d = call.head_dim;
  for (std::int64_t i = first_element(); i < call.filter.width * row_elements; i += element_stride()) {
    const std::int64_t channel = i / row_elements, head = channel / d, j = channel % d, at = i % row_elements;
    float sum = 0;
    for (std::int64_t k = 0; k < d; ++k) {
      const std::int64_t key_channel = head * d + k;
      sum += to_float(q[key_channel * row_elements + at]) * call.w[(key_channel * d + j) * row_elements + at];
    }
    y[output_channel(order, call.filter.heads, d, head, j) * row_elements + at] = from_float<T>(sum);
  }
}

}  // namespace

void CudaEncoder::record_h3_mixer_fft(const H3MixerArgs& args) {
  const std::int64_t width = args.y.shape[0], batch = args.y.shape[1], tokens = args.y.shape[2];
  const auto heads = static_cast<std::int32_t>(args.filter.a.shape[0]);
  const std::int64_t d = args.head_dim;
  const auto rows = static_cast<std::int32_t>(d * d * batch);  // of a head
  const FftPlan plan(tokens, limits_.shared_bytes);
  const FftGroup group(plan, heads, rows);
  ScratchScope scope(*this);
  const Tensor kernel = scratch(DType::f32, {heads, tokens}), w = scratch(DType::f32, {width, d, batch, tokens});
  const Tensor past = args.slots ? scratch(DType::f32, {width, d, batch, tokens}) : Tensor();
  const Tensor spectra = group.spectra(*this, plan), points = group.points(*this, plan);
  record_ssm_kernel({args.filter, kernel});
  add("h3_mixer.fft", [=](cudaStream_t stream) {
    const Call call{.filter = Filter(args.filter),
                    .batch = batch,
                    .tokens = tokens,
                    .head_dim = d,
                    .slots = data<std::int32_t>(args.slots),
                    .positions = data<std::int32_t>(args.positions),
                    .shift = data<float>(args.state.shift),
                    .modes = data<float>(args.state.modes),
                    .w = data<float>(w)};
    const Filters filters{data<float>(kernel), call.filter.d, tokens};
    with_activation(args.y.dtype, [&](auto type) {
      using T = decltype(type);
      const T* q = data<T>(args.qkv);
      const std::int64_t part = width * batch * tokens, tiles = divide_up(tokens, gate_tile);
      const auto gate_floats = static_cast<std::size_t>(gate_place(gate_tile + call.filter.state));
      launch(gate<T>, grid_of(width * batch * tiles), gate_threads, gate_floats * sizeof(float), stream, call,
             q + part, q + 2 * part, tiles);
      if (past) {
        const std::int64_t segments = divide_up(tokens, remember_tokens);
        launch(remember, grid_of(divide_up(call.pair_rows() * segments, mixer_warps)), mixer_threads, 0, stream, call,
               call.pair_rows(), segments, data<float>(past));
      }
      if (past || args.entry_states) {
        launch(advance_modes, grid_of(call.pair_rows()), advance_warps * warp_size, 0, stream, call,
               data<float>(args.entry_states));
      }
      const auto rows_at = [=](auto* values) {
        return Rows<std::remove_pointer_t<decltype(values)>>{values, rows, tokens, rows * tokens, tokens};
      };
      const auto in = rows_at(static_cast<const float*>(call.w));
      const auto convolve = [&](const auto& out) {
        launch_groups(stream, plan, group, heads, filters, in, out, data<Point>(spectra), data<Point>(points));
      };
      if (d == 1) {
        convolve(Outputs<T, T>{rows_at(data<T>(args.y)), data<float>(past), q});
      } else {
        convolve(Outputs<float, T>{rows_at(call.w), data<float>(past), nullptr});
        launch(sum_pairs<T>, element_grid(part), element_threads, 0, stream, call, q, args.head_order,
               data<T>(args.y));
      }
    });
  });
}

}  // namespace riverhorse::cuda
