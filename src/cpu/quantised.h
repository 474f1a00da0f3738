// Quantised matrices on the cpu.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/quantised.h"

namespace riverhorse::cpu {

// sum of row[i] x[i], in fp32. The quants of a block meet x before its scale does.
float quantised_dot(DType dtype, const std::byte* row, const float* x, std::int64_t width);

// (rows, width), by all threads.
void dequantise(DType dtype, const std::byte* matrix, std::int64_t rows, std::int64_t width, float* values);

}  // namespace riverhorse::cpu
