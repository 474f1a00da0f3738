#include "vulkan/frame_loop.h"

#include <cstdint>

#include "vulkan/device_impl.h"

namespace riverhorse::vulkan {

VulkanFrameLoop::VulkanFrameLoop(const VulkanDevice& device) : core_(device.impl().core) {
  commands_.make(core_);
  VkFenceCreateInfo fence{};
  fence.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO;
  core_->check_device(core_->table.vkCreateFence(core_->device, &fence, core_->allocator, &fence_),
                      "creating a fence for frames");
}

VulkanFrameLoop::~VulkanFrameLoop() { core_->table.vkDestroyFence(core_->device, fence_, core_->allocator); }

void VulkanFrameLoop::end() {
  const DeviceFunctions& vk = core_->table;
  core_->submit_group({&commands_.end(), 1}, fence_);
  core_->check_device(vk.vkWaitForFences(core_->device, 1, &fence_, VK_TRUE, UINT64_MAX), "waiting for a frame");
  core_->check_device(vk.vkResetFences(core_->device, 1, &fence_), "resetting the fence of a frame");
}

}  // namespace riverhorse::vulkan
