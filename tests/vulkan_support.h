// Opens a Vulkan device for a test, with validation where the layer is installed, and says aloud what is missing.
#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "vulkan/device.h"

namespace riverhorse::test {

inline std::vector<DeviceInfo> vulkan_devices() {
  std::string reason;
  std::vector<DeviceInfo> list = vulkan::list_vulkan_devices(reason);
  if (list.empty()) std::printf("no Vulkan device: %s\n", reason.c_str());
  return list;
}

inline DeviceOptions test_options() {
  DeviceOptions options;
  options.validation = true;
  options.cache_folder = "none";
  return options;
}

// Null when there is no Vulkan device.
inline std::unique_ptr<vulkan::VulkanDevice> open_vulkan(DeviceOptions options = test_options()) {
  const std::vector<DeviceInfo> list = vulkan_devices();
  if (list.empty()) return nullptr;
  try {
    return std::make_unique<vulkan::VulkanDevice>(list[0], options);
  } catch (const Error& error) {
    if (!options.validation) throw;
    std::printf("WITHOUT VALIDATION: %s\n", error.what());
    options.validation = false;
    return std::make_unique<vulkan::VulkanDevice>(list[0], options);
  }
}

template <typename T>
std::vector<T> fetch(Device& device, const Tensor& tensor) {
  std::vector<T> values(static_cast<std::size_t>(tensor.count()));
  device.download(tensor, std::as_writable_bytes(std::span(values)));
  return values;
}

template <typename T>
Tensor put(Device& device, DType dtype, Shape shape, const std::vector<T>& values, MemoryUse use = MemoryUse::device) {
  Tensor tensor = device.allocate_tensor(dtype, shape, use);
  device.upload(tensor, std::as_bytes(std::span(values)));
  return tensor;
}

}  // namespace riverhorse::test
