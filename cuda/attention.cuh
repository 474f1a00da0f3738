// What attention's kernels share: how they read the rows of a head, and the choice between two kinds of tiles.
//
// A block works on tiles of 64 rows by 64 columns: queries by keys, or keys by queries. Each thread holds some rows
// of some columns of the scores, and of the outputs the same rows of some channels. Which ones is the business of the
// tiles: PlainTiles (attention_plain_tiles.cuh) for any dtype and head width, TensorTiles
// (attention_tensor_tiles.cuh) for 16 bits. Both have
//   threads                          of a block
//   rows, columns, channels          that a thread holds
//   row_run, column_run              how many of them at a time follow each other
//   row(i), column(j), channel(c)    where in the tile they are; channel 0 is the first of the pass
//   load(slot, rows, begin)          a tile of 64 rows; it may be used after commit() and wait<n>(), and its slot be
//                                    loaded anew after release(), both by all threads
//   multiply(a, b, products)         products[i][j] = a[row(i)] . b[column(j)]
//   add_weighted(weights, x, sums)   sums[i][c] += sum over s of weights[i][s] x[s][channel(c)]
//   row_sum, row_max                 over all threads that hold the row
//   store(...)                       rows of outputs, each times its factor
#pragma once

#include <cstdint>
#include <type_traits>

#include "dropout.cuh"
#include "encoder.h"
#include "kernel.cuh"

namespace riverhorse::cuda::attention {

constexpr int tile = 64;

// Rows of one head; a row or a channel that is not there counts as zero.
template <typename T>
struct Rows {
  const T* data = nullptr;
  std::int64_t stride = 0;
  std::int64_t count = 0;
  int width = 0;

  __device__ float at(std::int64_t row, int channel) const {
    return row < count && channel < width ? to_float(data[row * stride + channel]) : 0.0f;
  }
};

// exp(x) = 2^(x log2_e): the hardware has the latter.
constexpr float log2_e = 1.44269504088896341f;

// weights[i][j] times what dropout gives them. index_of(i, j) is an element's index; with `turned`, index_of(j, i),
// and neighbouring rows follow each other instead of neighbouring columns.
template <typename Tiles, bool turned, typename IndexOf>
__device__ __forceinline__ void drop(const DropoutMask& mask, const IndexOf& index_of,
                                     float (&weights)[Tiles::rows][Tiles::columns]) {
  if (!mask.drops()) return;
  constexpr int run = turned ? Tiles::row_run : Tiles::column_run;
#pragma unroll
  for (int line = 0; line < (turned ? Tiles::columns : Tiles::rows); ++line) {
#pragma unroll
    for (int begin = 0; begin < (turned ? Tiles::rows : Tiles::columns); begin += run) {
      float kept[run];
      mask.factors(index_of(line, begin), kept);
#pragma unroll
      for (int n = 0; n < run; ++n) (turned ? weights[begin + n][line] : weights[line][begin + n]) *= kept[n];
    }
  }
}

// Calls work(at, a, b) for each tile of two lots of rows, at = begin, begin + tile, ... below `end`. While one is
// worked on, the next arrives, in the slots from `slot` to `slot` + 3; what was loaded before this call arrives with
// the first.
template <typename Tiles, typename T, typename Work>
__device__ __forceinline__ void over_tiles(const Tiles& tiles, int slot, const Rows<T>& a_rows, const Rows<T>& b_rows,
                                           std::int64_t begin, std::int64_t end, Work&& work) {
  auto a = tiles.load(slot, a_rows, begin), b = tiles.load(slot + 1, b_rows, begin);
  tiles.commit();
  int other = 2;
  for (std::int64_t at = begin; at < end; at += tile, other = 2 - other) {
    auto next_a = a, next_b = b;
    if (at + tile < end) {
      next_a = tiles.load(slot + other, a_rows, at + tile);
      next_b = tiles.load(slot + other + 1, b_rows, at + tile);
    }
    tiles.commit();
    tiles.template wait<1>();
    work(at, a, b);
    tiles.release();
    a = next_a;
    b = next_b;
  }
}

}  // namespace riverhorse::cuda::attention
