#include "vulkan/instance.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/log.h"

namespace riverhorse::vulkan {
namespace {

PFN_vkGetInstanceProcAddr require_loader() {
  const PFN_vkGetInstanceProcAddr get = find_loader();
  if (get != nullptr) return get;
  fail(StatusCode::unsupported,
       "no Vulkan loader (libvulkan.so.1) was found; install it (Debian, Ubuntu: libvulkan1) and a GPU driver, "
       "or use the cpu backend");
}

template <typename Function>
void load(PFN_vkGetInstanceProcAddr get, VkInstance instance, Function& function, const char* name) {
  function = reinterpret_cast<Function>(get(instance, name));
}

// The Vulkan version that an installed layer was written against; 0 when it is not installed.
std::uint32_t layer_version(PFN_vkGetInstanceProcAddr get, const char* name) {
  PFN_vkEnumerateInstanceLayerProperties enumerate = nullptr;
  load(get, nullptr, enumerate, "vkEnumerateInstanceLayerProperties");
  std::uint32_t count = 0;
  if (enumerate == nullptr || enumerate(&count, nullptr) != VK_SUCCESS) return 0;
  std::vector<VkLayerProperties> layers(count);
  if (enumerate(&count, layers.data()) < 0) return 0;
  const auto layer = std::find_if(layers.begin(), layers.end(), [&](const VkLayerProperties& each) {
    return std::strcmp(each.layerName, name) == 0;
  });
  return layer == layers.end() ? 0 : layer->specVersion;
}

constexpr const char* validation_layer = "VK_LAYER_KHRONOS_validation";

}  // namespace

std::string result_text(VkResult result) {
  switch (result) {
    case VK_SUCCESS: return "VK_SUCCESS";
    case VK_NOT_READY: return "VK_NOT_READY";
    case VK_TIMEOUT: return "VK_TIMEOUT";
    case VK_INCOMPLETE: return "VK_INCOMPLETE";
    case VK_ERROR_OUT_OF_HOST_MEMORY: return "VK_ERROR_OUT_OF_HOST_MEMORY";
    case VK_ERROR_OUT_OF_DEVICE_MEMORY: return "VK_ERROR_OUT_OF_DEVICE_MEMORY";
    case VK_ERROR_INITIALIZATION_FAILED: return "VK_ERROR_INITIALIZATION_FAILED";
    case VK_ERROR_DEVICE_LOST: return "VK_ERROR_DEVICE_LOST";
    case VK_ERROR_MEMORY_MAP_FAILED: return "VK_ERROR_MEMORY_MAP_FAILED";
    case VK_ERROR_LAYER_NOT_PRESENT: return "VK_ERROR_LAYER_NOT_PRESENT";
    case VK_ERROR_EXTENSION_NOT_PRESENT: return "VK_ERROR_EXTENSION_NOT_PRESENT";
    case VK_ERROR_FEATURE_NOT_PRESENT: return "VK_ERROR_FEATURE_NOT_PRESENT";
    case VK_ERROR_INCOMPATIBLE_DRIVER: return "VK_ERROR_INCOMPATIBLE_DRIVER";
    case VK_ERROR_TOO_MANY_OBJECTS: return "VK_ERROR_TOO_MANY_OBJECTS";
    case VK_ERROR_NOT_PERMITTED_KHR: return "VK_ERROR_NOT_PERMITTED";
    default: return fmt::format("VkResult {}", static_cast<int>(result));
  }
}

void check(VkResult result, const std::string& what) {
  if (result == VK_SUCCESS) return;
  StatusCode code = StatusCode::unsupported;
  if (result == VK_ERROR_OUT_OF_HOST_MEMORY || result == VK_ERROR_OUT_OF_DEVICE_MEMORY)
    code = StatusCode::out_of_memory;
  if (result == VK_ERROR_DEVICE_LOST) code = StatusCode::device_lost;
  fail(code, "Vulkan: {} failed: {}", what, result_text(result));
}

Instance::Instance(bool validation) {
  const PFN_vkGetInstanceProcAddr get = require_loader();
  PFN_vkEnumerateInstanceVersion enumerate_version = nullptr;  // absent in 1.0
  load(get, nullptr, enumerate_version, "vkEnumerateInstanceVersion");
  PFN_vkCreateInstance create_instance = nullptr;
  load(get, nullptr, create_instance, "vkCreateInstance");
  std::uint32_t loader_version = VK_API_VERSION_1_0;
  if (enumerate_version != nullptr) enumerate_version(&loader_version);
  if (loader_version < VK_API_VERSION_1_1) {
    fail(StatusCode::unsupported, "the Vulkan loader is of version 1.0; Vulkan 1.1 is needed: update libvulkan1");
  }
  api_version_ = std::min<std::uint32_t>(
      VK_MAKE_API_VERSION(0, VK_API_VERSION_MAJOR(loader_version), VK_API_VERSION_MINOR(loader_version), 0),
      VK_API_VERSION_1_3);
  VkApplicationInfo application{};
  application.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO;
  application.pApplicationName = "riverhorse";
  application.pEngineName = "riverhorse";
  application.apiVersion = api_version_;
  VkInstanceCreateInfo create{};
  create.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO;
  create.pApplicationInfo = &application;

  // Messages are counted from the creation of the instance on, so the messenger is also chained into it.
  VkDebugUtilsMessengerCreateInfoEXT messages{};
  messages.sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_MESSENGER_CREATE_INFO_EXT;
  messages.messageSeverity =
      VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT | VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT;
  messages.messageType =
      VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT | VK_DEBUG_UTILS_MESSAGE_TYPE_PERFORMANCE_BIT_EXT;
  messages.pfnUserCallback = &Instance::on_message;
  messages.pUserData = this;
  const VkValidationFeatureEnableEXT enabled[] = {VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT};
  VkValidationFeaturesEXT features{};
  features.sType = VK_STRUCTURE_TYPE_VALIDATION_FEATURES_EXT;
  features.enabledValidationFeatureCount = 1;
  features.pEnabledValidationFeatures = enabled;
  features.pNext = &messages;
  const char* extensions[] = {VK_EXT_DEBUG_UTILS_EXTENSION_NAME};
  if (validation) {
    validation_layer_version_ = layer_version(get, validation_layer);
    if (validation_layer_version_ == 0) {
      fail(StatusCode::unsupported,
           "validation was asked for, and the layer {} is not installed (Debian, Ubuntu: vulkan-validationlayers)",
           validation_layer);
    }
    create.enabledLayerCount = 1;
    create.ppEnabledLayerNames = &validation_layer;
    create.enabledExtensionCount = 1;
    create.ppEnabledExtensionNames = extensions;
    create.pNext = &features;
  }
  const VkResult result = create_instance(&create, nullptr, &handle_);
  if (result == VK_ERROR_INCOMPATIBLE_DRIVER) {
    fail(
        StatusCode::unsupported,
        "the Vulkan loader found no working driver; install one for your GPU (Debian, Ubuntu: mesa-vulkan-drivers or "
        "the NVIDIA driver) and check VK_DRIVER_FILES and VK_ICD_FILENAMES if they are set");
  }
  if (result != VK_SUCCESS) {
    // Among them VK_ERROR_OUT_OF_HOST_MEMORY, which is what loaders say about a driver file that is not JSON.
    fail(StatusCode::unsupported,
         "the Vulkan loader could not start ({}): a driver's file may be broken or its library missing; check the "
         "files "
         "in /usr/share/vulkan/icd.d and /etc/vulkan/icd.d, and VK_DRIVER_FILES and VK_ICD_FILENAMES if they are set",
         result_text(result));
  }
  load_functions(get);
  if (validation) {
    messages.pNext = nullptr;
    check(functions_.create_messenger(handle_, &messages, nullptr, &messenger_), "creating a debug messenger");
  }
}

Instance::Instance(VkInstance adopted, PFN_vkGetInstanceProcAddr get, std::uint32_t api_version)
    : handle_(adopted), adopted_(true), api_version_(std::min<std::uint32_t>(api_version, VK_API_VERSION_1_3)) {
  if (api_version < VK_API_VERSION_1_1) {
    fail(StatusCode::unsupported,
         "the host's instance is of Vulkan {}.{}; 1.1 is needed: ask for it in VkApplicationInfo::apiVersion",
         VK_API_VERSION_MAJOR(api_version), VK_API_VERSION_MINOR(api_version));
  }
  load_functions(get);
}

Instance::~Instance() {
  if (handle_ == VK_NULL_HANDLE || adopted_) return;
  if (messenger_ != VK_NULL_HANDLE) functions_.destroy_messenger(handle_, messenger_, nullptr);
  functions_.destroy_instance(handle_, nullptr);
}

void Instance::load_functions(PFN_vkGetInstanceProcAddr get) {
  const auto find = [&](auto& function, const char* name) { load(get, handle_, function, name); };
  find(functions_.destroy_instance, "vkDestroyInstance");
  find(functions_.enumerate_physical_devices, "vkEnumeratePhysicalDevices");
  find(functions_.enumerate_device_extensions, "vkEnumerateDeviceExtensionProperties");
  find(functions_.get_properties, "vkGetPhysicalDeviceProperties");
  find(functions_.get_properties2, "vkGetPhysicalDeviceProperties2");
  find(functions_.get_features2, "vkGetPhysicalDeviceFeatures2");
  find(functions_.get_memory_properties2, "vkGetPhysicalDeviceMemoryProperties2");
  find(functions_.get_queue_families, "vkGetPhysicalDeviceQueueFamilyProperties");
  find(functions_.get_queue_families2, "vkGetPhysicalDeviceQueueFamilyProperties2");
  find(functions_.create_device, "vkCreateDevice");
  find(functions_.get_device_proc_addr, "vkGetDeviceProcAddr");
  find(functions_.create_messenger, "vkCreateDebugUtilsMessengerEXT");
  find(functions_.destroy_messenger, "vkDestroyDebugUtilsMessengerEXT");
  find(functions_.get_cooperative_matrix_properties, "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR");
}

std::vector<VkPhysicalDevice> Instance::physical_devices() const {
  std::uint32_t count = 0;
  check(functions_.enumerate_physical_devices(handle_, &count, nullptr), "listing devices");
  std::vector<VkPhysicalDevice> devices(count);
  const VkResult result = functions_.enumerate_physical_devices(handle_, &count, devices.data());
  if (result != VK_INCOMPLETE) check(result, "listing devices");
  devices.resize(count);
  return devices;
}

VkBool32 Instance::on_message(VkDebugUtilsMessageSeverityFlagBitsEXT severity, VkDebugUtilsMessageTypeFlagsEXT,
                              const VkDebugUtilsMessengerCallbackDataEXT* data, void* user) {
  auto* self = static_cast<Instance*>(user);
  self->validation_messages_.fetch_add(1);
  log_warning(fmt::format("Vulkan validation {}: {}",
                          severity >= VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT ? "error" : "warning",
                          data->pMessage != nullptr ? data->pMessage : "(no text)"));
  return VK_FALSE;
}

}  // namespace riverhorse::vulkan
