#include <algorithm>

#include "base/error.h"
#include "vulkan/device.h"
#include "vulkan/profile.h"

namespace riverhorse::vulkan {

std::vector<DeviceInfo> list_vulkan_devices(std::string& reason) {
  reason.clear();
  std::vector<DeviceInfo> list;
  try {
    const Instance instance(false);
    std::string last_refusal;
    for (VkPhysicalDevice each : instance.physical_devices()) {
      try {
        list.push_back(describe(instance, query_profile(instance, each, false)));
      } catch (const Error& error) {
        last_refusal = error.what();
      }
    }
    if (list.empty()) {
      reason = !last_refusal.empty() ? last_refusal : "the Vulkan loader works and its drivers show no device";
    }
  } catch (const Error& error) {
    reason = error.what();
    return {};
  }
  const auto rank = [](const DeviceInfo& info) {
    switch (info.type) {
      case DeviceType::discrete_gpu: return 0;
      case DeviceType::integrated_gpu: return 1;
      case DeviceType::virtual_gpu: return 2;
      case DeviceType::software: return 4;
      default: return 3;
    }
  };
  std::stable_sort(list.begin(), list.end(), [&](const DeviceInfo& a, const DeviceInfo& b) {
    if (rank(a) != rank(b)) return rank(a) < rank(b);
    return a.memory_free_bytes > b.memory_free_bytes;
  });
  for (std::size_t i = 0; i < list.size(); ++i) list[i].index = static_cast<int>(i);
  return list;
}

}  // namespace riverhorse::vulkan
