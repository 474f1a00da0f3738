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
constexpr int per_input = taps + tap_cores * core_bytes;          // scale / b, a mode 8 bytes
constexpr int decay = per_input + 8 * modes;                      // a^64
constexpr int carries = decay + 8 * modes;                        // of each warp: lambda after its tile, from 0
constexpr int chunk_carries = carries + 8 * modes * group_warps;  // a chunk of d_k', for even and odd turns
constexpr int tiles = divide_up(chunk_carries + 2 * row_bytes, row_bytes) * row_bytes;

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
  // The same with the rows as K, of columns from `unit` (0 to 6) on.
  __device__ __forceinline__ std::uint32_t turned(int unit, unsigned first) const {
    const unsigned row = lane % 8 + 8 * (lane / 16) + first, second = lane / 8 % 2;
    // The sum with `second` as an exclusive or.
    const unsigned carry = unit % 2 == 0 ? 1 : unit % 4 == 1 ? 3 : 7;
    return unit_offset(row, 0) ^ (second * (16 * carry)) ^ static_cast<std::uint32_t>(16 * unit);
  }
  // Those of the last unit, and of the first of the next row.
  __device__ __forceinline__ std::uint32_t turned_over() const {
    const unsigned row = lane % 8 + 8 * (lane / 16), second = lane / 8 % 2;
    return unit_offset(row + second, second == 0 ? 7 : 0);
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
// Forwards in time by the Toeplitz matrix at `table`; `chunks`: of which chunk before.
template <typename T, bool add_to>
__device__ __forceinline__ void multiply_forwards(float (&sums)[8][4], const Rows& rows, std::uint32_t table,
                                                  int chunks = 0) {
  multiply_rows<T, toeplitz_forwards, true, add_to>(
      sums, rows, table + static_cast<std::uint32_t>((6 + 8 * chunks) * core_bytes), -2 * core_bytes);
}
// The same backwards; the sums' blocks of columns come backwards.
template <typename T, bool add_to>
__device__ __forceinline__ void multiply_back(float (&sums)[8][4], const Rows& rows, std::uint32_t table,
                                              int chunks = 0) {
  multiply_rows<T, toeplitz_back, false, add_to>(
      sums, rows, table + static_cast<std::uint32_t>(8 * chunks * core_bytes), 2 * core_bytes);
}

// sums[m] += of every right block the left block 2 m before it. `load` gets blocks `first` to 7 and what follows
// each; a block at a time, for want of registers.
template <typename T, int first, typename Load>
__device__ __forceinline__ void add_lags_of(LagSums& sums, const std::uint32_t (&right)[8][2], Load&& load) {
#pragma unroll
  for (int source = first; source < 8; ++source) {
    std::uint32_t left[4];
    load(left, source);
#pragma unroll
    for (int m = 0; m < 5; ++m) {
      const int target = source + 2 * m;
      if (0 <= target && target < 8) multiply_add<T>(sums[m], left, right[target][0], right[target][1]);
    }
  }
}

// sums of lags += W^T d_Z within chunks, as add_lags() of h3_mixer_chunked_backward_parts.cuh.
template <typename T>
__device__ __forceinline__ void add_group_lags(LagSums& sums, const StackedOffsets& at, std::uint32_t w,
                                               std::uint32_t d_z) {
  std::uint32_t right[8][2];
#pragma unroll
  for (int p = 0; p < 4; ++p) {
    std::uint32_t r[4];
    load_matrices_transposed(r, d_z + at.rows() + Tile::k_columns * p);
    right[2 * p][0] = r[0];
    right[2 * p][1] = r[1];
    right[2 * p + 1][0] = r[2];
    right[2 * p + 1][1] = r[3];
  }
  add_lags_of<T, -1>(sums, right, [&](std::uint32_t(&left)[4], int block) {
    const std::uint32_t turned = w + at.turned();
    if (block >= 0) return load_matrices_transposed(left, turned + Tile::pitch * block);
    load_matrices_transposed(left, turned - at.lane / 8 % 2 * Tile::pitch);  // nothing is before the first
    left[0] = left[2] = 0;
  });
}

// sums of taps += K^T d_K', as add_lags_across().
template <typename T, bool packed>
__device__ __forceinline__ void add_tap_lags(LagSums& sums, const ExchangedOffsets& at, std::uint32_t keys,
                                             unsigned begins, std::uint32_t d_shifted) {
  std::uint32_t right[8][2];
#pragma unroll
  for (int p = 0; p < 4; ++p) {
    std::uint32_t r[4];
    load_matrices_transposed(r, d_shifted + at.rows(p));
    right[2 * p][0] = r[0];
    right[2 * p][1] = r[1];
    right[2 * p + 1][0] = r[2];
    right[2 * p + 1][1] = r[3];
  }
  add_lags_of<T, -8>(sums, right, [&](std::uint32_t(&left)[4], int block) {  // of two rows
    load_matrices_transposed(left, keys + (block == -1  ? at.turned_over()
                                           : block < 0  ? at.turned(block + 8, 0)
                                           : block == 7 ? at.turned(6, 1) ^ 16u
                                                        : at.turned(block, 1)));
    if constexpr (packed) {  // left[0] and [2] are of `block`, [1] and [3] of the next; two rows each
      const unsigned column = at.lane % 4 * 2;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (block + i % 2 < 0) left[i] &= pair_mask(~begins >> (column + 8 * (i / 2)));
      }
    }
  });
}

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

// The gradients of channel `d` from what the block has summed, as finish() of h3_mixer_chunked_backward_filter.cuh.
template <typename T>
__device__ void finish_group(const ChunkedBackward<T>& m, std::int64_t d, unsigned char* shared,
                             const GroupSums& of_warp, float scale, int warp, int lane) {
  constexpr int line = 65;                // of a matrix in shared memory, in numbers
  constexpr int warps = 2 * group_warps;  // of the second group the last four
  float* const all = reinterpret_cast<float*>(shared);
  float *const outputs_of = all, *const inputs_of = all + 64 * line;
  float* const lags_of = all + 2 * 64 * line;                   // of a warp [m][i][lane]
  float* const lambda_x_of = lags_of + warps * 20 * warp_size;  // of a warp of the first group [2][lane]
  double* const lag_values = reinterpret_cast<double*>(lambda_x_of + group_warps * 2 * warp_size);
  Complex<double>* const partial = reinterpret_cast<Complex<double>*>(lag_values + chunk);  // [warp][5][lane]
  __syncthreads();
  const bool second = warp >= group_warps;
  for (int i = 0; i < 20; ++i) lags_of[(warp * 20 + i) * warp_size + lane] = of_warp.lags[i / 4][i % 4];
  if (!second) {
    lambda_x_of[2 * warp * warp_size + lane] = of_warp.lambda_x.re;
    lambda_x_of[(2 * warp + 1) * warp_size + lane] = of_warp.lambda_x.im;
  }
  for (int j = 0; j < 8; ++j) {
    for (int i = 0; i < 4; ++i) {
      const int row = 16 * (warp % group_warps) + lane / 4 + 8 * (i / 2);
      (second ? inputs_of : outputs_of)[row * line + 8 * j + lane % 4 * 2 + i % 2] = of_warp.matrix[j][i];
    }
  }
  __syncthreads();

  if (threadIdx.x < 2 * chunk) {
    const int l = static_cast<int>(threadIdx.x) % chunk;
    const bool of_taps = threadIdx.x < chunk;
    double sum = 0;
    for (int w = 0; w < group_warps; ++w)
      sum += sum_of_lag(lags_of + (of_taps ? w + group_warps : w) * 20 * warp_size, l);
    if (of_taps) {
      if (l < m.filter.state) m.d_taps[d * m.filter.state + l] = static_cast<float>(sum);
    } else {
      lag_values[l] = sum;
      if (l == 0) m.d_skip[d] = static_cast<float>(sum);
    }
  }
  __syncthreads();

  // Each warp an eighth of the powers of a, from a^0 to a^63.
  const auto exact = [](Complex<float> value) { return Complex<double>(value.re, value.im); };
  const std::int64_t mode = d * m.filter.modes + lane;
  const ChannelFilter filter(m, d, lane);  // read again: fewer registers are kept
  {
    Complex<double> power(1), sums[5];
    if ((warp & 1) != 0) power = exact(filter.a8);
    if ((warp & 2) != 0) power = power * exact(filter.a16);
    if ((warp & 4) != 0) power = power * exact(filter.a32);
    constexpr int count = chunk / warps;
    for (int l = count * warp; l < count * (warp + 1); ++l) {
      const Complex<double> lag = 2 * lag_values[l] * power;
      const float *in = inputs_of + (63 - l) * line + 2 * lane, *out = outputs_of + 2 * lane * line + l;
      const Complex<double> lambda_w(in[0], -in[1]), x_d_z(out[0], out[line]);
      const Complex<double> next = power * exact(filter.a), x_v = 2.0 * next * x_d_z;
      sums[0] += lag;
      sums[1] += static_cast<double>(l) * lag;
      sums[2] += static_cast<double>(l) * (power * lambda_w);
      sums[3] += x_v;
      sums[4] += static_cast<double>(l + 1) * x_v;
      power = next;
    }
    for (int i = 0; i < 5; ++i) partial[(5 * warp + i) * warp_size + lane] = sums[i];
  }
  __syncthreads();
  if (warp != 0 || lane >= m.filter.modes) return;

  Complex<double> sums[5], by_x;
  for (int w = 0; w < warps; ++w) {
    for (int i = 0; i < 5; ++i) sums[i] += partial[(5 * w + i) * warp_size + lane];
  }
  for (int w = 0; w < group_warps; ++w) {
    by_x += Complex<double>(lambda_x_of[2 * w * warp_size + lane], lambda_x_of[(2 * w + 1) * warp_size + lane]);
  }
  const double per_x = 1 / static_cast<double>(scale);
  const Complex<double> weight = exact(filter.gain());
  const Complex<double> d_gain = sums[0] + per_x * sums[3];
  const Complex<double> d_log_a = weight * sums[1] + static_cast<double>(scale) * sums[2] +
                                  per_x * (weight * sums[4]) + 64.0 * (exact(filter.a64) * by_x);
  m.d_gain[2 * mode] = static_cast<float>(d_gain.re);
  m.d_gain[2 * mode + 1] = static_cast<float>(-d_gain.im);
  m.d_log_a[2 * mode] = static_cast<float>(d_log_a.re);
  m.d_log_a[2 * mode + 1] = static_cast<float>(-d_log_a.im);
}

// Rows in runs that begin at 16 bytes. `packed`: tiles may have several sequences. `in_turn`: the block's tiles are
// four of a sequence that follow each other; else each is of a sequence of its own.
template <typename T, bool packed, bool in_turn>
__global__ void __launch_bounds__(team_threads, 2) mix_chunked_backward_group(ChunkedBackward<T> m) {
  SHARED_MEMORY(unsigned char, shared_memory);
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int warp = __shfl_sync(all_lanes, static_cast<int>(threadIdx.x) / warp_size, 0);
  const bool walks_back = warp >= group_warps;
  const int of_tile = warp % group_warps;
  const std::int64_t d = blockIdx.x;
  const Cut& cut = m.cut;
  const std::uint32_t shared = shared_address(shared_memory), tiles = shared + group_place::tiles;
  const std::uint32_t own = tiles + static_cast<std::uint32_t>(of_tile * group_place::tile_bytes);
  const std::uint32_t values = own + group_place::values, d_z_tile = own + group_place::d_z,
                      w_tile = own + group_place::w, states = own + group_place::states,
                      shifted = own + group_place::shifted, d_shifted = own + group_place::d_shifted;
  std::uint32_t odd = 0;  // turns

  StackedOffsets at{static_cast<unsigned>(lane)};
  const auto sync_pair = [=] { sync_some<2 * warp_size>(1 + of_tile); };
  // Both groups come to it, each on its own way, where __syncthreads() may not stand.
  const auto sync_both = [] { sync_some<team_threads>(2 + group_warps); };
  const auto sync_group = [] { sync_some<group_size>(1 + group_warps); };  // of the second group
  const auto walk = [&] { return TileWalk(in_turn, 1, group_warps, cut.tiles); };
  const auto mover = [&] { return TileMover<T, true>(at.lane, true); };
  const auto exchanged = [&] { return ExchangedOffsets{at.lane}; };
  const std::int64_t first = d * cut.batch * cut.tokens;
  const auto line = [&](auto* tensor) { return tensor + opaque(first); };  // made anew: fewer registers are kept
  const auto superchunk = [&](TilePosition of) { return cut.tiles - 1 - of.tile; };
  const auto rows = [&](TilePosition of) {  // of a tile that is not there: none
    return of.group < cut.groups ? cut.rows<packed>(of.group, superchunk(of)) : TileRows{0, 0};
  };
  const auto load = [&](TilePosition of, std::uint32_t tile, const T* from) {
    mover().load(tile, line(from), rows(of));
  };
  const auto load_keys = [&](TilePosition of, std::uint32_t tile) {
    mover().load_keys(tile, line(m.k), rows(of), superchunk(of) == 0 || of.group >= cut.groups);
  };
  // The filter is read before the tiles: small, and all work waits for it.
  const ChannelFilter filter(m, d, lane);
  // `lead`: where the block's first tile is.
  TilePosition now = walk().begin(0, of_tile), lead = walk().begin(0, 0);
  const auto store = [&](std::uint32_t tile, T* to) { mover().store(tile, line(to), rows(now)); };
  if (walks_back) {
    load(now, d_z_tile, m.q);
    load(now, own + group_place::d_y, m.d_y);
  } else {
    load_keys(now, own + group_place::keys);
    load(now, values, m.v);
  }
  commit_copies();

  // Of x. In f16 neither x nor the matrices may overflow, or lose what counts of them.
  const auto scale_of = [](const ChannelFilter& of) { return fmaxf(16 * sqrtf(norm(of.input)), 1.0f / 1024); };
  make_matrices<T>(filter, scale_of(filter), shared, shared_memory + group_place::tiles + group_place::w, warp, lane);
  const auto entry = [&](TilePosition of) {  // scaled
    if (superchunk(of) == 0 || of.group >= cut.groups || static_cast<int>(at.lane) >= m.filter.modes)
      return Complex<float>();
    const std::int64_t row = (d * cut.batch + of.group) * cut.tiles + superchunk(of);
    const float* parts = m.entry_states + (row * m.filter.modes + at.lane) * 2;
    const float2 per_input = load_shared<float2>(shared + group_place::per_input + 8 * at.lane);
    return Complex<float>(parts[0], parts[1]) * Complex<float>(per_input.x, per_input.y);
  };
  __syncthreads();

  const auto load_decay = [&] {
    const float2 parts = load_shared<float2>(shared + group_place::decay + 8 * at.lane);
    return Complex<float>(parts.x, parts.y);
  };
  GroupSums sums;
  Complex<float> lambda;
  Complex<float> carried;  // in turn: lambda after the block's last tile
  const auto more = [&] { return (in_turn ? lead.group : now.group - of_tile) < cut.groups; };

  while (more()) {
    at.lane = opaque(at.lane);  // likewise
    // Bit r: a sequence begins at row r, in a tile of several.
    const unsigned begins = packed && superchunk(now) == 0 ? cut.begins : 0;
    const auto begins_at = [=](int row) { return packed && (begins >> row & 1) != 0; };
    const std::uint32_t keys_turn = odd * static_cast<std::uint32_t>(group_place::next_keys);
    const std::uint32_t d_y_turn = odd * static_cast<std::uint32_t>(Tile::bytes);
    const std::uint32_t keys = own + group_place::keys + keys_turn,
                        next_keys = own + group_place::next_keys - keys_turn;
    const std::uint32_t d_outputs = own + group_place::d_y + d_y_turn,
                        lambda_tile = own + group_place::lambda - d_y_turn;
    const TilePosition next = walk().next(now);

    if (!walks_back) {
      Complex<float> x = entry(now);
      wait_for_copies<0>();
      sync_pair();
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
        multiply_forwards<T, false>(k_sums, w, shared + group_place::taps, 1);
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
      // x at the entry of each chunk
      {
        const Complex<float> decay = load_decay();
        std::uint32_t u[16];
        const auto load_u = [&](int row) { u[row] = load_shared<std::uint32_t>(states + at.mode() + 16 * row); };
#pragma unroll
        for (int row = 0; row < 8; ++row) load_u(row);
#pragma unroll
        for (int row = 0; row < tile_rows; ++row) {
          if (row + 8 < tile_rows) load_u(row + 8);
          if (begins_at(row)) x = {};
          store_shared(states + at.mode() + 16 * row, pack<T>(x.re, x.im));
          Complex<float> sum = unpack_complex<T>(u[row]);
          add_product(sum, decay, x);
          x = sum;
        }
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
      add_group_lags<T>(sums.lags, at, w_tile, d_z_tile);
#pragma unroll
      for (int row = 0; row < tile_rows; ++row) {
        const std::uint32_t place = at.mode() + static_cast<std::uint32_t>(16 * row);
        add_product(sums.lambda_x, conj(unpack_complex<T>(load_shared<std::uint32_t>(lambda_tile + place))),
                    unpack_complex<T>(load_shared<std::uint32_t>(states + place)));
      }
      wait_for_products<0>();
      receive_sums(sums.matrix);
      sync_both();

      // z, d_q over d_y
      at.lane = opaque(at.lane);
      {
        float z[8][4];
        load_left(w, w_tile + at.rows());
        multiply_forwards<T, false>(z, w, shared + group_place::lags);
        wait_for_products<0>();
        receive_sums(z);
        load_left(w, states + at.rows());
        multiply_rows<T, Matrix::rows_are_k, false, true>(z, w, shared + group_place::outputs, Matrix::k_rows);
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
    } else {
      wait_for_copies<0>();
      sync_pair();
      load_keys(next, next_keys);
      // d_z = d_y q, V
      {
        float v[8][4];
        Rows d_z;
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
        store_pairs<T>(lambda_tile + at.sums(), v);
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
        if (now.tile == 0) lambda = {};
#pragma unroll
        for (int row = tile_rows - 1; row >= 0; --row) {
          if (begins_at(row + 1)) lambda = {};
          store_shared(lambda_tile + at.mode() + 16 * row, pack<T>(lambda.re, -lambda.im));
          step(row);
        }
      }
      show_stores_to_products();
      sync_both();

      // d_w, d_v over v, d_k'
      at.lane = opaque(at.lane);
      {
        float d_w[8][4];
        Rows left;
        load_left(left, d_z_tile + at.rows());
        multiply_back<T, false>(d_w, left, shared + group_place::lags);
        wait_for_products<0>();
        receive_sums(d_w);
        load_left(left, lambda_tile + at.rows());
        multiply_rows<T, Matrix::rows_are_k, false, true>(d_w, left, shared + group_place::inputs, Matrix::k_rows);
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
        multiply_back<T, true>(d_k, left, shared + group_place::taps, 1);
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
    odd ^= 1;
  }

  wait_for_copies<0>();
  finish_group(m, d, shared_memory + group_place::tiles, sums, scale_of(ChannelFilter(m, d, lane)), warp, lane);
}

}  // namespace riverhorse::cuda::chunked_backward
