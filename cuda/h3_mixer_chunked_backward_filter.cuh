// The two ends of the chunked backward pass of h3_mixer_chunked_backward_pass.cuh: what a block makes of the filter
// before, and the filter's gradient that it makes of its sums after.
#pragma once

#include "filter.cuh"
#include "h3_mixer_chunked_backward_parts.cuh"

namespace riverhorse::cuda::chunked_backward {

template <typename T>
struct ChunkedBackward {
  const T *q, *k, *v, *d_y;   // (D, B, L)
  T *d_q, *d_k, *d_v;         // likewise
  const float* entry_states;  // (D, B, cut.tiles, n, 2); may be null with a single tile
  Cut cut;
  bool aligned, in_turn;  // as for the forward pass
  int at_once;            // blocks that the device works on together
  Filter filter;
  const float *powers, *toeplitz;  // as those of H3Filter
  float *d_log_a, *d_gain, *d_skip, *d_taps;
};

// The powers of a of this lane's mode of a channel.
struct ChannelPowers {
  Complex<float> a, a8, a16, a32, a64;

  template <typename T>
  __device__ ChannelPowers(const ChunkedBackward<T>& m, std::int64_t d, int lane) {
    if (lane >= m.filter.modes) return;  // they stay zero, and so does what they do
    const std::int64_t powers = (d * m.filter.modes + lane) * H3Filter::power_count;
    a = load_complex(m.powers, powers);
    a8 = load_complex(m.powers, powers + 3);
    a16 = load_complex(m.powers, powers + 4);
    a32 = load_complex(m.powers, powers + 5);
    a64 = load_complex(m.powers, powers + 6);
  }
  // a^(8 count)
  __device__ Complex<float> eights(int count) const {
    Complex<float> product(1);
    if ((count & 1) != 0) product = a8;
    if ((count & 2) != 0) product = product * a16;
    if ((count & 4) != 0) product = product * a32;
    return product;
  }
};

// What a thread needs of the filter of a channel: of its lane's mode, and its share of taps and lags.
struct ChannelFilter : ChannelPowers {
  Complex<float> input, output;
  float taps_and_lags[2];  // of threads and those a block's size on, first all taps

  template <typename T>
  __device__ ChannelFilter(const ChunkedBackward<T>& m, std::int64_t d, int lane) : ChannelPowers(m, d, lane) {
    if (lane < m.filter.modes) {
      input = m.filter.input(d * m.filter.modes + lane);
      output = m.filter.output(d * m.filter.modes + lane);
    }
    for (int i = 0; i < 2; ++i) {
      const unsigned index = threadIdx.x + i * blockDim.x, lag = index % chunk;
      taps_and_lags[i] = 0;
      if (index < chunk && lag < m.filter.state) taps_and_lags[i] = m.filter.taps[d * m.filter.state + lag];
      if (index >= chunk && index < 2 * chunk) taps_and_lags[i] = m.toeplitz[d * chunk + lag];
    }
  }
  __device__ Complex<float> gain() const {
    const Complex<double> exact = Complex<double>(output.re, output.im) * Complex<double>(input.re, input.im);
    return {static_cast<float>(exact.re), static_cast<float>(exact.im)};
  }
};

// The constants of a channel: E^T, R, 1 / b and the tables of pairs. `scratch`: 512 bytes of shared memory.
template <typename T>
__device__ void make_constants(const ChannelFilter& filter, std::uint32_t shared, unsigned char* scratch, int warp,
                               int warps, int lane) {
  auto* const values = reinterpret_cast<float*>(scratch);  // taps, then lags
  for (int i = 0; i < 2; ++i) {
    const unsigned index = threadIdx.x + i * blockDim.x;
    if (index < 2 * chunk) values[index] = filter.taps_and_lags[i];
  }
  for (int unit = warp; unit < 8; unit += warps) {
    Complex<float> in = filter.eights(7 - unit), out = filter.eights(unit) * filter.a;
    float rows[4][8];
    for (int t = 0; t < 8; ++t) {
      rows[0][7 - t] = in.re;
      rows[1][7 - t] = in.im;
      rows[2][t] = 2 * out.re;
      rows[3][t] = -2 * out.im;
      in = in * filter.a;
      out = out * filter.a;
    }
    for (int row = 0; row < 4; ++row) {
      const float* r = rows[row];
      store_shared(shared + (row < 2 ? place::inputs : place::outputs) + Padded::offset(2 * lane + row % 2, unit),
                   make_uint4(pack<T>(r[0], r[1]), pack<T>(r[2], r[3]), pack<T>(r[4], r[5]), pack<T>(r[6], r[7])));
    }
  }
  if (warp == 0) {
    const float size = norm(filter.input), per_norm = size > 0 ? 1 / size : 0.0f;
    store_shared(shared + place::per_input + static_cast<std::uint32_t>(8 * lane),
                 make_float2(per_norm * filter.input.re, -per_norm * filter.input.im));
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < 4 * toeplitz_size; i += static_cast<int>(blockDim.x)) {
    const int table = i / toeplitz_size, lag = i % toeplitz_size - toeplitz_before;
    const auto value = [&](int l) { return 0 <= l && l < chunk ? values[table % 2 * chunk + l] : 0.0f; };
    store_shared(shared + place::taps + static_cast<std::uint32_t>(4 * i),
                 pack<T>(value(lag), value(table < 2 ? lag - 1 : lag + 1)));
  }
}

// The sum of lag l out of the parts of a lane each, `parts`[m][i][lane].
__device__ inline double sum_of_lag(const float* parts, int l) {
  double sum = 0;
  for (int source = 0; source < 8; ++source) {
    const int block = (l + source) / 8, target = (l + source) % 8;
    const int m = (block + 1) / 2, i = block % 2 * 2 + target % 2;
    sum += parts[(4 * m + i) * warp_size + source * 4 + target / 2];
  }
  return sum;
}

// Takes the sum of lag l of channel `d`: the gradient of a tap, or what those of gain, log a and D are made of.
template <typename T>
__device__ void finish_lag(const ChunkedBackward<T>& m, std::int64_t d, int l, bool of_taps, double sum,
                           double* lag_values) {
  if (of_taps) {
    if (l < m.filter.state) m.d_taps[d * m.filter.state + l] = static_cast<float>(sum);
  } else {
    lag_values[l] = sum;
    if (l == 0) m.d_skip[d] = static_cast<float>(sum);
  }
}

// What a warp adds up of the modes: sums of x V, lambda U', x V', lambda x.
struct ModeSums {
  Complex<float> x_v, lambda_u, x_v_weighted, lambda_x;
};

// The gradients of channel `d` from what the warps have summed. Takes the shared memory of all warps, of which each
// has finished its tiles, for other things: not that of the barriers, which nothing but barriers may touch.
template <typename T>
__device__ void finish(const ChunkedBackward<T>& m, std::int64_t d, unsigned char* shared, const LagSums& taps,
                       const LagSums& lags, const ModeSums& mode_sums, Complex<float> gain, float scale, int warp,
                       int warps, int lane) {
  constexpr int parts = 48;    // of a warp, each a number a lane
  constexpr int quarters = 4;  // of the lags
  const std::int64_t mode = d * m.filter.modes + lane;
  const bool is_mode = lane < m.filter.modes;
  const ChannelPowers powers(m, d, lane);
  float* const all = reinterpret_cast<float*>(shared);
  double* const lag_values = reinterpret_cast<double*>(all + warps * parts * warp_size);
  Complex<double>* const partial = reinterpret_cast<Complex<double>*>(lag_values + chunk);  // [quarter][2][lane]
  __syncthreads();
  float* const own = all + warp * parts * warp_size + lane;
  for (int i = 0; i < 20; ++i) {
    own[i * warp_size] = taps[i / 4][i % 4];
    own[(20 + i) * warp_size] = lags[i / 4][i % 4];
  }
  const Complex<float> four[4] = {mode_sums.x_v, mode_sums.lambda_u, mode_sums.x_v_weighted, mode_sums.lambda_x};
  for (int i = 0; i < 4; ++i) {
    own[(40 + 2 * i) * warp_size] = four[i].re;
    own[(41 + 2 * i) * warp_size] = four[i].im;
  }
  __syncthreads();

  for (int i = static_cast<int>(threadIdx.x); i < 2 * chunk; i += static_cast<int>(blockDim.x)) {
    const int l = i % chunk;
    const bool of_taps = i < chunk;
    double sum = 0;
    for (int w = 0; w < warps; ++w) sum += sum_of_lag(all + (w * parts + (of_taps ? 0 : 20)) * warp_size, l);
    finish_lag(m, d, l, of_taps, sum, lag_values);
  }
  __syncthreads();

  // sum_l lags[l] a^l, and the same with l
  const auto exact = [](Complex<float> value) { return Complex<double>(value.re, value.im); };
  for (int quarter = warp; quarter < quarters; quarter += warps) {
    Complex<double> a_l(1), by_gain, by_log_a;
    if ((quarter & 1) != 0) a_l = exact(powers.a16);
    if ((quarter & 2) != 0) a_l = a_l * exact(powers.a32);
    constexpr int count = chunk / quarters;
    for (int lag = count * quarter; lag < count * (quarter + 1); ++lag) {
      const Complex<double> term = 2 * lag_values[lag] * a_l;
      by_gain += term;
      by_log_a += static_cast<double>(lag) * term;
      a_l = a_l * exact(powers.a);
    }
    partial[(2 * quarter) * warp_size + lane] = by_gain;
    partial[(2 * quarter + 1) * warp_size + lane] = by_log_a;
  }
  __syncthreads();
  if (warp != 0 || !is_mode) return;

  Complex<double> by_gain, by_log_a;
  for (int quarter = 0; quarter < quarters; ++quarter) {
    by_gain += partial[(2 * quarter) * warp_size + lane];
    by_log_a += partial[(2 * quarter + 1) * warp_size + lane];
  }
  Complex<double> sums[4];
  for (int i = 0; i < 4; ++i) {
    for (int w = 0; w < warps; ++w) {
      const float* part = all + (w * parts + 40 + 2 * i) * warp_size + lane;
      sums[i] += Complex<double>(part[0], part[warp_size]);
    }
  }
  const double per_x = 1 / static_cast<double>(scale);
  const Complex<double> weight = exact(gain);
  const Complex<double> d_gain = by_gain + per_x * sums[0];
  const Complex<double> d_log_a =
      weight * by_log_a + 64.0 * (sums[1] + per_x * (weight * sums[2] + exact(powers.a64) * sums[3]));
  m.d_gain[2 * mode] = static_cast<float>(d_gain.re);
  m.d_gain[2 * mode + 1] = static_cast<float>(-d_gain.im);
  m.d_log_a[2 * mode] = static_cast<float>(d_log_a.re);
  m.d_log_a[2 * mode + 1] = static_cast<float>(-d_log_a.im);
}

}  // namespace riverhorse::cuda::chunked_backward
