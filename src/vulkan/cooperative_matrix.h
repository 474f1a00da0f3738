// What the shaders on cooperative matrices ask of a device.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include "vulkan/device.h"

namespace riverhorse::vulkan {

// How a device multiplies matrices of f16 with sums in f32: in which shape, a subgroup of which size at a time.
struct MatrixUnit {
  CooperativeMatrixShape shape;
  std::uint32_t subgroup_size = 0;
  bool f16_sums = false;  // matrices of sums may be of f16 too: what they are made of comes in and goes out as such

  bool square() const { return shape.m == 16 && shape.n == 16 && shape.k == 16; }
};

// Nothing where it does not, or not in subgroups of known size. 16 x 16 x 16 if there is a choice.
inline std::optional<MatrixUnit> matrix_unit(const VulkanLimits& limits) {
  if (!limits.subgroup_size_control || !limits.vulkan_memory_model || !limits.f16_arithmetic) return std::nullopt;
  std::optional<MatrixUnit> found;
  for (const CooperativeMatrixShape& shape : limits.cooperative_matrix) {
    const bool divides = 16 % shape.m == 0 && 16 % shape.n == 0 && 16 % shape.k == 0;
    const bool in_units = shape.m % 4 == 0 && shape.n % 4 == 0 && shape.k % 8 == 0;
    if (!shape.f32_accumulate || !divides || !in_units) continue;
    const MatrixUnit unit{shape, std::clamp(32u, limits.min_subgroup_size, limits.max_subgroup_size),
                          std::any_of(limits.cooperative_matrix.begin(), limits.cooperative_matrix.end(),
                                      [&](const CooperativeMatrixShape& other) {
                                        return !other.f32_accumulate && other.m == shape.m && other.n == shape.n &&
                                               other.k == shape.k;
                                      })};
    if (!found || unit.square()) found = unit;
  }
  if (found && (limits.invocations < 4 * found->subgroup_size || limits.shared_bytes < 32768)) return std::nullopt;
  return found;
}

}  // namespace riverhorse::vulkan
