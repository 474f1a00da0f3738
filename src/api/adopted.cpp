// A host's Vulkan device: what to enable on it, and adopting it.
#include <iterator>
#include <memory>
#include <span>
#include <utility>

#include "api/guard.h"
#include "api/objects.h"
#include "backend/adopted_vulkan.h"
#include "riverhorse/vulkan.h"

using riverhorse::fail;
using riverhorse::StatusCode;
using riverhorse::VulkanFeatures;
using riverhorse::VulkanHandles;
using riverhorse::api::guarded;
using riverhorse::api::require;

namespace {

struct FeatureFields {
  std::int32_t riverhorse_vulkan_features::*api;
  bool VulkanFeatures::*ours;
};
constexpr FeatureFields feature_fields[] = {
    {&riverhorse_vulkan_features::storage_buffer_16bit_access, &VulkanFeatures::storage_buffer_16bit_access},
    {&riverhorse_vulkan_features::shader_float16, &VulkanFeatures::shader_float16},
    {&riverhorse_vulkan_features::timeline_semaphore, &VulkanFeatures::timeline_semaphore},
    {&riverhorse_vulkan_features::subgroup_size_control, &VulkanFeatures::subgroup_size_control},
    {&riverhorse_vulkan_features::compute_full_subgroups, &VulkanFeatures::compute_full_subgroups},
    {&riverhorse_vulkan_features::vulkan_memory_model, &VulkanFeatures::vulkan_memory_model},
    {&riverhorse_vulkan_features::vulkan_memory_model_device_scope,
     &VulkanFeatures::vulkan_memory_model_device_scope},
    {&riverhorse_vulkan_features::cooperative_matrix, &VulkanFeatures::cooperative_matrix},
};
static_assert(sizeof(riverhorse_vulkan_features) == std::size(feature_fields) * sizeof(std::int32_t));

riverhorse_vulkan_features to_api(const VulkanFeatures& from) {
  riverhorse_vulkan_features to{};
  for (const FeatureFields& field : feature_fields) to.*field.api = from.*field.ours ? 1 : 0;
  return to;
}

VulkanFeatures read_features(const riverhorse_vulkan_features& from) {
  VulkanFeatures to;
  for (const FeatureFields& field : feature_fields) to.*field.ours = from.*field.api != 0;
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
    *adopted = new riverhorse_adopted_device{{}, std::move(shared)};
  });
}

void riverhorse_adopted_device_free(riverhorse_adopted_device* adopted) {
  if (riverhorse::api::may_free(__func__, adopted)) delete adopted;
}
