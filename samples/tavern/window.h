// A window of the desktop and its swapchain.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "renderer.h"

struct GLFWwindow;

namespace tavern {

class Window {
 public:
  Window(VkExtent2D extent, const std::string& title);
  ~Window();
  Window(const Window&) = delete;
  Window& operator=(const Window&) = delete;

  // What a device must have to show something here.
  Presentation presentation() const;
  // Once the device is there; until detach().
  void attach(const Gpu& gpu);
  void detach();

  // Reads what the user did; false when the window was closed.
  bool poll();
  VkExtent2D extent() const { return extent_; }

  // The image to show the next frame in, after Renderer::begin(). Nothing when the window changed: draw without it,
  // and then resize() has the new extent.
  std::optional<ShownImage> acquire();
  void present();
  // True when the extent is another one.
  bool resize_if_needed();

  GLFWwindow* handle() const { return window_; }

 private:
  void make_swapchain();
  void free_swapchain();

  GLFWwindow* window_ = nullptr;
  const Gpu* gpu_ = nullptr;
  VkSurfaceKHR surface_ = VK_NULL_HANDLE;
  VkSwapchainKHR swapchain_ = VK_NULL_HANDLE;
  VkExtent2D extent_;
  std::vector<VkImage> images_;
  std::vector<VkSemaphore> drawn_;                                   // one for each image
  std::array<VkSemaphore, Renderer::frames_in_flight> available_{};  // one for each frame in flight
  std::size_t frame_ = 0;
  std::uint32_t image_ = 0;
  bool is_stale_ = false;
};

}  // namespace tavern
