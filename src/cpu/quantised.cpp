#include "cpu/quantised.h"

namespace riverhorse::cpu {

void dequantise(DType dtype, const std::byte* matrix, std::int64_t rows, std::int64_t width, float* values) {
  const std::int64_t row_bytes = row_size_bytes(dtype, width);
#pragma omp parallel for
  for (std::int64_t row = 0; row < rows; ++row) {
    dequantise_row(dtype, matrix + row * row_bytes, {values + row * width, static_cast<std::size_t>(width)});
  }
}

}  // namespace riverhorse::cpu
