// The H3 mixer with 16-bit activations and one channel a head in one pass over memory, on tensor cores:
//   k' = Toep(f) k;  w = k' v;  z = Toep(K) w + R s;  y = q z     inside a chunk of T = 64 tokens
//   s <- a^64 s + b E w                                           from chunk to chunk, in fp32
// with E[t, n] = a_n^(63-t), R[n, t] = 2 Re(c_n a_n^(t+1)), and K_0 with D in it. The shift SSM reaches one chunk
// back: its Toeplitz matrix has 128 rows. Only q, k, v are read, only y is written, each once: 8 bytes an element.
//
// All products are transposed: a warp has 16 rows (chunks; h3_mixer_chunked.cuh), and the columns are tokens or
// states. The sums of two products are then, packed, an operand of the next: k -> k' -> w -> {E w, z} stays in
// registers.
//   * Toeplitz matrices are operands B in registers, one an 8 x 8 tile; tiles of zeros are left out: 40 + 20
//   products.
//   * E w goes through shared memory to lanes that are modes, which walk over the 16 chunks and leave the state
//     before each, rounded to 16 bits, as an operand: 32 products for E, 32 for R, both in shared memory.
//   * q, k, v arrive by asynchronous copies, one tile ahead of the one at work; a warp waits for its own only.
// The matrices are made by each block from the 3 KB of taps, lags and powers of its channel, while its first tiles
// are under way: tables in device memory (17 KB a channel) would cost traffic, and a kernel before this one.
//
// One sequence is the work of one warp. Where there are fewer sequences than tiles in one, the warps of a block take
// its tiles in turn instead and hand the state on (`in_turn`).
//
// Errors of 16-bit operands, relative to y: f16 about 3e-4, bf16 3e-3. In bf16 the taps are split in two terms:
// rounded to one, rows whose k and v have a mean lose ten times as much. The carried state is fp32 and as exact with
// any length.
//
// Tried on an H100 in a prototype, and no better: chunks of 128, three tiles ahead, tables in device memory.
#include "filter.cuh"
#include "h3_mixer_chunked_matrices.cuh"

namespace riverhorse::cuda {

namespace {

// Shared memory of a block, in bytes. A stage holds a tile of k (the row before it, and 16), of v and of q; E w and
// the states take the place of its k and v.
constexpr int values_offset = (tile_rows + 1) * row_bytes, queries_offset = values_offset + tile_rows * row_bytes;
constexpr int stage_bytes = queries_offset + tile_rows * row_bytes;
constexpr int state_row_bytes = 2 * row_bytes;  // 32 complex numbers in fp32
constexpr int last_row_offset = tile_rows * state_row_bytes;
static_assert(last_row_offset + row_bytes <= queries_offset);
constexpr int stages = 2;
constexpr int stages_offset = 2 * matrix_bytes;  // after R and E
constexpr int carry_offset = stages_offset + chunked_warps * stages * stage_bytes;
constexpr int barriers_offset = carry_offset + chunked_modes * 8;  // of each warp, for its turn
constexpr int powers_offset = barriers_offset + 16 * chunked_warps;
constexpr int tables_offset = powers_offset + matrix_powers * chunked_modes * 8;
constexpr int lines_offset = tables_offset + 3 * toeplitz_size * 4;  // taps and lags, before they are tables
constexpr int shared_bytes = lines_offset + 2 * chunk * 4;

template <typename T>
constexpr int tap_terms = is_f16<T> ? 1 : 2;

template <typename T>
struct ChunkedMixing {
  const T *q, *k, *v;
  T* y;
  Cut cut;
  bool aligned;
  bool in_turn;  // the warps of a block take the tiles of a sequence in turn
  Filter filter;
  const float *powers, *toeplitz;
  const std::int32_t *slots, *positions;
  const float* shift;
  float *modes, *entry_states;
};

// `packed`: as in Cut. Else a tile is of one sequence. `carries`: states are kept from call to call; not with
// `packed`.
template <typename T, bool packed, bool carries>
__global__ void __launch_bounds__(chunked_threads, 2) mix(ChunkedMixing<T> m) {
  SHARED_MEMORY(unsigned char, memory);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % warp_size, warp = thread / warp_size;
  const int g = lane / 4, t = lane % 4;
  const std::int64_t channel = blockIdx.x;
  const Cut& cut = m.cut;
  const bool in_turn = !packed && m.in_turn;
  const std::uint32_t base = shared_address(memory);

  const TileWalk walk(in_turn, static_cast<int>(gridDim.y), chunked_warps, cut.tiles);
  TilePosition now = walk.begin(static_cast<int>(blockIdx.y), warp);
  TilePosition coming = now;  // the tile to load next
  const auto stage = [=](int i) {
    return base + static_cast<std::uint32_t>(stages_offset + (warp * stages + i % stages) * stage_bytes);
  };

  const std::int64_t line = opaque(channel * cut.batch * cut.tokens);
  const auto load_parts = [&](auto mover, std::uint32_t to) {
    const TileRows rows = cut.rows<packed>(coming.group, coming.tile);
    mover.load_keys(to, m.k + line, rows, coming.tile == 0);
    mover.load(to + values_offset, m.v + line, rows);
    mover.load(to + queries_offset, m.q + line, rows);
  };
  const bool fast = m.aligned && (!packed || cut.in_runs);
  const auto load_tile = [&](int i) {
    if (coming.group < cut.groups) {
      const std::uint32_t to = stage(i);
      if (fast) {
        load_parts(TileMover<T, true>(lane, true), to);
      } else {
        load_parts(TileMover<T, false>(lane, m.aligned), to);
      }
    }
    coming = walk.next(coming);
    commit_copies();
  };
  // The filter is read before the tiles: small, and all work waits for it.
  const auto modes = static_cast<int>(m.filter.modes);
  constexpr int power_count = matrix_powers * chunked_modes;
  Complex<float> power[divide_up(power_count, chunked_threads)];
  for (int i = 0; i * chunked_threads < power_count; ++i) {
    const int index = thread + i * chunked_threads, mode = index % chunked_modes, exponent = index / chunked_modes;
    if (mode >= modes || exponent >= matrix_powers) continue;
    const std::int64_t from = channel * modes + mode;
    power[i] =
        exponent < 6 ? load_complex(m.powers, from * H3Filter::power_count + exponent) : 2.0f * m.filter.output(from);
  }
  const auto state_size = static_cast<int>(m.filter.state);
  float own_value = 0;  // a tap, or a lag
  if (thread >= chunk) {
    own_value = m.toeplitz[channel * chunk + thread - chunk];
  } else if (thread < state_size) {
    own_value = m.filter.taps[channel * state_size + thread];
  }
  Complex<float> decay, input, s;  // a^64, b, the carried state
  if (lane < modes) {
    decay = load_complex(m.powers, (channel * modes + lane) * H3Filter::power_count + 6);
    input = m.filter.input(channel * modes + lane);
  }
  for (int i = 0; i < stages; ++i) load_tile(i);

  auto* const powers = reinterpret_cast<Complex<float>*>(memory + powers_offset);
  auto* const lines = reinterpret_cast<float*>(memory + lines_offset);
  auto* const tables = reinterpret_cast<std::uint32_t*>(memory + tables_offset);
  for (int i = 0; i * chunked_threads < power_count; ++i) {
    const int index = thread + i * chunked_threads;
    if (index < power_count) powers[index] = power[i];
  }
  lines[thread] = own_value;
  const auto turn_of = [=](int of) { return base + barriers_offset + static_cast<std::uint32_t>(16 * of); };
  if (lane == 0) make_barrier(turn_of(warp));
  __syncthreads();
  make_toeplitz<T>(lines, tables, tap_terms<T> == 2 ? tables + toeplitz_size : nullptr);
  make_toeplitz<T>(lines + chunk, tables + 2 * toeplitz_size, nullptr);
  make_matrices<T>(reinterpret_cast<std::uint32_t*>(memory), reinterpret_cast<std::uint32_t*>(memory + matrix_bytes),
                   powers);
  __syncthreads();

  // Pairs of neighbouring Toeplitz tiles (j + 1, j).
  std::uint32_t taps[tap_terms<T>][9], lags[8];
  for (int j = 0; j < 9; ++j) {
    for (int term = 0; term < tap_terms<T>; ++term) {
      taps[term][j] = tables[term * toeplitz_size + 8 * j + g - 2 * t + toeplitz_before];
    }
    if (j < 8) lags[j] = tables[2 * toeplitz_size + 8 * j + g - 2 * t + toeplitz_before];
  }

  // Where a lane loads from matrices: row lane % 16, unit lane / 16 of each pair of units.
  const std::uint32_t keys_at = unit_offset(lane % 16 + 1, lane / 16), at = unit_offset(lane % 16, lane / 16);
  const std::uint32_t states_at = static_cast<std::uint32_t>(lane % 16 * row_bytes) + at;
  const std::uint32_t matrices_at = base + static_cast<std::uint32_t>(16 * lane);
  // Of the row with a sequence's last token, and what it has of it; kept only where it is not all.
  const int last_row = (cut.tokens - 1) / chunk % tile_rows;
  const int last_tokens = cut.tokens % chunk, whole_rows = last_row + (last_tokens == 0 ? 1 : 0);

  // The keys before the sequence's first, to where those of the chunk before go.
  const auto load_earlier_keys = [&](std::uint32_t to, std::int64_t state, std::int32_t position) {
    if (lane >= 8) return;
    const std::int64_t taps_count = m.filter.state;
    const float* ring = m.shift + state * taps_count;
    const auto key = [=](int element) {
      const std::int64_t before = chunk - 8 * lane - element;  // tokens before the first
      return before < taps_count && before <= position ? ring[(position - before) % taps_count] : 0.0f;
    };
    store_shared(to + unit_offset(0, lane), make_uint4(pack<T>(key(0), key(1)), pack<T>(key(2), key(3)),
                                                       pack<T>(key(4), key(5)), pack<T>(key(6), key(7))));
  };

#pragma unroll 1
  for (int round = 0; now.group < cut.groups; ++round, now = walk.next(now)) {
    const std::uint32_t here = stage(round), r_at = opaque(matrices_at), e_at = r_at + matrix_bytes;
    const bool begins = now.tile == 0, ends = carries && now.tile + 1 == cut.tiles;
    std::int64_t state = 0;  // where the sequence's is kept
    if constexpr (carries) state = m.slots[now.group] * m.filter.width + channel;
    wait_for_copies<stages - 1>();
    if (carries && begins) load_earlier_keys(here, state, m.positions[m.slots[now.group]]);
    __syncwarp();

    // k', from the chunk before (operands 0 to 3) and this one; then w
    std::uint32_t keys[8][4], w[4][4];
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      load_matrices(keys[p], here + (at ^ (32 * p)));
      load_matrices(keys[4 + p], here + (keys_at ^ (32 * p)));
      if constexpr (packed) {  // nothing before
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if ((cut.begins >> (g + 8 * (j % 2)) & 1) != 0) keys[p][j] = 0;
        }
      }
    }
#pragma unroll
    for (int begin = 0; begin < 4; begin += 2) {  // sums that do not wait for each other, side by side
      float shifted[2][2][4] = {};                // even, odd
#pragma unroll
      for (int term = 0; term < tap_terms<T>; ++term) {
        const std::uint32_t(&tap)[9] = taps[term];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const int p = begin + i;
            multiply_add<T>(shifted[i][0], keys[p + j], tap[8 - 2 * j], tap[7 - 2 * j]);
            multiply_add<T>(shifted[i][1], keys[p + 1 + j], tap[7 - 2 * j], tap[6 - 2 * j]);
          }
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int p = begin + i;
          multiply_add<T>(shifted[i][0], keys[p + 4][0], keys[p + 4][1], tap[0]);
          multiply_add<T>(shifted[i][1], keys[p][2], keys[p][3], tap[8]);
        }
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int p = begin + i;
        std::uint32_t values[4];
        load_matrices(values, here + values_offset + (at ^ (32 * p)));
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float2 value = unpack<T>(values[j]);
          const float* sum = shifted[i][j / 2] + j % 2 * 2;
          w[p][j] = pack<T>(sum[0] * value.x, sum[1] * value.y);
        }
      }
    }
    __syncwarp();  // k and v are read, and written over from here on

    // u = E w
#pragma unroll
    for (int begin = 0; begin < 8; begin += 4) {
      float u[4][4] = {};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint4 e[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) e[i] = load_shared<uint4, true>(e_at + ((begin + i) * 2 + half) * 512);
#pragma unroll
        for (int i = 0; i < 4; ++i) multiply_add<T>(u[i], w[2 * half], e[i].x, e[i].y);
#pragma unroll
        for (int i = 0; i < 4; ++i) multiply_add<T>(u[i], w[2 * half + 1], e[i].z, e[i].w);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const std::uint32_t to =
            here + static_cast<std::uint32_t>(g * state_row_bytes + (((begin + i) ^ g) << 5) + 8 * t);
        store_shared(to, make_float2(u[i][0], u[i][1]));
        store_shared(to + 8 * state_row_bytes, make_float2(u[i][2], u[i][3]));
      }
    }
    if (ends && last_tokens != 0 && g == last_row % 8) {
#pragma unroll
      for (int p = 0; p < 4; ++p) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          store_shared(here + last_row_offset + static_cast<std::uint32_t>(32 * p + 16 * j + 4 * t),
                       last_row < 8 ? w[p][2 * j] : w[p][2 * j + 1]);
        }
      }
    }

    // z inside the chunk
    float z[8][4] = {};
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      multiply_add<T>(z[2 * p], w[p][0], w[p][1], lags[0]);
#pragma unroll
      for (int column = 2 * p + 1; column < 8; ++column) {
        multiply_add<T>(z[column], w[p], lags[column - 2 * p], lags[column - 2 * p - 1]);
      }
    }
    __syncwarp();

    // from chunk to chunk: lanes are modes
    {
      float2 u[tile_rows];
#pragma unroll
      for (int row = 0; row < tile_rows; ++row) {
        u[row] = load_shared<float2>(here + static_cast<std::uint32_t>(row * state_row_bytes) +
                                     ((8 * lane) ^ ((row & 7) << 5)));
      }
      __syncwarp();
      const std::uint32_t carry = base + carry_offset + static_cast<std::uint32_t>(8 * lane);
      if (in_turn && (round > 0 || warp > 0)) {
        wait_at_barrier(turn_of(warp), warp > 0 ? round : round - 1);
        const float2 carried = load_shared<float2>(carry);
        s = {carried.x, carried.y};
      }
      const bool is_mode = lane < modes;
      float* const kept = carries && is_mode ? m.modes + 2 * (state * modes + lane) : nullptr;
      if (begins) s = kept != nullptr ? load_complex(kept, 0) : Complex<float>();
      if (m.entry_states != nullptr && is_mode) {
        const int first = cut.first_sequence(now.group);
        const int sequences = packed ? min(cut.batch - first, tile_rows >> cut.rows_log) : 1;
        float* entry = m.entry_states + 2 * (((channel * cut.batch + first) * cut.tiles + now.tile) * modes + lane);
        for (int n = 0; n < sequences; ++n, entry += 2 * modes)
          *reinterpret_cast<float2*>(entry) = make_float2(s.re, s.im);
      }
      Complex<float> at_end = s;
      if (ends) {
#pragma unroll
        for (int row = 0; row < tile_rows; ++row) {
          if (row < whole_rows) at_end = decay * at_end + input * Complex<float>(u[row].x, u[row].y);
        }
      }
#pragma unroll
      for (int row = 0; row < tile_rows; ++row) {
        if (packed && (cut.begins >> row & 1) != 0) s = {};
        store_shared(here + static_cast<std::uint32_t>(row * state_row_bytes) + ((4 * lane) ^ ((row & 7) << 4)),
                     pack<T>(s.re, s.im));
        s = decay * s + input * Complex<float>(u[row].x, u[row].y);
      }
      if (in_turn) {
        store_shared(carry, make_float2(s.re, s.im));
        if (walk.after(now).group < cut.groups) signal_barrier(turn_of((warp + 1) % chunked_warps));
      }
      if (ends && kept != nullptr) {
        const Decay one(m.filter, channel * modes + lane);
        for (int token = 0; token < last_tokens; ++token) {
          const float2 pair = unpack<T>(load_shared<std::uint32_t>(here + last_row_offset + (token / 2) * 4));
          at_end = one(at_end) + (token % 2 == 0 ? pair.x : pair.y) * input;
        }
        kept[0] = at_end.re;
        kept[1] = at_end.im;
      }
    }
    __syncwarp();

    // what the past adds
    {
      std::uint32_t states[4][4];
#pragma unroll
      for (int p = 0; p < 4; ++p) load_matrices(states[p], here + (states_at ^ (32 * p)));
#pragma unroll
      for (int begin = 0; begin < 8; begin += 4) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          uint4 r[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) r[i] = load_shared<uint4, true>(r_at + ((begin + i) * 2 + half) * 512);
#pragma unroll
          for (int i = 0; i < 4; ++i) multiply_add<T>(z[begin + i], states[2 * half], r[i].x, r[i].y);
#pragma unroll
          for (int i = 0; i < 4; ++i) multiply_add<T>(z[begin + i], states[2 * half + 1], r[i].z, r[i].w);
        }
      }
    }

    // y = q z, by way of q's place
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      const std::uint32_t place = here + queries_offset + (at ^ (32 * p));
      std::uint32_t queries[4], y[4];
      load_matrices(queries, place);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float2 query = unpack<T>(queries[j]);
        const float* column = z[2 * p + j / 2] + j % 2 * 2;
        y[j] = pack<T>(column[0] * query.x, column[1] * query.y);
      }
      store_matrices(place, y);
    }
    __syncwarp();
    const TileRows rows = cut.rows<packed>(now.group, now.tile);
    if (fast) {
      TileMover<T, true>(lane, true).store(here + queries_offset, m.y + line, rows);
    } else {
      TileMover<T, false>(lane, m.aligned).store(here + queries_offset, m.y + line, rows);
    }
    __syncwarp();
    load_tile(round + stages);
  }
}

template <typename T>
void launch_mix(cudaStream_t stream, const H3MixerArgs& args, int multiprocessors) {
  const std::int64_t width = args.y.shape[0], batch = args.y.shape[1], tokens = args.y.shape[2];
  const std::int64_t part = width * batch * tokens;
  const Cut cut(batch, tokens, static_cast<bool>(args.state.modes));
  const T* qkv = data<T>(args.qkv);
  const bool aligned = tokens % 8 == 0 && at_16_bytes(qkv) && at_16_bytes(data<T>(args.y));
  const bool in_turn = cut.tiles > 1 && (cut.tiles > cut.groups || cut.uneven());
  const ChunkedMixing<T> mixing{.q = qkv,
                                .k = qkv + part,
                                .v = qkv + 2 * part,
                                .y = data<T>(args.y),
                                .cut = cut,
                                .aligned = aligned,
                                .in_turn = in_turn,
                                .filter = Filter(args.filter),
                                .powers = data<float>(args.filter.powers),
                                .toeplitz = data<float>(args.filter.toeplitz),
                                .slots = data<std::int32_t>(args.slots),
                                .positions = data<std::int32_t>(args.positions),
                                .shift = data<float>(args.state.shift),
                                .modes = data<float>(args.state.modes),
                                .entry_states = data<float>(args.entry_states)};
  // A block has all sequences of a channel, unless that leaves multiprocessors idle.
  const std::int64_t most =
      std::min<std::int64_t>(in_turn ? cut.groups : divide_up(cut.groups, chunked_warps), 65535);
  const std::int64_t parts = std::min(most, divide_up(4 * multiprocessors, width));
  const auto kernel = cut.packed()       ? mix<T, true, false>
                      : args.state.modes ? mix<T, false, true>
                                         : mix<T, false, false>;
  launch(kernel, grid_of(width, parts), chunked_threads, shared_bytes, stream, mixing);
}

}  // namespace

void mix_chunked(cudaStream_t stream, const H3MixerArgs& args, int multiprocessors) {
  if (args.y.dtype == DType::bf16) {
    launch_mix<__nv_bfloat16>(stream, args, multiprocessors);
  } else {
    launch_mix<__half>(stream, args, multiprocessors);
  }
}

}  // namespace riverhorse::cuda
