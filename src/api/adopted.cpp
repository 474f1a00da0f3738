// A host's Vulkan device: what to enable on it, and adopting it.
#include <memory>
#include <span>
#include <utility>

#include "api/guard.h"
#include "api/objects.h"
#include "backend/adopted_vulkan.h"

using riverhorse::fail;
using riverhorse::StatusCode;
using riverhorse::VulkanFeatures;
using riverhorse::VulkanHandles;
using riverhorse::api::guarded;
using riverhorse::api::require;

namespace {

riverhorse_vulkan_features to_api(const VulkanFeatures& from) {
  riverhorse_vulkan_features to{};
  to.storage_buffer_16bit_access = from.storage_buffer_16bit_access;
  to.shader_float16 = from.shader_float16;
  to.timeline_semaphore = from.timeline_semaphore;
  to.subgroup_size_control = from.subgroup_size_control;
  to.compute_full_subgroups = from.compute_full_subgroups;
  to.vulkan_memory_model = from.vulkan_memory_model;
  to.vulkan_memory_model_device_scope = from.vulkan_memory_model_device_scope;
  to.cooperative_matrix = from.cooperative_matrix;
  return to;
}

VulkanFeatures read_features(const riverhorse_vulkan_features& from) {
  VulkanFeatures to;
  to.storage_buffer_16bit_access = from.storage_buffer_16bit_access != 0;
  to.shader_float16 = from.shader_float16 != 0;
  to.timeline_semaphore = from.timeline_semaphore != 0;
  to.subgroup_size_control = from.subgroup_size_control != 0;
  to.compute_full_subgroups = from.compute_full_subgroups != 0;
  to.vulkan_memory_model = from.vulkan_memory_model != 0;
  to.vulkan_memory_model_device_scope = from.vulkan_memory_model_device_scope != 0;
  to.cooperative_matrix = from.cooperative_matrix != 0;
  return to;
}

VulkanHandles read_handles(const riverhorse_vulkan_device* device) {
  require(device, "device");
  const riverhorse_vulkan_device given = riverhorse::api::read_options(device, "device");
  require(given.instance, "device.instance");
  require(given.physical_device, "device.physical_device");
  if (given.get_instance_proc_addr == nullptr) {
    fail(StatusCode::invalid_argument, "device.get_instance_proc_addr is null");
  }
  VulkanHandles handles;
  handles.api_version = given.api_version;
  handles.instance = given.instance;
  handles.physical_device = given.physical_device;
  handles.device = given.device;
  handles.queue = given.queue;
  handles.queue_family = given.queue_family;
  handles.get_instance_proc_addr = given.get_instance_proc_addr;
  handles.allocation_callbacks = given.allocation_callbacks;
  handles.features = read_features(given.features);
  if (given.extension_count > 0) require(given.extensions, "device.extensions");
  for (const char* name : std::span(given.extensions, given.extension_count)) {
    require(name, "device.extensions[i]");
    handles.extensions.emplace_back(name);
  }
  handles.lock_queue = given.lock_queue;
  handles.unlock_queue = given.unlock_queue;
  handles.lock_user = given.lock_user;
  return handles;
}

}  // namespace

riverhorse_status riverhorse_vulkan_query_requirements(const riverhorse_vulkan_device* device,
                                                       riverhorse_vulkan_requirements* requirements) {
  return guarded(__func__, [&] {
    const riverhorse::VulkanRequirements needs = riverhorse::vulkan_requirements(read_handles(device));
    riverhorse_vulkan_requirements value{};
    value.queue_family = needs.queue_family;
    value.features = to_api(needs.features);
    if (needs.extensions.size() > std::size(value.extensions)) {
      fail(StatusCode::internal, "{} extensions, and room for {}", needs.extensions.size(),
           std::size(value.extensions));
    }
    value.extension_count = static_cast<std::uint32_t>(needs.extensions.size());
    std::copy(needs.extensions.begin(), needs.extensions.end(), value.extensions);
    riverhorse::api::write_info(requirements, value, "requirements");
  });
}

riverhorse_status riverhorse_adopt_vulkan(const riverhorse_vulkan_device* device,
                                          riverhorse_adopted_device** adopted) {
  return guarded(__func__, [&] {
    require(adopted, "adopted");
    VulkanHandles handles = read_handles(device);
    require(handles.device, "device.device");
    require(handles.queue, "device.queue");
    auto shared = std::make_shared<riverhorse::AdoptedVulkan>(std::move(handles));
    riverhorse::check_adopted_device(*shared);
    *adopted = new riverhorse_adopted_device{std::move(shared)};
  });
}

void riverhorse_adopted_device_free(riverhorse_adopted_device* adopted) { delete adopted; }
