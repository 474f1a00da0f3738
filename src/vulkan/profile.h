// What a physical device is and offers: its limits, the optional features that will be enabled, its queue family.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/queue_priority.h"
#include "vulkan/device.h"
#include "vulkan/functions.h"
#include "vulkan/instance.h"
#include "vulkan/queue_priority.h"

namespace riverhorse::vulkan {

struct DeviceProfile {
  VkPhysicalDevice physical_device = VK_NULL_HANDLE;
  VkPhysicalDeviceProperties properties{};
  VkPhysicalDeviceMemoryProperties memory{};
  std::string driver;  // name and version
  std::array<std::uint8_t, 16> uuid{};
  std::uint32_t pci[4] = {};  // domain, bus, device, function
  bool has_pci = false;
  std::uint32_t api_version = 0;  // the lower of the instance's and the device's
  VulkanLimits limits;
  std::uint64_t max_allocation_bytes = 0;

  bool timeline_semaphore = false;
  bool push_descriptor = false;
  bool memory_budget = false;
  bool memory_priority = false;
  bool pipeline_executable_properties = false;
  std::vector<const char*> extensions;  // to be enabled

  std::uint32_t queue_family = 0;
  std::uint32_t timestamp_bits = 0;  // 0: the queue has no timestamps
  double timestamp_period_ns = 1;
  LowPriority low_priority;  // of a queue of that family
};

// Instead of the chosen one. Errors: unsupported, when it does not compute.
void use_queue_family(const Instance& instance, DeviceProfile& profile, std::uint32_t family);

// `minimal`: see DeviceOptions::minimal_features. Errors: unsupported, in words (no Vulkan 1.1, no compute queue).
DeviceProfile query_profile(const Instance& instance, VkPhysicalDevice physical_device, bool minimal);

// Device-local memory, total and free; free equals total where VK_EXT_memory_budget is absent.
struct MemoryBudget {
  std::uint64_t total_bytes = 0;
  std::uint64_t free_bytes = 0;
};
MemoryBudget query_memory_budget(const Instance& instance, const DeviceProfile& profile);

// A logical device with one queue and the profile's features. `low_priority`: whether the queue has it, else why not.
VkDevice create_logical_device(const Instance& instance, const DeviceProfile& profile, QueuePriority wanted,
                               Support& low_priority);

// The listed name, type, driver, memory and so on; `index` is left for the caller.
DeviceInfo describe(const Instance& instance, const DeviceProfile& profile);

}  // namespace riverhorse::vulkan
