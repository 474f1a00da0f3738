// Frames: two in flight, each a command buffer with a fence and three timestamps around the model's work and the
// drawing. Everything is drawn into one picture, which a window shows and a screenshot reads.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "gpu.h"

namespace tavern {

// GPU time of a frame that is done.
struct FrameTimes {
  double model_ms = 0;
  double drawing_ms = 0;
  double since_last_ms = 0;  // from the end of the picture before to that of this one; 0: there was none
};

// Where a frame is shown: a swapchain's image, and the semaphores around its use.
struct ShownImage {
  VkImage image = VK_NULL_HANDLE;
  VkExtent2D extent{};
  VkSemaphore available = VK_NULL_HANDLE;
  VkSemaphore drawn = VK_NULL_HANDLE;
};

class Renderer {
 public:
  Renderer(const Gpu& gpu, VkExtent2D extent);
  ~Renderer();
  Renderer(const Renderer&) = delete;
  Renderer& operator=(const Renderer&) = delete;

  void resize(VkExtent2D extent);

  // A frame: begin, draw, and finish_picture, which submits it, so that it is shown as soon as it is done; then
  // begin_work, the model's work, and finish_work, which submits that behind it. begin() waits for the frame before
  // the last. `shown` may be null.
  VkCommandBuffer begin();
  void finish_picture(const ShownImage* shown);
  VkCommandBuffer begin_work();
  void finish_work();

  // Of the last frame: waits for it. (height, width, 4) bytes: red, green, blue, alpha.
  std::vector<std::uint8_t> read_pixels();
  void wait();

  VkRenderPass render_pass() const { return render_pass_; }
  VkExtent2D extent() const { return extent_; }
  // Of the newest frame that is known to be done.
  const FrameTimes& times() const { return times_; }

  static constexpr std::uint32_t frames_in_flight = 2;

 private:
  struct Frame {
    VkCommandPool pool = VK_NULL_HANDLE;
    VkCommandBuffer picture = VK_NULL_HANDLE;
    VkCommandBuffer work = VK_NULL_HANDLE;
    VkFence fence = VK_NULL_HANDLE;  // of the work, behind the picture
    VkQueryPool timestamps = VK_NULL_HANDLE;
    bool submitted = false;
  };

  void make_picture();
  void free_picture();
  void show(VkCommandBuffer commands, const ShownImage& shown) const;
  Frame& now() { return frames_[now_]; }

  const Gpu& gpu_;
  VkExtent2D extent_;
  VkRenderPass render_pass_ = VK_NULL_HANDLE;
  Gpu::Image picture_;
  VkFramebuffer framebuffer_ = VK_NULL_HANDLE;
  std::array<Frame, frames_in_flight> frames_;
  std::size_t now_ = 0;
  FrameTimes times_;
  std::uint64_t last_end_ = 0;  // a timestamp; 0: of no frame yet
};

}  // namespace tavern
