#include "vulkan/queue_priority.h"

#include <fmt/format.h>

#include <algorithm>

namespace riverhorse::vulkan {

LowPriority choose_low_priority(const std::set<std::string>& extensions,
                                const std::optional<std::vector<VkQueueGlobalPriorityKHR>>& listed) {
  const char* extension = nullptr;
  for (const char* name : {VK_EXT_GLOBAL_PRIORITY_EXTENSION_NAME, VK_KHR_GLOBAL_PRIORITY_EXTENSION_NAME}) {
    if (extensions.contains(name)) extension = name;
  }
  if (extension == nullptr) return {nullptr, "its driver has no VK_KHR_global_priority"};
  if (listed && std::find(listed->begin(), listed->end(), VK_QUEUE_GLOBAL_PRIORITY_LOW_KHR) == listed->end()) {
    return {nullptr, fmt::format("its driver has {}, but no low priority for this queue family", extension)};
  }
  return {extension, {}};
}

LowPriority query_low_priority(const Instance& instance, VkPhysicalDevice physical_device,
                               const std::set<std::string>& extensions, std::uint32_t family) {
  const bool lists = extensions.contains(VK_KHR_GLOBAL_PRIORITY_EXTENSION_NAME) ||
                     extensions.contains(VK_EXT_GLOBAL_PRIORITY_QUERY_EXTENSION_NAME);
  if (!lists) return choose_low_priority(extensions, {});
  const auto get = instance.functions().get_queue_families2;
  std::uint32_t count = 0;
  get(physical_device, &count, nullptr);
  VkQueueFamilyGlobalPriorityPropertiesKHR blank_priorities{};
  blank_priorities.sType = VK_STRUCTURE_TYPE_QUEUE_FAMILY_GLOBAL_PRIORITY_PROPERTIES_KHR;
  std::vector<VkQueueFamilyGlobalPriorityPropertiesKHR> priorities(count, blank_priorities);
  VkQueueFamilyProperties2 blank{};
  blank.sType = VK_STRUCTURE_TYPE_QUEUE_FAMILY_PROPERTIES_2;
  std::vector<VkQueueFamilyProperties2> families(count, blank);
  for (std::uint32_t i = 0; i < count; ++i) families[i].pNext = &priorities[i];
  get(physical_device, &count, families.data());
  const VkQueueFamilyGlobalPriorityPropertiesKHR& found = priorities.at(family);
  const std::uint32_t listed = std::min<std::uint32_t>(found.priorityCount, VK_MAX_GLOBAL_PRIORITY_SIZE_KHR);
  return choose_low_priority(extensions, std::vector(found.priorities, found.priorities + listed));
}

VkResult create_with_low_priority(PFN_vkCreateDevice create_device, VkPhysicalDevice physical_device,
                                  const VkDeviceCreateInfo& create, const LowPriority& low, VkDevice* device,
                                  Support& granted) {
  if (low.extension == nullptr) {
    granted = {false, low.reason};
    return create_device(physical_device, &create, nullptr, device);
  }
  VkDeviceQueueGlobalPriorityCreateInfoKHR priority{};
  priority.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_GLOBAL_PRIORITY_CREATE_INFO_KHR;
  priority.globalPriority = VK_QUEUE_GLOBAL_PRIORITY_LOW_KHR;
  VkDeviceQueueCreateInfo queue = *create.pQueueCreateInfos;
  queue.pNext = &priority;
  std::vector<const char*> extensions(create.ppEnabledExtensionNames,
                                      create.ppEnabledExtensionNames + create.enabledExtensionCount);
  extensions.push_back(low.extension);
  VkDeviceCreateInfo with_priority = create;
  with_priority.pQueueCreateInfos = &queue;
  with_priority.enabledExtensionCount = static_cast<std::uint32_t>(extensions.size());
  with_priority.ppEnabledExtensionNames = extensions.data();
  const VkResult result = create_device(physical_device, &with_priority, nullptr, device);
  granted = {};
  // The second is what drivers that do not know this priority may answer.
  if (result != VK_ERROR_NOT_PERMITTED_KHR && result != VK_ERROR_INITIALIZATION_FAILED) return result;
  granted = {false, fmt::format("its driver refused it: {}", result_text(result))};
  return create_device(physical_device, &create, nullptr, device);
}

}  // namespace riverhorse::vulkan
