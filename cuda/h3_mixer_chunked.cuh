// What the chunked algorithm of the mixer, forward and backward, shares: when it applies, how a call is cut up, how
// its rows lie in shared memory, and Toeplitz matrices as operands of tensor cores.
//
// A row is a chunk of 64 tokens of one channel and sequence; a tile is 16 rows, for one warp: 16 chunks of one
// sequence (a superchunk of 1024 tokens), or those of 2, 4, 8 or 16 shorter sequences.
#pragma once

#include "backend/ops.h"
#include "rows.cuh"

namespace riverhorse::cuda {

constexpr int chunk = H3Filter::chunk;
constexpr int tile_rows = 16;
static_assert(tile_rows * chunk == H3Filter::superchunk);
static_assert(row_bytes == chunk * 2);
constexpr int chunked_modes = 32;  // at most; fewer are padded with zeros
constexpr int chunked_warps = 4;   // of a block
constexpr int chunked_threads = chunked_warps * warp_size;

// One channel a head, at most 64 taps and 32 modes. Below 32 tokens the walk is the shorter way.
inline bool mixer_is_chunked(const H3Filter& filter, int head_dim, std::int64_t tokens) {
  return head_dim == 1 && filter.shift_taps.shape[1] <= chunk && tokens >= warp_size;
}

// The mixer itself, but for the ring of keys, which it reads and leaves to keep_keys(). Begins early where the filter
// was written before the operation before (add_in_turn()). Errors: those of launch_in_turn().
void mix_chunked(Launch turn, const H3MixerArgs& args, int multiprocessors);

// Where the rows of a tile lie in memory, and what there is of them. A channel's tokens, of all sequences, are
// counted in 32 bits: the encoder's checks let no more through.
struct TileRows {
  int first;         // token of the channel that the tile begins with
  int left;          // tokens from there on: of the run (at most 1024), or of a sequence that is shorter
  int rows_log = 4;  // log2 of the rows of a sequence, or of a run
  int sequences = 1;
  int stride = 0;  // from sequence to sequence

  __device__ int token(int row) const { return (row & ((1 << rows_log) - 1)) * chunk; }
  __device__ int offset(int row) const { return first + (row >> rows_log) * stride + token(row); }
  __device__ int tokens(int row) const { return row >> rows_log < sequences ? left - token(row) : 0; }
};

// How the sequences of a channel become tiles.
struct Cut {
  int batch, tokens;
  int rows_log;     // log2 of the rows of a sequence in a tile
  unsigned begins;  // bit r: a sequence begins at row r of its first tile
  int tiles;        // of a sequence: 1 but with 16 rows
  int groups;       // of sequences that share tiles
  bool in_runs;     // all rows of a tile follow each other in memory

  // `alone`: a tile has one sequence, however short.
  Cut(std::int64_t sequences, std::int64_t length, bool alone)
      : batch(static_cast<int>(sequences)), tokens(static_cast<int>(length)), rows_log(4) {
    const std::int64_t chunks = divide_up(length, chunk);
    while (!alone && rows_log > 0 && chunks <= (1 << (rows_log - 1))) --rows_log;
    begins = 0xffffu / ((1u << (1 << rows_log)) - 1);
    tiles = static_cast<int>(divide_up(chunks, tile_rows));
    groups = static_cast<int>(divide_up(batch, tile_rows >> rows_log));
    in_runs = !packed() || length == chunk << rows_log;
  }
  __host__ __device__ bool packed() const { return rows_log < 4; }
  // Whether whole groups leave more than a fifth of the time of a block's warps unused.
  bool uneven() const { return 5 * groups < 4 * chunked_warps * static_cast<int>(divide_up(groups, chunked_warps)); }
  __device__ int first_sequence(int group) const { return group << (4 - rows_log); }
  // With `may_pack` false, packed() is.
  template <bool may_pack>
  __device__ __forceinline__ TileRows rows(int group, int tile) const {
    constexpr int most = H3Filter::superchunk;
    if (!may_pack || !packed()) return {group * tokens + tile * most, min(tokens - tile * most, most)};
    const int sequence = first_sequence(group), first = sequence * tokens;
    const int sequences = min(batch - sequence, tile_rows >> rows_log);
    if (in_runs) return {first, sequences * tokens};
    return {first, tokens, rows_log, sequences, tokens};
  }
};

// A group, and which of its tiles in the order of work.
struct TilePosition {
  int group, tile;
};

// How the warps of `blocks` blocks, at most 4 each, walk over all tiles. Each warp has groups of its own, or,
// `in_turn`, a block has: then its warps take their tiles in turn, of which a group has at least two.
class TileWalk {
 public:
  __device__ TileWalk(bool in_turn, int blocks, int warps, int tiles)
      : warps_(warps), step_(in_turn ? warps : 1), tiles_(tiles), groups_(in_turn ? blocks : blocks * warps) {}
  __device__ TilePosition begin(int block, int warp) const {
    return step_ > 1 ? skip({block, warp}) : TilePosition{block * warps_ + warp, 0};
  }
  // What the warp takes after `at`, and what is after it in the order of work.
  __device__ TilePosition next(TilePosition at) const { return skip({at.group, at.tile + step_}); }
  __device__ TilePosition after(TilePosition at) const { return skip({at.group, at.tile + 1}); }

 private:
  // By at most 4 tiles too far, so at most two groups.
  __device__ TilePosition skip(TilePosition at) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const bool over = at.tile >= tiles_;
      at.tile -= over ? tiles_ : 0;
      at.group += over ? groups_ : 0;
    }
    return at;
  }

  int warps_, step_, tiles_, groups_;
};

// Rows as rows.cuh has them.
template <typename T>
struct Exchanged {
  __device__ static std::uint32_t offset(unsigned row, unsigned unit) { return unit_offset<T>(row, unit); }
};

// A lane moves a unit of every fourth row of a tile (fp32: of every second) between shared and global memory; what
// there is not of a row is read as zeros and not written. Pointers are to a channel's first element. `aligned`: it
// and every sequence begin at 16 bytes and end so; what is loaded is there after wait_for_copies(), else at once.
// `fast`: that, and rows in runs. Place::offset: where a unit of a row lies in shared memory.
template <typename T, bool fast, typename Place = Exchanged<T>>
struct TileMover {
  static constexpr int units = chunk / unit_size<T>, step = warp_size / units;
  int row, unit;
  bool aligned;

  __device__ TileMover(unsigned lane, bool at_units)
      : row(static_cast<int>(lane / units)), unit(static_cast<int>(lane % units)), aligned(fast || at_units) {}

  __device__ __forceinline__ void load(std::uint32_t tile, const T* from, const TileRows& rows,
                                       int first_row = 0) const {
    const int element = unit * unit_size<T>;
    if constexpr (fast) {
      const int begin = row * chunk + element;
      from += rows.first + begin;
#pragma unroll
      for (int i = 0; i < tile_rows; i += step) {
        copy_async(tile + Place::offset(row + first_row + i, unit), from + i * chunk,
                   rows.left > begin + i * chunk ? 16 : 0);
      }
    } else {
#pragma unroll 1
      for (int i = 0; i < tile_rows; i += step) {
        load_unit(tile + Place::offset(row + first_row + i, unit), from + rows.offset(row + i) + element,
                  rows.tokens(row + i) - element, aligned);
      }
    }
  }

  // Keys: the chunk before the tile, of which there is none at a sequence's first, goes to row 0.
  __device__ __forceinline__ void load_keys(std::uint32_t tile, const T* from, const TileRows& rows,
                                            bool first) const {
    load(tile, from, rows, 1);
    if (row != 0) return;
    load_unit(tile + Place::offset(0, unit), from + rows.first + unit * unit_size<T> - (first ? 0 : chunk),
              first ? 0 : unit_size<T>, aligned);
  }

  // Into the cache, ahead of a load that cannot begin yet.
  __device__ __forceinline__ void prefetch_tile(const T* from, const TileRows& rows) const {
    if constexpr (fast) {
      constexpr int share = tile_rows * chunk / warp_size;  // of a lane
      const int begin = (row * units + unit) * share;
      if (begin < rows.left) prefetch(from + rows.first + begin);
    }
  }

  __device__ __forceinline__ void store(std::uint32_t tile, T* to, const TileRows& rows) const {
    const int element = unit * unit_size<T>;
    if constexpr (fast) {
      const int begin = row * chunk + element;
      to += rows.first + begin;
      uint4 values[tile_rows / step];
#pragma unroll
      for (int i = 0; i < tile_rows; i += step) {
        values[i / step] = load_shared<uint4>(tile + Place::offset(row + i, unit));
      }
#pragma unroll
      for (int i = 0; i < tile_rows; i += step) {
        if (rows.left > begin + i * chunk) __stcs(reinterpret_cast<uint4*>(to + i * chunk), values[i / step]);
      }
    } else {
#pragma unroll 1
      for (int i = 0; i < tile_rows; i += step) {
        store_unit(to + rows.offset(row + i) + element, load_shared<uint4>(tile + Place::offset(row + i, unit)),
                   rows.tokens(row + i) - element, aligned);
      }
    }
  }
};

// The table of a Toeplitz matrix of 64 values has lags from -8 on.
constexpr int toeplitz_before = 8, toeplitz_size = chunk + 2 * toeplitz_before;

}  // namespace riverhorse::cuda
