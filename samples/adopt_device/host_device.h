// An application's own Vulkan device, made with what Riverhorse asks for: extensions, features and a queue. Nothing
// of it is needed, and an application adds whatever it wants for itself.
#pragma once

#include <vulkan/vulkan.h>

#include <riverhorse/riverhorse.hpp>
#include <stdexcept>
#include <string>

inline void check(VkResult result, const char* what) {
  if (result != VK_SUCCESS) throw std::runtime_error(std::string(what) + ": VkResult " + std::to_string(result));
}

// The features that Riverhorse asks for, in Vulkan's structs. A device of Vulkan 1.1 with extensions takes the same.
struct Features {
  VkPhysicalDevice16BitStorageFeatures storage{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_16BIT_STORAGE_FEATURES};
  VkPhysicalDeviceShaderFloat16Int8Features half{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_FLOAT16_INT8_FEATURES};
  VkPhysicalDeviceTimelineSemaphoreFeatures timeline{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_TIMELINE_SEMAPHORE_FEATURES};
  VkPhysicalDeviceSubgroupSizeControlFeatures subgroup{
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES};
  VkPhysicalDeviceVulkanMemoryModelFeatures memory{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_MEMORY_MODEL_FEATURES};
  void* chain = nullptr;

  explicit Features(const riverhorse_vulkan_features& wanted) {
    storage.storageBuffer16BitAccess = add(storage, wanted.storage_buffer_16bit_access);
    half.shaderFloat16 = add(half, wanted.shader_float16);
    timeline.timelineSemaphore = add(timeline, wanted.timeline_semaphore);
    subgroup.subgroupSizeControl = subgroup.computeFullSubgroups = add(subgroup, wanted.subgroup_size_control);
    memory.vulkanMemoryModel = memory.vulkanMemoryModelDeviceScope = add(memory, wanted.vulkan_memory_model);
  }

  template <typename Struct>
  VkBool32 add(Struct& part, int32_t wanted) {
    if (wanted == 0) return VK_FALSE;
    part.pNext = chain;
    chain = &part;
    return VK_TRUE;
  }
};

class HostDevice {
 public:
  HostDevice() {
    VkApplicationInfo application{VK_STRUCTURE_TYPE_APPLICATION_INFO};
    application.apiVersion = VK_API_VERSION_1_2;
    VkInstanceCreateInfo instance_info{VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO};
    instance_info.pApplicationInfo = &application;
    check(vkCreateInstance(&instance_info, nullptr, &instance), "vkCreateInstance");
    std::uint32_t count = 1;
    VkPhysicalDevice physical_device = VK_NULL_HANDLE;
    if (vkEnumeratePhysicalDevices(instance, &count, &physical_device) < 0 || count == 0) {
      throw std::runtime_error("no Vulkan device");
    }

    // What is worth enabling on it?
    lent.api_version = application.apiVersion;
    lent.instance = instance;
    lent.physical_device = physical_device;
    lent.get_instance_proc_addr = reinterpret_cast<void (*)()>(&vkGetInstanceProcAddr);
    wanted_ = riverhorse_api::vulkan_requirements(lent);
    wanted_.features.cooperative_matrix = 0;  // its struct is in newer headers than this sample asks for

    const Features features(wanted_.features);
    const float priority = 1;
    VkDeviceQueueCreateInfo queue_info{VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO};
    queue_info.queueFamilyIndex = wanted_.queue_family;
    queue_info.queueCount = 1;
    queue_info.pQueuePriorities = &priority;
    VkDeviceCreateInfo device_info{VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO};
    device_info.pNext = features.chain;
    device_info.queueCreateInfoCount = 1;
    device_info.pQueueCreateInfos = &queue_info;
    device_info.enabledExtensionCount = wanted_.extension_count;
    device_info.ppEnabledExtensionNames = wanted_.extensions;
    check(vkCreateDevice(physical_device, &device_info, nullptr, &device), "vkCreateDevice");
    vkGetDeviceQueue(device, wanted_.queue_family, 0, &queue);

    lent.device = device;
    lent.queue = queue;
    lent.queue_family = wanted_.queue_family;
    lent.extension_count = wanted_.extension_count;
    lent.extensions = wanted_.extensions;
    lent.features = wanted_.features;
  }

  ~HostDevice() {  // after the models on it: it is still the application's
    vkDestroyDevice(device, nullptr);
    vkDestroyInstance(instance, nullptr);
  }
  HostDevice(const HostDevice&) = delete;
  HostDevice& operator=(const HostDevice&) = delete;

  VkInstance instance = VK_NULL_HANDLE;
  VkDevice device = VK_NULL_HANDLE;
  VkQueue queue = VK_NULL_HANDLE;
  riverhorse_vulkan_device lent = riverhorse_api::vulkan_device();  // for riverhorse_adopt_vulkan

 private:
  riverhorse_vulkan_requirements wanted_{};
};
