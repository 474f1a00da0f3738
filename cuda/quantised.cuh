// Quantised matrices (base/quantised.h) in kernels: where a row's quants and scales are, and quants as numbers.
#pragma once

#include <cstring>

#include "base/quantised.h"
#include "kernel.cuh"

namespace riverhorse::cuda {

template <DType dtype>
struct QuantisedRows {
  static constexpr int block_bytes = static_cast<int>(quants_size_bytes(dtype, quantised_block));
  const unsigned char* bytes;
  std::int64_t row_bytes;
  int blocks;  // of a row

  QuantisedRows(const unsigned char* matrix, std::int64_t width)
      : bytes(matrix), row_bytes(row_size_bytes(dtype, width)), blocks(static_cast<int>(width / quantised_block)) {}

  __device__ const unsigned char* block(std::int64_t row, int index) const {
    return bytes + row * row_bytes + index * block_bytes;
  }
  __device__ __half scale_bits(std::int64_t row, int index) const {
    return reinterpret_cast<const __half*>(bytes + row * row_bytes + blocks * block_bytes)[index];
  }
  __device__ float scale(std::int64_t row, int index) const { return to_float(scale_bits(row, index)); }
};

// Four quants of a word, as floats; in q4 those of its low half bytes, or of its high ones. The bytes become the last
// bits of a float of 2^23, from which 2^23 and what they are too large by are taken again.
template <DType dtype>
__device__ __forceinline__ void numbers_of(std::uint32_t word, int half, float (&values)[4]) {
  constexpr float too_large = 0x1p23f + (dtype == DType::q4 ? 8.0f : 128.0f);
  const std::uint32_t bytes = dtype == DType::q4 ? (word >> (4 * half)) & 0x0f0f0f0fu : word ^ 0x80808080u;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#ifdef RIVERHORSE_CUDA_EMULATED
    const std::uint32_t bits = 0x4b000000u | ((bytes >> (8 * i)) & 255u);
#else
    const std::uint32_t bits = __byte_perm(bytes, 0x4b000000u, 0x7440u + static_cast<unsigned>(i));
#endif
    values[i] = __uint_as_float(bits) - too_large;
  }
}

// The quants of `count` neighbours of a block, from `first` on, as floats; both are multiples of four and, in q4,
// stay in one half of the block.
template <DType dtype, int count>
__device__ void read_quants(const unsigned char* block, int first, float (&values)[count]) {
  if constexpr (dtype == DType::q8) {
    const auto bytes = *reinterpret_cast<const Neighbours<signed char, count>*>(block + first);
#pragma unroll
    for (int i = 0; i < count; ++i) values[i] = static_cast<float>(bytes.values[i]);
  } else {
    constexpr int half_block = static_cast<int>(quantised_block) / 2;
    const auto bytes = *reinterpret_cast<const Neighbours<unsigned char, count>*>(block + first % half_block);
    const int shift = first < half_block ? 0 : 4;
#pragma unroll
    for (int i = 0; i < count; ++i) values[i] = static_cast<float>(((bytes.values[i] >> shift) & 15) - 8);
  }
}

// Calls `function` with the dtype as a constant.
template <typename Function>
void with_quantised(DType dtype, Function&& function) {
  if (dtype == DType::q8) {
    function(std::integral_constant<DType, DType::q8>());
  } else {
    function(std::integral_constant<DType, DType::q4>());
  }
}

}  // namespace riverhorse::cuda
