// A Vulkan device that a host application made and lends us: its handles, what is enabled on it, the lock of its
// queue. Plain types, so that those who pass it on need no Vulkan headers. Nothing of the host's is ever destroyed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace riverhorse {

// By Vulkan's names; each is optional.
struct VulkanFeatures {
  bool storage_buffer_16bit_access = false;
  bool shader_float16 = false;
  bool timeline_semaphore = false;
  bool subgroup_size_control = false;
  bool compute_full_subgroups = false;
  bool vulkan_memory_model = false;
  bool vulkan_memory_model_device_scope = false;
  bool cooperative_matrix = false;
};

struct VulkanHandles {
  std::uint32_t api_version = 0;    // of the instance, as it was asked for
  void* instance = nullptr;         // VkInstance
  void* physical_device = nullptr;  // VkPhysicalDevice
  void* device = nullptr;           // VkDevice
  void* queue = nullptr;            // VkQueue
  std::uint32_t queue_family = 0;
  void (*get_instance_proc_addr)() = nullptr;  // PFN_vkGetInstanceProcAddr
  const void* allocation_callbacks = nullptr;  // VkAllocationCallbacks; may be null
  VulkanFeatures features;                     // enabled
  std::vector<std::string> extensions;         // of the device, enabled
  void (*lock_queue)(void* user) = nullptr;    // the host's own lock, where it has one
  void (*unlock_queue)(void* user) = nullptr;
  void* lock_user = nullptr;
};

// DeviceInfo::index of an adopted device, whose id() is "vulkan:adopted".
inline constexpr int adopted_index = -1;

// Shared by all that was opened on the host's device: one lock for the queue. BasicLockable.
class AdoptedVulkan {
 public:
  // Errors: invalid_argument for a handle that is missing.
  explicit AdoptedVulkan(VulkanHandles handles);
  AdoptedVulkan(const AdoptedVulkan&) = delete;
  AdoptedVulkan& operator=(const AdoptedVulkan&) = delete;

  const VulkanHandles& handles() const { return handles_; }
  void lock();
  void unlock();

 private:
  VulkanHandles handles_;
  std::mutex mutex_;
};

// Errors: unsupported: no Vulkan 1.1, a queue family that does not compute, a build without Vulkan;
// invalid_argument for DeviceOptions::validation, which is the host's to enable.
std::unique_ptr<Device> open_adopted_device(std::shared_ptr<AdoptedVulkan> adopted, const DeviceOptions& options);

// What open_adopted_device would refuse, without opening anything.
void check_adopted_device(const AdoptedVulkan& adopted);

// What to enable on a physical device, and the queue family that Riverhorse would choose. Of `handles`, api_version,
// instance, physical_device and get_instance_proc_addr are used.
struct VulkanRequirements {
  VulkanFeatures features;
  std::vector<const char*> extensions;  // static
  std::uint32_t queue_family = 0;
};
VulkanRequirements vulkan_requirements(const VulkanHandles& handles);

}  // namespace riverhorse
