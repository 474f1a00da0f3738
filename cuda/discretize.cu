// From the parameters that are learnt to the filter that is used, and the gradient's way back; the formulae are in
// src/cpu/discretize.cpp. In double, like there: a few numbers a mode, made once a step. Work is little and latency
// is all, so each way is one launch, whose blocks have parts of different kinds: forward a head each, or lags of
// channels.
#include <algorithm>

#include "complex.cuh"
#include "encoder.h"
#include "filter.cuh"
#include "kernel.cuh"

namespace riverhorse::cuda {

namespace {

using Number = Complex<double>;

// Backward: few threads with much work each, in small blocks, so that all multiprocessors get some.
constexpr int block_threads = 64;

__device__ Number complex_exp(Number z) {
  const double size = exp(z.re);
  return {size * cos(z.im), size * sin(z.im)};
}

// exp(z) - 1 without cancellation for small z: e^x cos y - 1 = expm1(x) cos y - 2 sin^2(y/2).
__device__ Number exp_minus_one(Number z) {
  const double half = sin(z.im / 2);
  return {expm1(z.re) * cos(z.im) - 2 * half * half, exp(z.re) * sin(z.im)};
}

// The derivative of (exp(z) - 1) / z: sum_k (k + 1) z^k / (k + 2)!, where the closed form would cancel.
__device__ Number zoh_input_derivative(Number z) {
  if (z.re * z.re + z.im * z.im > 1) return (complex_exp(z) - exp_minus_one(z) / z) / z;
  Number sum, term(0.5);  // z^k / (k + 2)!
  for (int k = 0; k < 20; ++k) {
    sum += static_cast<double>(k + 1) * term;
    term = (1.0 / (k + 3)) * (term * z);
  }
  return sum;
}

// Where the tensors of H3Parameters begin.
template <typename Float>
struct Pointers {
  Float *log_dt, *inv_a_real, *a_imag, *b, *c, *d, *shift_b, *shift_c, *shift_d;

  explicit Pointers(const H3Parameters& p)
      : log_dt(data<Float>(p.log_dt)),
        inv_a_real(data<Float>(p.inv_a_real)),
        a_imag(data<Float>(p.a_imag)),
        b(data<Float>(p.b)),
        c(data<Float>(p.c)),
        d(data<Float>(p.d)),
        shift_b(data<Float>(p.shift_b)),
        shift_c(data<Float>(p.shift_c)),
        shift_d(data<Float>(p.shift_d)) {}
};
using Gradients = Pointers<float>;

struct Parameters : Pointers<const float> {
  std::int64_t rows;  // of A and B
  bool bilinear;

  explicit Parameters(const H3Parameters& p)
      : Pointers(p), rows(p.inv_a_real.shape[0]), bilinear(p.discretization == Discretization::bilinear) {}
};

struct FilterGradients {
  const float *log_a, *gain, *d, *taps;

  explicit FilterGradients(const H3FilterGradient& g)
      : log_a(data<float>(g.log_a)),
        gain(data<float>(g.gain)),
        d(data<float>(g.d)),
        taps(data<float>(g.shift_taps)) {}
};

// Where the tensors of H3Filter begin, to be written.
struct FilterParts {
  float *a, *b, *c, *d, *powers, *toeplitz, *taps;
  std::int64_t heads, modes, width, state;  // H, n, D, N

  explicit FilterParts(const H3Filter& filter)
      : a(data<float>(filter.a)),
        b(data<float>(filter.b)),
        c(data<float>(filter.c)),
        d(data<float>(filter.d)),
        powers(data<float>(filter.powers)),
        toeplitz(data<float>(filter.toeplitz)),
        taps(data<float>(filter.shift_taps)),
        heads(filter.a.shape[0]),
        modes(filter.a.shape[1]),
        width(filter.shift_taps.shape[0]),
        state(filter.shift_taps.shape[1]) {}
};

__device__ Number load(const float* values, std::int64_t index) { return {values[2 * index], values[2 * index + 1]}; }
// Returns what it is rounded to.
__device__ Number store(float* values, std::int64_t index, Number value) {
  values[2 * index] = static_cast<float>(value.re);
  values[2 * index + 1] = static_cast<float>(value.im);
  return {static_cast<float>(value.re), static_cast<float>(value.im)};
}
__device__ void accumulate(float* values, std::int64_t index, Number value) {
  values[2 * index] += static_cast<float>(value.re);
  values[2 * index + 1] += static_cast<float>(value.im);
}

struct Mode {
  Number z, a, psi, b, c;
  double dt;
};

// `shared`: of A and B, `own`: of C.
__device__ Mode mode_of(const Parameters& p, std::int64_t head, std::int64_t shared, std::int64_t own) {
  // All loads first, so that they are on their way together.
  const float log_dt = p.log_dt[head], inv_a_real = p.inv_a_real[shared], a_imag = p.a_imag[shared];
  const Number b = load(p.b, shared);
  Mode mode;
  mode.c = load(p.c, own);
  mode.dt = exp(static_cast<double>(log_dt));
  mode.z = mode.dt * Number(-exp(static_cast<double>(inv_a_real)), a_imag);
  if (p.bilinear) {
    const Number half = 0.5 * mode.z;
    mode.psi = Number(1) / (Number(1) - half);
    mode.a = (Number(1) + half) * mode.psi;
  } else {
    mode.a = complex_exp(mode.z);
    mode.psi = exp_minus_one(mode.z) / mode.z;
  }
  mode.b = mode.dt * (b * mode.psi);
  return mode;
}

// A block has a head: a warp its modes, 32 at a time, and all threads the sums over them. A lag of the Toeplitz
// matrix is low + low_lags high, so that two small tables have all powers of a mode: gain a^low and a^(low_lags
// high).
constexpr int head_threads = 128;
constexpr int modes_at_once = warp_size;
constexpr int low_lags = 8, high_lags = H3Filter::chunk / low_lags;
constexpr int sum_parts = head_threads / H3Filter::chunk;

// A Number without a constructor, as shared memory must be.
struct Entry {
  double re, im;
  __device__ void operator=(Number number) {
    re = number.re;
    im = number.im;
  }
  __device__ operator Number() const { return {re, im}; }
};

// Writes a mode; returns its a. Its gain is that of the b and c that others read, rounded.
__device__ Number write_mode(const Mode& mode, const FilterParts& out, std::int64_t own, Entry& gain) {
  const Number rounded = store(out.a, 2 * own, mode.a);
  store(out.a, 2 * own + 1, mode.a - rounded);
  const Number b = store(out.b, own, mode.b);
  gain = store(out.c, own, mode.c) * b;
  return mode.a;
}

__device__ void write_powers(Number a, float* powers) {
#pragma unroll 1
  for (int exponent = 0; exponent < H3Filter::power_count; ++exponent) {
    store(powers, exponent, a);
    a = a * a;
  }
}

__device__ void make_head(const Parameters& p, const FilterParts& out, std::int64_t head) {
  __shared__ Entry all_a[modes_at_once], gains[modes_at_once];
  // One more, so that a warp finds the entries of a mode in different banks.
  __shared__ Entry powers[low_lags + high_lags][modes_at_once + 1];
  __shared__ double parts[sum_parts][H3Filter::chunk];
  const auto thread = static_cast<int>(threadIdx.x);
  const int lag = thread % H3Filter::chunk, part = thread / H3Filter::chunk;
  double sum = 0;
  for (std::int64_t begin = 0; begin < out.modes; begin += modes_at_once) {
    const auto count = static_cast<int>(min(std::int64_t{modes_at_once}, out.modes - begin));
    const std::int64_t own = head * out.modes + begin + thread;
    if (thread < count) {
      const Mode mode = mode_of(p, head, (head % p.rows) * out.modes + begin + thread, own);
      all_a[thread] = write_mode(mode, out, own, gains[thread]);
    }
    __syncthreads();
    const int mode = thread % modes_at_once;
#pragma unroll 1
    for (int row = thread / modes_at_once; row < low_lags + high_lags; row += head_threads / modes_at_once) {
      if (mode >= count) break;
      const Number a = all_a[mode], gain = gains[mode];
      powers[row][mode] = row < low_lags ? gain * power(a, row) : power(a, (row - low_lags) * low_lags);
    }
    __syncthreads();
    for (int i = part; i < count; i += sum_parts) {
      const Number low = powers[lag % low_lags][i], high = powers[low_lags + lag / low_lags][i];
      sum += (low * high).re;
    }
    if (thread < count) write_powers(all_a[thread], out.powers + own * H3Filter::power_count * 2);
    __syncthreads();
  }
  parts[part][lag] = sum;
  __syncthreads();
  if (part != 0) return;
  double total = 0;
  for (int i = 0; i < sum_parts; ++i) total += parts[i][lag];
  const float d = p.d[head];
  out.toeplitz[head * H3Filter::chunk + lag] = static_cast<float>(2 * total + (lag == 0 ? d : 0.0f));
  if (lag == 0) out.d[head] = d;
}

__device__ void make_tap(const Parameters& p, const FilterParts& out, std::int64_t i) {
  const std::int64_t channel = i / out.state, lag = i % out.state;
  double sum = lag == 0 ? p.shift_d[channel] : 0.0;
#pragma unroll 8
  for (std::int64_t m = channel * out.state; m + lag < (channel + 1) * out.state; ++m) {
    sum += static_cast<double>(p.shift_b[m]) * p.shift_c[m + lag];
  }
  out.taps[i] = static_cast<float>(sum);
}

// Blocks of heads first, then those of taps.
__global__ void __launch_bounds__(head_threads) make_filter(Parameters p, FilterParts out) {
  const std::int64_t block = blockIdx.x;
  if (block < out.heads) return make_head(p, out, block);
  const std::int64_t tap = (block - out.heads) * head_threads + threadIdx.x;
  if (tap < out.width * out.state) make_tap(p, out, tap);
}

struct ModeGradient {
  Number d_input, d_continuous, d_c;
  double d_log_dt;
};

__device__ ModeGradient mode_gradient(const Parameters& p, const FilterGradients& d_filter, std::int64_t head,
                                      std::int64_t shared, std::int64_t own) {
  const Mode mode = mode_of(p, head, shared, own);
  const Number half = 0.5 * mode.z;
  Number log_a_derivative(1), psi_derivative;
  if (p.bilinear) {
    log_a_derivative = Number(1) / ((Number(1) + half) * (Number(1) - half));
    psi_derivative = 0.5 * (mode.psi * mode.psi);
  } else {
    psi_derivative = zoh_input_derivative(mode.z);
  }
  const Number d_gain = load(d_filter.gain, own);
  const Number d_b = conj(mode.c) * d_gain;
  const Number input = mode.dt * load(p.b, shared);
  const Number d_z = conj(log_a_derivative) * load(d_filter.log_a, own) + conj(input * psi_derivative) * d_b;
  return {conj(mode.dt * mode.psi) * d_b, mode.dt * d_z, conj(mode.b) * d_gain,
          (conj(mode.z) * d_z + conj(mode.b) * d_b).re};
}

// A thread has a mode of a row of A and B: the heads that share it one after the other.
__device__ void modes_backward(const Parameters& p, const FilterGradients& d_filter, const Gradients& out,
                               std::int64_t heads, std::int64_t modes, std::int64_t shared) {
  Number d_input, d_continuous;
  for (std::int64_t head = shared / modes; head < heads; head += p.rows) {
    const std::int64_t own = head * modes + shared % modes;
    const ModeGradient gradient = mode_gradient(p, d_filter, head, shared, own);
    d_input += gradient.d_input;
    d_continuous += gradient.d_continuous;
    accumulate(out.c, own, gradient.d_c);
  }
  accumulate(out.b, shared, d_input);
  out.inv_a_real[shared] += static_cast<float>(-exp(static_cast<double>(p.inv_a_real[shared])) * d_continuous.re);
  out.a_imag[shared] += static_cast<float>(d_continuous.im);
}

// A warp has a head, a lane every 32nd mode of it.
__device__ void head_backward(const Parameters& p, const FilterGradients& d_filter, const Gradients& out,
                              std::int64_t head, std::int64_t modes) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  double d_log_dt = 0;
  for (std::int64_t mode = lane; mode < modes; mode += warp_size) {
    d_log_dt += mode_gradient(p, d_filter, head, (head % p.rows) * modes + mode, head * modes + mode).d_log_dt;
  }
  d_log_dt = warp_sum(d_log_dt);
  if (lane != 0) return;
  out.log_dt[head] += static_cast<float>(d_log_dt);
  out.d[head] += d_filter.d[head];
}

__device__ void tap_backward(const Parameters& p, const FilterGradients& d_filter, const Gradients& out,
                             std::int64_t state, std::int64_t i) {
  const std::int64_t channel = i / state, m = i % state;
  const float* d_taps = d_filter.taps + channel * state;
  double b_sum = 0, c_sum = 0;
#pragma unroll 8
  for (std::int64_t lag = 0; m + lag < state; ++lag) {
    b_sum += static_cast<double>(d_taps[lag]) * p.shift_c[i + lag];
  }
#pragma unroll 8
  for (std::int64_t lag = 0; lag <= m; ++lag) {
    c_sum += static_cast<double>(d_taps[lag]) * p.shift_b[i - lag];
  }
  out.shift_b[i] += static_cast<float>(b_sum);
  out.shift_c[i] += static_cast<float>(c_sum);
  if (m == 0) out.shift_d[channel] += d_taps[0];
}

// Blocks of taps first, whose threads have most to do, then those of modes, then those of heads.
struct BackwardBlocks {
  std::int64_t taps, modes, heads;

  BackwardBlocks(const Parameters& p, const Filter& filter)
      : taps(divide_up(filter.width * filter.state, block_threads)),
        modes(divide_up(p.rows * filter.modes, block_threads)),
        heads(divide_up(filter.heads * warp_size, block_threads)) {}
};

__global__ void __launch_bounds__(block_threads)
    filter_backward(Parameters p, FilterGradients d_filter, Filter filter, BackwardBlocks blocks, Gradients out) {
  std::int64_t block = blockIdx.x;
  if (block < blocks.taps) {
    const std::int64_t tap = block * block_threads + threadIdx.x;
    if (tap < filter.width * filter.state) tap_backward(p, d_filter, out, filter.state, tap);
    return;
  }
  block -= blocks.taps;
  if (block < blocks.modes) {
    const std::int64_t shared = block * block_threads + threadIdx.x;
    if (shared < p.rows * filter.modes) modes_backward(p, d_filter, out, filter.heads, filter.modes, shared);
    return;
  }
  block -= blocks.modes;
  const std::int64_t head = (block * block_threads + threadIdx.x) / warp_size;
  if (head < filter.heads) head_backward(p, d_filter, out, head, filter.modes);  // or not, a whole warp
}

}  // namespace

void CudaEncoder::record_discretize(const DiscretizeArgs& args) {
  add("discretize", [args](cudaStream_t stream) {
    const FilterParts out(args.filter);
    launch(make_filter, grid_of(out.heads + divide_up(out.width * out.state, head_threads)), head_threads, 0, stream,
           Parameters(args.parameters), out);
  });
}

void CudaEncoder::record_discretize_backward(const DiscretizeBackwardArgs& args) {
  add("discretize_backward", [args](cudaStream_t stream) {
    const Parameters p(args.parameters);
    const Filter filter(args.filter);
    const BackwardBlocks blocks(p, filter);
    launch(filter_backward, grid_of(blocks.taps + blocks.modes + blocks.heads), block_threads, 0, stream, p,
           FilterGradients(args.d_filter), filter, blocks, Gradients(args.d_parameters));
  });
}

}  // namespace riverhorse::cuda
