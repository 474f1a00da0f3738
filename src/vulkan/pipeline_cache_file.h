// The file that keeps a driver's pipeline cache between runs: a header of our own, then the driver's blob. It is
// taken whole or not at all: any difference in version, shaders, device or driver, and any damage, voids it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

namespace riverhorse::vulkan {

// `key` is VulkanDevice::cache_key(). Empty when there is no file or it is not right for `key`.
std::vector<std::byte> read_pipeline_cache(const std::filesystem::path& path, std::string_view key);

// Atomically. Errors: io_error.
void write_pipeline_cache(const std::filesystem::path& path, std::string_view key, std::span<const std::byte> blob);

}  // namespace riverhorse::vulkan
