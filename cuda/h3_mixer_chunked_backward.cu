// The H3 mixer's backward pass on tensor cores: 16-bit activations, head_dim 1, 32 modes, from an empty state. One
// pass over q, k, v and d_y. With x_t = a x_{t-1} + w_t a mode and gain = c b, of one channel:
//   k' = taps * k,  w = k' v,  z = K * w;   d_q = d_y z,  d_z = d_y q
//   d_w = K run backwards over d_z;  d_v = d_w k',  d_k' = d_w v,  d_k = the taps run backwards over d_k'
//
// A block has a channel, a warp whole sequences of it, 1024 tokens at a time (a superchunk: 16 chunks of 64) from the
// last to the first. The 16 chunks are the rows of every product, whose result has the layout of the next one's left
// operand: nothing is turned on the way from k to d_k. Inside a chunk K and the taps are Toeplitz matrices, tile by
// tile from tables of pairs; between chunks, in fp32 with a lane a mode,
//   U = W E,      E[t, n] = a^(63-t);           x <- a^64 x + U;                z += (gain x) R
//   V = d_Z R^T,  R[n, t] = 2 Re, -2 Im a^(t+1);  lambda <- a^64 lambda + gain V;  d_w += lambda E^T
// where x begins at what the forward pass left for the superchunk, and lambda = d loss / d x (no conjugates) is
// carried.
//
// Gradients of the filter, summed over tokens and sequences:
//   taps   k^T d_k', and lags = W^T d_Z, over the chunks; tiles of equal lag share an accumulator
//   d      lags[0]
//   gain   sum x V + 2 sum_l lags[l] a^l
//   log a  sum lambda U' + gain sum x V' + 64 a^64 sum lambda x + 2 gain sum_l l lags[l] a^l
// U' and V' weight w by 63 - t and d_z by t + 1. In f16 they and x could overflow: here the weights are 64 times
// smaller, and x is kept times |b|.
//
// Tiles are 16 or 17 rows of 128 bytes, the 16-byte units exchanged by row so that no access has bank conflicts. A
// tile is loaded anew as soon as it is dead; taps and lags rest in shared memory between their uses: two blocks a
// multiprocessor leave 255 registers a thread, and a spill costs more than that traffic.
#include "h3_mixer_chunked_backward.cuh"
#include "h3_mixer_chunked_backward.h"

namespace riverhorse::cuda {

namespace {

using namespace chunked_backward;

template <typename T>
struct ChunkedBackward {
  const T *q, *k, *v, *d_y;   // (D, B, L)
  T *d_q, *d_k, *d_v;         // likewise
  const float* entry_states;  // (D, B, superchunks, 32, 2); may be null with a single superchunk
  int batch, superchunks;
  std::int64_t tokens;
  Filter filter;
  const float *powers, *toeplitz;  // as those of H3Filter
  float *d_log_a, *d_gain, *d_skip, *d_taps;
};

// Of sequences `sequence`, + 4, ... each superchunk from the last to the first.
struct Walk {
  int sequence, superchunk;
  __device__ Walk next(int superchunks) const {
    return superchunk == 0 ? Walk{sequence + mixer_warps, superchunks - 1} : Walk{sequence, superchunk - 1};
  }
};

// The constants of channel `d`: E^T, R and the tables of pairs.
template <typename T>
__device__ void make_constants(const ChunkedBackward<T>& m, std::int64_t d, std::uint32_t shared, int warp,
                               int lane) {
  const auto power = [&](int log2) {
    const float* parts = m.powers + ((d * modes + lane) * H3Filter::power_count + log2) * 2;
    return Complex<float>(parts[0], parts[1]);
  };
  const Complex<float> a = power(0), a8 = power(3), a16 = power(4), a32 = power(5);
  const auto eights = [&](int count) {  // a^(8 count)
    Complex<float> product(1);
    if ((count & 1) != 0) product = a8;
    if ((count & 2) != 0) product = product * a16;
    if ((count & 4) != 0) product = product * a32;
    return product;
  };
  for (int unit = warp; unit < 8; unit += mixer_warps) {
    Complex<float> in = eights(7 - unit), out = eights(unit) * a;
    float rows[4][8];
    for (int t = 0; t < 8; ++t) {
      rows[0][7 - t] = in.re;
      rows[1][7 - t] = in.im;
      rows[2][t] = 2 * out.re;
      rows[3][t] = -2 * out.im;
      in = in * a;
      out = out * a;
    }
    for (int row = 0; row < 4; ++row) {
      const float* r = rows[row];
      store_shared(shared + (row < 2 ? place::inputs : place::outputs) + unit_offset(2 * lane + row % 2, unit),
                   make_uint4(pack<T>(r[0], r[1]), pack<T>(r[2], r[3]), pack<T>(r[4], r[5]), pack<T>(r[6], r[7])));
    }
  }
  const float* taps = m.filter.taps + d * chunk;
  const float* lags = m.toeplitz + d * chunk;
  for (int i = static_cast<int>(threadIdx.x); i < 4 * table_bytes / 4; i += block_threads) {
    const int table = i / 80, lag = i % 80 - 8, other = table < 2 ? lag - 1 : lag + 1;
    const float* values = table % 2 == 0 ? taps : lags;
    const auto value = [&](int l) { return 0 <= l && l < chunk ? values[l] : 0.0f; };
    store_shared(shared + place::taps + static_cast<std::uint32_t>(4 * i), pack<T>(value(lag), value(other)));
  }
}

// What a warp adds up of the modes: sums of x V, lambda U', x V', lambda x.
struct ModeSums {
  Complex<float> x_v, lambda_u, x_v_weighted, lambda_x;
};

// The gradients of channel `d` from what the warps have summed. Takes the whole shared memory.
template <typename T>
__device__ void finish(const ChunkedBackward<T>& m, std::int64_t d, unsigned char* shared, const LagSums& taps,
                       const LagSums& lags, const ModeSums& mode_sums, Complex<float> gain, float scale, int warp,
                       int lane) {
  constexpr int parts = 48;  // of a warp, each a number a lane
  float* const all = reinterpret_cast<float*>(shared);
  double* const lag_values = reinterpret_cast<double*>(all + mixer_warps * parts * warp_size);
  Complex<double>* const partial = reinterpret_cast<Complex<double>*>(lag_values + chunk);  // [warp][2][lane]
  __syncthreads();
  float* const own = all + warp * parts * warp_size + lane;
  for (int m5 = 0; m5 < 5; ++m5) {
    for (int i = 0; i < 4; ++i) {
      own[(m5 * 4 + i) * warp_size] = taps[m5][i];
      own[(20 + m5 * 4 + i) * warp_size] = lags[m5][i];
    }
  }
  const Complex<float> four[4] = {mode_sums.x_v, mode_sums.lambda_u, mode_sums.x_v_weighted, mode_sums.lambda_x};
  for (int i = 0; i < 4; ++i) {
    own[(40 + 2 * i) * warp_size] = four[i].re;
    own[(41 + 2 * i) * warp_size] = four[i].im;
  }
  __syncthreads();
  const int l = static_cast<int>(threadIdx.x) % chunk;
  const bool of_taps = threadIdx.x < chunk;
  double sum = 0;
  for (int w = 0; w < mixer_warps; ++w) sum += sum_of_lag(all + (w * parts + (of_taps ? 0 : 20)) * warp_size, l);
  if (of_taps) {
    m.d_taps[d * chunk + l] = static_cast<float>(sum);
  } else {
    lag_values[l] = sum;
    if (l == 0) m.d_skip[d] = static_cast<float>(sum);
  }
  __syncthreads();
  const std::int64_t mode = d * modes + lane;
  const float* power = m.powers + mode * H3Filter::power_count * 2;
  const Complex<double> a(power[0], power[1]);
  Complex<double> a_l(1), by_gain, by_log_a;
  if ((warp & 1) != 0) a_l = Complex<double>(power[8], power[9]);
  if ((warp & 2) != 0) a_l = a_l * Complex<double>(power[10], power[11]);
  for (int lag = 16 * warp; lag < 16 * warp + 16; ++lag) {
    const Complex<double> term = 2 * lag_values[lag] * a_l;
    by_gain += term;
    by_log_a += static_cast<double>(lag) * term;
    a_l = a_l * a;
  }
  partial[(2 * warp) * warp_size + lane] = by_gain;
  partial[(2 * warp + 1) * warp_size + lane] = by_log_a;
  __syncthreads();
  if (warp != 0) return;
  for (int w = 1; w < mixer_warps; ++w) {
    by_gain += partial[(2 * w) * warp_size + lane];
    by_log_a += partial[(2 * w + 1) * warp_size + lane];
  }
  Complex<double> sums[4];
  for (int i = 0; i < 4; ++i) {
    for (int w = 0; w < mixer_warps; ++w) {
      const float* part = all + (w * parts + 40 + 2 * i) * warp_size + lane;
      sums[i] += Complex<double>(part[0], part[warp_size]);
    }
  }
  const double per_x = 1 / static_cast<double>(scale);
  const Complex<double> weight(gain.re, gain.im), a64(power[12], power[13]);
  const Complex<double> d_gain = by_gain + per_x * sums[0];
  const Complex<double> d_log_a = weight * by_log_a + 64.0 * (sums[1] + per_x * (weight * sums[2] + a64 * sums[3]));
  m.d_gain[2 * mode] = static_cast<float>(d_gain.re);
  m.d_gain[2 * mode + 1] = static_cast<float>(-d_gain.im);
  m.d_log_a[2 * mode] = static_cast<float>(d_log_a.re);
  m.d_log_a[2 * mode + 1] = static_cast<float>(-d_log_a.im);
}

template <typename T, bool aligned>
__global__ void __launch_bounds__(block_threads, 2) mix_chunked_backward(ChunkedBackward<T> m) {
  SHARED_MEMORY(unsigned char, shared_memory);
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int warp = __shfl_sync(all_lanes, static_cast<int>(threadIdx.x) / warp_size, 0);
  const std::int64_t d = blockIdx.x;
  const std::uint32_t shared = shared_address(shared_memory);
  const std::uint32_t own = shared + place::warps + static_cast<std::uint32_t>(warp * place::warp_bytes);
  const std::uint32_t keys = own + place::keys, values = own + place::values, queries = own + place::queries,
                      d_outputs = own + place::d_y, projected = own + place::projected,
                      shifted = own + place::shifted, d_shifted = own + place::d_shifted;

  LaneOffsets at(lane);
  const auto first_token = [&](const Walk& of) {
    return (d * m.batch + of.sequence) * m.tokens + static_cast<std::int64_t>(of.superchunk) * superchunk;
  };
  const auto tokens_left = [&](const Walk& of) {
    const std::int64_t left = m.tokens - static_cast<std::int64_t>(of.superchunk) * superchunk;
    return static_cast<int>(min(left, static_cast<std::int64_t>(superchunk)));
  };
  const auto load = [&](const Walk& of, std::uint32_t tile, const T* from) {
    if (of.sequence >= m.batch) return;
    TileMover<T, aligned>(at.lane).load(tile, from + first_token(of), tokens_left(of));
  };
  const auto load_keys = [&](const Walk& of) {
    if (of.sequence >= m.batch) return;
    TileMover<T, aligned>(at.lane).load_keys(keys, m.k + first_token(of), tokens_left(of), of.superchunk == 0);
  };
  Walk walk{warp, m.superchunks - 1};
  load_keys(walk);
  load(walk, values, m.v);
  load(walk, queries, m.q);
  load(walk, d_outputs, m.d_y);
  commit_copies();

  make_constants(m, d, shared, warp, lane);
  const std::int64_t mode = d * modes + lane;
  const float* powers = m.powers + mode * H3Filter::power_count * 2;
  const Complex<float> decay(powers[12], powers[13]);  // a^64
  const Complex<double> exact_gain = m.filter.gain(mode);
  const Complex<float> gain(static_cast<float>(exact_gain.re), static_cast<float>(exact_gain.im));
  const float size = sqrtf(norm(m.filter.input(mode)));
  const float scale = size > 0 ? size : 1;  // of x where it is kept in 16 bits
  const auto entry = [&](const Walk& of) {
    if (of.superchunk == 0 || of.sequence >= m.batch) return Complex<float>();
    const std::int64_t row = (d * m.batch + of.sequence) * m.superchunks + of.superchunk;
    const float* parts = m.entry_states + (row * modes + at.lane) * 2;
    const Complex<float> input = m.filter.input(d * modes + at.lane);
    const float per_norm = norm(input) > 0 ? 1 / norm(input) : 0.0f;
    return per_norm * (Complex<float>(parts[0], parts[1]) * conj(input));
  };
  __syncthreads();

  LagSums taps = {}, lags = {};
  const std::uint32_t tap_place = own + place::tap_sums + static_cast<std::uint32_t>(16 * lane),
                      lag_place = own + place::lag_sums + static_cast<std::uint32_t>(16 * lane);
  store_sums(tap_place, taps);
  store_sums(lag_place, lags);
  ModeSums sums;
  Complex<float> x = entry(walk), lambda;

  while (walk.sequence < m.batch) {
    const Walk next = walk.next(m.superchunks);
    const std::int64_t begin = first_token(walk);
    const int left = tokens_left(walk);
    at.forget();
    wait_for_copies<0>();
    if (walk.superchunk == m.superchunks - 1) {
      lambda = {};
      if (lane < 8)
        store_shared(d_shifted + tile_bytes + static_cast<std::uint32_t>(16 * lane), make_uint4(0, 0, 0, 0));
    }
    __syncwarp();

    // k', w = k' v, d_z = d_y q
    Rows w, d_z;
    {
      std::uint32_t k[8][4], tiles[9];
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        load_matrices(k[p], keys + (at.rows ^ static_cast<std::uint32_t>(32 * p)));
        load_matrices(k[4 + p], keys + (at.next_rows ^ static_cast<std::uint32_t>(32 * p)));
      }
      load_tiles(tiles, shared + place::taps + at.forwards);
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        const std::uint32_t offset = at.rows ^ static_cast<std::uint32_t>(32 * p);
        float even[4] = {}, odd[4] = {};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          multiply_add<T>(even, k[p + i], tiles[8 - 2 * i], tiles[7 - 2 * i]);
          multiply_add<T>(odd, k[p + 1 + i], tiles[7 - 2 * i], tiles[6 - 2 * i]);
        }
        multiply_add<T>(even, k[p + 4][0], k[p + 4][1], tiles[0]);
        multiply_add<T>(odd, k[p][2], k[p][3], tiles[8]);
        const std::uint32_t rounded[4] = {pack<T>(even[0], even[1]), pack<T>(even[2], even[3]),
                                          pack<T>(odd[0], odd[1]), pack<T>(odd[2], odd[3])};
        store_matrices(shifted + offset, rounded);
        std::uint32_t v[4];
        load_matrices(v, values + offset);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* exact = (i < 2 ? even : odd) + i % 2 * 2;
          const float2 value = unpack<T>(v[i]);
          w[p][i] = pack<T>(exact[0] * value.x, exact[1] * value.y);
        }
      }
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        const std::uint32_t offset = at.rows ^ static_cast<std::uint32_t>(32 * p);
        std::uint32_t q[4], d_y[4];
        load_matrices(q, queries + offset);
        load_matrices(d_y, d_outputs + offset);
#pragma unroll
        for (int i = 0; i < 4; ++i) d_z[p][i] = multiply_pairs<T>(q[i], d_y[i]);
      }
      __syncwarp();
    }
    at.forget();
    {
      load_sums(lags, lag_place);
      store_rows(projected, at.rows, w);
      store_rows(queries, at.rows, d_z);
      __syncwarp();
      std::uint32_t right[8][2];
      load_right(right, queries, at.rows);
      add_lags<T>(lags, at, projected, right);
      store_sums(lag_place, lags);
      __syncwarp();
    }
    at.forget();

    // x at the entry of each chunk; q is dead, and its tile keeps U'
    project<T, false>(w, at, shared + place::inputs, projected, queries);
    __syncwarp();
    at.forget();
    std::uint32_t entries[16];
    {
      std::uint32_t u[16];
#pragma unroll
      for (int row = 0; row < chunks; ++row) u[row] = load_shared<std::uint32_t>(projected + at.mode_at(row));
#pragma unroll
      for (int row = 0; row < chunks; ++row) {
        entries[row] = pack<T>(scale * x.re, scale * x.im);
        const Complex<float> out = gain * x;
        store_shared(projected + at.mode_at(row), pack<T>(out.re, out.im));
        Complex<float> sum = unpack_complex<T>(u[row]);
        add_product(sum, decay, x);
        x = sum;
      }
      x = entry(next);
    }
    __syncwarp();
    at.forget();

    // z, d_q
    {
      Rows states;
      std::uint32_t tiles[8];
      load_rows(states, projected, at.rows);
      load_tiles(tiles, shared + place::lags + at.forwards);
#pragma unroll
      for (int block = 0; block < 8; block += 4) {
        float z[4][4] = {};
        add_forwards<T>(z, w, tiles, block);
        add_states<T>(z, states, at, shared + place::outputs, block);
#pragma unroll
        for (int p = 0; p < 2; ++p) {
          const std::uint32_t offset = at.rows ^ static_cast<std::uint32_t>(16 * block + 32 * p);
          std::uint32_t d_y[4];
          load_matrices(d_y, d_outputs + offset);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float2 factor = unpack<T>(d_y[i]);
            const float* sum = z[2 * p + i / 2] + i % 2 * 2;
            d_y[i] = pack<T>(sum[0] * factor.x, sum[1] * factor.y);
          }
          store_matrices(d_outputs + offset, d_y);
        }
      }
    }
    __syncwarp();
    TileMover<T, aligned>(at.lane).store(d_outputs, m.d_q + begin, left);
    __syncwarp();
    load(next, d_outputs, m.d_y);
    at.forget();

    // lambda at the exit of each chunk, and the sums over modes
    project<T, true>(d_z, at, shared + place::outputs, projected, d_shifted);
    __syncwarp();
    at.forget();
    {
      std::uint32_t v[16], u_weighted[16], v_weighted[16];
      const auto load_weighted = [&](int row) {
        u_weighted[row] = load_shared<std::uint32_t>(queries + at.mode_at(row));
        v_weighted[row] = load_shared<std::uint32_t>(d_shifted + at.mode_at(row));
      };
#pragma unroll
      for (int row = chunks - 1; row >= 0; --row) {
        v[row] = load_shared<std::uint32_t>(projected + at.mode_at(row));
        if (row >= 12) load_weighted(row);
      }
#pragma unroll
      for (int row = chunks - 1; row >= 0; --row) {
        store_shared(projected + at.mode_at(row), pack<T>(lambda.re, -lambda.im));
        const Complex<float> chunk_v = conj(unpack_complex<T>(v[row])), chunk_x = unpack_complex<T>(entries[row]);
        if (row >= 4) load_weighted(row - 4);
        add_product(sums.x_v, chunk_x, chunk_v);
        add_product(sums.lambda_u, lambda, unpack_complex<T>(u_weighted[row]));
        add_product(sums.x_v_weighted, chunk_x, conj(unpack_complex<T>(v_weighted[row])));
        add_product(sums.lambda_x, lambda, chunk_x);
        Complex<float> sum = gain * chunk_v;
        add_product(sum, decay, lambda);
        lambda = sum;
      }
    }
    __syncwarp();
    load(next, queries, m.q);
    at.forget();

    // d_w, d_v over v, d_k'
    {
      Rows states;
      std::uint32_t tiles[8];
      load_rows(states, projected, at.rows);
      load_tiles(tiles, shared + place::lags_back + at.back);
#pragma unroll
      for (int block = 0; block < 8; block += 4) {
        float d_w[4][4] = {};
        add_back<T>(d_w, d_z, tiles, block);
        add_states<T>(d_w, states, at, shared + place::inputs, block);
#pragma unroll
        for (int p = 0; p < 2; ++p) {
          const std::uint32_t offset = at.rows ^ static_cast<std::uint32_t>(16 * block + 32 * p);
          std::uint32_t v[4], k[4];
          load_matrices(v, values + offset);
          load_matrices(k, shifted + offset);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float2 value = unpack<T>(v[i]), key = unpack<T>(k[i]);
            const float* sum = d_w[2 * p + i / 2] + i % 2 * 2;
            k[i] = pack<T>(sum[0] * key.x, sum[1] * key.y);
            v[i] = pack<T>(sum[0] * value.x, sum[1] * value.y);
          }
          store_matrices(values + offset, k);
          store_matrices(d_shifted + offset, v);
        }
      }
    }
    __syncwarp();
    TileMover<T, aligned>(at.lane).store(values, m.d_v + begin, left);
    __syncwarp();
    load(next, values, m.v);
    at.forget();

    // taps, d_k over d_k'
    {
      std::uint32_t d_k[8][4], tiles[9];
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        load_matrices(d_k[p], d_shifted + (at.rows ^ static_cast<std::uint32_t>(32 * p)));
        load_matrices(d_k[4 + p], d_shifted + (at.next_rows ^ static_cast<std::uint32_t>(32 * p)));
      }
      {
        load_sums(taps, tap_place);
        std::uint32_t right[8][2];
        load_right(right, d_shifted, at.rows);
        add_lags_across<T>(taps, at, keys, right);
        store_sums(tap_place, taps);
      }
      __syncwarp();
      load_keys(next);
      commit_copies();
      at.forget();
      uint4 first_row = make_uint4(0, 0, 0, 0);  // the chunk after those of the superchunk before
      if (lane < 8) first_row = load_shared<uint4>(d_shifted + static_cast<std::uint32_t>(16 * lane));
      load_tiles(tiles, shared + place::taps_back + at.back);
      __syncwarp();
      if (lane < 8) store_shared(d_shifted + tile_bytes + static_cast<std::uint32_t>(16 * lane), first_row);
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        float even[4] = {}, odd[4] = {};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          multiply_add<T>(even, d_k[p + i], tiles[2 * i], tiles[2 * i + 1]);
          multiply_add<T>(odd, d_k[p + 1 + i], tiles[2 * i + 1], tiles[2 * i + 2]);
        }
        multiply_add<T>(even, d_k[p + 4][0], d_k[p + 4][1], tiles[8]);
        multiply_add<T>(odd, d_k[p][2], d_k[p][3], tiles[0]);
        const std::uint32_t rounded[4] = {pack<T>(even[0], even[1]), pack<T>(even[2], even[3]),
                                          pack<T>(odd[0], odd[1]), pack<T>(odd[2], odd[3])};
        store_matrices(d_shifted + (at.rows ^ static_cast<std::uint32_t>(32 * p)), rounded);
      }
    }
    __syncwarp();
    TileMover<T, aligned>(at.lane).store(d_shifted, m.d_k + begin, left);
    __syncwarp();
    walk = next;
  }

  load_sums(taps, tap_place);
  load_sums(lags, lag_place);
  finish(m, d, shared_memory, taps, lags, sums, gain, scale, warp, lane);
}

template <typename T>
void run(const H3MixerBackwardArgs& args, cudaStream_t stream) {
  const std::int64_t width = args.d_y.shape[0], batch = args.d_y.shape[1], tokens = args.d_y.shape[2];
  const std::int64_t part = width * batch * tokens;
  const T* q = data<T>(args.qkv);
  T* d_q = data<T>(args.d_qkv);
  const ChunkedBackward<T> m{q,
                             q + part,
                             q + 2 * part,
                             data<T>(args.d_y),
                             d_q,
                             d_q + part,
                             d_q + 2 * part,
                             data<float>(args.entry_states),
                             static_cast<int>(batch),
                             static_cast<int>(divide_up(tokens, superchunk)),
                             tokens,
                             Filter(args.filter),
                             data<float>(args.filter.powers),
                             data<float>(args.filter.toeplitz),
                             data<float>(args.d_filter.log_a),
                             data<float>(args.d_filter.gain),
                             data<float>(args.d_filter.d),
                             data<float>(args.d_filter.shift_taps)};
  const auto aligned = [](const T* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0; };
  const bool by_units = tokens % 8 == 0 && aligned(q) && aligned(m.d_y) && aligned(d_q);
  launch(by_units ? mix_chunked_backward<T, true> : mix_chunked_backward<T, false>, grid_of(width), block_threads,
         place::block_bytes, stream, m);
}

}  // namespace

bool fits_chunked_backward(const H3MixerBackwardArgs& args, const DeviceLimits& limits) {
  return args.d_y.dtype == DType::f16 && args.head_dim == 1 && args.filter.a.shape[1] == modes &&
         limits.shared_bytes >= place::block_bytes && (args.entry_states || args.d_y.shape[2] <= superchunk);
}

void run_chunked_backward(const H3MixerBackwardArgs& args, cudaStream_t stream) { run<__half>(args, stream); }

}  // namespace riverhorse::cuda
