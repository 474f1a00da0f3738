#include "cpu/quantised.h"

#include <cstring>

namespace riverhorse::cpu {

namespace {

constexpr std::int64_t half_block = quantised_block / 2;

float dot_q8(const std::int8_t* quants, const float* x) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < quantised_block; ++i) sum += static_cast<float>(quants[i]) * x[i];
  return sum;
}

float dot_q4(const std::uint8_t* quants, const float* x) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < half_block; ++i) {
    sum += static_cast<float>((quants[i] & 15) - 8) * x[i] +
           static_cast<float>((quants[i] >> 4) - 8) * x[half_block + i];
  }
  return sum;
}

}  // namespace

float quantised_dot(DType dtype, const std::byte* row, const float* x, std::int64_t width) {
  const std::byte* scales = row + quants_size_bytes(dtype, width);
  float sum = 0;
  for (std::int64_t block = 0; block < width / quantised_block; ++block) {
    std::uint16_t bits;
    std::memcpy(&bits, scales + 2 * block, 2);
    const float* values = x + block * quantised_block;
    const float of_block = dtype == DType::q8
                               ? dot_q8(reinterpret_cast<const std::int8_t*>(row) + block * quantised_block, values)
                               : dot_q4(reinterpret_cast<const std::uint8_t*>(row) + block * half_block, values);
    sum += f16_to_float(bits) * of_block;
  }
  return sum;
}

void dequantise(DType dtype, const std::byte* matrix, std::int64_t rows, std::int64_t width, float* values) {
  const std::int64_t row_bytes = row_size_bytes(dtype, width);
#pragma omp parallel for
  for (std::int64_t row = 0; row < rows; ++row) {
    dequantise_row(dtype, matrix + row * row_bytes, {values + row * width, static_cast<std::size_t>(width)});
  }
}

}  // namespace riverhorse::cpu
