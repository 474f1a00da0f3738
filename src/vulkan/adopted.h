// The host's handles as this room's own types (backend/adopted_vulkan.h).
#pragma once

#include <memory>

#include "backend/adopted_vulkan.h"
#include "vulkan/instance.h"
#include "vulkan/profile.h"

namespace riverhorse::vulkan {

std::unique_ptr<Instance> borrow_instance(const VulkanHandles& handles);

// What the physical device offers, less what the host has not enabled; with the host's queue.
DeviceProfile adopted_profile(const Instance& instance, const VulkanHandles& handles, bool minimal);

}  // namespace riverhorse::vulkan
