// Queues of low global priority: VK_KHR_global_priority, or VK_EXT_global_priority, which is the same by its older
// name. Drivers need not have it, need not have it for every queue family, and may refuse it to a program.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "vulkan/instance.h"

namespace riverhorse::vulkan {

struct LowPriority {
  const char* extension = nullptr;  // to be enabled for it; null: it cannot be had
  std::string reason;               // then why
};

// Of the device's extensions and the priorities that a queue family lists; none where the driver does not list them.
LowPriority choose_low_priority(const std::set<std::string>& extensions,
                                const std::optional<std::vector<VkQueueGlobalPriorityKHR>>& listed);

// The same, asking the driver.
LowPriority query_low_priority(const Instance& instance, VkPhysicalDevice physical_device,
                               const std::set<std::string>& extensions, std::uint32_t family);

// vkCreateDevice of `create`, which has one queue, with low priority for that; a driver that refuses is asked again
// without it, and `granted` says so.
VkResult create_with_low_priority(PFN_vkCreateDevice create_device, VkPhysicalDevice physical_device,
                                  const VkDeviceCreateInfo& create, const LowPriority& low, VkDevice* device,
                                  Support& granted);

}  // namespace riverhorse::vulkan
