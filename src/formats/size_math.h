// Sizes from files: products and sums that say so when they do not fit.
#pragma once

#include <fmt/core.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>

namespace riverhorse {

// a * b and a + b for values of at least zero; empty when negative or above the largest int64.
constexpr std::optional<std::int64_t> checked_multiply(std::int64_t a, std::int64_t b) {
  if (a < 0 || b < 0) return std::nullopt;
  if (b != 0 && a > std::numeric_limits<std::int64_t>::max() / b) return std::nullopt;
  return a * b;
}

constexpr std::optional<std::int64_t> checked_add(std::int64_t a, std::int64_t b) {
  if (a < 0 || b < 0 || a > std::numeric_limits<std::int64_t>::max() - b) return std::nullopt;
  return a + b;
}

// Product of the dimensions, 1 for none. A zero anywhere does not excuse an overflow elsewhere.
constexpr std::optional<std::int64_t> checked_count(std::span<const std::int64_t> shape) {
  std::int64_t nonzero_product = 1;
  bool has_zero = false;
  for (const std::int64_t dimension : shape) {
    if (dimension == 0) has_zero = true;
    const auto product = checked_multiply(nonzero_product, dimension == 0 ? 1 : dimension);
    if (!product) return std::nullopt;
    nonzero_product = *product;
  }
  return has_zero ? 0 : nonzero_product;
}

// "(2, 48, 17)"
inline std::string shape_text(std::span<const std::int64_t> shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) text += fmt::format("{}{}", i == 0 ? "" : ", ", shape[i]);
  return text + ")";
}

}  // namespace riverhorse
