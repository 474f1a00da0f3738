// The parts of the backward pass of h3_mixer_chunked_backward_group.cuh: where things lie in shared memory, and
// products of a group of four warps and of one.
#pragma once

#include "h3_mixer_chunked_backward_group.h"
#include "h3_mixer_chunked_backward_parts.cuh"
#include "warpgroup.cuh"

namespace riverhorse::cuda::chunked_backward {

// Unit u of row r at u pitches + 16 r: so every 8 rows of a unit are a core, rows can begin anywhere, and neither 8
// rows of a unit nor the units of a row meet in a bank.
template <int rows>
struct Stacked {
  static_assert(rows % 2 == 0);
  static constexpr int pitch = 16 * (rows + 1);
  static constexpr int bytes = 8 * pitch;
  __device__ static constexpr std::uint32_t offset(unsigned row, unsigned unit) { return unit * pitch + row * 16; }

  // As operands: columns, which follow each other, are K, or rows are.
  static constexpr Cores columns_are_k = {128, pitch, true}, rows_are_k = {pitch, 128, false};
  static constexpr int k_columns = 2 * pitch, k_rows = 256;  // bytes of the 16 of a product
};
using Tile = Stacked<tile_rows>;
using Matrix = Stacked<64>;
static_assert(Tile::pitch == 17 * 16 && Matrix::pitch == 65 * 16);

// A Toeplitz matrix f(t - s) is there as cores of 8 x 8, one for each distance d of blocks of 8 from -7 on: row r and
// column c have lag 8 d + r - c. It is a right operand forwards in time, with t as columns, or back, with s as
// columns. Strides must not be negative: forwards each 16 of K come with their blocks changed places, and so do the
// halves of the left operand; back, the blocks of columns come backwards, and so do those of the sums.
constexpr int core_bytes = 128;
constexpr Cores toeplitz_forwards = {core_bytes, core_bytes, true}, toeplitz_back = {core_bytes, core_bytes, false};

constexpr int group_warps = chunked_warps;
constexpr int group_size = group_warps * warp_size, team_threads = 2 * group_size;

namespace group_place {
constexpr int inputs = 0, outputs = inputs + Matrix::bytes;  // E^T, its units backwards, and R: two rows a mode
constexpr int lag_cores = 15, tap_cores = 23;                // taps also of the chunk before
constexpr int lags = outputs + Matrix::bytes, taps = lags + lag_cores * core_bytes;
constexpr int per_input = taps + tap_cores * core_bytes;  // scale / b, a mode 8 bytes
constexpr int decay = per_input + 8 * modes;              // a^64
constexpr int carries = decay + 8 * modes;                // of each warp: lambda after its tile; in turn, from 0
constexpr int chunk_carries = carries + 8 * modes * group_warps;  // a chunk of d_k', for even and odd turns
constexpr int entries = chunk_carries + 2 * row_bytes;            // of each tile: x where it begins
// Barriers of each tile: its keys and values are there; d_q is stored.
constexpr int loaded = entries + 8 * modes * group_warps, stored = loaded + barrier_bytes * group_warps;
constexpr int tiles = divide_up(stored + barrier_bytes * group_warps, row_bytes) * row_bytes;

// Of a tile. What is loaded, and stored, lies in rows of 128 bytes (ExchangedOffsets), as an asynchronous copy takes
// a turn of shared memory for every 128 aligned bytes that it comes to. From tile to tile the two with keys change
// places, and those with d_y and lambda, so that the next ones come while these are still read. First q, then d_z.
constexpr int exchanged = tile_rows * row_bytes;
constexpr int keys = 0, next_keys = keys + exchanged + row_bytes;  // 17 rows: the chunk before comes first
constexpr int values = next_keys + exchanged + row_bytes;
constexpr int d_z = values + exchanged, d_y = d_z + Tile::bytes, lambda = d_y + Tile::bytes;
constexpr int d_shifted = lambda + Tile::bytes;  // 17 rows: the chunk after comes last
constexpr int w = d_shifted + exchanged + row_bytes, states = w + Tile::bytes, shifted = states + Tile::bytes;
constexpr int tile_bytes = shifted + Tile::bytes;
static_assert(tiles % row_bytes == 0 && exchanged % row_bytes == 0 && Tile::bytes % row_bytes == 0);
constexpr int block_bytes = tiles + group_warps * tile_bytes;
static_assert(block_bytes <= static_cast<int>(group_shared_bytes));
}  // namespace group_place

struct StackedOffsets {
  unsigned lane;

  // Left operands, and four pairs of results of 16 x 8; columns 16 p are Tile::k_columns p further.
  __device__ __forceinline__ std::uint32_t rows() const { return Tile::offset(lane % 16, lane / 16); }
  // The same with the rows as K, of columns from a unit on, which is a pitch.
  __device__ __forceinline__ std::uint32_t turned() const {
    return Tile::offset(lane % 8 + 8 * (lane / 16), lane / 8 % 2);
  }
  // This lane's mode; the next row is 16 further.
  __device__ __forceinline__ std::uint32_t mode() const { return Tile::offset(0, lane / 4) + 4 * (lane % 4); }
  __device__ __forceinline__ int row() const { return static_cast<int>(lane / 4); }
  // A pair of sums; the next 8 columns are a pitch further, rows 128.
  __device__ __forceinline__ std::uint32_t sums() const { return Tile::offset(lane / 4, 0) + lane % 4 * 4; }
  __device__ __forceinline__ std::uint32_t unit() const { return 16 * lane; }
};

// In a tile of rows whose units are exchanged (rows.cuh).
struct ExchangedOffsets {
  unsigned lane;

  // Of the left operand of columns 16 p, and of four pairs of results of 16 x 8; of rows from `first` on.
  __device__ __forceinline__ std::uint32_t rows(int p, unsigned first = 0) const {
    return unit_offset(lane % 16 + first, lane / 16) ^ static_cast<std::uint32_t>(32 * p);
  }
  // The same with the rows as K, of columns from `unit` on, which is even.
  __device__ __forceinline__ std::uint32_t turned(int unit, unsigned first) const {
    return unit_offset(lane % 8 + 8 * (lane / 16) + first, lane / 8 % 2) ^ static_cast<std::uint32_t>(16 * unit);
  }
};

__device__ __forceinline__ void load_exchanged(Rows& rows, const ExchangedOffsets& at, std::uint32_t tile,
                                               unsigned first = 0) {
#pragma unroll
  for (int p = 0; p < 4; ++p) load_matrices(rows[p], tile + at.rows(p, first));
}

__device__ __forceinline__ void load_left(Rows& rows, std::uint32_t from) {
#pragma unroll
  for (int p = 0; p < 4; ++p) load_matrices(rows[p], from + Tile::k_columns * p);
}

__device__ __forceinline__ void store_left(std::uint32_t to, const Rows& rows) {
#pragma unroll
  for (int p = 0; p < 4; ++p) store_matrices(to + Tile::k_columns * p, rows[p]);
}

// Sums of a group, rounded, to a tile.
template <typename T>
__device__ __forceinline__ void store_pairs(std::uint32_t to, const float (&sums)[8][4]) {
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    store_shared(to + Tile::pitch * j, pack<T>(sums[j][0], sums[j][1]));
    store_shared(to + Tile::pitch * j + 128, pack<T>(sums[j][2], sums[j][3]));
  }
}

// Sums of a group += (or =) rows times a right operand, 16 columns of the rows at a time, whose part is `step` bytes
// further each time. `backwards`: the operand's blocks of 8 of K come backwards in each part. Asked for only.
template <typename T, Cores cores, bool backwards, bool add_to>
__device__ __forceinline__ void multiply_rows(float (&sums)[8][4], const Rows& rows, std::uint32_t matrix, int step) {
  begin_products();
#pragma unroll
  for (int p = 0; p < 4; ++p) {
    const int first = backwards ? 2 : 0;
    const std::uint32_t part[4] = {rows[p][first], rows[p][first + 1], rows[p][2 - first], rows[p][3 - first]};
    const std::uint32_t address = matrix + static_cast<std::uint32_t>(step * p);
    if (!add_to && p == 0) {
      multiply_add_group<T, cores, false>(sums, part, address);
    } else {
      multiply_add_group<T, cores>(sums, part, address);
    }
  }
  commit_products();
}
// The same where half of the sums take part: bit p of `low` and `high` says whether the 16 columns from 16 p on count
// for the first and the last 32 columns of sums.
template <typename T, Cores cores, bool backwards, bool add_to, unsigned low, unsigned high>
__device__ __forceinline__ void multiply_halves(float (&sums)[8][4], const Rows& rows, std::uint32_t matrix,
                                                int step) {
  begin_products();
#pragma unroll
  for (int p = 0; p < 4; ++p) {
    const int first = backwards ? 2 : 0;
    const std::uint32_t part[4] = {rows[p][first], rows[p][first + 1], rows[p][2 - first], rows[p][3 - first]};
    const std::uint32_t address = matrix + static_cast<std::uint32_t>(step * p);
    const unsigned bit = 1u << p;
    if ((low & bit) != 0) {
      if (add_to || (low & (bit - 1)) != 0) {
        multiply_add_half<T, cores, true, 0>(sums, part, address);
      } else {
        multiply_add_half<T, cores, false, 0>(sums, part, address);
      }
    }
    if ((high & bit) != 0) {
      if (add_to || (high & (bit - 1)) != 0) {
        multiply_add_half<T, cores, true, 4>(sums, part, address);
      } else {
        multiply_add_half<T, cores, false, 4>(sums, part, address);
      }
    }
  }
  commit_products();
}
// Forwards in time by the Toeplitz matrix at `table`; `chunks`: of which chunk before. A quarter of it is zeros and
// left out.
template <typename T, bool add_to, int chunks = 0>
__device__ __forceinline__ void multiply_forwards(float (&sums)[8][4], const Rows& rows, std::uint32_t table) {
  constexpr unsigned low = chunks == 0 ? 0b0011 : 0b1111, high = chunks == 0 ? 0b1111 : 0b1100;
  multiply_halves<T, toeplitz_forwards, true, add_to, low, high>(
      sums, rows, table + static_cast<std::uint32_t>((6 + 8 * chunks) * core_bytes), -2 * core_bytes);
}
// The same backwards; the sums' blocks of columns come backwards.
template <typename T, bool add_to, int chunks = 0>
__device__ __forceinline__ void multiply_back(float (&sums)[8][4], const Rows& rows, std::uint32_t table) {
  constexpr unsigned low = chunks == 0 ? 0b1100 : 0b1111, high = chunks == 0 ? 0b1111 : 0b0011;
  multiply_halves<T, toeplitz_back, false, add_to, low, high>(
      sums, rows, table + static_cast<std::uint32_t>(8 * chunks * core_bytes), 2 * core_bytes);
}
// sums += states by the modes of a matrix, in halves as those of the Toeplitz matrix before.
template <typename T>
__device__ __forceinline__ void add_of_states(float (&sums)[8][4], const Rows& states, std::uint32_t matrix) {
  multiply_halves<T, Matrix::rows_are_k, false, true, 0b1111, 0b1111>(sums, states, matrix, Matrix::k_rows);
}

// sums[m] += of every right block the left blocks 2 m and 2 m - 1 before it, from the last left block on. `load` gets
// a pair, `source` and the next, for 6, 4 and so on to `first`; the pairs between are put together of what is there,
// as moves cost less than turns of shared memory. A pair at a time, for want of registers. Blocks before 0 are of the
// chunk before; with `masked` they count in the bits of mask(i) alone, of rows 8 i on.
template <typename T, int first, bool masked, typename Load, typename Mask>
__device__ __forceinline__ void add_lags_of(LagSums& sums, std::uint32_t (&right)[8][2], Load&& load, Mask&& mask) {
  static_assert(first % 2 == 0);
  const auto add = [&](const std::uint32_t(&left)[4], int source) {
#pragma unroll
    for (int m = 0; m < 5; ++m) {
      const int target = source + 2 * m;
      if (0 <= target && target < 8) multiply_add<T>(sums[m], left, right[target][0], right[target][1]);
    }
  };
  std::uint32_t between[4] = {};
#pragma unroll
  for (int source = 6; source >= first; source -= 2) {
    std::uint32_t left[4];
    load(left, source);
    between[0] = left[1];
    between[2] = left[3];
    if (masked && source == -2) {  // block -1 alone, then all before it by way of the other operand
#pragma unroll
      for (int i = 0; i < 2; ++i) between[2 * i] &= mask(i);
    }
    add(between, source + 1);
    if (masked && source == -2) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const std::uint32_t of_rows = mask(i);
#pragma unroll
        for (auto& block : right) block[i] &= of_rows;
      }
    }
    add(left, source);
    between[1] = left[0];
    between[3] = left[2];
  }
  if (first == 0) {  // nothing is before the first
    between[0] = between[2] = 0;
    add(between, -1);
  }
}

// sums of lags += W^T d_Z within chunks, as add_lags() of h3_mixer_chunked_backward_parts.cuh.
template <typename T>
__device__ __forceinline__ void add_group_lags(LagSums& sums, const StackedOffsets& at, std::uint32_t w,
                                               std::uint32_t d_z) {
  std::uint32_t right[8][2];
#pragma unroll
  for (int p = 0; p < 4; ++p) load_right(right, p, d_z + at.rows() + Tile::k_columns * p);
  add_lags_of<T, 0, false>(
      sums, right,
      [&](std::uint32_t(&left)[4], int block) {
        load_matrices_transposed(left, w + at.turned() + Tile::pitch * block);
      },
      [](int) { return 0u; });
}

// sums of taps += K^T d_K', as add_lags_across().
template <typename T, bool packed>
__device__ __forceinline__ void add_tap_lags(LagSums& sums, const ExchangedOffsets& at, std::uint32_t keys,
                                             unsigned begins, std::uint32_t d_shifted) {
  std::uint32_t right[8][2];
#pragma unroll
  for (int p = 0; p < 4; ++p) load_right(right, p, d_shifted + at.rows(p));
  add_lags_of<T, -8, packed>(
      sums, right,
      [&](std::uint32_t(&left)[4], int block) {  // of two rows
        load_matrices_transposed(left, keys + (block < 0 ? at.turned(block + 8, 0) : at.turned(block, 1)));
      },
      [&](int i) { return pair_mask(~begins >> (at.lane % 4 * 2 + 8 * i)); });  // where none begins; two rows
}

}  // namespace riverhorse::cuda::chunked_backward
