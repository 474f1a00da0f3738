// The two ends of the backward pass of h3_mixer_chunked_backward_group.cuh, as h3_mixer_chunked_backward_filter.cuh
// has them: what a block makes of the filter before, and the filter's gradient that it makes of its sums after.
#pragma once

#include "h3_mixer_chunked_backward_group_parts.cuh"

namespace riverhorse::cuda::chunked_backward {

// The matrices of a channel and scale / b. `scratch`: 512 bytes of shared memory.
template <typename T>
__device__ void make_matrices(const ChannelFilter& filter, float scale, std::uint32_t shared, unsigned char* scratch,
                              int warp, int lane) {
  auto* const values = reinterpret_cast<float*>(scratch);  // taps, then lags
  if (threadIdx.x < 2 * chunk) values[threadIdx.x] = filter.taps_and_lags[0];
  const Complex<float> weight = (2 / scale) * filter.gain();
  {
    const int unit = warp;
    Complex<float> in = filter.eights(7 - unit), out = filter.eights(unit) * filter.a;
    float rows[4][8];
    for (int t = 0; t < 8; ++t) {
      const Complex<float> weighted = weight * out;
      rows[0][7 - t] = scale * in.re;
      rows[1][7 - t] = scale * in.im;
      rows[2][t] = weighted.re;
      rows[3][t] = -weighted.im;
      in = in * filter.a;
      out = out * filter.a;
    }
    for (int row = 0; row < 4; ++row) {
      const float* r = rows[row];
      const std::uint32_t to = row < 2 ? group_place::inputs + Matrix::offset(2 * lane + row, 7 - unit)
                                       : group_place::outputs + Matrix::offset(2 * lane + row - 2, unit);
      store_shared(shared + to,
                   make_uint4(pack<T>(r[0], r[1]), pack<T>(r[2], r[3]), pack<T>(r[4], r[5]), pack<T>(r[6], r[7])));
    }
  }
  if (warp == 0) {
    const float size = norm(filter.input), per_norm = size > 0 ? scale / size : 0.0f;
    store_shared(shared + group_place::per_input + static_cast<std::uint32_t>(8 * lane),
                 make_float2(per_norm * filter.input.re, -per_norm * filter.input.im));
    store_shared(shared + group_place::decay + static_cast<std::uint32_t>(8 * lane),
                 make_float2(filter.a64.re, filter.a64.im));
  }
  __syncthreads();
  constexpr int lag_rows = 8 * group_place::lag_cores, tap_rows = 8 * group_place::tap_cores;
  for (int i = static_cast<int>(threadIdx.x); i < lag_rows + tap_rows; i += team_threads) {
    const bool of_lags = i < lag_rows;
    const float* from = values + (of_lags ? chunk : 0);
    const int row = of_lags ? i : i - lag_rows, first = row - 56;  // lag of the row's first column
    const auto value = [&](int column) {
      const int lag = first - column;
      return 0 <= lag && lag < chunk ? from[lag] : 0.0f;
    };
    store_shared(shared + group_place::lags + static_cast<std::uint32_t>(16 * i),
                 make_uint4(pack<T>(value(0), value(1)), pack<T>(value(2), value(3)), pack<T>(value(4), value(5)),
                            pack<T>(value(6), value(7))));
  }
  show_stores_to_products();
}

// What a warp sums up over tiles. The first group has lags, H and sum lambda x, the second taps and G. Rows 16 i ...
// + 15 of the matrices are those of its warp i.
struct GroupSums {
  LagSums lags = {};
  float matrix[8][4] = {};
  Complex<float> lambda_x;
};

// Of x, a mode. In f16 neither x nor the matrices may overflow, or lose what counts of them.
__device__ inline float scale_of(const ChannelFilter& filter) {
  return fmaxf(16 * sqrtf(norm(filter.input)), 1.0f / 1024);
}

// The gradients of channel `d` from what the block has summed, as finish() of h3_mixer_chunked_backward_filter.cuh.
// The other block of the multiprocessor has it for itself meanwhile: so this is to be short. A warp has four modes,
// a lane an eighth of the powers of one, from a^0 to a^63.
template <typename T>
__device__ void finish_group(const ChunkedBackward<T>& m, std::int64_t d, unsigned char* shared,
                             const GroupSums& of_warp, int warp, int lane) {
  // Of the two matrices in shared memory: neither the pairs of a warp that go there nor what is read of them, every 8
  // rows, or 8 columns, meet in a bank more than twice.
  constexpr int input_line = 72, output_line = 88;
  const auto input_at = [](int row, int column) { return row * input_line + row / 8 * 8 + column; };
  const auto output_at = [](int row, int column) { return row * output_line + column / 8 * 2 + column; };
  constexpr int warps = 2 * group_warps;  // of the second group the last four
  constexpr int modes_of_warp = modes / warps, parts = warp_size / modes_of_warp, count = chunk / parts;
  const int own_mode = modes_of_warp * warp + lane % modes_of_warp, part = lane / modes_of_warp;
  const ChannelFilter filter(m, d, own_mode);  // read again: fewer registers are kept
  float* const all = reinterpret_cast<float*>(shared);
  float *const outputs_of = all, *const inputs_of = outputs_of + 64 * output_line;
  float* const lags_of = inputs_of + 64 * (input_line + 1);     // of a warp [m][i][lane]
  float* const lambda_x_of = lags_of + warps * 20 * warp_size;  // of a warp of the first group [2][lane]
  double* const lag_values = reinterpret_cast<double*>(lambda_x_of + group_warps * 2 * warp_size);
  __syncthreads();
  const bool second = warp >= group_warps;
  for (int i = 0; i < 20; ++i) lags_of[(warp * 20 + i) * warp_size + lane] = of_warp.lags[i / 4][i % 4];
  if (!second) {
    lambda_x_of[2 * warp * warp_size + lane] = of_warp.lambda_x.re;
    lambda_x_of[(2 * warp + 1) * warp_size + lane] = of_warp.lambda_x.im;
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = 16 * (warp % group_warps) + lane / 4 + 8 * half, column = 8 * j + lane % 4 * 2;
      float* const to = second ? inputs_of + input_at(row, column) : outputs_of + output_at(row, column);
      *reinterpret_cast<float2*>(to) = make_float2(of_warp.matrix[j][2 * half], of_warp.matrix[j][2 * half + 1]);
    }
  }
  __syncthreads();

  {  // two threads a lag: each has the sums of two warps
    const int l = static_cast<int>(threadIdx.x) / 2 % chunk;
    const bool of_taps = threadIdx.x < 2 * chunk;
    const float* const of_two = lags_of + ((of_taps ? group_warps : 0) + 2 * (lane % 2)) * 20 * warp_size;
    double sum = sum_of_lag(of_two, l) + sum_of_lag(of_two + 20 * warp_size, l);
    sum += __shfl_xor_sync(all_lanes, sum, 1);
    if (lane % 2 == 0) finish_lag(m, d, l, of_taps, sum, lag_values);
  }
  __syncthreads();

  const auto exact = [](Complex<float> value) { return Complex<double>(value.re, value.im); };
  const double scale = static_cast<double>(scale_of(filter)), per_x = 1 / scale;
  const Complex<double> a = exact(filter.a);
  Complex<double> power(1), d_gain, by_log_a, lambda_u;
  if ((part & 1) != 0) power = exact(filter.a8);
  if ((part & 2) != 0) power = power * exact(filter.a16);
  if ((part & 4) != 0) power = power * exact(filter.a32);
#pragma unroll 2
  for (int l = count * part; l < count * (part + 1); ++l) {
    const Complex<double> lag = 2 * lag_values[l] * power;
    const float2 in = *reinterpret_cast<const float2*>(inputs_of + input_at(63 - l, 2 * own_mode));
    const float* const out = outputs_of + output_at(2 * own_mode, l);
    const Complex<double> lambda_w(in.x, -in.y), x_d_z(out[0], out[output_line]);
    const Complex<double> next = power * a, x_v = next * ((2 * per_x) * x_d_z);
    d_gain += lag + x_v;
    by_log_a += static_cast<double>(l) * lag + static_cast<double>(l + 1) * x_v;
    lambda_u += static_cast<double>(l) * (power * lambda_w);
    power = next;
  }
  const auto sum_of_parts = [](Complex<double>& sum) {
    for (int distance = modes_of_warp; distance < warp_size; distance *= 2) {
      sum +=
          Complex<double>(__shfl_xor_sync(all_lanes, sum.re, distance), __shfl_xor_sync(all_lanes, sum.im, distance));
    }
  };
  sum_of_parts(d_gain);
  sum_of_parts(by_log_a);
  sum_of_parts(lambda_u);
  if (part != 0 || own_mode >= m.filter.modes) return;
  Complex<double> by_x;
  for (int w = 0; w < group_warps; ++w) {
    by_x +=
        Complex<double>(lambda_x_of[2 * w * warp_size + own_mode], lambda_x_of[(2 * w + 1) * warp_size + own_mode]);
  }
  const Complex<double> d_log_a =
      exact(filter.gain()) * by_log_a + scale * lambda_u + 64.0 * (exact(filter.a64) * by_x);
  const std::int64_t mode = d * m.filter.modes + own_mode;
  m.d_gain[2 * mode] = static_cast<float>(d_gain.re);
  m.d_gain[2 * mode + 1] = static_cast<float>(-d_gain.im);
  m.d_log_a[2 * mode] = static_cast<float>(d_log_a.re);
  m.d_log_a[2 * mode + 1] = static_cast<float>(-d_log_a.im);
}

}  // namespace riverhorse::cuda::chunked_backward
