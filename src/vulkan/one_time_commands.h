// A command buffer that is recorded anew for each submission, in a pool of its own: resetting a pool is what drivers
// do cheaply, resetting single command buffers is not.
#pragma once

#include <memory>

#include "vulkan/core.h"

namespace riverhorse::vulkan {

class OneTimeCommands {
 public:
  OneTimeCommands() = default;
  ~OneTimeCommands();
  OneTimeCommands(const OneTimeCommands&) = delete;
  OneTimeCommands& operator=(const OneTimeCommands&) = delete;

  bool made() const { return commands_ != VK_NULL_HANDLE; }
  void make(std::shared_ptr<DeviceCore> core);
  // Open for recording; the device must be done with what was recorded before.
  VkCommandBuffer begin();
  const VkCommandBuffer& end();

 private:
  std::shared_ptr<DeviceCore> core_;
  VkCommandPool pool_ = VK_NULL_HANDLE;
  VkCommandBuffer commands_ = VK_NULL_HANDLE;
};

}  // namespace riverhorse::vulkan
