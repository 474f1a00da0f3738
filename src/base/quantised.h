// Quantised matrices: rows of blocks of 32 neighbours, each with a scale of its own; a weight is quant * scale.
//
//   q8  quants of -127 to 127, one byte each, two's complement: 8.5 bits a weight with the scale
//   q4  quants of -8 to 7, as 0 to 15 (8 is zero): byte i of a block's 16 has weight i in its low half and weight
//       16 + i in its high half, so that a mask and a shift give neighbours; 4.5 bits a weight
//
// A row is the quants of all its blocks, then the scales of all its blocks as f16, then zeros up to a multiple of 16
// bytes. So every row and all quants in it can be read 16 bytes at a time, and rows of one width can be cut and
// joined. Widths are multiples of 32. Symmetric: there is no offset, and a weight of zero stays zero.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "base/dtype.h"

namespace riverhorse {

constexpr std::int64_t quantised_block = 32;          // weights
constexpr std::int64_t quantised_row_alignment = 16;  // bytes

constexpr std::int64_t quants_size_bytes(DType dtype, std::int64_t width) {
  return dtype == DType::q4 ? width / 2 : width;
}

// Of a row of `width` elements of any dtype.
constexpr std::int64_t row_size_bytes(DType dtype, std::int64_t width) {
  if (!is_quantised(dtype)) return width * dtype_size_bytes(dtype);
  const std::int64_t bytes = quants_size_bytes(dtype, width) + width / quantised_block * 2;
  return (bytes + quantised_row_alignment - 1) / quantised_row_alignment * quantised_row_alignment;
}

// The width whose rows have this size, if there is one.
std::optional<std::int64_t> quantised_width(DType dtype, std::int64_t row_bytes);
// "q8" or "q4".
std::optional<DType> quantised_dtype(std::string_view name);

// `row` has row_size_bytes(dtype, values.size()). The scale of a block is the one, of some near its range, whose
// rounding errors have the least sum of squares. False, for a value that is not finite or too large for a scale.
bool quantise_row(DType dtype, std::span<const float> values, std::span<std::byte> row);
void dequantise_row(DType dtype, const std::byte* row, std::span<float> values);
// Index of the first weight of the row whose scale is not finite, or -1.
std::int64_t find_not_finite(DType dtype, const std::byte* row, std::int64_t width);

}  // namespace riverhorse
