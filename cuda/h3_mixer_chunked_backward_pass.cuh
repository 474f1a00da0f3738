// The H3 mixer's backward pass on tensor cores: 16-bit activations, head_dim 1, at most 32 modes, from an empty
// state. One pass over q, k, v and d_y. With x_t = a x_{t-1} + w_t a mode and gain = c b, of one channel:
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
// smaller, and x is kept times 16 |b|, which gives it about the range of U.
//
// A tile is loaded anew as soon as it is dead; taps and lags rest in shared memory between their uses: two blocks a
// multiprocessor leave 255 registers a thread, and a spill costs more than that traffic.
#pragma once

#include "h3_mixer_chunked_backward_filter.cuh"
#include "h3_mixer_chunked_backward_parts.cuh"

namespace riverhorse::cuda::chunked_backward {

// `fast`: as TileMover has it. `packed`: tiles may have several sequences. `may_turn`: warps may take turns.
template <typename T, bool fast, bool packed, bool may_turn>
__global__ void __launch_bounds__(chunked_threads, 2) mix_chunked_backward(ChunkedBackward<T> m) {
  SHARED_MEMORY(unsigned char, shared_memory);
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int warp = __shfl_sync(all_lanes, static_cast<int>(threadIdx.x) / warp_size, 0);
  const std::int64_t d = blockIdx.x;
  const Cut& cut = m.cut;
  const std::uint32_t shared = shared_address(shared_memory);
  const std::uint32_t own = shared + place::warps + static_cast<std::uint32_t>(warp * place::warp_bytes);
  const std::uint32_t values = own + place::values, queries = own + place::queries, d_outputs = own + place::d_y,
                      shifted = own + place::shifted, d_shifted = own + place::d_shifted;
  std::uint32_t keys = own + place::keys, projected = own + place::projected;

  LaneOffsets at{static_cast<unsigned>(lane)};
  // Only full blocks take turns: a constant saves a register where they are scarce.
  const int warps = fast && may_turn ? chunked_warps : static_cast<int>(blockDim.x) / warp_size;
  const bool in_turn = may_turn && m.in_turn;
  const auto turn_of = [=](int barriers, int of) { return shared + static_cast<std::uint32_t>(barriers + 16 * of); };
  if (in_turn && lane < 2) make_barrier(turn_of(lane == 0 ? place::lambda_turns : place::chunk_turns, warp));
  const auto walk = [&] { return TileWalk(in_turn, 1, warps, cut.tiles); };
  const auto mover = [&] { return TileMover<T, fast, Padded>(at.lane, m.aligned); };
  const std::int64_t first = opaque(d * cut.batch * cut.tokens);
  const auto line = [&](auto* tensor) { return tensor + first; };
  const auto superchunk = [&](TilePosition of) { return cut.tiles - 1 - of.tile; };
  const auto rows = [&](TilePosition of) { return cut.rows<packed>(of.group, superchunk(of)); };
  const auto load = [&](TilePosition of, std::uint32_t tile, const T* from) {
    if (of.group < cut.groups) mover().load(tile, line(from), rows(of));
  };
  const auto load_keys = [&](TilePosition of, std::uint32_t tile) {
    if (of.group < cut.groups) mover().load_keys(tile, line(m.k), rows(of), superchunk(of) == 0);
  };
  // The filter is read before the tiles: small, and all work waits for it.
  const ChannelFilter filter(m, d, lane);
  TilePosition now = walk().begin(0, warp);
  const auto load_next = [&](std::uint32_t tile, const T* from) { load(walk().next(now), tile, from); };
  const auto store = [&](std::uint32_t tile, T* to) { mover().store(tile, line(to), rows(now)); };
  load_keys(now, keys);
  load(now, values, m.v);
  load(now, queries, m.q);
  load(now, d_outputs, m.d_y);
  commit_copies();

  make_constants<T>(filter, shared, shared_memory + place::warps + place::projected, warp, warps, lane);
  const Complex<float> decay = filter.a64, gain = filter.gain();
  const float size = sqrtf(norm(filter.input));
  const float scale = size > 0 ? 16 * size : 1;  // of x where it is kept in 16 bits
  const auto entry = [&](TilePosition of) {
    if (superchunk(of) == 0 || at.lane >= m.filter.modes) return Complex<float>();
    const std::int64_t row = (d * cut.batch + of.group) * cut.tiles + superchunk(of);
    const float* parts = m.entry_states + (row * m.filter.modes + at.lane) * 2;
    const float2 per_input = load_shared<float2>(shared + place::per_input + static_cast<std::uint32_t>(8 * at.lane));
    return Complex<float>(parts[0], parts[1]) * Complex<float>(per_input.x, per_input.y);
  };
  __syncthreads();

  LagSums taps = {}, lags = {};
  const std::uint32_t tap_sums = own + place::tap_sums, lag_sums = own + place::lag_sums;
  store_sums(tap_sums + at.unit(), taps);
  store_sums(lag_sums + at.unit(), lags);
  ModeSums sums;
  Complex<float> lambda;
  // Where warps take turns, the first tile of all waits for nobody, and after the last nobody waits.
  int turn = warp > 0 ? 0 : -1;
  const auto hand_on = [&](int barriers) {
    if (walk().after(now).group < cut.groups) signal_barrier(turn_of(barriers, (warp + 1) % warps));
  };

  while (now.group < cut.groups) {
    const std::uint32_t constants = opaque(shared);
    if constexpr (may_turn) at.lane = opaque(at.lane);  // addresses are made anew: fewer registers are kept
    Complex<float> x = entry(now);
    // Bit r: a sequence begins at row r, in a tile of several.
    const unsigned begins = packed && superchunk(now) == 0 ? cut.begins : 0;
    const auto begins_at = [=](int row) { return packed && (begins >> row & 1) != 0; };
    wait_for_copies<0>();
    __syncwarp();

    // k', w = k' v, d_z = d_y q
    Rows w, d_z;
    {
      std::uint32_t k[8][4], tiles[9];
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        load_matrices(k[p], keys + at.rows() + 32 * p);
        load_matrices(k[4 + p], keys + at.rows() + pitch + 32 * p);
        if constexpr (packed) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            if (begins_at(at.row() + 8 * (i % 2))) k[p][i] = 0;
          }
        }
      }
      load_tiles(tiles, constants + place::taps + at.forwards());
#pragma unroll
      for (int begin = 0; begin < 4; begin += 2) {  // sums that do not wait for each other, side by side
        float sums_of[2][2][4] = {};                // even, odd
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            multiply_add<T>(sums_of[j][0], k[begin + j + i], tiles[8 - 2 * i], tiles[7 - 2 * i]);
            multiply_add<T>(sums_of[j][1], k[begin + j + 1 + i], tiles[7 - 2 * i], tiles[6 - 2 * i]);
          }
        }
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          multiply_add<T>(sums_of[j][0], k[begin + j + 4][0], k[begin + j + 4][1], tiles[0]);
          multiply_add<T>(sums_of[j][1], k[begin + j][2], k[begin + j][3], tiles[8]);
        }
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const std::uint32_t offset = at.rows() + 32 * (begin + j);
          std::uint32_t rounded[4];
          pack_sums<T>(rounded, sums_of[j]);
          store_matrices(shifted + offset, rounded);
          std::uint32_t v[4];
          load_matrices(v, values + offset);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float* exact = sums_of[j][i / 2] + i % 2 * 2;
            const float2 value = unpack<T>(v[i]);
            w[begin + j][i] = pack<T>(exact[0] * value.x, exact[1] * value.y);
          }
        }
      }
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        const std::uint32_t offset = at.rows() + 32 * p;
        std::uint32_t q[4], d_y[4];
        load_matrices(q, queries + offset);
        load_matrices(d_y, d_outputs + offset);
#pragma unroll
        for (int i = 0; i < 4; ++i) d_z[p][i] = multiply_pairs<T>(q[i], d_y[i]);
      }
      __syncwarp();
    }
    {
      load_sums(lags, lag_sums + at.unit());
      store_rows(projected + at.rows(), w);
      store_rows(queries + at.rows(), d_z);
      __syncwarp();
      std::uint32_t right[8][2];
      load_right(right, queries + at.rows());
      add_lags<T>(lags, at, projected, right);
      store_sums(lag_sums + at.unit(), lags);
      __syncwarp();
    }

    // x at the entry of each chunk; q is dead, and its tile keeps U'
    project<T, false>(w, at, constants + place::inputs + at.modes_right(), projected + at.sums(),
                      queries + at.sums());
    __syncwarp();
    std::uint32_t entries[16];
    {
      std::uint32_t u[16];
#pragma unroll
      for (int row = 0; row < tile_rows; ++row)
        u[row] = load_shared<std::uint32_t>(projected + at.mode() + row * pitch);
#pragma unroll
      for (int row = 0; row < tile_rows; ++row) {
        if (begins_at(row)) x = {};
        entries[row] = pack<T>(scale * x.re, scale * x.im);
        const Complex<float> out = gain * x;
        store_shared(projected + at.mode() + row * pitch, pack<T>(out.re, out.im));
        Complex<float> sum = unpack_complex<T>(u[row]);
        add_product(sum, decay, x);
        x = sum;
      }
    }
    __syncwarp();

    // z, d_q
    {
      Rows states;
      std::uint32_t tiles[8];
      load_rows(states, projected + at.rows());
      load_tiles(tiles, constants + place::lags + at.forwards());
#pragma unroll
      for (int block = 0; block < 8; block += 4) {
        float z[4][4] = {};
        add_forwards<T>(z, w, tiles, block);
        add_states<T>(z, states, constants + place::outputs + at.times_right(), block);
#pragma unroll
        for (int p = 0; p < 2; ++p) {
          const std::uint32_t offset = at.rows() + 16 * block + 32 * p;
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
    store(d_outputs, m.d_q);
    __syncwarp();
    load_next(d_outputs, m.d_y);
    if constexpr (may_turn) at.lane = opaque(at.lane);

    // lambda at the exit of each chunk, and the sums over modes
    project<T, true>(d_z, at, constants + place::outputs + at.modes_right(), projected + at.sums(),
                     d_shifted + at.sums());
    __syncwarp();
    {
      std::uint32_t v[16], u_weighted[16], v_weighted[16];
      const auto load_row = [&](int row) {  // some rows before they are needed
        v[row] = load_shared<std::uint32_t>(projected + at.mode() + row * pitch);
        u_weighted[row] = load_shared<std::uint32_t>(queries + at.mode() + row * pitch);
        v_weighted[row] = load_shared<std::uint32_t>(d_shifted + at.mode() + row * pitch);
      };
#pragma unroll
      for (int row = tile_rows - 1; row >= 12; --row) load_row(row);
      if (in_turn && turn >= 0) {
        wait_at_barrier(turn_of(place::lambda_turns, warp), turn);
        const float2 carried = load_shared<float2>(shared + place::carry + static_cast<std::uint32_t>(8 * at.lane));
        lambda = {carried.x, carried.y};
      }
      if (now.tile == 0) lambda = {};
#pragma unroll
      for (int row = tile_rows - 1; row >= 0; --row) {
        if (begins_at(row + 1)) lambda = {};
        store_shared(projected + at.mode() + row * pitch, pack<T>(lambda.re, -lambda.im));
        const Complex<float> chunk_v = conj(unpack_complex<T>(v[row])), chunk_x = unpack_complex<T>(entries[row]);
        if (row >= 4) load_row(row - 4);
        add_product(sums.x_v, chunk_x, chunk_v);
        add_product(sums.lambda_u, lambda, unpack_complex<T>(u_weighted[row]));
        add_product(sums.x_v_weighted, chunk_x, conj(unpack_complex<T>(v_weighted[row])));
        add_product(sums.lambda_x, lambda, chunk_x);
        Complex<float> sum = gain * chunk_v;
        add_product(sum, decay, lambda);
        lambda = sum;
      }
      if (in_turn) {
        store_shared(shared + place::carry + static_cast<std::uint32_t>(8 * at.lane),
                     make_float2(lambda.re, lambda.im));
        hand_on(place::lambda_turns);
      }
    }
    __syncwarp();
    load_next(queries, m.q);
    if (const TilePosition next = walk().next(now); next.group < cut.groups) {
      mover().prefetch_tile(line(m.v), rows(next));  // whose place is free only shortly before they are needed
    }

    // d_w, d_v over v, d_k'
    {
      Rows states;
      std::uint32_t tiles[8];
      load_rows(states, projected + at.rows());
      __syncwarp();
      load_keys(walk().next(now), projected);
      load_tiles(tiles, constants + place::lags_back + at.back());
#pragma unroll
      for (int block = 0; block < 8; block += 4) {
        float d_w[4][4] = {};
        add_back<T>(d_w, d_z, tiles, block);
        add_states<T>(d_w, states, constants + place::inputs + at.times_right(), block);
#pragma unroll
        for (int p = 0; p < 2; ++p) {
          const std::uint32_t offset = at.rows() + 16 * block + 32 * p;
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
    store(values, m.d_v);
    __syncwarp();
    load_next(values, m.v);
    commit_copies();

    // taps, d_k over d_k'
    const std::uint32_t after = d_shifted + tile_bytes + at.unit();  // the chunk after the tile
    if (in_turn && turn >= 0) wait_at_barrier(turn_of(place::chunk_turns, warp), turn);
    if (now.tile == 0 && at.lane < 8) store_shared(after, make_uint4(0, 0, 0, 0));
    __syncwarp();
    {
      std::uint32_t d_k[8][4], tiles[9];
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        load_matrices(d_k[p], d_shifted + at.rows() + 32 * p);
        load_matrices(d_k[4 + p], d_shifted + at.rows() + pitch + 32 * p);
        if constexpr (packed) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            if (begins_at(at.row() + 8 * (i % 2) + 1)) d_k[4 + p][i] = 0;
          }
        }
      }
      load_tiles(tiles, constants + place::taps_back + at.back());
      {
        load_sums(taps, tap_sums + at.unit());
        std::uint32_t right[8][2];
        load_right(right, d_shifted + at.rows());
        add_lags_across<T, packed>(taps, at, keys, begins, right);
        store_sums(tap_sums + at.unit(), taps);
      }
      uint4 first_row = make_uint4(0, 0, 0, 0);  // the chunk after those of the superchunk before
      if (at.lane < 8) first_row = load_shared<uint4>(d_shifted + at.unit());
      __syncwarp();
      if (in_turn) {
        const int next = (warp + 1) % warps;
        if (at.lane < 8)
          store_shared(after + static_cast<std::uint32_t>((next - warp) * place::warp_bytes), first_row);
        hand_on(place::chunk_turns);
      } else if (at.lane < 8) {
        store_shared(after, first_row);
      }
#pragma unroll
      for (int begin = 0; begin < 4; begin += 2) {
        float sums_of[2][2][4] = {};  // even, odd
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            multiply_add<T>(sums_of[j][0], d_k[begin + j + i], tiles[2 * i], tiles[2 * i + 1]);
            multiply_add<T>(sums_of[j][1], d_k[begin + j + 1 + i], tiles[2 * i + 1], tiles[2 * i + 2]);
          }
        }
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          multiply_add<T>(sums_of[j][0], d_k[begin + j + 4][0], d_k[begin + j + 4][1], tiles[8]);
          multiply_add<T>(sums_of[j][1], d_k[begin + j][2], d_k[begin + j][3], tiles[0]);
        }
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          std::uint32_t rounded[4];
          pack_sums<T>(rounded, sums_of[j]);
          store_matrices(d_shifted + at.rows() + 32 * (begin + j), rounded);
        }
      }
    }
    __syncwarp();
    store(d_shifted, m.d_k);
    __syncwarp();
    now = walk().next(now);
    ++turn;
    const std::uint32_t read = keys;
    keys = projected;
    projected = read;
  }

  load_sums(taps, tap_sums + at.unit());
  load_sums(lags, lag_sums + at.unit());
  finish(m, d, shared_memory + place::warps, taps, lags, sums, gain, scale, warp, warps, lane);
}

}  // namespace riverhorse::cuda::chunked_backward
