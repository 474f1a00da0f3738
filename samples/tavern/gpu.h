// The application's own Vulkan device: one queue that draws, computes and (with a window) presents. Made with what
// Riverhorse asks for, and lent to it.
#pragma once

#include <vulkan/vulkan.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <riverhorse/riverhorse.hpp>
#include <string>
#include <vector>

#include "adopt_device/host_device.h"  // check(), Features

namespace tavern {

// What a window asks of the device. Empty when everything is drawn into pictures.
struct Presentation {
  std::vector<const char*> instance_extensions;
  std::function<bool(VkInstance, VkPhysicalDevice, std::uint32_t queue_family)> supported;
};

class Gpu {
 public:
  // `device_name`: a part of the device's name; empty: the best. With `validation_messages` Vulkan's validation layer
  // is on (core and synchronisation), prints to stderr, and counts there, until after the device is gone.
  Gpu(const Presentation& presentation, const std::string& device_name, std::atomic<int>* validation_messages);
  ~Gpu();
  Gpu(const Gpu&) = delete;
  Gpu& operator=(const Gpu&) = delete;

  const riverhorse_vulkan_device& lent() const { return lent_; }  // for riverhorse_adopt_vulkan
  std::uint32_t queue_family() const { return lent_.queue_family; }
  double timestamp_ms(std::uint64_t ticks) const;  // of a difference of timestamps
  void wait() const { vkDeviceWaitIdle(device); }
  // Records commands, submits them and waits: for what is done once.
  void run_once(const std::function<void(VkCommandBuffer commands)>& record) const;

  // A buffer that the processor writes or reads, and an image that only the device sees.
  struct Buffer {
    VkBuffer buffer = VK_NULL_HANDLE;
    VkDeviceMemory memory = VK_NULL_HANDLE;
    void* mapped = nullptr;
  };
  struct Image {
    VkImage image = VK_NULL_HANDLE;
    VkDeviceMemory memory = VK_NULL_HANDLE;
    VkImageView view = VK_NULL_HANDLE;
  };
  Buffer make_buffer(VkDeviceSize bytes, VkBufferUsageFlags usage) const;
  Image make_image(VkExtent2D extent, VkFormat format, VkImageUsageFlags usage) const;
  void free(const Buffer& buffer) const;
  void free(const Image& image) const;

  VkInstance instance = VK_NULL_HANDLE;
  VkPhysicalDevice physical_device = VK_NULL_HANDLE;
  VkDevice device = VK_NULL_HANDLE;
  VkQueue queue = VK_NULL_HANDLE;
  std::string name;
  std::string driver;  // name and version

 private:
  void make_instance(const std::vector<const char*>& extensions, std::atomic<int>* validation_messages);
  void choose_device(const Presentation& presentation, const std::string& device_name);
  void make_device(bool presents);
  VkDeviceMemory allocate(const VkMemoryRequirements& needs, VkMemoryPropertyFlags wanted) const;

  VkDebugUtilsMessengerEXT messenger_ = VK_NULL_HANDLE;
  riverhorse_vulkan_device lent_ = riverhorse_api::vulkan_device();
  riverhorse_vulkan_requirements wanted_{};
  std::vector<const char*> extensions_;
  double timestamp_period_ns_ = 1;
  std::uint64_t timestamp_mask_ = ~0ull;
};

}  // namespace tavern
