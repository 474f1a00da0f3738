// Shared memory of the chunked mixer's forward pass (h3_mixer_chunked.cu), and what a block makes there of a
// channel's filter: two Toeplitz matrices, and from powers of a and c
//   R[n, t] = 2 Re(c_n a_n^(t+1)) and E[t, n] = a_n^(63-t), with a row or column each for real and imaginary parts.
#pragma once

#include "complex.cuh"
#include "h3_mixer_chunked.cuh"

namespace riverhorse::cuda {

// Two neighbours: 16-bit numbers as in registers of operands.
template <typename T>
using Pair = std::conditional_t<sizeof(T) == 2, std::uint32_t, float2>;
template <typename T>
__device__ __forceinline__ Pair<T> pair_of(float first, float second) {
  if constexpr (sizeof(T) == 2) {
    return pack<T>(first, second);
  } else {
    return make_float2(first, second);
  }
}
template <typename T>
__device__ __forceinline__ float2 floats_of(Pair<T> pair) {
  if constexpr (sizeof(T) == 2) {
    return unpack<T>(pair);
  } else {
    return pair;
  }
}

constexpr int state_row_bytes = 2 * chunked_modes * 4;
constexpr int matrix_powers = 7;  // a^1, 2, 4, 8, 16, 32, and 2 c

// In bf16 the taps are split in two terms.
template <typename T>
constexpr int tap_terms = std::is_same_v<T, __nv_bfloat16> ? 2 : 1;

// Of a stage of a warp, in bytes: a tile of k (the row before it, and 16), of v and of q. E w and the states, and
// then w of a sequence's last row, take the place of its k and v. In fp32, with twice the bytes, there is one stage,
// and the states have a place of their own: k and v of the next tile are loaded once those of this one are read.
template <typename T>
struct Stage {
  static constexpr bool one = sizeof(T) == 4;
  static constexpr int row = chunk * static_cast<int>(sizeof(T)), tile = tile_rows * row;
  static constexpr int values = tile + row, queries = values + tile, after_queries = queries + tile;
  static constexpr int states = one ? after_queries : 0, last_row = states + tile_rows * state_row_bytes;
  static constexpr int bytes = one ? last_row + row : after_queries;
  static_assert(one || last_row + row <= queries);
};

// An entry of a Toeplitz matrix's table: a pair of 16-bit numbers, the second of the lag before, or one number.
template <typename T>
using ToeplitzEntry = std::conditional_t<sizeof(T) == 2, std::uint32_t, float>;

// Of a block: R, E, the stages, what its warps hand on, Toeplitz matrices (taps, one a term, and lags), and what
// these and R and E are made of, powers and lines of values; in fp32 those are where the first warp will have its
// states.
template <typename T>
struct Block {
  static constexpr int matrix = chunk * 2 * chunked_modes * static_cast<int>(sizeof(T));
  static constexpr int stage_count = Stage<T>::one ? 1 : 2;
  static constexpr int stages = 2 * matrix;
  static constexpr int carry = stages + chunked_warps * stage_count * Stage<T>::bytes;
  static constexpr int barriers = carry + chunked_modes * 8;  // of each warp, for its turn
  static constexpr int tables = barriers + 16 * chunked_warps;
  static constexpr int after_tables = tables + (tap_terms<T> + 1) * toeplitz_size * 4;
  static constexpr int powers = Stage<T>::one ? stages + Stage<T>::states : after_tables;
  static constexpr int lines = powers + matrix_powers * chunked_modes * 8, after_lines = lines + 2 * chunk * 4;
  static constexpr int bytes = Stage<T>::one ? after_tables : after_lines;
  static_assert(!Stage<T>::one || after_lines <= stages + Stage<T>::bytes);
  static_assert(bytes <= 99 << 10, "all that compute capability 8.6 and 8.9 give a block");
};

// The Toeplitz matrix of `chunk` values, lag = column - row, as B operands: its 8 x 8 tile m (columns 8 m ahead
// of rows) is one pair a lane, table[8 m + g - 2 t + toeplitz_before]; g = lane / 4, t = lane % 4. In `rest`, unless
// null, what the rounding to T dropped. By the threads of a block.
template <typename T>
__device__ void make_toeplitz(const float* values, ToeplitzEntry<T>* table, ToeplitzEntry<T>* rest) {
  const auto value = [=](int lag) { return 0 <= lag && lag < chunk ? values[lag] : 0.0f; };
  for (int i = static_cast<int>(threadIdx.x); i < toeplitz_size; i += static_cast<int>(blockDim.x)) {
    const int lag = i - toeplitz_before;
    if constexpr (sizeof(T) == 4) {
      table[i] = value(lag);
    } else {
      const float low = value(lag), high = value(lag - 1);
      table[i] = pack<T>(low, high);
      if (rest == nullptr) continue;
      const float2 rounded = unpack<T>(table[i]);
      rest[i] = pack<T>(low - rounded.x, high - rounded.y);
    }
  }
}

// Where pair (row 2 x, 2 x + 1; column) of a matrix with 64 rows lies, as operand B: 16 bytes a lane hold its four
// registers of 32 rows, or in fp32 of 8 rows and two columns, 8 apart. In pairs.
template <typename T>
__device__ int operand_place(int x, int column) {
  const int lane = column % 8 * 4 + x % 4;
  if constexpr (sizeof(T) == 2) {
    return ((column / 8 * 2 + x / 16) * warp_size + lane) * 4 + (x / 8 % 2) * 2 + x / 4 % 2;
  } else {
    return ((x / 4 * 4 + column / 16) * warp_size + lane) * 2 + column / 8 % 2;
  }
}

// R and E from the powers of a channel in shared memory, (matrix_powers, chunked_modes). By the threads of a block. A
// power is a product of few, and each thread has several rows of them that do not wait for each other.
template <typename T>
__device__ void make_matrices(Pair<T>* r, Pair<T>* e, const Complex<float>* powers) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % warp_size, warp = thread / warp_size;
  const auto power_of_two = [=](int exponent, int mode) { return powers[exponent * chunked_modes + mode]; };
  {  // lanes are modes; a warp has 16 tokens
    const Complex<float> a = power_of_two(0, lane), squared = power_of_two(1, lane), fourth = power_of_two(2, lane);
    Complex<float> product = power_of_two(6, lane) * a;
    if ((warp & 1) != 0) product = product * power_of_two(4, lane);
    if ((warp & 2) != 0) product = product * power_of_two(5, lane);
    Complex<float> four[4] = {product, product * a, product * squared, product * a * squared};
#pragma unroll
    for (int i = 0; i < chunk / chunked_warps; ++i) {
      r[operand_place<T>(lane, chunk / chunked_warps * warp + i)] = pair_of<T>(four[i % 4].re, -four[i % 4].im);
      four[i % 4] = four[i % 4] * fourth;
    }
  }
  {  // a thread has pairs of tokens 4 apart of one mode
    const int mode = thread / 4, first = thread % 4;
    const Complex<float> eighth = power_of_two(3, mode);
    Complex<float> product((first & 1) != 0 ? Complex<float>(1) : power_of_two(1, mode));
    if ((first & 2) == 0) product = product * power_of_two(2, mode);
    Complex<float> before = product * power_of_two(0, mode);
    constexpr int count = chunk / 8;
    Pair<T> re[count], im[count];
#pragma unroll
    for (int i = count - 1; i >= 0; --i) {
      re[i] = pair_of<T>(before.re, product.re);
      im[i] = pair_of<T>(before.im, product.im);
      product = product * eighth;
      before = before * eighth;
    }
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      const int column = 2 * mode + part;
      const Pair<T>(&from)[count] = part == 0 ? re : im;
      if constexpr (sizeof(T) == 2) {  // four are 16 bytes
#pragma unroll
        for (int i = 0; i < count; i += 4) {
          *reinterpret_cast<uint4*>(e + operand_place<T>(first + 4 * i, column)) =
              make_uint4(from[i], from[i + 1], from[i + 2], from[i + 3]);
        }
      } else {
#pragma unroll
        for (int i = 0; i < count; ++i) e[operand_place<T>(first + 4 * i, column)] = from[i];
      }
    }
  }
}

}  // namespace riverhorse::cuda
