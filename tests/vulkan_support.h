// Opens a Vulkan device for a test, with validation where the layer is installed, and says aloud what is missing.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
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

inline const std::vector<DeviceInfo>& vulkan_devices() {
  static const std::vector<DeviceInfo> list = [] {
    std::string reason;
    std::vector<DeviceInfo> found = vulkan::list_vulkan_devices(reason);
    if (found.empty()) std::printf("no Vulkan device: %s\n", reason.c_str());
    return found;
  }();
  return list;
}

inline DeviceOptions test_options() {
  DeviceOptions options;
  options.validation = true;
  options.cache_folder = "none";
  return options;
}

// Null when there is no Vulkan device. The best ranked one: lavapipe in CI, the GPU where there is one.
inline std::unique_ptr<vulkan::VulkanDevice> open_vulkan(DeviceOptions options = test_options(), bool aloud = true,
                                                         QueuePriority priority = QueuePriority::normal) {
  const std::vector<DeviceInfo>& list = vulkan_devices();
  if (list.empty()) return nullptr;
  try {
    auto device = std::make_unique<vulkan::VulkanDevice>(list[0], options, priority);
    if (aloud) std::printf("device: %s, %s\n", list[0].name.c_str(), list[0].driver.c_str());
    return device;
  } catch (const Error& error) {
    if (!options.validation) throw;
    std::printf("WITHOUT VALIDATION: %s\n", error.what());
    options.validation = false;
    return std::make_unique<vulkan::VulkanDevice>(list[0], options, priority);
  }
}

// The message of the error that `body` must throw.
template <typename Body>
std::string expect_error(StatusCode code, const Body& body) {
  try {
    body();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error was thrown";
  return {};
}

// A device with validation, which must have nothing to say in the end.
class VulkanTest : public testing::Test {
 protected:
  void SetUp() override {
    device_ = open_vulkan();
    if (device_ == nullptr) GTEST_SKIP() << "no Vulkan device";
  }
  void TearDown() override {
    if (device_ != nullptr) {
      EXPECT_EQ(device_->validation_messages(), 0u);
    }
  }
  std::unique_ptr<vulkan::VulkanDevice> device_;
};

template <typename T>
std::vector<T> fetch(Device& device, const Tensor& tensor) {
  std::vector<T> values(static_cast<std::size_t>(tensor.count()));
  device.download(tensor, std::as_writable_bytes(std::span(values)));
  return values;
}

template <typename T>
Tensor put(Device& device, DType dtype, Shape shape, const std::vector<T>& values,
           MemoryUse use = MemoryUse::device) {
  Tensor tensor = device.allocate_tensor(dtype, shape, use);
  device.upload(tensor, std::as_bytes(std::span(values)));
  return tensor;
}

}  // namespace riverhorse::test
