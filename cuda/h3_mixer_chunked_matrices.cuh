// The two matrices of the chunked mixer's forward pass (h3_mixer_chunked.cu) in shared memory, from powers of a and
// c:
//   R[n, t] = 2 Re(c_n a_n^(t+1)) and E[t, n] = a_n^(63-t), with a row or column each for real and imaginary parts.
#pragma once

#include "complex.cuh"
#include "h3_mixer_chunked.cuh"

namespace riverhorse::cuda {

constexpr int matrix_bytes = chunk * 2 * chunked_modes * 2;
constexpr int matrix_powers = 7;  // a^1, 2, 4, 8, 16, 32, and 2 c

// Where pair (row 2 x, 2 x + 1; column) of a matrix with 64 rows lies, as operand B: 16 bytes a lane hold its four
// registers of 32 rows. In 4-byte words.
__device__ inline int operand_word(int x, int column) {
  const int half = x / 16, lane = (column % 8) * 4 + x % 4, word = (x / 8 % 2) * 2 + x / 4 % 2;
  return ((column / 8 * 2 + half) * warp_size + lane) * 4 + word;
}

// R and E from the powers of a channel in shared memory, (matrix_powers, chunked_modes). By the threads of a block.
template <typename T>
__device__ void make_matrices(std::uint32_t* r, std::uint32_t* e, const Complex<float>* powers) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size, warp = static_cast<int>(threadIdx.x) / warp_size;
  const auto power_of_two = [=](int exponent, int mode) { return powers[exponent * chunked_modes + mode]; };
  {  // lanes are modes; a warp has 16 tokens
    const Complex<float> a = power_of_two(0, lane);
    Complex<float> product = power_of_two(6, lane) * a;
    if ((warp & 1) != 0) product = product * power_of_two(4, lane);
    if ((warp & 2) != 0) product = product * power_of_two(5, lane);
    for (int i = 0; i < chunk / chunked_warps; ++i) {
      r[operand_word(lane, chunk / chunked_warps * warp + i)] = pack<T>(product.re, -product.im);
      product = product * a;
    }
  }
  for (int i = 0; i < chunked_modes / chunked_warps; ++i) {  // lanes are pairs of tokens; a warp has 8 modes
    const int mode = chunked_modes / chunked_warps * warp + i, exponent = 31 - lane;
    Complex<float> product(1);
    for (int bit = 0; bit < 5; ++bit) {
      if ((exponent >> bit & 1) != 0) product = product * power_of_two(bit + 1, mode);
    }
    const Complex<float> before = product * power_of_two(0, mode);
    e[operand_word(lane, 2 * mode)] = pack<T>(before.re, product.re);
    e[operand_word(lane, 2 * mode + 1)] = pack<T>(before.im, product.im);
  }
}

}  // namespace riverhorse::cuda
