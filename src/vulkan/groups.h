// How many workgroups: small helpers for op files.
#pragma once

#include <algorithm>
#include <cstdint>

#include "vulkan/device.h"

namespace riverhorse::vulkan {

// Groups along x so that each has `per_group` of `count` things, capped by the device: shaders stride over the grid.
inline std::uint32_t groups_for(std::int64_t count, std::uint32_t per_group, const VulkanLimits& limits) {
  const std::int64_t groups = (count + per_group - 1) / per_group;
  return static_cast<std::uint32_t>(std::clamp<std::int64_t>(groups, 1, limits.group_count[0]));
}

}  // namespace riverhorse::vulkan
