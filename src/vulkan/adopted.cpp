#include "vulkan/adopted.h"

#include <algorithm>

#include "base/error.h"
#include "vulkan/device.h"

namespace riverhorse::vulkan {

std::unique_ptr<Instance> borrow_instance(const VulkanHandles& handles) {
  return std::make_unique<Instance>(static_cast<VkInstance>(handles.instance),
                                    reinterpret_cast<PFN_vkGetInstanceProcAddr>(handles.get_instance_proc_addr),
                                    handles.api_version);
}

DeviceProfile adopted_profile(const Instance& instance, const VulkanHandles& handles, bool minimal) {
  DeviceProfile profile = query_profile(instance, static_cast<VkPhysicalDevice>(handles.physical_device), minimal);
  use_queue_family(instance, profile, handles.queue_family);
  const auto enabled = [&](const char* name) {
    return std::find(handles.extensions.begin(), handles.extensions.end(), name) != handles.extensions.end();
  };
  const VulkanFeatures& features = handles.features;
  VulkanLimits& limits = profile.limits;
  limits.f16_storage = limits.f16_storage && features.storage_buffer_16bit_access;
  limits.f16_arithmetic = limits.f16_arithmetic && features.shader_float16;
  limits.vulkan_memory_model =
      limits.vulkan_memory_model && features.vulkan_memory_model && features.vulkan_memory_model_device_scope;
  if (!features.subgroup_size_control || !features.compute_full_subgroups) {
    limits.subgroup_size_control = false;
    limits.min_subgroup_size = limits.max_subgroup_size = limits.subgroup_size;
  }
  if (!features.cooperative_matrix || !enabled(VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME) ||
      !limits.vulkan_memory_model || !limits.f16_storage || !limits.f16_arithmetic) {
    limits.cooperative_matrix.clear();
  }
  profile.timeline_semaphore = profile.timeline_semaphore && features.timeline_semaphore;
  profile.push_descriptor = profile.push_descriptor && enabled(VK_KHR_PUSH_DESCRIPTOR_EXTENSION_NAME);
  profile.memory_budget = profile.memory_budget && enabled(VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);
  profile.pipeline_executable_properties = false;  // for measuring shaders, in devices of our own
  profile.memory_priority = false;  // a feature that adopted devices cannot be told of
  return profile;
}

void check_adoptable(const VulkanHandles& handles) {
  const std::unique_ptr<Instance> instance = borrow_instance(handles);
  adopted_profile(*instance, handles, true);
}

VulkanRequirements requirements_of(const VulkanHandles& handles) {
  const std::unique_ptr<Instance> instance = borrow_instance(handles);
  const DeviceProfile profile =
      query_profile(*instance, static_cast<VkPhysicalDevice>(handles.physical_device), false);
  VulkanRequirements needs;
  needs.queue_family = profile.queue_family;
  needs.features.storage_buffer_16bit_access = profile.limits.f16_storage;
  needs.features.shader_float16 = profile.limits.f16_arithmetic;
  needs.features.timeline_semaphore = profile.timeline_semaphore;
  needs.features.subgroup_size_control = needs.features.compute_full_subgroups = profile.limits.subgroup_size_control;
  needs.features.vulkan_memory_model = needs.features.vulkan_memory_model_device_scope =
      profile.limits.vulkan_memory_model;
  needs.features.cooperative_matrix = !profile.limits.cooperative_matrix.empty();
  for (const char* name : profile.extensions) {
    if (std::string_view(name) != VK_KHR_PIPELINE_EXECUTABLE_PROPERTIES_EXTENSION_NAME) {
      needs.extensions.push_back(name);
    }
  }
  return needs;
}

}  // namespace riverhorse::vulkan
