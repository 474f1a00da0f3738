#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

namespace riverhorse::cpu {

// out[column] += the sum over all rows of value(row, column): in double, in the order of the rows. A thread has a
// few neighbouring columns to itself.
template <typename Value>
void add_column_sums(std::int64_t rows, std::int64_t columns, float* out, const Value& value) {
  constexpr std::int64_t block = 64;
#pragma omp parallel for
  for (std::int64_t begin = 0; begin < columns; begin += block) {
    const std::int64_t end = std::min(begin + block, columns);
    std::array<double, block> sums{};
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t column = begin; column < end; ++column) sums[column - begin] += value(row, column);
    }
    for (std::int64_t column = begin; column < end; ++column) {
      out[column] = static_cast<float>(out[column] + sums[column - begin]);
    }
  }
}

}  // namespace riverhorse::cpu
