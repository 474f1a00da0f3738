// Quantised matrices on the cpu.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/quantised.h"

namespace riverhorse::cpu {

// (rows, width), by all threads.
void dequantise(DType dtype, const std::byte* matrix, std::int64_t rows, std::int64_t width, float* values);

}  // namespace riverhorse::cpu
