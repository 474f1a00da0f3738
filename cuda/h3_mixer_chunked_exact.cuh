// The products of the chunked mixer's forward pass (h3_mixer_chunked.cu) on one tile, by one warp, in fp32, and as
// exact as fp32 sums are.
//
// An operand x is split in two terms, x rounded to tf32 (11 bits) and what is left, rounded again, and a product is
//   hi hi + (hi lo + lo hi)     with the sums in the brackets apart: a tensor core rounds sums towards zero.
// tf32 has the exponents of fp32: activations of any size work with no scales, and no token can change a bit of what
// is before it. Two terms in f16 (22 bits as well) would take half the tensor time, 0.13 ms of 64 x 1024 tokens
// instead of 0.25, but a scale for each tile of k, w and the states; three terms in bf16 take as much time as tf32
// and more work to split. Terms cut off instead of rounded, an instruction less, made three times the error.
//
// All operands are in shared memory and in registers as fp32, and are split when they are used: two terms of R and E
// would fill the memory of a second block. Of 8 columns of an operand, 2t and 2t + 1 stand in for t and t + 4
// (tensor_core.cuh), so that sums are operands as they are.
#pragma once

#include "h3_mixer_chunked_products.cuh"

namespace riverhorse::cuda {

template <>
class ChunkProducts<float> {
 public:
  __device__ __forceinline__ ChunkProducts(const float* tables, int lane)
      : g_(lane / 4),
        at_(row_at(g_, lane % 4)),
        keys_at_(row_at(g_ + 1, lane % 4)),
        tables_at_(shared_address(tables + g_ - 2 * (lane % 4) + toeplitz_before)) {}

  __device__ __forceinline__ void shift_keys(std::uint32_t stage, unsigned begins) {
    Split<2> taps[9];
    load_toeplitz(taps, tables_at_);
    Sums sums[8];
#pragma unroll
    for (int j = 0; j < 16; ++j) {  // 8 tokens each of the chunk before, and of this one
      const std::uint32_t from = stage + ((j < 8 ? at_ : keys_at_) ^ (32 * (j % 8)));
      float2 first = load_shared<float2>(from), second = load_shared<float2>(from + eight_rows);
      if (j < 8 && (begins >> g_ & 1) != 0) first = make_float2(0, 0);
      if (j < 8 && (begins >> (g_ + 8) & 1) != 0) second = make_float2(0, 0);
      multiply(sums, Split<4>({first.x, second.x, first.y, second.y}), taps, j - 8);
    }
#pragma unroll
    for (int column = 0; column < 8; ++column) {
      const std::uint32_t from = stage + Stage<float>::values + (at_ ^ (32 * column));
      const auto first = load_shared<float2>(from), second = load_shared<float2>(from + eight_rows);
      float shifted[4];
      sums[column].add_up(shifted);
      w_[column] =
          Split<4>({shifted[0] * first.x, shifted[2] * second.x, shifted[1] * first.y, shifted[3] * second.y});
    }
  }

  __device__ __forceinline__ void project(std::uint32_t states, std::uint32_t e_at) const {
#pragma unroll
    for (int begin = 0; begin < 8; begin += 4) {
      Sums sums[4];
      multiply_matrix(sums, w_, e_at, begin);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float u[4];
        sums[i].add_up(u);
        store(states + (at_ ^ (32 * (begin + i))), u);
      }
    }
  }

  __device__ __forceinline__ void keep_row(std::uint32_t to, int row) const {
    if (g_ != row % 8) return;
#pragma unroll
    for (int column = 0; column < 8; ++column) {
      const auto value = [&](int i) { return w_[column].high[i] + w_[column].low[i]; };
      store_shared(to + 32 * column + (at_ & 24),
                   row < 8 ? make_float2(value(0), value(2)) : make_float2(value(1), value(3)));
    }
  }

  __device__ __forceinline__ void mix_inside() {
    Split<2> lags[8];
    load_toeplitz(lags, tables_at_ + toeplitz_size * 4);
    Sums sums[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) multiply(sums, w_[j], lags, j);
#pragma unroll
    for (int column = 0; column < 8; ++column) sums[column].add_up(z_[column]);
  }

  __device__ __forceinline__ void add_past(std::uint32_t states, std::uint32_t r_at) {
    Split<4> s[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const std::uint32_t from = states + (at_ ^ (32 * j));
      const auto first = load_shared<float2>(from), second = load_shared<float2>(from + eight_rows);
      s[j] = Split<4>({first.x, second.x, first.y, second.y});
    }
#pragma unroll
    for (int begin = 0; begin < 8; begin += 4) {
      Sums sums[4];
      multiply_matrix(sums, s, r_at, begin);
#pragma unroll
      for (int column = 0; column < 4; ++column) {
        float past[4];
        sums[column].add_up(past);
#pragma unroll
        for (int i = 0; i < 4; ++i) z_[begin + column][i] += past[i];
      }
    }
  }

  __device__ __forceinline__ void gate(std::uint32_t queries) const {
#pragma unroll
    for (int column = 0; column < 8; ++column) {
      const std::uint32_t place = queries + (at_ ^ (32 * column));
      const auto first = load_shared<float2>(place), second = load_shared<float2>(place + eight_rows);
      const float* z = z_[column];
      store(place, {z[0] * first.x, z[1] * first.y, z[2] * second.x, z[3] * second.y});
    }
  }

 private:
  static constexpr std::uint32_t eight_rows = 8 * Stage<float>::row;

  template <int count>
  struct Split {
    float high[count], low[count];

    Split() = default;
    __device__ __forceinline__ explicit Split(const float (&values)[count]) {
#pragma unroll
      for (int i = 0; i < count; ++i) {
        high[i] = to_tf32(values[i]);
        low[i] = to_tf32(values[i] - high[i]);
      }
    }
  };
  struct Sums {
    float main[4] = {}, cross[4] = {};

    __device__ __forceinline__ void add_up(float (&sums)[4]) const {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[i] = main[i] + cross[i];
    }
  };

  // Columns 2 t, 2 t + 1 of a row of fp32 numbers; those of columns 8 i on are at ^ 32 i.
  __device__ static std::uint32_t row_at(int row, int t) {
    return unit_offset<float>(row, t / 2) + static_cast<std::uint32_t>(t % 2 * 8);
  }
  __device__ static void store(std::uint32_t to, const float (&sums)[4]) {
    store_shared(to, make_float2(sums[0], sums[1]));
    store_shared(to + eight_rows, make_float2(sums[2], sums[3]));
  }
  // The tiles of a Toeplitz matrix.
  template <int count>
  __device__ __forceinline__ static void load_toeplitz(Split<2> (&tiles)[count], std::uint32_t table) {
#pragma unroll
    for (int i = 0; i < count; ++i) {
      tiles[i] = Split<2>({load_shared<float>(table + 32 * i), load_shared<float>(table + 32 * i - 4)});
    }
  }
  // sums += A B for tiles b[column - first], of which there are `count`; first all products whose sums do not wait
  // for each other.
  template <int columns, int count>
  __device__ __forceinline__ static void multiply(Sums (&sums)[columns], const Split<4>& a,
                                                  const Split<2> (&b)[count], int first) {
#pragma unroll
    for (int term = 0; term < 3; ++term) {
#pragma unroll
      for (int column = 0; column < columns; ++column) {
        if (column < first || column - first >= count) continue;
        const Split<2>& tile = b[column - first];
        multiply_add(term == 0 ? sums[column].main : sums[column].cross, term == 2 ? a.low : a.high,
                     term == 1 ? tile.low[0] : tile.high[0], term == 1 ? tile.low[1] : tile.high[1]);
      }
    }
  }
  // Four columns, from `begin` on, of R or E.
  __device__ __forceinline__ static void multiply_matrix(Sums (&sums)[4], const Split<4> (&a)[8],
                                                         std::uint32_t matrix_at, int begin) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      Split<2> b[4];
#pragma unroll
      for (int i = 0; i < 4; i += 2) {
        const std::uint32_t from = matrix_at + static_cast<std::uint32_t>((j * 4 + (begin + i) / 2) * 512);
        const auto numbers = load_shared<uint4, true>(from);
        b[i] = Split<2>({__uint_as_float(numbers.x), __uint_as_float(numbers.y)});
        b[i + 1] = Split<2>({__uint_as_float(numbers.z), __uint_as_float(numbers.w)});
      }
      multiply(sums, a[j], b, 0);
    }
  }

  int g_;
  std::uint32_t at_, keys_at_, tables_at_;
  Split<4> w_[8];
  float z_[8][4];
};

}  // namespace riverhorse::cuda
