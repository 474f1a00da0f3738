// The parts of the chunked backward pass of h3_mixer_chunked_backward_pass.cuh, which says what they are for.
#pragma once

#include "backend/ops.h"
#include "complex.cuh"
#include "h3_mixer_chunked.cuh"

namespace riverhorse::cuda::chunked_backward {

constexpr int modes = chunked_modes;

// Rows lie 16 bytes further apart than they are long, so that neither the 8 units of 16 bytes of a row nor one of 8
// rows meet in a bank, and a lane reaches all it needs with constants added to a few addresses.
struct Padded {
  static constexpr int pitch = row_bytes + 16;
  __device__ static constexpr std::uint32_t offset(unsigned row, unsigned unit) { return row * pitch + unit * 16; }
};
constexpr int pitch = Padded::pitch;
constexpr int tile_bytes = tile_rows * pitch;

// Left operands of 16 x 64 (by 16 columns), which is also where four pairs of results of 16 x 8 go.
using Rows = std::uint32_t[4][4];
// Sums over products of columns l apart, for l = 0 ... 63, in tiles of 8 x 8 of equal lag.
using LagSums = float[5][4];
constexpr int lag_sums_bytes = sizeof(LagSums) * warp_size;

// A Toeplitz matrix as h3_mixer_chunked.cuh has it, pairs (f_x, f_x-1), or its transpose, pairs (f_x, f_x+1).
constexpr int table_bytes = 4 * toeplitz_size;

// Offsets in the shared memory of a block, and of a warp in its part.
namespace place {
constexpr int inputs = 0, outputs = inputs + 64 * pitch;  // E^T and R: two rows a mode, real and imaginary part
constexpr int taps = outputs + 64 * pitch, lags = taps + table_bytes;
constexpr int taps_back = lags + table_bytes, lags_back = taps_back + table_bytes;
constexpr int per_input = lags_back + table_bytes;  // 1 / b, a mode 8 bytes
constexpr int carry = per_input + 8 * modes;        // lambda, from warp to warp where they take turns
constexpr int lambda_turns = carry + 8 * modes;  // barriers of each warp, for lambda and for the chunk after its own
constexpr int chunk_turns = lambda_turns + 16 * chunked_warps;
constexpr int warps = chunk_turns + 16 * chunked_warps;

// Two of 17 rows: one has the keys, of which the chunk before comes first, the other what is projected. For the next
// tile they change places, so that its keys come while those of this one are still read.
constexpr int keys = 0, projected = keys + tile_bytes + pitch;
constexpr int values = projected + tile_bytes + pitch, queries = values + tile_bytes, d_y = queries + tile_bytes;
constexpr int shifted = d_y + tile_bytes;
constexpr int d_shifted = shifted + tile_bytes;  // 17 rows: the chunk after comes last
constexpr int tap_sums = d_shifted + tile_bytes + pitch, lag_sums = tap_sums + lag_sums_bytes;
constexpr int warp_bytes = lag_sums + lag_sums_bytes;
constexpr int block_bytes(int warps_of_block) { return warps + warps_of_block * warp_bytes; }
}  // namespace place

// Where this lane reads and writes, by the kind of access, in tiles and in tables.
struct LaneOffsets {
  unsigned lane;  // without a sign, to be divided by shifts

  // Left operands; columns 16 p are 32 p further.
  __device__ __forceinline__ std::uint32_t rows() const { return Padded::offset(lane % 16, lane / 16); }
  // Right operands of E and R^T: rows 8 i are 8 i pitches further, columns 32 p are 64 p further.
  __device__ __forceinline__ std::uint32_t modes_right() const { return Padded::offset(lane % 8, lane / 8); }
  // Right operands of E^T and R, 32 rows; columns 8 j are 16 j further.
  __device__ __forceinline__ std::uint32_t times_right() const { return Padded::offset(lane, 0); }
  // Left operands that have the rows of a tile as columns; column block j is 16 j further.
  __device__ __forceinline__ std::uint32_t turned_block() const { return lane / 8 % 2; }
  __device__ __forceinline__ std::uint32_t turned() const {
    return Padded::offset(lane % 8 + 8 * (lane / 16), turned_block());
  }
  // This lane's mode in a tile of modes; the next row is a pitch further.
  __device__ __forceinline__ std::uint32_t mode() const { return 4 * lane; }
  // The first row, and the pair of columns, of operands and sums, and where in a tile; column block j is 16 j
  // further.
  __device__ __forceinline__ int row() const { return static_cast<int>(lane / 4); }
  __device__ __forceinline__ int column() const { return static_cast<int>(lane % 4 * 2); }
  __device__ __forceinline__ std::uint32_t sums() const { return Padded::offset(lane / 4, 0) + lane % 4 * 4; }
  // Tile 0 in a table of pairs; tile m at + 32 m.
  __device__ __forceinline__ std::uint32_t forwards() const {
    return 4 * (toeplitz_before + lane / 4 - 2 * (lane % 4));
  }
  __device__ __forceinline__ std::uint32_t back() const { return 4 * (toeplitz_before - lane / 4 + 2 * (lane % 4)); }
  __device__ __forceinline__ std::uint32_t unit() const { return 16 * lane; }
};

// Element by element, in 16 bits.
template <typename T>
__device__ __forceinline__ std::uint32_t multiply_pairs(std::uint32_t a, std::uint32_t b) {
#ifdef RIVERHORSE_CUDA_EMULATED
  const float2 x = unpack<T>(a), y = unpack<T>(b);
  return pack<T>(x.x * y.x, x.y * y.y);
#else
  std::uint32_t product;
  if constexpr (is_f16<T>) {
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(product) : "r"(a), "r"(b));
  } else {
    constexpr std::uint32_t minus_zeros = 0x80008000u;  // a multiplication alone takes sm_90
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(product) : "r"(a), "r"(b), "r"(minus_zeros));
  }
  return product;
#endif
}

// c += a b
__device__ __forceinline__ void add_product(Complex<float>& c, Complex<float> a, Complex<float> b) {
  c = {fmaf(a.re, b.re, fmaf(-a.im, b.im, c.re)), fmaf(a.re, b.im, fmaf(a.im, b.re, c.im))};
}

template <typename T>
__device__ __forceinline__ Complex<float> unpack_complex(std::uint32_t pair) {
  const float2 parts = unpack<T>(pair);
  return {parts.x, parts.y};
}

// Two sums of 16 x 8 next to each other, rounded, are a left operand.
template <typename T>
__device__ __forceinline__ void pack_sums(std::uint32_t (&pairs)[4], const float (&sums)[2][4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) pairs[i] = pack<T>(sums[i / 2][i % 2 * 2], sums[i / 2][i % 2 * 2 + 1]);
}

// Addresses of rows and right operands are of a lane in a tile.
__device__ __forceinline__ void load_rows(Rows& rows, std::uint32_t from) {
#pragma unroll
  for (int p = 0; p < 4; ++p) load_matrices(rows[p], from + 32 * p);
}

__device__ __forceinline__ void store_rows(std::uint32_t to, const Rows& rows) {
#pragma unroll
  for (int p = 0; p < 4; ++p) store_matrices(to + 32 * p, rows[p]);
}

// Right operands with the 16 rows of a tile as rows: those of column block j. First those of columns 16 p,
// which begin at `from`, then all of a padded tile.
__device__ __forceinline__ void load_right(std::uint32_t (&right)[8][2], int p, std::uint32_t from) {
  std::uint32_t r[4];
  load_matrices_transposed(r, from);
  right[2 * p][0] = r[0];
  right[2 * p][1] = r[1];
  right[2 * p + 1][0] = r[2];
  right[2 * p + 1][1] = r[3];
}
__device__ __forceinline__ void load_right(std::uint32_t (&right)[8][2], std::uint32_t from) {
#pragma unroll
  for (int p = 0; p < 4; ++p) load_right(right, p, from + 32 * p);
}

// Tiles of a table, for lags 8 m to 8 m + 7 and what is next to them.
template <int count>
__device__ __forceinline__ void load_tiles(std::uint32_t (&tiles)[count], std::uint32_t table) {
#pragma unroll
  for (int m = 0; m < count; ++m) tiles[m] = load_shared<std::uint32_t, true>(table + 32 * m);
}

// A place for the lag sums of a warp between their uses.
__device__ __forceinline__ void load_sums(LagSums& sums, std::uint32_t address) {
#pragma unroll
  for (int m = 0; m < 5; ++m) {
    const uint4 words = load_shared<uint4>(address + 16 * warp_size * m);
    sums[m][0] = __uint_as_float(words.x);
    sums[m][1] = __uint_as_float(words.y);
    sums[m][2] = __uint_as_float(words.z);
    sums[m][3] = __uint_as_float(words.w);
  }
}
__device__ __forceinline__ void store_sums(std::uint32_t address, const LagSums& sums) {
#pragma unroll
  for (int m = 0; m < 5; ++m) {
    store_shared(address + 16 * warp_size * m, make_uint4(__float_as_uint(sums[m][0]), __float_as_uint(sums[m][1]),
                                                          __float_as_uint(sums[m][2]), __float_as_uint(sums[m][3])));
  }
}

// sums[m] += of every right block the left blocks 2 m and 2 m - 1 before it: W^T d_Z within chunks. `tile` holds W.
// What is read beside a row goes into sums that nobody reads.
template <typename T>
__device__ __forceinline__ void add_lags(LagSums& sums, const LaneOffsets& at, std::uint32_t tile,
                                         const std::uint32_t (&right)[8][2]) {
  std::uint32_t left[9][4];  // block pairs (-1, 0), (0, 1) ... (7, -): nothing is before the first
  load_matrices_transposed(left[0], tile + at.turned() - 16 * at.turned_block());
#pragma unroll
  for (int block = 0; block < 8; ++block) load_matrices_transposed(left[block + 1], tile + at.turned() + 16 * block);
  left[0][0] = left[0][2] = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) {  // in an order that keeps neighbours on different sums
    const int target = i < 4 ? 7 - i : i == 4 ? 0 : i == 5 ? 3 : i == 6 ? 1 : 2;
#pragma unroll
    for (int m = 0; m < 5; ++m) {
      const int source = target - 2 * m;
      if (source >= -1) multiply_add<T>(sums[m], left[source + 1], right[target][0], right[target][1]);
    }
  }
}

// Keeps the low half of a register for bit 0, the high half for bit 1.
__device__ __forceinline__ std::uint32_t pair_mask(unsigned bits) {
  return ((bits & 1) != 0 ? 0xffffu : 0u) | ((bits & 2) != 0 ? 0xffff0000u : 0u);
}

// The same for K^T d_K', where the lags reach into the chunk before. `tile` holds 17 rows of keys. Bit r of `begins`:
// the chunk before row r is of another sequence.
template <typename T, bool packed>
__device__ __forceinline__ void add_lags_across(LagSums& sums, const LaneOffsets& at, std::uint32_t tile,
                                                unsigned begins, const std::uint32_t (&right)[8][2]) {
  const std::uint32_t turned = tile + at.turned();
  const std::uint32_t over_the_end = turned + 7 * 16 + at.turned_block() * (pitch - 8 * 16);  // on to the next row
  const auto load = [&](std::uint32_t(&left)[4], int block) {                                 // -8 ... 7 of two rows
    load_matrices_transposed(
        left, block == -1 ? over_the_end : turned + (block < 0 ? (block + 8) * 16 : pitch + block * 16));
    if constexpr (packed) {  // left[0] and [2] are of `block`, [1] and [3] of the next; two rows each
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (block + i % 2 < 0) left[i] &= pair_mask(~begins >> (at.column() + 8 * (i / 2)));
      }
    }
  };
#pragma unroll
  for (int parity = 0; parity < 2; ++parity) {  // targets of one parity share their sources
    std::uint32_t left[8][4];
#pragma unroll
    for (int i = 0; i < 5; ++i) load(left[i], parity - 8 + 2 * i);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int target = parity + 2 * i;
      if (i < 3) load(left[i + 5], parity + 2 + 2 * i);
#pragma unroll
      for (int m = 0; m < 5; ++m) multiply_add<T>(sums[m], left[i + 4 - m], right[target][0], right[target][1]);
    }
  }
}

// Rows `x` by the modes of a matrix (E or R^T, at `right_at`) to `out`, and x times the weights to `weighted_out`,
// both rounded. The weight of time t of 64 is (63 - t) / 64, or (t + 1) / 64 backwards.
template <typename T, bool backwards>
__device__ __forceinline__ void project(const Rows& x, const LaneOffsets& at, std::uint32_t right_at,
                                        std::uint32_t out, std::uint32_t weighted_out) {
  constexpr float first = backwards ? 1.0f / 64 : 63.0f / 64, step = backwards ? 1.0f / 64 : -1.0f / 64;
  const float weight = first + step * static_cast<float>(at.column());  // of this lane's first column
  Rows weighted;
#pragma unroll
  for (int p = 0; p < 4; ++p) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float more = weight + 8 * step * static_cast<float>(2 * p + half);
      const std::uint32_t both = pack<T>(more, more + step);
      weighted[p][2 * half] = multiply_pairs<T>(x[p][2 * half], both);
      weighted[p][2 * half + 1] = multiply_pairs<T>(x[p][2 * half + 1], both);
    }
  }
#pragma unroll
  for (int begin = 0; begin < 8; begin += 4) {  // blocks of 4 modes
    float sums[4][4] = {}, weighted_sums[4][4] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      std::uint32_t right[4][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        load_matrices<true>(right[i], right_at + 8 * pitch * (begin + i) + 64 * half);
      }
#pragma unroll
      for (int y = 0; y < 2; ++y) {
#pragma unroll
        for (int i = 0; i < 4; ++i) multiply_add<T>(sums[i], x[2 * half + y], right[i][2 * y], right[i][2 * y + 1]);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          multiply_add<T>(weighted_sums[i], weighted[2 * half + y], right[i][2 * y], right[i][2 * y + 1]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int offset = 16 * (begin + i);
      store_shared(out + offset, pack<T>(sums[i][0], sums[i][1]));
      store_shared(out + offset + 8 * pitch, pack<T>(sums[i][2], sums[i][3]));
      store_shared(weighted_out + offset, pack<T>(weighted_sums[i][0], weighted_sums[i][1]));
      store_shared(weighted_out + offset + 8 * pitch, pack<T>(weighted_sums[i][2], weighted_sums[i][3]));
    }
  }
}

// sums of column blocks begin ... begin + 3 += states by the modes of a matrix (R or E^T, at `right_at`).
template <typename T>
__device__ __forceinline__ void add_states(float (&sums)[4][4], const Rows& states, std::uint32_t right_at,
                                           int begin) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    std::uint32_t right[4][4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      load_matrices_transposed<true>(right[j], right_at + 32 * pitch * half + 16 * (begin + j));
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) multiply_add<T>(sums[j], states[2 * half], right[j][0], right[j][1]);
#pragma unroll
    for (int j = 0; j < 4; ++j) multiply_add<T>(sums[j], states[2 * half + 1], right[j][2], right[j][3]);
  }
}

// sums of column blocks begin ... begin + 3 += rows by the Toeplitz matrix of `tiles`, forwards in time.
template <typename T>
__device__ __forceinline__ void add_forwards(float (&sums)[4][4], const Rows& rows, const std::uint32_t (&tiles)[8],
                                             int begin) {
#pragma unroll
  for (int p = 0; p < 4; ++p) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int m = begin + j - 2 * p;
      if (m > 0) multiply_add<T>(sums[j], rows[p], tiles[m], tiles[m - 1]);
      if (m == 0) multiply_add<T>(sums[j], rows[p][0], rows[p][1], tiles[0]);
    }
  }
}
// The same backwards.
template <typename T>
__device__ __forceinline__ void add_back(float (&sums)[4][4], const Rows& rows, const std::uint32_t (&tiles)[8],
                                         int begin) {
#pragma unroll
  for (int p = 3; p >= 0; --p) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int m = 2 * p - begin - j;
      if (m >= 0) multiply_add<T>(sums[j], rows[p], tiles[m], tiles[m + 1]);
      if (m == -1) multiply_add<T>(sums[j], rows[p][2], rows[p][3], tiles[0]);
    }
  }
}

}  // namespace riverhorse::cuda::chunked_backward
