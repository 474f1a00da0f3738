// The H3 mixer with one channel a head in one pass over memory, on tensor cores:
//   k' = Toep(f) k;  w = k' v;  z = Toep(K) w + R s;  y = q z     inside a chunk of T = 64 tokens
//   s <- a^64 s + b E w                                           from chunk to chunk, in fp32
// with E[t, n] = a_n^(63-t), R[n, t] = 2 Re(c_n a_n^(t+1)), and K_0 with D in it. The shift SSM reaches one chunk
// back: its Toeplitz matrix has 128 rows. Only q, k, v are read, only y is written, each once: 8 bytes an element, in
// fp32 16.
//
// All products are transposed: a warp has 16 rows (chunks; h3_mixer_chunked.cuh), and the columns are tokens or
// states. The sums of two products are then an operand of the next: k -> k' -> w -> {E w, z} stays in registers.
//   * The products: h3_mixer_chunked_products.cuh with 16-bit operands, h3_mixer_chunked_exact.cuh in fp32.
//   * E w goes through shared memory to lanes that are modes, which walk over the 16 chunks and leave the state
//     before each, rounded to 16 bits or in fp32, as an operand.
//   * q, k, v arrive by asynchronous copies, one tile ahead of the one at work; a warp waits for its own only.
// The matrices are made by each block from the 3 KB of taps, lags and powers of a channel: tables in device memory
// (17 KB a channel) would cost traffic, and a kernel before this one. A block with few tiles of a channel walks over
// several channels (`walks`): while it works on the last tiles of one, the first of the next are under way, and its 3
// KB are in registers.
//
// One sequence is the work of one warp. Where there are fewer sequences than tiles in one, the warps of a block take
// its tiles in turn instead and hand the state on (`in_turn`); with `walks` each first sums up what its tile adds to
// the state, so that the next one waits for a product and not for a walk over the chunks.
//
// Errors of 16-bit operands, relative to y: f16 about 3e-4, bf16 3e-3. In bf16 the taps are split in two terms:
// rounded to one, rows whose k and v have a mean lose ten times as much. In fp32 about 1e-6. The carried state is
// fp32 and as exact with any length.
//
// Tried on an H100 in a prototype, and no better: chunks of 128, three tiles ahead, tables in device memory.
#include "filter.cuh"
#include "h3_mixer_chunked_exact.cuh"
#include "h3_mixer_chunked_products.cuh"

namespace riverhorse::cuda {

namespace {

template <typename T>
struct ChunkedMixing {
  const T *q, *k, *v;
  T* y;
  Cut cut;
  bool aligned;
  bool in_turn;  // the warps of a block take the tiles of a sequence in turn
  int at_once;   // blocks that the device works on together
  Filter filter;
  const float *powers, *toeplitz;
  const std::int32_t *slots, *positions;
  const float* shift;
  float *modes, *entry_states;
};

// What a thread reads of a channel's filter: entries of powers and lines (Block), and what the walk from chunk to
// chunk takes of the lane's mode.
struct FilterShare {
  static constexpr int power_count = matrix_powers * chunked_modes;
  Complex<float> power[divide_up(power_count, chunked_threads)];
  float value = 0;              // a tap, or a lag
  Complex<float> decay, input;  // a^64, b

  __device__ FilterShare(const Filter& filter, const float* powers, const float* toeplitz, std::int64_t channel) {
    const auto modes = static_cast<int>(filter.modes), state = static_cast<int>(filter.state);
    const int thread = static_cast<int>(threadIdx.x), lane = thread % warp_size;
    for (int i = 0; i * chunked_threads < power_count; ++i) {
      const int index = thread + i * chunked_threads, mode = index % chunked_modes, exponent = index / chunked_modes;
      if (mode >= modes || exponent >= matrix_powers) continue;
      const std::int64_t from = channel * modes + mode;
      power[i] =
          exponent < 6 ? load_complex(powers, from * H3Filter::power_count + exponent) : 2.0f * filter.output(from);
    }
    if (thread >= chunk) {
      value = toeplitz[channel * chunk + thread - chunk];
    } else if (thread < state) {
      value = filter.taps[channel * state + thread];
    }
    if (lane < modes) {
      decay = load_complex(powers, (channel * modes + lane) * H3Filter::power_count + 6);
      input = filter.input(channel * modes + lane);
    }
  }
  __device__ void store(Complex<float>* powers, float* lines) const {
    const int thread = static_cast<int>(threadIdx.x);
    for (int i = 0; i * chunked_threads < power_count; ++i) {
      const int index = thread + i * chunked_threads;
      if (index < power_count) powers[index] = power[i];
    }
    lines[thread] = value;
  }
};

// What of a tile is loaded together.
enum class Part { all, keys_and_values, queries };

// `packed`: as in Cut. Else a tile is of one sequence. `carries`: states are kept from call to call; not with
// `packed`. `walks`: a block has every gridDim.x-th channel, whose tiles its warps take in turn, and hands states on
// ahead; else one channel.
template <typename T, bool packed, bool carries, bool walks = false>
__global__ void __launch_bounds__(chunked_threads, 2) mix(ChunkedMixing<T> m) {
  using Stage = Stage<T>;
  using Block = Block<T>;
  SHARED_MEMORY(unsigned char, memory);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % warp_size, warp = thread / warp_size;
  const Cut& cut = m.cut;
  const bool in_turn = walks || (!packed && m.in_turn);
  const std::uint32_t base = shared_address(memory);

  const TileWalk walk(in_turn, static_cast<int>(gridDim.y), chunked_warps, cut.tiles);
  const auto width = static_cast<int>(m.filter.width), stride = static_cast<int>(gridDim.x);
  auto channel = static_cast<int>(blockIdx.x);
  const auto line_of = [&](int of) { return opaque(static_cast<std::int64_t>(of) * cut.batch * cut.tokens); };
  // The tile to load next.
  TilePosition coming = walk.begin(static_cast<int>(blockIdx.y), warp);
  int coming_channel = channel;
  std::int64_t coming_line = line_of(channel);
  const auto stage = [=](int i) {
    const int index = warp * Block::stage_count + i % Block::stage_count;
    return base + static_cast<std::uint32_t>(Block::stages + index * Stage::bytes);
  };

  const auto load_parts = [&](auto mover, std::uint32_t to, Part part) {
    const TileRows rows = cut.rows<packed>(coming.group, coming.tile);
    if (part != Part::queries) {
      mover.load_keys(to, m.k + coming_line, rows, coming.tile == 0);
      mover.load(to + Stage::values, m.v + coming_line, rows);
    }
    if (part != Part::keys_and_values) mover.load(to + Stage::queries, m.q + coming_line, rows);
  };
  const bool fast = m.aligned && (!packed || cut.in_runs);
  const auto load_tile = [&](int i, Part part) {
    if (coming.group < cut.groups) {
      const std::uint32_t to = stage(i);
      if (fast) {
        load_parts(TileMover<T, true>(lane, true), to, part);
      } else {
        load_parts(TileMover<T, false>(lane, m.aligned), to, part);
      }
    }
    if (part != Part::keys_and_values) {
      coming = walk.next(coming);
      if (walks && coming.group >= cut.groups && coming_channel + stride < width) {
        coming_channel += stride;
        coming_line = line_of(coming_channel);
        coming = walk.begin(static_cast<int>(blockIdx.y), warp);
      }
    }
    commit_copies();
  };
  const auto modes = static_cast<int>(m.filter.modes);
  let_next_begin();
  // The filter is read before the tiles: small, and all work waits for it.
  FilterShare own(m.filter, m.powers, m.toeplitz, channel);
  // Until the kernel before has ended, which may write them, the first tiles only come into the cache.
  if (fast && static_cast<int>(blockIdx.y * gridDim.x + blockIdx.x) < m.at_once) {
    TilePosition ahead = coming;
    for (int i = 0; i < Block::stage_count && ahead.group < cut.groups; ++i, ahead = walk.next(ahead)) {
      const TileRows rows = cut.rows<packed>(ahead.group, ahead.tile);
      for (const T* line : {m.k, m.v, m.q}) TileMover<T, true>(lane, true).prefetch_tile(line + coming_line, rows);
    }
  }
  const auto load_first = [&] {
    wait_for_previous();
    if constexpr (Stage::one) load_tile(0, Part::keys_and_values);
    for (int i = 0; i < Block::stage_count; ++i) load_tile(i, Stage::one ? Part::queries : Part::all);
  };
  if constexpr (!walks) load_first();

  auto* const powers = reinterpret_cast<Complex<float>*>(memory + Block::powers);
  auto* const lines = reinterpret_cast<float*>(memory + Block::lines);
  auto* const tables = reinterpret_cast<ToeplitzEntry<T>*>(memory + Block::tables);
  const auto turn_of = [=](int of) { return base + Block::barriers + static_cast<std::uint32_t>(16 * of); };
  if (lane == 0) make_barrier(turn_of(warp));

  const std::uint32_t matrices_at = base + static_cast<std::uint32_t>(16 * lane);
  // Of the row with a sequence's last token, and what it has of it; kept only where it is not all.
  const int last_row = (cut.tokens - 1) / chunk % tile_rows;
  const int last_tokens = cut.tokens % chunk, whole_rows = last_row + (last_tokens == 0 ? 1 : 0);

  // The keys before the sequence's first, to where those of the chunk before go.
  const auto load_earlier_keys = [&](std::uint32_t to, std::int64_t state, std::int32_t position) {
    if (lane >= chunk / unit_size<T>) return;
    const std::int64_t taps_count = m.filter.state;
    const float* ring = m.shift + state * taps_count;
    T keys[unit_size<T>];
    for (int i = 0; i < unit_size<T>; ++i) {
      const std::int64_t before = chunk - unit_size<T> * lane - i;  // tokens before the first
      keys[i] = from_float<T>(before < taps_count && before <= position ? ring[(position - before) % taps_count] : 0);
    }
    uint4 unit;
    std::memcpy(&unit, keys, sizeof unit);
    store_shared(to + unit_offset<T>(0, lane), unit);
  };

  int round = 0, turn = 0;  // of the tiles of this warp, and of its turns
  Complex<float> s;         // the carried state
#pragma unroll 1
  do {
    own.store(powers, lines);
    __syncthreads();  // and nobody needs the matrices of the channel before
    make_toeplitz<T>(lines, tables, tap_terms<T> == 2 ? tables + toeplitz_size : nullptr);
    make_toeplitz<T>(lines + chunk, tables + tap_terms<T> * toeplitz_size, nullptr);
    make_matrices<T>(reinterpret_cast<Pair<T>*>(memory), reinterpret_cast<Pair<T>*>(memory + Block::matrix), powers);
    __syncthreads();
    if (walks && channel == static_cast<int>(blockIdx.x)) load_first();
    ChunkProducts<T> products(tables, lane);
    const Complex<float> decay = own.decay, input = own.input;
    Complex<float> decay_of_tile = decay;
    if constexpr (walks) {
      for (int i = 0; i < 4; ++i) decay_of_tile = decay_of_tile * decay_of_tile;
    }
    if (walks && channel + stride < width) own = FilterShare(m.filter, m.powers, m.toeplitz, channel + stride);
    const std::int64_t line = line_of(channel);
    bool is_first = warp == 0;  // in the order of work
#pragma unroll 1
    for (TilePosition now = walk.begin(static_cast<int>(blockIdx.y), warp); now.group < cut.groups;
         ++round, now = walk.next(now)) {
      const std::uint32_t here = stage(round), states = here + Stage::states;
      const std::uint32_t r_at = opaque(matrices_at), e_at = r_at + Block::matrix;
      const bool begins = now.tile == 0, ends = carries && now.tile + 1 == cut.tiles;
      std::int64_t state = 0;  // where the sequence's is kept
      if constexpr (carries) state = m.slots[now.group] * m.filter.width + channel;
      wait_for_copies<1>();
      if (carries && begins) load_earlier_keys(here, state, m.positions[m.slots[now.group]]);
      __syncwarp();
      products.shift_keys(here, packed ? cut.begins : 0);
      __syncwarp();  // k and v are read, and written over from here on
      if constexpr (Stage::one) load_tile(round + 1, Part::keys_and_values);
      products.project(states, e_at);
      if (ends && last_tokens != 0) products.keep_row(here + Stage::last_row, last_row);
      products.mix_inside();
      __syncwarp();

      // from chunk to chunk: lanes are modes
      {
        float2 u[tile_rows];
#pragma unroll
        for (int row = 0; row < tile_rows; ++row) {
          u[row] = load_shared<float2>(states + static_cast<std::uint32_t>(row * state_row_bytes) +
                                       ((8 * lane) ^ ((row & 7) << 5)));
        }
        __syncwarp();
        const std::uint32_t carry = base + Block::carry + static_cast<std::uint32_t>(8 * lane);
        Complex<float> added;
        if constexpr (walks) {
#pragma unroll
          for (int row = 0; row < tile_rows; ++row) {
            added = decay * added + input * Complex<float>(u[row].x, u[row].y);
            u[row] = make_float2(added.re, added.im);
          }
        }
        if (in_turn && !is_first) {
          wait_at_barrier(turn_of(warp), turn++);
          const float2 carried = load_shared<float2>(carry);
          s = {carried.x, carried.y};
        }
        is_first = false;
        const bool is_mode = lane < modes;
        float* const kept = carries && is_mode ? m.modes + 2 * (state * modes + lane) : nullptr;
        if (begins) s = kept != nullptr ? load_complex(kept, 0) : Complex<float>();
        const auto hand_on = [&](Complex<float> next) {
          store_shared(carry, make_float2(next.re, next.im));
          if (walk.after(now).group < cut.groups) signal_barrier(turn_of((warp + 1) % chunked_warps));
        };
        if constexpr (walks) hand_on(decay_of_tile * s + added);
        if (m.entry_states != nullptr && is_mode) {
          const int first = cut.first_sequence(now.group);
          const int sequences = packed ? min(cut.batch - first, tile_rows >> cut.rows_log) : 1;
          float* entry = m.entry_states +
                         2 * (((std::int64_t{channel} * cut.batch + first) * cut.tiles + now.tile) * modes + lane);
          for (int n = 0; n < sequences; ++n, entry += 2 * modes)
            *reinterpret_cast<float2*>(entry) = make_float2(s.re, s.im);
        }
        Complex<float> at_end = s;
        const auto store_state = [&](int row) {
          const int place = static_cast<int>(sizeof(Pair<T>)) * (lane ^ ((row & 7) << 2));
          store_shared(states + static_cast<std::uint32_t>(row * state_row_bytes + place), pair_of<T>(s.re, s.im));
        };
        if constexpr (walks) {
          Complex<float> before = s;
#pragma unroll
          for (int row = 0; row < tile_rows; ++row) {
            store_state(row);
            before = decay * before;
            s = before + Complex<float>(u[row].x, u[row].y);
            if (ends && row < whole_rows) at_end = s;
          }
        } else {
          if (ends) {
#pragma unroll
            for (int row = 0; row < tile_rows; ++row) {
              if (row < whole_rows) at_end = decay * at_end + input * Complex<float>(u[row].x, u[row].y);
            }
          }
#pragma unroll
          for (int row = 0; row < tile_rows; ++row) {
            if (packed && (cut.begins >> row & 1) != 0) s = {};
            store_state(row);
            s = decay * s + input * Complex<float>(u[row].x, u[row].y);
          }
          if (in_turn) hand_on(s);
        }
        if (ends && kept != nullptr) {
          const Decay one(m.filter, channel * modes + lane);
          for (int token = 0; token < last_tokens; ++token) {
            const std::uint32_t at = here + Stage::last_row + static_cast<std::uint32_t>(token / 2 * sizeof(Pair<T>));
            const float2 pair = floats_of<T>(load_shared<Pair<T>>(at));
            at_end = one(at_end) + (token % 2 == 0 ? pair.x : pair.y) * input;
          }
          kept[0] = at_end.re;
          kept[1] = at_end.im;
        }
      }
      if constexpr (Stage::one) wait_for_copies<1>();  // q
      __syncwarp();
      products.add_past(states, r_at);
      products.gate(here + Stage::queries);
      __syncwarp();
      const TileRows rows = cut.rows<packed>(now.group, now.tile);
      if (fast) {
        TileMover<T, true>(lane, true).store(here + Stage::queries, m.y + line, rows);
      } else {
        TileMover<T, false>(lane, m.aligned).store(here + Stage::queries, m.y + line, rows);
      }
      __syncwarp();
      load_tile(round + Block::stage_count, Stage::one ? Part::queries : Part::all);
    }
    channel += stride;
  } while (walks && channel < width);
}

// One sequence of up to so many tiles leaves a block so few that it walks over several channels. Measured on an H100,
// with 768 channels, 1 x 2048 and 1 x 8192 are quicker so, 1 x 32768, 1 x 131072 and 2 x 32768 are not.
constexpr int most_walked_tiles = 16;

template <typename T>
void launch_mix(Launch turn, const H3MixerArgs& args, int multiprocessors) {
  const std::int64_t width = args.y.shape[0], batch = args.y.shape[1], tokens = args.y.shape[2];
  const std::int64_t part = width * batch * tokens;
  const Cut cut(batch, tokens, static_cast<bool>(args.state.modes));
  const T* qkv = data<T>(args.qkv);
  const bool aligned = tokens % unit_size<T> == 0 && at_16_bytes(qkv) && at_16_bytes(data<T>(args.y));
  const bool in_turn = cut.tiles > 1 && (cut.tiles > cut.groups || cut.uneven());
  const ChunkedMixing<T> mixing{.q = qkv,
                                .k = qkv + part,
                                .v = qkv + 2 * part,
                                .y = data<T>(args.y),
                                .cut = cut,
                                .aligned = aligned,
                                .in_turn = in_turn,
                                .at_once = 2 * multiprocessors,
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
  auto kernel = cut.packed() ? mix<T, true, false> : args.state.modes ? mix<T, false, true> : mix<T, false, false>;
  std::int64_t columns = width;
  if constexpr (sizeof(T) == 2) {
    if (!args.state.modes && in_turn && cut.groups == 1 && cut.tiles <= most_walked_tiles) {
      kernel = mix<T, false, false, true>;
      columns = std::min<std::int64_t>(width, 2 * multiprocessors);
    }
  }
  launch_in_turn(kernel, grid_of(columns, parts), chunked_threads, Block<T>::bytes, turn, mixing);
}

}  // namespace

void mix_chunked(Launch turn, const H3MixerArgs& args, int multiprocessors) {
  with_activation(args.y.dtype, [&](auto type) { launch_mix<decltype(type)>(turn, args, multiprocessors); });
}

}  // namespace riverhorse::cuda
