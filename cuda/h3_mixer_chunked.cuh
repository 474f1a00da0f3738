// What the chunked algorithm of the mixer, forward and backward, shares: when it applies, how a call is cut up, how
// its rows lie in shared memory, and Toeplitz matrices as operands of tensor cores.
//
// A row is a chunk of 64 tokens of one channel and sequence; a tile is 16 rows, for one warp: 16 chunks of one
// sequence (a superchunk of 1024 tokens), or those of 2, 4, 8 or 16 shorter sequences.
#pragma once

#include "backend/ops.h"
#include "kernel.cuh"
#include "tensor_core.cuh"

namespace riverhorse::cuda {

constexpr int chunk = H3Filter::chunk;
constexpr int tile_rows = 16;
static_assert(tile_rows * chunk == H3Filter::superchunk);
constexpr int row_bytes = chunk * 2;
constexpr int chunked_modes = 32;  // at most; fewer are padded with zeros
constexpr int chunked_warps = 4;   // of a block
constexpr int chunked_threads = chunked_warps * warp_size;

// Activations of 16 bits, one channel a head, at most 64 taps and 32 modes. Below 32 tokens the walk is the shorter
// way.
inline bool mixer_is_chunked(DType dtype, const H3Filter& filter, int head_dim, std::int64_t tokens) {
  return dtype_size_bytes(dtype) == 2 && head_dim == 1 && filter.shift_taps.shape[1] <= chunk && tokens >= warp_size;
}

// The mixer itself, but for the ring of keys, which it reads and leaves to keep_keys(). Errors: those of launch().
void mix_chunked(cudaStream_t stream, const H3MixerArgs& args, int multiprocessors);

// How the sequences of a channel become tiles. All of them fit 32 bits: encoders hold tensors below 2^31 rows.
struct Cut {
  std::int64_t batch, tokens;
  int rows_log;     // log2 of the rows of a sequence in a tile
  unsigned begins;  // bit r: a sequence begins at row r of its first tile
  int tiles;        // of a sequence: 1 but with 16 rows
  int groups;       // of sequences that share tiles

  // `alone`: a tile has one sequence, however short.
  Cut(std::int64_t sequences, std::int64_t length, bool alone) : batch(sequences), tokens(length), rows_log(4) {
    const std::int64_t chunks = divide_up(length, chunk);
    while (!alone && rows_log > 0 && chunks <= (1 << (rows_log - 1))) --rows_log;
    begins = 0xffffu / ((1u << (1 << rows_log)) - 1);
    tiles = static_cast<int>(divide_up(chunks, tile_rows));
    groups = static_cast<int>(divide_up(batch, tile_rows >> rows_log));
  }
  __device__ std::int64_t sequence(int group, int row) const {
    return static_cast<std::int64_t>(group) * (tile_rows >> rows_log) + (row >> rows_log);
  }
  // Of the row's first token.
  __device__ std::int64_t token(int tile, int row) const {
    return (static_cast<std::int64_t>(tile) * tile_rows + (row & ((1 << rows_log) - 1))) * chunk;
  }
};

// A row in shared memory is 8 units of 16 bytes, in an order that differs from row to row, so that neither 8 units of
// a row nor one of 8 rows meet in a bank.
__device__ inline std::uint32_t unit_offset(int row, int unit) {
  return static_cast<std::uint32_t>(row * row_bytes + ((unit ^ (row & 7)) << 4));
}

// How many of the 8 elements of a unit that begins at `token` there are.
__device__ inline int elements_of_unit(std::int64_t token, std::int64_t tokens) {
  return static_cast<int>(max(min(tokens - token, std::int64_t{8}), std::int64_t{0}));
}

// A unit of `line`, which has `tokens` elements, to shared memory; zeros from there on. `aligned`: every line begins
// at 16 bytes and ends so; the unit is there after wait_for_copies(), else at once.
template <typename T>
__device__ __forceinline__ void load_unit(std::uint32_t to, const T* line, std::int64_t token, std::int64_t tokens,
                                          bool aligned) {
  const int count = elements_of_unit(token, tokens);
  if (aligned) {
    copy_async(to, line + (count > 0 ? token : 0), 2 * count);
    return;
  }
  std::uint16_t elements[8];
  for (int i = 0; i < 8; ++i) {
    elements[i] = 0;
    if (i < count) std::memcpy(&elements[i], &line[token + i], 2);
  }
  uint4 unit;
  std::memcpy(&unit, elements, sizeof unit);
  store_shared(to, unit);
}

template <typename T>
__device__ __forceinline__ void store_unit(T* line, std::int64_t token, std::int64_t tokens, bool aligned,
                                           uint4 unit) {
  const int count = elements_of_unit(token, tokens);
  if (aligned) {
    if (count > 0) __stcs(reinterpret_cast<uint4*>(line + token), unit);
    return;
  }
  T elements[8];
  std::memcpy(elements, &unit, sizeof unit);
  for (int i = 0; i < 8; ++i) {
    if (i < count) line[token + i] = elements[i];
  }
}

// The Toeplitz matrix of values[0 .. count), lag = column - row, as B operands: its 8 x 8 tile m (columns 8 m ahead
// of rows) is one register a lane, table[8 m + g - 2 t + toeplitz_before]; g = lane / 4, t = lane % 4. In `rest`,
// unless null, what the rounding to T dropped. By the threads of a block.
constexpr int toeplitz_before = 8, toeplitz_size = chunk + 2 * toeplitz_before;
template <typename T>
__device__ void make_toeplitz(const float* values, int count, std::uint32_t* table, std::uint32_t* rest) {
  const auto value = [=](int lag) { return 0 <= lag && lag < count ? values[lag] : 0.0f; };
  for (int i = static_cast<int>(threadIdx.x); i < toeplitz_size; i += static_cast<int>(blockDim.x)) {
    const int lag = i - toeplitz_before;
    const float low = value(lag), high = value(lag - 1);
    table[i] = pack<T>(low, high);
    if (rest == nullptr) continue;
    const float2 rounded = unpack<T>(table[i]);
    rest[i] = pack<T>(low - rounded.x, high - rounded.y);
  }
}

}  // namespace riverhorse::cuda
