#include "window.h"

#define GLFW_INCLUDE_NONE
#include <GLFW/glfw3.h>

#include <algorithm>
#include <stdexcept>

namespace tavern {
namespace {

[[noreturn]] void fail(const std::string& what) {
  const char* reason = nullptr;
  glfwGetError(&reason);
  throw std::runtime_error(what + ": " + (reason != nullptr ? reason : "unknown reason") +
                           "; --headless needs no window");
}

}  // namespace

Window::Window(VkExtent2D extent, const std::string& title) : extent_(extent) {
  if (glfwInit() != GLFW_TRUE) fail("no desktop to open a window on");
  if (glfwVulkanSupported() != GLFW_TRUE) fail("Vulkan cannot draw into windows here");
  glfwWindowHint(GLFW_CLIENT_API, GLFW_NO_API);
  window_ = glfwCreateWindow(static_cast<int>(extent.width), static_cast<int>(extent.height), title.c_str(), nullptr,
                             nullptr);
  if (window_ == nullptr) fail("the window cannot be opened");
}

Window::~Window() {
  glfwDestroyWindow(window_);
  glfwTerminate();
}

Presentation Window::presentation() const {
  Presentation result;
  std::uint32_t count = 0;
  const char** extensions = glfwGetRequiredInstanceExtensions(&count);
  result.instance_extensions.assign(extensions, extensions + count);
  result.supported = [](VkInstance instance, VkPhysicalDevice device, std::uint32_t family) {
    return glfwGetPhysicalDevicePresentationSupport(instance, device, family) == GLFW_TRUE;
  };
  return result;
}

void Window::attach(const Gpu& gpu) {
  gpu_ = &gpu;
  check(glfwCreateWindowSurface(gpu.instance, window_, nullptr, &surface_), "glfwCreateWindowSurface");
  VkBool32 supported = VK_FALSE;
  vkGetPhysicalDeviceSurfaceSupportKHR(gpu.physical_device, gpu.queue_family(), surface_, &supported);
  if (supported == VK_FALSE) throw std::runtime_error(gpu.name + " cannot show anything in this window");
  const VkSemaphoreCreateInfo semaphore{VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO};
  for (VkSemaphore& each : available_) {
    check(vkCreateSemaphore(gpu.device, &semaphore, nullptr, &each), "vkCreateSemaphore");
  }
  make_swapchain();
}

void Window::detach() {
  if (gpu_ == nullptr) return;
  free_swapchain();
  for (VkSemaphore each : available_) vkDestroySemaphore(gpu_->device, each, nullptr);
  vkDestroySurfaceKHR(gpu_->instance, surface_, nullptr);
  gpu_ = nullptr;
}

void Window::make_swapchain() {
  VkSurfaceCapabilitiesKHR can{};
  check(vkGetPhysicalDeviceSurfaceCapabilitiesKHR(gpu_->physical_device, surface_, &can),
        "vkGetPhysicalDeviceSurfaceCapabilitiesKHR");
  if ((can.supportedUsageFlags & VK_IMAGE_USAGE_TRANSFER_DST_BIT) == 0) {
    throw std::runtime_error(gpu_->name + " cannot copy pictures into windows");
  }
  std::uint32_t count = 0;
  vkGetPhysicalDeviceSurfaceFormatsKHR(gpu_->physical_device, surface_, &count, nullptr);
  std::vector<VkSurfaceFormatKHR> formats(count);
  vkGetPhysicalDeviceSurfaceFormatsKHR(gpu_->physical_device, surface_, &count, formats.data());
  if (formats.empty()) throw std::runtime_error(gpu_->name + " has no colour format for windows");
  VkSurfaceFormatKHR format = formats.front();
  for (const VkSurfaceFormatKHR& each : formats) {
    if (each.format == VK_FORMAT_B8G8R8A8_UNORM || each.format == VK_FORMAT_R8G8B8A8_UNORM) format = each;
  }
  if (can.currentExtent.width != UINT32_MAX) {
    extent_ = can.currentExtent;
  } else {
    int width = 0, height = 0;
    glfwGetFramebufferSize(window_, &width, &height);
    extent_ = {std::clamp(static_cast<std::uint32_t>(width), can.minImageExtent.width, can.maxImageExtent.width),
               std::clamp(static_cast<std::uint32_t>(height), can.minImageExtent.height, can.maxImageExtent.height)};
  }
  VkSwapchainCreateInfoKHR create{VK_STRUCTURE_TYPE_SWAPCHAIN_CREATE_INFO_KHR};
  create.surface = surface_;
  create.minImageCount = can.minImageCount + 1;
  if (can.maxImageCount != 0) create.minImageCount = std::min(create.minImageCount, can.maxImageCount);
  create.imageFormat = format.format;
  create.imageColorSpace = format.colorSpace;
  create.imageExtent = extent_;
  create.imageArrayLayers = 1;
  create.imageUsage = VK_IMAGE_USAGE_TRANSFER_DST_BIT;
  create.preTransform = can.currentTransform;
  create.compositeAlpha = VK_COMPOSITE_ALPHA_OPAQUE_BIT_KHR;
  create.presentMode = VK_PRESENT_MODE_FIFO_KHR;  // the one that is always there: no tearing, the display's rate
  create.clipped = VK_TRUE;
  check(vkCreateSwapchainKHR(gpu_->device, &create, nullptr, &swapchain_), "vkCreateSwapchainKHR");
  vkGetSwapchainImagesKHR(gpu_->device, swapchain_, &count, nullptr);
  images_.resize(count);
  vkGetSwapchainImagesKHR(gpu_->device, swapchain_, &count, images_.data());
  drawn_.resize(count);
  const VkSemaphoreCreateInfo semaphore{VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO};
  for (VkSemaphore& each : drawn_) {
    check(vkCreateSemaphore(gpu_->device, &semaphore, nullptr, &each), "vkCreateSemaphore");
  }
  is_stale_ = false;
}

void Window::free_swapchain() {
  gpu_->wait();
  for (VkSemaphore each : drawn_) vkDestroySemaphore(gpu_->device, each, nullptr);
  vkDestroySwapchainKHR(gpu_->device, swapchain_, nullptr);
}

bool Window::poll() {
  glfwPollEvents();
  const bool control = glfwGetKey(window_, GLFW_KEY_LEFT_CONTROL) == GLFW_PRESS ||
                       glfwGetKey(window_, GLFW_KEY_RIGHT_CONTROL) == GLFW_PRESS;
  if (control && glfwGetKey(window_, GLFW_KEY_Q) == GLFW_PRESS) glfwSetWindowShouldClose(window_, GLFW_TRUE);
  // Of a window without an area nothing can be drawn: it was made an icon.
  int width = 0, height = 0;
  glfwGetFramebufferSize(window_, &width, &height);
  while ((width == 0 || height == 0) && glfwWindowShouldClose(window_) == GLFW_FALSE) {
    glfwWaitEvents();
    glfwGetFramebufferSize(window_, &width, &height);
  }
  const bool changed =
      static_cast<std::uint32_t>(width) != extent_.width || static_cast<std::uint32_t>(height) != extent_.height;
  is_stale_ = is_stale_ || changed;
  return glfwWindowShouldClose(window_) == GLFW_FALSE;
}

bool Window::resize_if_needed() {
  if (!is_stale_) return false;
  free_swapchain();
  make_swapchain();
  return true;
}

std::optional<ShownImage> Window::acquire() {
  frame_ = (frame_ + 1) % available_.size();
  const VkResult result =
      vkAcquireNextImageKHR(gpu_->device, swapchain_, UINT64_MAX, available_[frame_], VK_NULL_HANDLE, &image_);
  if (result == VK_ERROR_OUT_OF_DATE_KHR) {
    is_stale_ = true;
    return std::nullopt;
  }
  if (result != VK_SUBOPTIMAL_KHR) check(result, "vkAcquireNextImageKHR");
  return ShownImage{images_[image_], extent_, available_[frame_], drawn_[image_]};
}

void Window::present() {
  VkPresentInfoKHR present{VK_STRUCTURE_TYPE_PRESENT_INFO_KHR};
  present.waitSemaphoreCount = 1;
  present.pWaitSemaphores = &drawn_[image_];
  present.swapchainCount = 1;
  present.pSwapchains = &swapchain_;
  present.pImageIndices = &image_;
  const VkResult result = vkQueuePresentKHR(gpu_->queue, &present);
  if (result == VK_ERROR_OUT_OF_DATE_KHR || result == VK_SUBOPTIMAL_KHR) {
    is_stale_ = true;
  } else {
    check(result, "vkQueuePresentKHR");
  }
}

}  // namespace tavern
