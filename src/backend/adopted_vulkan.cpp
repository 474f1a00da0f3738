#include "backend/adopted_vulkan.h"

#include <utility>

#include "base/error.h"

namespace riverhorse {

AdoptedVulkan::AdoptedVulkan(VulkanHandles handles) : handles_(std::move(handles)) {
  const auto require = [](bool given, const char* name) {
    if (!given) fail(StatusCode::invalid_argument, "adopting a Vulkan device: {} is null", name);
  };
  require(handles_.instance != nullptr, "instance");
  require(handles_.physical_device != nullptr, "physical_device");
  require(handles_.device != nullptr, "device");
  require(handles_.queue != nullptr, "queue");
  require(handles_.get_instance_proc_addr != nullptr, "get_instance_proc_addr");
  if ((handles_.lock_queue == nullptr) != (handles_.unlock_queue == nullptr)) {
    fail(StatusCode::invalid_argument, "adopting a Vulkan device: lock_queue and unlock_queue go together");
  }
}

// Ours first: then the host's is never waited for twice by one process's engines.
void AdoptedVulkan::lock() {
  mutex_.lock();
  if (handles_.lock_queue != nullptr) handles_.lock_queue(handles_.lock_user);
}

void AdoptedVulkan::unlock() {
  if (handles_.unlock_queue != nullptr) handles_.unlock_queue(handles_.lock_user);
  mutex_.unlock();
}

}  // namespace riverhorse
