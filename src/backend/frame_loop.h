// A program's own frames on a device's queue, without anything drawn: for measuring what frames with a model's work
// take (frame_recording.h).
#pragma once

#include <memory>

#include "backend/backend.h"

namespace riverhorse {

class FrameLoop {
 public:
  virtual ~FrameLoop() = default;
  FrameLoop(const FrameLoop&) = delete;
  FrameLoop& operator=(const FrameLoop&) = delete;

  virtual void* begin() = 0;  // an open VkCommandBuffer
  virtual void end() = 0;     // submits it and waits for it

 protected:
  FrameLoop() = default;
};

// Errors: unsupported, on a device that is not a Vulkan device.
std::unique_ptr<FrameLoop> make_frame_loop(Device& device);

}  // namespace riverhorse
