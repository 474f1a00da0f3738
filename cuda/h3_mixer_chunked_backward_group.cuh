// The mixer's backward pass of h3_mixer_chunked_backward_pass.cuh, whose formulae and names these are, for compute
// capability 9.0, where four warps multiply together (warpgroup.cuh). A block has four tiles and two groups of four
// warps, and of each tile the first group walks over x, and makes k', w and d_q; the second walks over lambda, and
// makes d_z, d_v and d_k. Neither walk waits for the other.
//
// Products whose rows are summed over are free to have any operands here, so instead of weighted projections the
// block adds up two matrices over all its tiles,
//   G = W^T Lambda,  H = X^T d_Z,   64 x 64 each, in registers,
// and takes from them, once, at the end
//   sum lambda U'  the sum of (63 - t) E[t, n] G[t, n] over t;   sum x V, sum x V'  likewise of H and R
//
// Constants: E, R, whose gain and whose scale of x are included, so that V = d_Z R^T comes out times gain / scale;
// and Toeplitz matrices, of which each core of 8 x 8 is there once.
#pragma once

#include "h3_mixer_chunked_backward_group_filter.cuh"
#include "h3_mixer_chunked_backward_group_parts.cuh"

namespace riverhorse::cuda::chunked_backward {

// Rows in runs that begin at 16 bytes. `packed`: tiles may have several sequences. `in_turn`: the block's tiles are
// four of a sequence that follow each other; else each is of a sequence of its own.
template <typename T, bool packed, bool in_turn>
__global__ void __launch_bounds__(team_threads, 2) mix_chunked_backward_group(ChunkedBackward<T> m) {
  SHARED_MEMORY(unsigned char, shared_memory);
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int warp = __shfl_sync(all_lanes, static_cast<int>(threadIdx.x) / warp_size, 0);
  const bool walks_back = warp >= group_warps;
  const int of_tile = warp % group_warps;
  let_next_begin();
  // Channels and sequences from the last to the first: what the pass before left in the cache comes first.
  const std::int64_t d = gridDim.x - 1 - blockIdx.x;
  const Cut& cut = m.cut;
  const std::uint32_t shared = shared_address(shared_memory), tiles = shared + group_place::tiles;
  const std::uint32_t own = tiles + static_cast<std::uint32_t>(of_tile * group_place::tile_bytes);
  const std::uint32_t values = own + group_place::values, d_z_tile = own + group_place::d_z,
                      w_tile = own + group_place::w, states = own + group_place::states,
                      shifted = own + group_place::shifted, d_shifted = own + group_place::d_shifted;
  int turn = 0;

  StackedOffsets at{static_cast<unsigned>(lane)};
  // At `loaded` the first group's warp waits for its tile's keys and values, which the second's loads, and for no
  // more; at `stored` the second's until d_q is stored, before it writes to that memory. The place is made anew where
  // registers are few.
  const auto barrier_of = [=](int place) {
    const std::uint32_t tile =
        in_turn ? static_cast<std::uint32_t>(of_tile) : opaque(threadIdx.x) / warp_size % group_warps;
    return shared + static_cast<std::uint32_t>(place) + barrier_bytes * tile;
  };
  // Both groups come to it, each on its own way, where __syncthreads() may not stand.
  const auto sync_both = [] { sync_some<team_threads>(1); };
  const auto sync_group = [] { sync_some<group_size>(2); };  // of the second group
  const auto walk = [&] { return TileWalk(in_turn, 1, group_warps, cut.tiles); };
  const auto mover = [&] { return TileMover<T, true>(at.lane, true); };
  const auto exchanged = [&] { return ExchangedOffsets{at.lane}; };
  const std::int64_t first = d * cut.batch * cut.tokens;
  const auto line = [&](auto* tensor) { return tensor + opaque(first); };  // made anew: fewer registers are kept
  const auto superchunk = [&](TilePosition of) { return cut.tiles - 1 - of.tile; };
  const auto group = [&](TilePosition of) { return cut.groups - 1 - of.group; };
  const auto rows = [&](TilePosition of) {  // of a tile that is not there: none
    return of.group < cut.groups ? cut.rows<packed>(group(of), superchunk(of)) : TileRows{0, 0};
  };
  const auto load = [&](TilePosition of, std::uint32_t tile, const T* from) {
    mover().load(tile, line(from), rows(of));
  };
  const auto load_keys = [&](TilePosition of, std::uint32_t tile) {
    mover().load_keys(tile, line(m.k), rows(of), superchunk(of) == 0 || of.group >= cut.groups);
  };
  // x where a tile begins, of this lane's mode; in 1 / b, without the scale.
  const auto entry = [&] {
    return shared + group_place::entries + static_cast<std::uint32_t>(8 * modes * of_tile) + 8 * at.lane;
  };
  const auto load_entry = [&](TilePosition of) {
    const bool there = superchunk(of) > 0 && of.group < cut.groups && static_cast<int>(at.lane) < m.filter.modes;
    const std::int64_t row = there ? (d * cut.batch + group(of)) * cut.tiles + superchunk(of) : 0;
    copy_pair_async(entry(), m.entry_states + (there ? (row * m.filter.modes + at.lane) * 2 : 0), there);
  };
  // The filter is read before the tiles: small, and all work waits for it.
  const ChannelFilter filter(m, d, lane);
  // `lead`: where the block's first tile is.
  TilePosition now = walk().begin(0, of_tile), lead = walk().begin(0, 0);
  const auto store = [&](std::uint32_t tile, T* to) { mover().store(tile, line(to), rows(now)); };
  // Until the kernel before has ended, which may write them, the first tiles only come into the cache.
  if (static_cast<int>(blockIdx.x) < m.at_once) {
    mover().prefetch_tile(line(walks_back ? m.q : m.k), rows(now));
    mover().prefetch_tile(line(walks_back ? m.d_y : m.v), rows(now));
  }
  wait_for_previous();
  if (walks_back) {
    load(now, d_z_tile, m.q);
    load(now, own + group_place::d_y, m.d_y);
  } else {
    load_keys(now, own + group_place::keys);
    load(now, values, m.v);
    if constexpr (!packed) load_entry(now);
  }
  commit_copies();
  if (threadIdx.x < 2 * group_warps) make_barrier(shared + group_place::loaded + barrier_bytes * threadIdx.x);

  make_matrices<T>(filter, scale_of(filter), shared, shared_memory + group_place::tiles + group_place::w, warp, lane);
  __syncthreads();
  if (!walks_back) signal_after_copies(barrier_of(group_place::loaded));

  const auto load_decay = [&] {
    const float2 parts = load_shared<float2>(shared + group_place::decay + 8 * at.lane);
    return Complex<float>(parts.x, parts.y);
  };
  GroupSums sums;
  Complex<float> carried;  // in turn: lambda after the block's last tile
  const auto more = [&] { return (in_turn ? lead.group : now.group - of_tile) < cut.groups; };

  while (more()) {
    at.lane = opaque(at.lane);  // likewise
    // Bit r: a sequence begins at row r, in a tile of several.
    const unsigned begins = packed && superchunk(now) == 0 ? cut.begins : 0;
    const auto begins_at = [=](int row) { return packed && (begins >> row & 1) != 0; };
    const std::uint32_t odd = static_cast<std::uint32_t>(turn) & 1;
    const std::uint32_t keys_turn = odd * static_cast<std::uint32_t>(group_place::next_keys);
    const std::uint32_t d_y_turn = odd * static_cast<std::uint32_t>(Tile::bytes);
    const std::uint32_t keys = own + group_place::keys + keys_turn,
                        next_keys = own + group_place::next_keys - keys_turn;
    const std::uint32_t d_outputs = own + group_place::d_y + d_y_turn,
                        lambda_tile = own + group_place::lambda - d_y_turn;
    const TilePosition next = walk().next(now);

    if (!walks_back) {
      if constexpr (!packed) wait_for_copies<0>();  // of the entry
      wait_at_barrier(barrier_of(group_place::loaded), turn);
      // k', w = k' v
      Rows w;
      {
        float k_sums[8][4];
        load_exchanged(w, exchanged(), keys);  // the chunks before
        if constexpr (packed) {
#pragma unroll
          for (int p = 0; p < 4; ++p) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              if (begins_at(at.row() + 8 * (i % 2))) w[p][i] = 0;
            }
          }
        }
        multiply_forwards<T, false, 1>(k_sums, w, shared + group_place::taps);
        wait_for_products<0>();  // before its registers are taken again
        receive_sums(k_sums);
        load_exchanged(w, exchanged(), keys, 1);
        multiply_forwards<T, true>(k_sums, w, shared + group_place::taps);
        wait_for_products<0>();
        receive_sums(k_sums);
#pragma unroll
        for (int p = 0; p < 4; ++p) {
          const std::uint32_t offset = at.rows() + Tile::k_columns * p;
          std::uint32_t v[4];
          load_matrices(v, values + exchanged().rows(p));
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float* sum = k_sums[2 * p + i / 2] + i % 2 * 2;
            const float2 value = unpack<T>(v[i]);
            w[p][i] = pack<T>(sum[0] * value.x, sum[1] * value.y);
            v[i] = pack<T>(sum[0], sum[1]);
          }
          store_matrices(shifted + offset, v);
        }
        store_left(w_tile + at.rows(), w);
      }
      {
        float u[8][4];
        multiply_rows<T, Matrix::columns_are_k, true, false>(u, w, shared + group_place::inputs + 6 * Matrix::pitch,
                                                             -Matrix::k_columns);
        wait_for_products<0>();
        receive_sums(u);
        store_pairs<T>(states + at.sums(), u);
      }
      __syncwarp();
      // x at the entry of each chunk, which stays in registers too
      std::uint32_t u[16];  // then x
      {
        const Complex<float> decay = load_decay();
        Complex<float> x;
        if constexpr (!packed) {
          const float2 stored = load_shared<float2>(entry());
          const float2 per_input = load_shared<float2>(shared + group_place::per_input + 8 * at.lane);
          x = Complex<float>(stored.x, stored.y) * Complex<float>(per_input.x, per_input.y);
        }
        const auto load_u = [&](int row) { u[row] = load_shared<std::uint32_t>(states + at.mode() + 16 * row); };
#pragma unroll
        for (int row = 0; row < 8; ++row) load_u(row);
#pragma unroll
        for (int row = 0; row < tile_rows; ++row) {
          if (row + 8 < tile_rows) load_u(row + 8);
          if (begins_at(row)) x = {};
          Complex<float> sum = unpack_complex<T>(u[row]);
          u[row] = pack<T>(x.re, x.im);
          store_shared(states + at.mode() + 16 * row, u[row]);
          add_product(sum, decay, x);
          x = sum;
        }
      }
      if constexpr (!packed) {
        load_entry(next);
        commit_copies();
      }
      show_stores_to_products();
      sync_both();

      begin_products();
#pragma unroll
      for (int i = 0; i < group_warps; ++i) {
        const std::uint32_t tile = tiles + static_cast<std::uint32_t>(i * group_place::tile_bytes);
        multiply_add_group<T, 8, Tile::rows_are_k, Tile::rows_are_k>(sums.matrix, tile + group_place::states,
                                                                     tile + group_place::d_z);
      }
      commit_products();
#pragma unroll
      for (int row = 0; row < tile_rows; ++row) {
        const auto lambda = load_shared<std::uint32_t>(lambda_tile + at.mode() + 16 * row);
        add_product(sums.lambda_x, conj(unpack_complex<T>(lambda)), unpack_complex<T>(u[row]));
      }
      add_group_lags<T>(sums.lags, at, w_tile, d_z_tile);
      wait_for_products<0>();
      receive_sums(sums.matrix);
      sync_both();

      // z, d_q over d_y
      at.lane = opaque(at.lane);
      {
        float z[8][4];
        multiply_forwards<T, false>(z, w, shared + group_place::lags);
        wait_for_products<0>();
        receive_sums(z);
        load_left(w, states + at.rows());
        add_of_states<T>(z, w, shared + group_place::outputs);
        wait_for_products<0>();
        receive_sums(z);
#pragma unroll
        for (int p = 0; p < 4; ++p) {
          const std::uint32_t offset = exchanged().rows(p);
          std::uint32_t d_y[4];
          load_matrices(d_y, d_outputs + offset);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float* sum = z[2 * p + i / 2] + i % 2 * 2;
            const float2 factor = unpack<T>(d_y[i]);
            d_y[i] = pack<T>(sum[0] * factor.x, sum[1] * factor.y);
          }
          store_matrices(d_outputs + offset, d_y);
        }
      }
      __syncwarp();
      store(d_outputs, m.d_q);
      signal_barrier(barrier_of(group_place::stored));
    } else {
      wait_for_copies<0>();
      __syncwarp();
      load_keys(next, next_keys);
      // d_z = d_y q, V
      Rows d_z;
      float d_w[8][4];
      {
        float v[8][4];
#pragma unroll
        for (int p = 0; p < 4; ++p) {
          const std::uint32_t offset = exchanged().rows(p);
          std::uint32_t d_y[4];
          load_matrices(d_z[p], d_z_tile + offset);
          load_matrices(d_y, d_outputs + offset);
#pragma unroll
          for (int i = 0; i < 4; ++i) d_z[p][i] = multiply_pairs<T>(d_z[p][i], d_y[i]);
        }
        __syncwarp();
        store_left(d_z_tile + at.rows(), d_z);
        multiply_rows<T, Matrix::columns_are_k, false, false>(v, d_z, shared + group_place::outputs,
                                                              Matrix::k_columns);
        wait_for_products<0>();
        receive_sums(v);
        wait_at_barrier(barrier_of(group_place::stored), turn - 1);  // of the turn before
        store_pairs<T>(lambda_tile + at.sums(), v);
        if constexpr (!in_turn) multiply_back<T, false>(d_w, d_z, shared + group_place::lags);  // during the walk
      }
      __syncwarp();
      // lambda at the exit of each chunk
      {
        const Complex<float> decay = load_decay();
        std::uint32_t v[16];
#pragma unroll
        for (int row = tile_rows - 1; row >= 0; --row) {
          v[row] = load_shared<std::uint32_t>(lambda_tile + at.mode() + 16 * row);
        }
        Complex<float> lambda;
        const auto step = [&](int row) {  // lambda before the chunk
          Complex<float> sum = conj(unpack_complex<T>(v[row]));
          add_product(sum, decay, lambda);
          lambda = sum;
        };
        if constexpr (in_turn) {
          // Each warp walks from 0 first and says where it came to: so all know where the others begin.
          lambda = {};
#pragma unroll
          for (int row = tile_rows - 1; row >= 0; --row) step(row);
          const std::uint32_t carries = shared + group_place::carries + static_cast<std::uint32_t>(8 * lane);
          store_shared(carries + static_cast<std::uint32_t>(8 * modes * of_tile), make_float2(lambda.re, lambda.im));
          sync_group();
          Complex<float> decay_of_tile = decay;
          for (int i = 1; i < tile_rows; i *= 2) decay_of_tile = decay_of_tile * decay_of_tile;
          Complex<float> before;
          TilePosition of = lead;
          for (int i = 0; i < group_warps; ++i) {
            if (of.tile == 0) carried = {};
            if (i == of_tile) before = carried;
            const float2 from_zero = load_shared<float2>(carries + static_cast<std::uint32_t>(8 * modes * i));
            Complex<float> sum(from_zero.x, from_zero.y);
            add_product(sum, decay_of_tile, carried);
            carried = sum;
            of = walk().after(of);
          }
          lambda = before;
        }
        const std::uint32_t carried_lambda =
            shared + group_place::carries + static_cast<std::uint32_t>(8 * modes * of_tile) + 8 * at.lane;
        if constexpr (!packed && !in_turn) {  // from turn to turn in shared memory: fewer registers are kept
          const float2 parts = load_shared<float2>(carried_lambda);
          lambda = Complex<float>(parts.x, parts.y);
        }
        if (now.tile == 0) lambda = {};
#pragma unroll
        for (int row = tile_rows - 1; row >= 0; --row) {
          if (begins_at(row + 1)) lambda = {};
          store_shared(lambda_tile + at.mode() + 16 * row, pack<T>(lambda.re, -lambda.im));
          step(row);
        }
        if constexpr (!packed && !in_turn) store_shared(carried_lambda, make_float2(lambda.re, lambda.im));
      }
      if constexpr (!in_turn) {
        wait_for_products<0>();
        receive_sums(d_w);
      }
      show_stores_to_products();
      sync_both();

      // d_w, d_v over v, d_k'
      at.lane = opaque(at.lane);
      {
        Rows left;
        if constexpr (in_turn) {
          multiply_back<T, false>(d_w, d_z, shared + group_place::lags);
          wait_for_products<0>();
          receive_sums(d_w);
        }
        load_left(left, lambda_tile + at.rows());
        add_of_states<T>(d_w, left, shared + group_place::inputs);
        begin_products();
#pragma unroll
        for (int i = 0; i < group_warps; ++i) {
          const std::uint32_t tile = static_cast<std::uint32_t>(i - of_tile) * group_place::tile_bytes;
          multiply_add_group<T, 8, Tile::rows_are_k, Tile::rows_are_k>(sums.matrix, tile + w_tile,
                                                                       tile + lambda_tile);
        }
        commit_products();
        wait_for_products<1>();
        receive_sums(d_w);
#pragma unroll
        for (int p = 0; p < 4; ++p) {
          const std::uint32_t offset = exchanged().rows(p);
          std::uint32_t v[4], k[4];
          load_matrices(v, values + offset);
          load_matrices(k, shifted + at.rows() + Tile::k_columns * p);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float* sum = d_w[7 - 2 * p - i / 2] + i % 2 * 2;
            const float2 value = unpack<T>(v[i]), key = unpack<T>(k[i]);
            k[i] = pack<T>(sum[0] * key.x, sum[1] * key.y);
            v[i] = pack<T>(sum[0] * value.x, sum[1] * value.y);
          }
          store_matrices(values + offset, k);
          store_matrices(d_shifted + offset, v);
        }
      }
      __syncwarp();
      store(values, m.d_v);
      __syncwarp();
      load(next, values, m.v);
      signal_after_copies(barrier_of(group_place::loaded));
      wait_for_products<0>();
      receive_sums(sums.matrix);
      sync_both();
      load(next, d_z_tile, m.q);
      load(next, lambda_tile, m.d_y);
      commit_copies();

      // taps, d_k over d_k'
      at.lane = opaque(at.lane);
      const std::uint32_t unit = at.unit(),
                          after = d_shifted + static_cast<std::uint32_t>(group_place::exchanged) + unit;
      if (at.lane < 8) {
        if (now.tile == 0) {
          store_shared(after, make_uint4(0, 0, 0, 0));
        } else if constexpr (in_turn) {  // the first chunk of the tile after, which the block had just now, or the
                                         // turn before
          const std::uint32_t from = of_tile > 0
                                         ? d_shifted - group_place::tile_bytes + unit
                                         : shared + group_place::chunk_carries + at.unit() + (1 - odd) * row_bytes;
          store_shared(after, load_shared<uint4>(from));
        }
        if constexpr (in_turn) {
          if (of_tile == group_warps - 1) {
            store_shared(shared + group_place::chunk_carries + at.unit() + odd * row_bytes,
                         load_shared<uint4>(d_shifted + unit));
          }
        }
      }
      __syncwarp();
      add_tap_lags<T, packed>(sums.lags, exchanged(), keys, begins, d_shifted);
      {
        float d_k[8][4];
        Rows left;
        load_exchanged(left, exchanged(), d_shifted);
        multiply_back<T, false>(d_k, left, shared + group_place::taps);
        wait_for_products<0>();
        receive_sums(d_k);
        load_exchanged(left, exchanged(), d_shifted, 1);
        if constexpr (packed) {
#pragma unroll
          for (int p = 0; p < 4; ++p) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              if (begins_at(at.row() + 8 * (i % 2) + 1)) left[p][i] = 0;
            }
          }
        }
        multiply_back<T, true, 1>(d_k, left, shared + group_place::taps);
        uint4 first_row = make_uint4(0, 0, 0, 0);
        if (at.lane < 8) first_row = load_shared<uint4>(d_shifted + unit);
        if constexpr (in_turn) {
          sync_group();  // others read the first row
        } else {
          __syncwarp();
          if (at.lane < 8) store_shared(after, first_row);
        }
        wait_for_products<0>();
        receive_sums(d_k);
#pragma unroll
        for (int p = 0; p < 4; ++p) {
          std::uint32_t rounded[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float* sum = d_k[7 - 2 * p - i / 2] + i % 2 * 2;
            rounded[i] = pack<T>(sum[0], sum[1]);
          }
          store_matrices(d_shifted + exchanged().rows(p), rounded);
        }
      }
      __syncwarp();
      store(d_shifted, m.d_k);
    }
    now = next;
    lead = walk().next(lead);
    ++turn;
  }

  wait_for_copies<0>();
  finish_group(m, d, shared_memory + group_place::tiles, sums, warp, lane);
}

}  // namespace riverhorse::cuda::chunked_backward
