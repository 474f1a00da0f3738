// A language model on the Vulkan device that the application made for itself, as a game does.
//   adopt_device MODEL PROMPT
// Riverhorse says what it would like to be enabled; nothing of it is needed. It makes what it needs on the device,
// submits to the queue that it is given, and takes down what it made, and nothing else.
#include <vulkan/vulkan.h>

#include <cstdio>
#include <riverhorse/riverhorse.hpp>
#include <stdexcept>
#include <string_view>
#include <vector>

namespace rh = riverhorse_api;

namespace {

void check(VkResult result, const char* what) {
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

void generate(const riverhorse_vulkan_device& device, const char* path, const char* prompt) {
  const rh::adopted_device adopted(device);
  riverhorse_model_options options = rh::model_options();
  options.adopted_device = adopted.get();
  const rh::model model(path, options);
  std::fprintf(stderr, "%lld parameters on %s\n", static_cast<long long>(model.info().parameter_count),
               model.info().device_name);
  rh::session session = model.create_session();
  session.append(model.encode(prompt));
  riverhorse_generate_options length = rh::generate_options();
  length.max_tokens = 32;
  session.generate(length, [](std::int32_t, std::string_view text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    return true;
  });
  std::printf("\n");
}

void run(const char* path, const char* prompt) {
  // The application's instance.
  VkApplicationInfo application{VK_STRUCTURE_TYPE_APPLICATION_INFO};
  application.apiVersion = VK_API_VERSION_1_2;
  VkInstanceCreateInfo instance_info{VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO};
  instance_info.pApplicationInfo = &application;
  VkInstance instance = VK_NULL_HANDLE;
  check(vkCreateInstance(&instance_info, nullptr, &instance), "vkCreateInstance");
  std::uint32_t count = 1;
  VkPhysicalDevice physical_device = VK_NULL_HANDLE;
  if (vkEnumeratePhysicalDevices(instance, &count, &physical_device) < 0 || count == 0) {
    throw std::runtime_error("no Vulkan device");
  }

  // What is worth enabling on it?
  riverhorse_vulkan_device lent = rh::vulkan_device();
  lent.api_version = application.apiVersion;
  lent.instance = instance;
  lent.physical_device = physical_device;
  lent.get_instance_proc_addr = reinterpret_cast<void (*)()>(&vkGetInstanceProcAddr);
  riverhorse_vulkan_requirements wanted = rh::vulkan_requirements(lent);
  wanted.features.cooperative_matrix = 0;  // its struct is in newer headers than this sample asks for

  // The application's device, with that and whatever else it wants for itself.
  const Features features(wanted.features);
  const float priority = 1;
  VkDeviceQueueCreateInfo queue_info{VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO};
  queue_info.queueFamilyIndex = wanted.queue_family;
  queue_info.queueCount = 1;
  queue_info.pQueuePriorities = &priority;
  VkDeviceCreateInfo device_info{VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO};
  device_info.pNext = features.chain;
  device_info.queueCreateInfoCount = 1;
  device_info.pQueueCreateInfos = &queue_info;
  device_info.enabledExtensionCount = wanted.extension_count;
  device_info.ppEnabledExtensionNames = wanted.extensions;
  VkDevice device = VK_NULL_HANDLE;
  check(vkCreateDevice(physical_device, &device_info, nullptr, &device), "vkCreateDevice");
  VkQueue queue = VK_NULL_HANDLE;
  vkGetDeviceQueue(device, wanted.queue_family, 0, &queue);

  lent.device = device;
  lent.queue = queue;
  lent.queue_family = wanted.queue_family;
  lent.extension_count = wanted.extension_count;
  lent.extensions = wanted.extensions;
  lent.features = wanted.features;
  generate(lent, path, prompt);

  vkDestroyDevice(device, nullptr);  // still the application's
  vkDestroyInstance(instance, nullptr);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s MODEL PROMPT\n", argv[0]);
    return 2;
  }
  try {
    run(argv[1], argv[2]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
