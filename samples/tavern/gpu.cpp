#include "gpu.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <optional>
#include <stdexcept>

namespace tavern {
namespace {

constexpr const char* validation_layer = "VK_LAYER_KHRONOS_validation";

VKAPI_ATTR VkBool32 VKAPI_CALL on_message(VkDebugUtilsMessageSeverityFlagBitsEXT, VkDebugUtilsMessageTypeFlagsEXT,
                                          const VkDebugUtilsMessengerCallbackDataEXT* data, void* user) {
  ++*static_cast<std::atomic<int>*>(user);
  std::fprintf(stderr, "validation: %s\n", data->pMessage);
  return VK_FALSE;
}

bool has_validation_layer() {
  std::uint32_t count = 0;
  vkEnumerateInstanceLayerProperties(&count, nullptr);
  std::vector<VkLayerProperties> layers(count);
  vkEnumerateInstanceLayerProperties(&count, layers.data());
  return std::any_of(layers.begin(), layers.end(), [](const VkLayerProperties& layer) {
    return std::strcmp(layer.layerName, validation_layer) == 0;
  });
}

std::vector<VkQueueFamilyProperties> queue_families(VkPhysicalDevice device) {
  std::uint32_t count = 0;
  vkGetPhysicalDeviceQueueFamilyProperties(device, &count, nullptr);
  std::vector<VkQueueFamilyProperties> families(count);
  vkGetPhysicalDeviceQueueFamilyProperties(device, &count, families.data());
  return families;
}

// The first family that does all that one queue must do here.
std::optional<std::uint32_t> find_family(VkInstance instance, VkPhysicalDevice device,
                                         const Presentation& presentation) {
  const VkQueueFlags needed = VK_QUEUE_GRAPHICS_BIT | VK_QUEUE_COMPUTE_BIT;
  const auto families = queue_families(device);
  for (std::uint32_t i = 0; i < families.size(); ++i) {
    if ((families[i].queueFlags & needed) != needed || families[i].timestampValidBits == 0) continue;
    if (!presentation.supported || presentation.supported(instance, device, i)) return i;
  }
  return std::nullopt;
}

std::string driver_of(VkPhysicalDevice device, const VkPhysicalDeviceProperties& properties) {
  if (properties.apiVersion < VK_API_VERSION_1_2) return "version " + std::to_string(properties.driverVersion);
  VkPhysicalDeviceDriverProperties driver{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_DRIVER_PROPERTIES};
  VkPhysicalDeviceProperties2 all{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2};
  all.pNext = &driver;
  vkGetPhysicalDeviceProperties2(device, &all);
  return std::string(driver.driverName) + " " + driver.driverInfo;
}

int rank(VkPhysicalDeviceType type) {
  switch (type) {
    case VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU: return 3;
    case VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU: return 2;
    case VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU: return 1;
    default: return 0;
  }
}

}  // namespace

Gpu::Gpu(const Presentation& presentation, const std::string& device_name, std::atomic<int>* validation_messages) {
  make_instance(presentation.instance_extensions, validation_messages);
  choose_device(presentation, device_name);
  make_device(static_cast<bool>(presentation.supported));
}

Gpu::~Gpu() {
  vkDestroyDevice(device, nullptr);
  if (messenger_ != VK_NULL_HANDLE) {
    reinterpret_cast<PFN_vkDestroyDebugUtilsMessengerEXT>(
        vkGetInstanceProcAddr(instance, "vkDestroyDebugUtilsMessengerEXT"))(instance, messenger_, nullptr);
  }
  vkDestroyInstance(instance, nullptr);
}

void Gpu::make_instance(const std::vector<const char*>& extensions, std::atomic<int>* validation_messages) {
  VkApplicationInfo application{VK_STRUCTURE_TYPE_APPLICATION_INFO};
  application.pApplicationName = "tavern";
  application.apiVersion = VK_API_VERSION_1_2;
  VkInstanceCreateInfo create{VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO};
  create.pApplicationInfo = &application;
  std::vector<const char*> enabled = extensions;

  VkDebugUtilsMessengerCreateInfoEXT messages{VK_STRUCTURE_TYPE_DEBUG_UTILS_MESSENGER_CREATE_INFO_EXT};
  messages.messageSeverity =
      VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT | VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT;
  messages.messageType =
      VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT | VK_DEBUG_UTILS_MESSAGE_TYPE_PERFORMANCE_BIT_EXT;
  messages.pfnUserCallback = on_message;
  messages.pUserData = validation_messages;
  const VkValidationFeatureEnableEXT synchronisation = VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT;
  VkValidationFeaturesEXT features{VK_STRUCTURE_TYPE_VALIDATION_FEATURES_EXT};
  features.pNext = &messages;  // counts what is said while the instance is made and destroyed, too
  features.enabledValidationFeatureCount = 1;
  features.pEnabledValidationFeatures = &synchronisation;
  if (validation_messages != nullptr) {
    if (!has_validation_layer()) {
      throw std::runtime_error("--validation: Vulkan's validation layer is not installed (vulkan-validationlayers)");
    }
    create.pNext = &features;
    create.enabledLayerCount = 1;
    create.ppEnabledLayerNames = &validation_layer;
    enabled.push_back(VK_EXT_DEBUG_UTILS_EXTENSION_NAME);
  }
  create.enabledExtensionCount = static_cast<std::uint32_t>(enabled.size());
  create.ppEnabledExtensionNames = enabled.data();
  check(vkCreateInstance(&create, nullptr, &instance), "vkCreateInstance");
  if (validation_messages != nullptr) {
    check(reinterpret_cast<PFN_vkCreateDebugUtilsMessengerEXT>(vkGetInstanceProcAddr(
              instance, "vkCreateDebugUtilsMessengerEXT"))(instance, &messages, nullptr, &messenger_),
          "vkCreateDebugUtilsMessengerEXT");
  }
}

void Gpu::choose_device(const Presentation& presentation, const std::string& device_name) {
  std::uint32_t count = 0;
  vkEnumeratePhysicalDevices(instance, &count, nullptr);
  std::vector<VkPhysicalDevice> devices(count);
  vkEnumeratePhysicalDevices(instance, &count, devices.data());
  int best = -1;
  std::string seen;
  for (VkPhysicalDevice each : devices) {
    VkPhysicalDeviceProperties properties{};
    vkGetPhysicalDeviceProperties(each, &properties);
    seen += std::string(seen.empty() ? "" : ", ") + properties.deviceName;
    const auto family = find_family(instance, each, presentation);
    if (!family || rank(properties.deviceType) <= best) continue;
    if (std::string(properties.deviceName).find(device_name) == std::string::npos) continue;
    best = rank(properties.deviceType);
    physical_device = each;
    name = properties.deviceName;
    driver = driver_of(each, properties);
    lent_.queue_family = *family;
    timestamp_period_ns_ = properties.limits.timestampPeriod;
    const std::uint32_t bits = queue_families(each)[*family].timestampValidBits;
    timestamp_mask_ = bits < 64 ? (1ull << bits) - 1 : ~0ull;
  }
  if (best < 0) {
    throw std::runtime_error(
        "no Vulkan device" + (device_name.empty() ? "" : " named " + device_name) +
        " that draws, computes and presents on one queue; there are: " + (seen.empty() ? "none" : seen));
  }
}

void Gpu::make_device(bool presents) {
  lent_.api_version = VK_API_VERSION_1_2;
  lent_.instance = instance;
  lent_.physical_device = physical_device;
  lent_.get_instance_proc_addr = reinterpret_cast<void (*)()>(&vkGetInstanceProcAddr);
  wanted_ = riverhorse_api::vulkan_requirements(lent_);
  wanted_.features.cooperative_matrix = 0;  // its struct is in newer headers than this sample asks for
  extensions_.assign(wanted_.extensions, wanted_.extensions + wanted_.extension_count);
  if (presents) extensions_.push_back(VK_KHR_SWAPCHAIN_EXTENSION_NAME);

  const Features features(wanted_.features);
  const float priority = 1;
  VkDeviceQueueCreateInfo queue_info{VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO};
  queue_info.queueFamilyIndex = lent_.queue_family;
  queue_info.queueCount = 1;
  queue_info.pQueuePriorities = &priority;
  VkDeviceCreateInfo create{VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO};
  create.pNext = features.chain;
  create.queueCreateInfoCount = 1;
  create.pQueueCreateInfos = &queue_info;
  create.enabledExtensionCount = static_cast<std::uint32_t>(extensions_.size());
  create.ppEnabledExtensionNames = extensions_.data();
  check(vkCreateDevice(physical_device, &create, nullptr, &device), "vkCreateDevice");
  vkGetDeviceQueue(device, lent_.queue_family, 0, &queue);

  lent_.device = device;
  lent_.queue = queue;
  lent_.extension_count = static_cast<std::uint32_t>(extensions_.size());
  lent_.extensions = extensions_.data();
  lent_.features = wanted_.features;
}

double Gpu::timestamp_ms(std::uint64_t ticks) const {
  return static_cast<double>(ticks & timestamp_mask_) * timestamp_period_ns_ * 1e-6;
}

VkDeviceMemory Gpu::allocate(const VkMemoryRequirements& needs, VkMemoryPropertyFlags wanted) const {
  VkPhysicalDeviceMemoryProperties memory{};
  vkGetPhysicalDeviceMemoryProperties(physical_device, &memory);
  for (std::uint32_t type = 0; type < memory.memoryTypeCount; ++type) {
    const bool usable = (needs.memoryTypeBits & (1u << type)) != 0;
    if (!usable || (memory.memoryTypes[type].propertyFlags & wanted) != wanted) continue;
    VkMemoryAllocateInfo info{VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO};
    info.allocationSize = needs.size;
    info.memoryTypeIndex = type;
    VkDeviceMemory result = VK_NULL_HANDLE;
    check(vkAllocateMemory(device, &info, nullptr, &result), "vkAllocateMemory");
    return result;
  }
  throw std::runtime_error(name + " has no memory of the kind that a picture needs");
}

void Gpu::run_once(const std::function<void(VkCommandBuffer commands)>& record) const {
  VkCommandPoolCreateInfo create{VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO};
  create.queueFamilyIndex = queue_family();
  VkCommandPool pool = VK_NULL_HANDLE;
  check(vkCreateCommandPool(device, &create, nullptr, &pool), "vkCreateCommandPool");
  VkCommandBufferAllocateInfo allocate{VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO};
  allocate.commandPool = pool;
  allocate.commandBufferCount = 1;
  VkCommandBuffer commands = VK_NULL_HANDLE;
  check(vkAllocateCommandBuffers(device, &allocate, &commands), "vkAllocateCommandBuffers");
  VkCommandBufferBeginInfo begin{VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO};
  begin.flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT;
  check(vkBeginCommandBuffer(commands, &begin), "vkBeginCommandBuffer");
  record(commands);
  check(vkEndCommandBuffer(commands), "vkEndCommandBuffer");
  VkSubmitInfo submit{VK_STRUCTURE_TYPE_SUBMIT_INFO};
  submit.commandBufferCount = 1;
  submit.pCommandBuffers = &commands;
  check(vkQueueSubmit(queue, 1, &submit, VK_NULL_HANDLE), "vkQueueSubmit");
  check(vkQueueWaitIdle(queue), "vkQueueWaitIdle");
  vkDestroyCommandPool(device, pool, nullptr);
}

Gpu::Buffer Gpu::make_buffer(VkDeviceSize bytes, VkBufferUsageFlags usage) const {
  Buffer result;
  VkBufferCreateInfo create{VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO};
  create.size = bytes;
  create.usage = usage;
  check(vkCreateBuffer(device, &create, nullptr, &result.buffer), "vkCreateBuffer");
  VkMemoryRequirements needs{};
  vkGetBufferMemoryRequirements(device, result.buffer, &needs);
  result.memory = allocate(needs, VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT);
  check(vkBindBufferMemory(device, result.buffer, result.memory, 0), "vkBindBufferMemory");
  check(vkMapMemory(device, result.memory, 0, VK_WHOLE_SIZE, 0, &result.mapped), "vkMapMemory");
  return result;
}

Gpu::Image Gpu::make_image(VkExtent2D extent, VkFormat format, VkImageUsageFlags usage) const {
  Image result;
  VkImageCreateInfo create{VK_STRUCTURE_TYPE_IMAGE_CREATE_INFO};
  create.imageType = VK_IMAGE_TYPE_2D;
  create.format = format;
  create.extent = {extent.width, extent.height, 1};
  create.mipLevels = 1;
  create.arrayLayers = 1;
  create.samples = VK_SAMPLE_COUNT_1_BIT;
  create.usage = usage;
  check(vkCreateImage(device, &create, nullptr, &result.image), "vkCreateImage");
  VkMemoryRequirements needs{};
  vkGetImageMemoryRequirements(device, result.image, &needs);
  result.memory = allocate(needs, VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT);
  check(vkBindImageMemory(device, result.image, result.memory, 0), "vkBindImageMemory");
  VkImageViewCreateInfo view{VK_STRUCTURE_TYPE_IMAGE_VIEW_CREATE_INFO};
  view.image = result.image;
  view.viewType = VK_IMAGE_VIEW_TYPE_2D;
  view.format = format;
  view.subresourceRange = {VK_IMAGE_ASPECT_COLOR_BIT, 0, 1, 0, 1};
  check(vkCreateImageView(device, &view, nullptr, &result.view), "vkCreateImageView");
  return result;
}

void Gpu::free(const Buffer& buffer) const {
  vkDestroyBuffer(device, buffer.buffer, nullptr);
  vkFreeMemory(device, buffer.memory, nullptr);
}

void Gpu::free(const Image& image) const {
  vkDestroyImageView(device, image.view, nullptr);
  vkDestroyImage(device, image.image, nullptr);
  vkFreeMemory(device, image.memory, nullptr);
}

}  // namespace tavern
