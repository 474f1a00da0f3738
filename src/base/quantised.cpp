#include "base/quantised.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace riverhorse {

namespace {

constexpr std::int64_t half_block = quantised_block / 2;

float scale_at(const std::byte* scales, std::int64_t block) {
  std::uint16_t bits;
  std::memcpy(&bits, scales + 2 * block, 2);
  return f16_to_float(bits);
}

struct Range {
  float least, most;
};
constexpr Range quant_range(DType dtype) { return dtype == DType::q4 ? Range{-8, 7} : Range{-127, 127}; }

constexpr float inverse_of(float scale) { return scale == 0 ? 0.0f : 1.0f / scale; }

// Rounded to nearest, ties to even: adding 1.5 * 2^23 leaves no room for a fraction.
float quant_of(float value, float inverse_scale, Range range) {
  constexpr float no_fraction = 0x1.8p23f;
  return (std::clamp(value * inverse_scale, range.least, range.most) + no_fraction) - no_fraction;
}

// Sum of squared rounding errors of a block.
float error_of(std::span<const float> block, float scale, Range range) {
  const float inverse = inverse_of(scale);
  float sum = 0;
  for (const float value : block) {
    const float error = value - scale * quant_of(value, inverse, range);
    sum += error * error;
  }
  return sum;
}

// The best scale for the quants that `scale` gives: sum of value quant over sum of quant^2.
float refit(std::span<const float> block, float scale, Range range) {
  const float inverse = inverse_of(scale);
  float products = 0, squares = 0;
  for (const float value : block) {
    const float quant = quant_of(value, inverse, range);
    products += value * quant;
    squares += quant * quant;
  }
  return squares == 0 ? 0.0f : products / squares;
}

// As f16. Few quants cover the range of a block badly: the largest weight may cost all others their precision. So for
// q4 scales are tried under which it is cut by up to a third, of either sign, since -8 has no 8 beside it, and the
// best one is fitted to the quants that it gave; for q8 the two halves next to the one under which it just fits.
std::uint16_t choose_scale(DType dtype, std::span<const float> block) {
  float largest = 0;
  for (const float value : block) {
    if (std::abs(value) > std::abs(largest)) largest = value;
  }
  const Range range = quant_range(dtype);
  std::uint16_t best = 0;
  float least = error_of(block, 0, range);
  const auto consider = [&](std::uint16_t bits) {
    const float scale = f16_to_float(bits);
    if (!std::isfinite(scale)) return;
    const float error = error_of(block, scale, range);
    if (error < least) {
      least = error;
      best = bits;
    }
  };
  if (dtype == DType::q8) {
    const std::uint16_t nearest = float_to_f16(std::abs(largest) / range.most);
    for (const int step : {-1, 0, 1}) {
      if (nearest > 0 || step >= 0) consider(static_cast<std::uint16_t>(nearest + step));
    }
    return best;
  }
  constexpr int candidates = 24;
  for (int i = 0; i < candidates; ++i) {
    const float quant = 5.5f + 0.125f * static_cast<float>(i);  // what the largest weight is to become
    consider(float_to_f16(largest / quant));
    consider(float_to_f16(-largest / quant));
  }
  constexpr int fits = 2;
  for (int i = 0; i < fits; ++i) consider(float_to_f16(refit(block, f16_to_float(best), range)));
  return best;
}

}  // namespace

std::optional<std::int64_t> quantised_width(DType dtype, std::int64_t row_bytes) {
  if (row_bytes <= 0) return std::nullopt;
  // Each block takes more than the alignment, so no two widths have rows of one size.
  const std::int64_t block_bytes = quants_size_bytes(dtype, quantised_block) + 2;
  const std::int64_t width = row_bytes / block_bytes * quantised_block;
  if (width == 0 || row_size_bytes(dtype, width) != row_bytes) return std::nullopt;
  return width;
}

std::optional<DType> quantised_dtype(std::string_view name) {
  for (const DType dtype : {DType::q8, DType::q4}) {
    if (name == dtype_name(dtype)) return dtype;
  }
  return std::nullopt;
}

bool quantise_row(DType dtype, std::span<const float> values, std::span<std::byte> row) {
  std::fill(row.begin(), row.end(), std::byte{0});
  const auto width = static_cast<std::int64_t>(values.size());
  std::byte* quants = row.data();
  std::byte* scales = quants + quants_size_bytes(dtype, width);
  const Range range = quant_range(dtype);
  for (std::int64_t block = 0; block < width / quantised_block; ++block) {
    const std::span<const float> weights =
        values.subspan(static_cast<std::size_t>(block * quantised_block), quantised_block);
    for (const float weight : weights) {
      // The largest f16 is 65504; q4 reaches 7 times that, which is the smaller of the two.
      if (!(std::abs(weight) <= 65504.0f * 7)) return false;
    }
    const std::uint16_t bits = choose_scale(dtype, weights);
    const float inverse = inverse_of(f16_to_float(bits));
    std::memcpy(scales + 2 * block, &bits, 2);
    const auto quant = [&](std::int64_t i) {
      return static_cast<int>(quant_of(weights[static_cast<std::size_t>(i)], inverse, range));
    };
    if (dtype == DType::q8) {
      for (std::int64_t i = 0; i < quantised_block; ++i) {
        quants[block * quantised_block + i] = static_cast<std::byte>(static_cast<std::int8_t>(quant(i)));
      }
    } else {
      for (std::int64_t i = 0; i < half_block; ++i) {
        quants[block * half_block + i] = static_cast<std::byte>((quant(i) + 8) | ((quant(half_block + i) + 8) << 4));
      }
    }
  }
  return true;
}

void dequantise_row(DType dtype, const std::byte* row, std::span<float> values) {
  const auto width = static_cast<std::int64_t>(values.size());
  const std::byte* scales = row + quants_size_bytes(dtype, width);
  for (std::int64_t block = 0; block < width / quantised_block; ++block) {
    const float scale = scale_at(scales, block);
    float* out = values.data() + block * quantised_block;
    if (dtype == DType::q8) {
      const auto* quants = reinterpret_cast<const std::int8_t*>(row + block * quantised_block);
      for (std::int64_t i = 0; i < quantised_block; ++i) out[i] = scale * static_cast<float>(quants[i]);
    } else {
      const auto* quants = reinterpret_cast<const std::uint8_t*>(row + block * half_block);
      for (std::int64_t i = 0; i < half_block; ++i) {
        out[i] = scale * static_cast<float>((quants[i] & 15) - 8);
        out[half_block + i] = scale * static_cast<float>((quants[i] >> 4) - 8);
      }
    }
  }
}

std::int64_t find_not_finite(DType dtype, const std::byte* row, std::int64_t width) {
  const std::byte* scales = row + quants_size_bytes(dtype, width);
  for (std::int64_t block = 0; block < width / quantised_block; ++block) {
    if (!std::isfinite(scale_at(scales, block))) return block * quantised_block;
  }
  return -1;
}

}  // namespace riverhorse
