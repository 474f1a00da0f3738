// Products of a matrix with one to four vectors, for the widest vector instructions that the processor has.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace riverhorse::cpu {

constexpr std::int64_t most_gemv_rows = 4;

struct Gemv {
  DType dtype = DType::f32;           // of the matrix: f32, q8 or q4
  const std::byte* matrix = nullptr;  // (outputs, inputs), row-major
  const float* x = nullptr;           // (rows, inputs)
  std::int64_t rows = 1;              // at most most_gemv_rows
  std::int64_t inputs = 0;
  float* y = nullptr;  // of row r and output o at y[r row_stride + o output_stride]
  std::int64_t row_stride = 0;
  std::int64_t output_stride = 1;
  bool vnni = true;  // with AVX512-VNNI where the processor has it: the same bits, sooner
};

// Outputs [begin, end), by the thread that calls. What comes out for a row does not depend on how many rows there
// are, nor on how outputs are shared among threads; it does on the processor's instructions, by rounding.
void gemv(const Gemv& product, std::int64_t begin, std::int64_t end);

}  // namespace riverhorse::cpu
