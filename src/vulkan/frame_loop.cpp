#include "vulkan/frame_loop.h"

#include <span>

#include "vulkan/device_impl.h"

namespace riverhorse::vulkan {

VulkanFrameLoop::VulkanFrameLoop(const VulkanDevice& device) : core_(device.impl().core) { commands_.make(core_); }

void VulkanFrameLoop::end() { core_->wait(core_->submit_final_group(std::span(&commands_.end(), 1))); }

}  // namespace riverhorse::vulkan
