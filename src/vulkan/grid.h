// Sizes of dispatch grids.
#pragma once

#include <algorithm>
#include <cstdint>

namespace riverhorse::vulkan {

constexpr std::uint32_t divide_up(std::uint64_t count, std::uint64_t by) {
  return static_cast<std::uint32_t>((count + by - 1) / by);
}

// Groups along an axis whose shader loops over what is left: as many as there is work, within the device's limit.
constexpr std::uint32_t fold(std::uint64_t count, std::uint32_t limit) {
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(count, limit));
}

}  // namespace riverhorse::vulkan
