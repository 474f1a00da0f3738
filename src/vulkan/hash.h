// FNV-1a, 64 bits: to notice change and damage, not malice.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace riverhorse::vulkan {

inline constexpr std::uint64_t hash_seed = 0xcbf29ce484222325ull;

inline std::uint64_t hash_bytes(std::span<const std::byte> bytes, std::uint64_t hash = hash_seed) {
  for (std::byte each : bytes) hash = (hash ^ static_cast<std::uint64_t>(each)) * 0x100000001b3ull;
  return hash;
}

}  // namespace riverhorse::vulkan
