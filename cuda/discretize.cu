// From the parameters that are learnt to the filter that is used, and the gradient's way back; the formulae are in
// src/cpu/discretize.cpp. In double, like there: a few numbers a mode, made once a step. A thread has a mode of a
// head, a lag of a head, or a lag of a channel.
#include <algorithm>

#include "complex.cuh"
#include "encoder.h"
#include "filter.cuh"
#include "kernel.cuh"

namespace riverhorse::cuda {

namespace {

using Number = Complex<double>;

// Few threads with much work each: small blocks, so that all multiprocessors get some.
constexpr int block_threads = 64;
dim3 small_blocks(std::int64_t count) {
  return grid_of(std::min<std::int64_t>(divide_up(count, block_threads), 1 << 16));
}

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

__device__ Number load(const float* values, std::int64_t index) { return {values[2 * index], values[2 * index + 1]}; }
__device__ void store(float* values, std::int64_t index, Number value) {
  values[2 * index] = static_cast<float>(value.re);
  values[2 * index + 1] = static_cast<float>(value.im);
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
  Mode mode;
  mode.dt = exp(static_cast<double>(p.log_dt[head]));
  mode.z = mode.dt * Number(-exp(static_cast<double>(p.inv_a_real[shared])), p.a_imag[shared]);
  const Number half = 0.5 * mode.z;
  if (p.bilinear) {
    mode.a = (Number(1) + half) / (Number(1) - half);
    mode.psi = Number(1) / (Number(1) - half);
  } else {
    mode.a = complex_exp(mode.z);
    mode.psi = exp_minus_one(mode.z) / mode.z;
  }
  mode.b = mode.dt * (load(p.b, shared) * mode.psi);
  mode.c = load(p.c, own);
  return mode;
}

__global__ void discretize_modes(Parameters p, std::int64_t heads, std::int64_t modes, float* a, float* b, float* c,
                                 float* d, float* powers) {
  for (std::int64_t own = first_element(); own < heads * modes; own += element_stride()) {
    const std::int64_t head = own / modes;
    const Mode mode = mode_of(p, head, (head % p.rows) * modes + own % modes, own);
    store(a, 2 * own, mode.a);
    store(a, 2 * own + 1, mode.a - load(a, 2 * own));
    store(b, own, mode.b);
    store(c, own, mode.c);
    Number a_power = mode.a;
    for (int exponent = 0; exponent < H3Filter::power_count; ++exponent) {
      store(powers, own * H3Filter::power_count + exponent, a_power);
      a_power = a_power * a_power;
    }
    if (own % modes == 0) d[head] = p.d[head];
  }
}

__global__ void make_toeplitz(Filter filter, float* toeplitz) {
  for (std::int64_t i = first_element(); i < filter.heads * H3Filter::chunk; i += element_stride()) {
    const std::int64_t head = i / H3Filter::chunk, lag = i % H3Filter::chunk;
    double sum = lag == 0 ? filter.d[head] : 0.0;
    for (std::int64_t index = head * filter.modes; index < (head + 1) * filter.modes; ++index) {
      sum += 2 * (filter.gain(index) * power(filter.exact_a(index), lag)).re;
    }
    toeplitz[i] = static_cast<float>(sum);
  }
}

__global__ void make_taps(Parameters p, std::int64_t width, std::int64_t state, float* taps) {
  for (std::int64_t i = first_element(); i < width * state; i += element_stride()) {
    const std::int64_t channel = i / state, lag = i % state;
    double sum = lag == 0 ? p.shift_d[channel] : 0.0;
    for (std::int64_t m = 0; m + lag < state; ++m) {
      sum += static_cast<double>(p.shift_b[channel * state + m]) * p.shift_c[channel * state + m + lag];
    }
    taps[i] = static_cast<float>(sum);
  }
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
__global__ void modes_backward(Parameters p, FilterGradients d_filter, std::int64_t heads, std::int64_t modes,
                               Gradients out) {
  for (std::int64_t shared = first_element(); shared < p.rows * modes; shared += element_stride()) {
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
}

// A warp has a head, a lane every 32nd mode of it.
__global__ void heads_backward(Parameters p, FilterGradients d_filter, std::int64_t heads, std::int64_t modes,
                               Gradients out) {
  const std::int64_t head = first_element() / warp_size;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  if (head >= heads) return;  // the whole warp
  double d_log_dt = 0;
  for (std::int64_t mode = lane; mode < modes; mode += warp_size) {
    d_log_dt += mode_gradient(p, d_filter, head, (head % p.rows) * modes + mode, head * modes + mode).d_log_dt;
  }
  d_log_dt = warp_sum(d_log_dt);
  if (lane != 0) return;
  out.log_dt[head] += static_cast<float>(d_log_dt);
  out.d[head] += d_filter.d[head];
}

__global__ void taps_backward(Parameters p, FilterGradients d_filter, std::int64_t width, std::int64_t state,
                              Gradients out) {
  for (std::int64_t i = first_element(); i < width * state; i += element_stride()) {
    const std::int64_t channel = i / state, m = i % state;
    const float* d_taps = d_filter.taps + channel * state;
    double b_sum = 0, c_sum = 0;
    for (std::int64_t lag = 0; m + lag < state; ++lag) {
      b_sum += static_cast<double>(d_taps[lag]) * p.shift_c[channel * state + m + lag];
    }
    for (std::int64_t lag = 0; lag <= m; ++lag) {
      c_sum += static_cast<double>(d_taps[lag]) * p.shift_b[channel * state + m - lag];
    }
    out.shift_b[i] += static_cast<float>(b_sum);
    out.shift_c[i] += static_cast<float>(c_sum);
    if (m == 0) out.shift_d[channel] += d_taps[0];
  }
}

}  // namespace

void CudaEncoder::record_discretize(const DiscretizeArgs& args) {
  add("discretize", [args](cudaStream_t stream) {
    const Parameters p(args.parameters);
    const Filter filter(args.filter);
    launch(discretize_modes, small_blocks(filter.heads * filter.modes), block_threads, 0, stream, p, filter.heads,
           filter.modes, data<float>(args.filter.a), data<float>(args.filter.b), data<float>(args.filter.c),
           data<float>(args.filter.d), data<float>(args.filter.powers));
    launch(make_toeplitz, small_blocks(filter.heads * H3Filter::chunk), block_threads, 0, stream, filter,
           data<float>(args.filter.toeplitz));
    launch(make_taps, small_blocks(filter.width * filter.state), block_threads, 0, stream, p, filter.width,
           filter.state, data<float>(args.filter.shift_taps));
  });
}

void CudaEncoder::record_discretize_backward(const DiscretizeBackwardArgs& args) {
  add("discretize_backward", [args](cudaStream_t stream) {
    const Parameters p(args.parameters);
    const Filter filter(args.filter);
    const FilterGradients d_filter(args.d_filter);
    const Gradients out(args.d_parameters);
    launch(modes_backward, small_blocks(p.rows * filter.modes), block_threads, 0, stream, p, d_filter, filter.heads,
           filter.modes, out);
    launch(heads_backward, grid_of(divide_up(filter.heads * warp_size, block_threads)), block_threads, 0, stream, p,
           d_filter, filter.heads, filter.modes, out);
    launch(taps_backward, small_blocks(filter.width * filter.state), block_threads, 0, stream, p, d_filter,
           filter.width, filter.state, out);
  });
}

}  // namespace riverhorse::cuda
