// The Vulkan loader and one instance of it, or an instance of the host application's. Several live side by side: an
// instance has its InstanceFunctions and a device its DeviceFunctions, loaded for it; nothing is global.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "vulkan/cooperative_matrix_extension.h"
#include "vulkan/functions.h"

namespace riverhorse::vulkan {

// Text of a result: "VK_ERROR_DEVICE_LOST".
std::string result_text(VkResult result);

// Throws for anything but success: out_of_memory and device_lost by their codes, else unsupported. `what` says what
// was tried: "creating a buffer of 12 MiB".
void check(VkResult result, const std::string& what);

struct InstanceFunctions {
  PFN_vkDestroyInstance destroy_instance = nullptr;
  PFN_vkEnumeratePhysicalDevices enumerate_physical_devices = nullptr;
  PFN_vkEnumerateDeviceExtensionProperties enumerate_device_extensions = nullptr;
  PFN_vkGetPhysicalDeviceProperties get_properties = nullptr;
  PFN_vkGetPhysicalDeviceProperties2 get_properties2 = nullptr;
  PFN_vkGetPhysicalDeviceFeatures2 get_features2 = nullptr;
  PFN_vkGetPhysicalDeviceMemoryProperties2 get_memory_properties2 = nullptr;
  PFN_vkGetPhysicalDeviceQueueFamilyProperties get_queue_families = nullptr;
  PFN_vkGetPhysicalDeviceQueueFamilyProperties2 get_queue_families2 = nullptr;
  PFN_vkCreateDevice create_device = nullptr;
  PFN_vkGetDeviceProcAddr get_device_proc_addr = nullptr;
  PFN_vkCreateDebugUtilsMessengerEXT create_messenger = nullptr;    // validation only
  PFN_vkDestroyDebugUtilsMessengerEXT destroy_messenger = nullptr;  // validation only
  PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR get_cooperative_matrix_properties = nullptr;  // may be null
};

class Instance {
 public:
  // Errors: unsupported, with the reason in words: no loader, no driver, loader too old, no validation layer.
  explicit Instance(bool validation);
  // One that the host application made and keeps; `api_version` is what it asked for. Errors: unsupported below 1.1.
  Instance(VkInstance adopted, PFN_vkGetInstanceProcAddr get, std::uint32_t api_version);
  ~Instance();
  Instance(const Instance&) = delete;
  Instance& operator=(const Instance&) = delete;

  const InstanceFunctions& functions() const { return functions_; }
  std::uint32_t api_version() const { return api_version_; }  // what was asked for: 1.1 to 1.3
  std::uint64_t validation_messages() const { return validation_messages_.load(); }
  std::uint32_t validation_layer_version() const { return validation_layer_version_; }  // 0: no validation
  std::vector<VkPhysicalDevice> physical_devices() const;

 private:
  void load_functions(PFN_vkGetInstanceProcAddr get);
  static VKAPI_ATTR VkBool32 VKAPI_CALL on_message(VkDebugUtilsMessageSeverityFlagBitsEXT severity,
                                                   VkDebugUtilsMessageTypeFlagsEXT types,
                                                   const VkDebugUtilsMessengerCallbackDataEXT* data, void* user);

  VkInstance handle_ = VK_NULL_HANDLE;
  bool adopted_ = false;
  VkDebugUtilsMessengerEXT messenger_ = VK_NULL_HANDLE;
  std::uint32_t api_version_ = 0;
  std::uint32_t validation_layer_version_ = 0;
  InstanceFunctions functions_;
  std::atomic<std::uint64_t> validation_messages_{0};
};

}  // namespace riverhorse::vulkan
