// backend/frame_loop.h on a Vulkan device.
#pragma once

#include <memory>

#include "backend/frame_loop.h"
#include "vulkan/core.h"
#include "vulkan/device.h"
#include "vulkan/one_time_commands.h"

namespace riverhorse::vulkan {

class VulkanFrameLoop final : public FrameLoop {
 public:
  explicit VulkanFrameLoop(const VulkanDevice& device);

  void* begin() override { return commands_.begin(); }
  void end() override;

 private:
  std::shared_ptr<DeviceCore> core_;
  OneTimeCommands commands_;
};

}  // namespace riverhorse::vulkan
