// A program with a Vulkan device of its own, as a game has one: instance, validation where the layer is installed
// (core and synchronisation, messages counted), a device with what Riverhorse asks for, one queue, and an object of
// its own on it. Links the Vulkan loader directly, as many programs do.
#pragma once

#include <gtest/gtest.h>
#include <riverhorse/vulkan.h>
#include <vulkan/vulkan.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

namespace api_test {

#define EXPECT_VK(call) EXPECT_EQ(call, VK_SUCCESS)
#define ASSERT_VK(call) ASSERT_EQ(call, VK_SUCCESS)

class VulkanHost {
 public:
  struct Options {
    std::uint32_t api_version = VK_API_VERSION_1_2;
    bool validation = true;
    bool features = true;  // all that Riverhorse asks for; false: none
    const VkAllocationCallbacks* allocation_callbacks = nullptr;
    bool lock = false;  // the queue has a lock of the host's
  };

  VulkanHost() : VulkanHost(Options{}) {}
  explicit VulkanHost(const Options& options) : options_(options) { open(); }
  ~VulkanHost() { close(); }
  VulkanHost(const VulkanHost&) = delete;
  VulkanHost& operator=(const VulkanHost&) = delete;

  bool usable() const { return device_ != VK_NULL_HANDLE; }
  VkDevice device() const { return device_; }
  VkQueue queue() const { return queue_; }
  VkPhysicalDevice physical_device() const { return physical_device_; }
  std::uint32_t queue_family() const { return queue_family_; }
  std::uint64_t messages() const { return messages_; }
  std::uint64_t locks() const { return locks_; }
  const char* name() const { return name_.c_str(); }
  const riverhorse_vulkan_requirements& requirements() const { return requirements_; }

  riverhorse_vulkan_device handles() const {
    riverhorse_vulkan_device handles{};
    handles.struct_size = sizeof handles;
    handles.api_version = options_.api_version;
    handles.instance = instance_;
    handles.physical_device = physical_device_;
    handles.device = device_;
    handles.queue = queue_;
    handles.queue_family = queue_family_;
    handles.get_instance_proc_addr = reinterpret_cast<void (*)()>(&vkGetInstanceProcAddr);
    handles.allocation_callbacks = options_.allocation_callbacks;
    if (options_.features) {
      handles.extension_count = requirements_.extension_count;
      handles.extensions = requirements_.extensions;
      handles.features = requirements_.features;
    }
    if (options_.lock) {
      handles.lock_queue = [](void* user) {
        static_cast<VulkanHost*>(user)->mutex_.lock();
        ++static_cast<VulkanHost*>(user)->locks_;
      };
      handles.unlock_queue = [](void* user) { static_cast<VulkanHost*>(user)->mutex_.unlock(); };
      handles.lock_user = const_cast<VulkanHost*>(this);
    }
    return handles;
  }

  // Commands of the host's, submitted and waited for.
  template <typename Record>
  void run(const Record& record) {
    ASSERT_VK(vkResetCommandPool(device_, pool_, 0));
    VkCommandBufferBeginInfo begin{};
    begin.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO;
    begin.flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT;
    ASSERT_VK(vkBeginCommandBuffer(commands_, &begin));
    record(commands_);
    ASSERT_VK(vkEndCommandBuffer(commands_));
    VkSubmitInfo submit{};
    submit.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO;
    submit.commandBufferCount = 1;
    submit.pCommandBuffers = &commands_;
    ASSERT_VK(vkResetFences(device_, 1, &fence_));
    {
      const std::scoped_lock lock(mutex_);
      ASSERT_VK(vkQueueSubmit(queue_, 1, &submit, fence_));
    }
    ASSERT_VK(vkWaitForFences(device_, 1, &fence_, VK_TRUE, UINT64_MAX));
  }

  // The host's own object: filled by its queue, read by it.
  void fill(std::uint32_t value) {
    run([&](VkCommandBuffer commands) {
      vkCmdFillBuffer(commands, buffer_, 0, VK_WHOLE_SIZE, value);
      VkMemoryBarrier barrier{};
      barrier.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER;
      barrier.srcAccessMask = VK_ACCESS_TRANSFER_WRITE_BIT;
      barrier.dstAccessMask = VK_ACCESS_HOST_READ_BIT;
      vkCmdPipelineBarrier(commands, VK_PIPELINE_STAGE_TRANSFER_BIT, VK_PIPELINE_STAGE_HOST_BIT, 0, 1, &barrier, 0,
                           nullptr, 0, nullptr);
    });
  }
  bool holds(std::uint32_t value) const {
    return std::all_of(words_, words_ + buffer_words, [&](std::uint32_t word) { return word == value; });
  }

  // Everything of the host's is destroyed; what Riverhorse left behind on the device would be a message.
  void close() {
    if (device_ != VK_NULL_HANDLE) {
      vkDestroyFence(device_, fence_, nullptr);
      vkDestroyCommandPool(device_, pool_, nullptr);
      vkDestroyBuffer(device_, buffer_, nullptr);
      vkFreeMemory(device_, memory_, nullptr);
      vkDestroyDevice(device_, nullptr);
      device_ = VK_NULL_HANDLE;
    }
    if (instance_ != VK_NULL_HANDLE) {
      if (messenger_ != VK_NULL_HANDLE) {
        reinterpret_cast<PFN_vkDestroyDebugUtilsMessengerEXT>(
            vkGetInstanceProcAddr(instance_, "vkDestroyDebugUtilsMessengerEXT"))(instance_, messenger_, nullptr);
      }
      vkDestroyInstance(instance_, nullptr);
      instance_ = VK_NULL_HANDLE;
    }
  }

 private:
  static constexpr std::size_t buffer_words = 1024;

  static VKAPI_ATTR VkBool32 VKAPI_CALL on_message(VkDebugUtilsMessageSeverityFlagBitsEXT,
                                                   VkDebugUtilsMessageTypeFlagsEXT,
                                                   const VkDebugUtilsMessengerCallbackDataEXT* data, void* user) {
    if (is_known_advice(data->pMessage)) return VK_FALSE;
    ++static_cast<VulkanHost*>(user)->messages_;
    std::printf("validation: %s\n", data->pMessage);
    return VK_FALSE;
  }

  // Best practices that are broken on purpose, or not by Riverhorse.
  static bool is_known_advice(const char* message) {
    constexpr std::array<const char*, 4> known = {
        // The messenger of this host is a debugging extension.
        "BestPractices-vkCreateInstance-specialuse-extension",
        // A recorded step is queued again while it runs, and is in several frames in flight.
        "BestPractices-vkBeginCommandBuffer-simultaneous-use",
        // VkFFT's tables and this host's buffer; Riverhorse's own memory comes in slabs.
        "BestPractices-vkAllocateMemory-small-allocation",
        "BestPractices-vkBindMemory-small-dedicated-allocation",
    };
    return std::any_of(known.begin(), known.end(),
                       [&](const char* each) { return std::strstr(message, each) != nullptr; });
  }

  bool has_validation() const {
    std::uint32_t count = 0;
    vkEnumerateInstanceLayerProperties(&count, nullptr);
    std::vector<VkLayerProperties> layers(count);
    vkEnumerateInstanceLayerProperties(&count, layers.data());
    return std::any_of(layers.begin(), layers.end(), [](const VkLayerProperties& layer) {
      return std::strcmp(layer.layerName, "VK_LAYER_KHRONOS_validation") == 0;
    });
  }

  void open_instance() {
    VkApplicationInfo application{};
    application.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO;
    application.apiVersion = options_.api_version;
    VkDebugUtilsMessengerCreateInfoEXT messages{};
    messages.sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_MESSENGER_CREATE_INFO_EXT;
    messages.messageSeverity =
        VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT | VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT;
    messages.messageType =
        VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT | VK_DEBUG_UTILS_MESSAGE_TYPE_PERFORMANCE_BIT_EXT;
    messages.pfnUserCallback = &VulkanHost::on_message;
    messages.pUserData = this;
    const VkValidationFeatureEnableEXT checks[] = {VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT,
                                                   VK_VALIDATION_FEATURE_ENABLE_BEST_PRACTICES_EXT};
    VkValidationFeaturesEXT features{};
    features.sType = VK_STRUCTURE_TYPE_VALIDATION_FEATURES_EXT;
    features.pNext = &messages;
    features.enabledValidationFeatureCount = 2;
    features.pEnabledValidationFeatures = checks;
    const char* layers[] = {"VK_LAYER_KHRONOS_validation"};
    const char* extensions[] = {VK_EXT_DEBUG_UTILS_EXTENSION_NAME};
    VkInstanceCreateInfo create{};
    create.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO;
    create.pApplicationInfo = &application;
    const bool validation = options_.validation && has_validation();
    if (options_.validation && !validation) std::printf("WITHOUT VALIDATION: the layer is not installed\n");
    if (validation) {
      create.pNext = &features;
      create.enabledLayerCount = 1;
      create.ppEnabledLayerNames = layers;
      create.enabledExtensionCount = 1;
      create.ppEnabledExtensionNames = extensions;
    }
    if (vkCreateInstance(&create, nullptr, &instance_) != VK_SUCCESS) {
      instance_ = VK_NULL_HANDLE;
      return;
    }
    if (validation) {
      messages.pNext = nullptr;
      EXPECT_VK(reinterpret_cast<PFN_vkCreateDebugUtilsMessengerEXT>(vkGetInstanceProcAddr(
          instance_, "vkCreateDebugUtilsMessengerEXT"))(instance_, &messages, nullptr, &messenger_));
    }
  }

  void open() {
    open_instance();
    if (instance_ == VK_NULL_HANDLE) return;
    std::uint32_t count = 0;
    vkEnumeratePhysicalDevices(instance_, &count, nullptr);
    std::vector<VkPhysicalDevice> found(count);
    if (count == 0 || vkEnumeratePhysicalDevices(instance_, &count, found.data()) != VK_SUCCESS) return;
    for (VkPhysicalDevice each : found) {
      VkPhysicalDeviceProperties properties{};
      vkGetPhysicalDeviceProperties(each, &properties);
      const bool discrete = properties.deviceType == VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU;
      if (physical_device_ == VK_NULL_HANDLE || discrete) {
        physical_device_ = each;
        name_ = properties.deviceName;
      }
      if (discrete) break;
    }
    riverhorse_vulkan_device lent = handles();
    requirements_.struct_size = sizeof requirements_;
    ASSERT_EQ(riverhorse_vulkan_query_requirements(&lent, &requirements_), RIVERHORSE_OK) << riverhorse_last_error();
    queue_family_ = requirements_.queue_family;
    open_device();
    open_object();
  }

  void open_device() {
    const riverhorse_vulkan_features& has = requirements_.features;
    VkPhysicalDeviceFeatures2 chain{};
    chain.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2;
    const auto add = [&](auto& feature, bool wanted) {
      if (!wanted || !options_.features) return;
      feature.pNext = chain.pNext;
      chain.pNext = &feature;
    };
    VkPhysicalDevice16BitStorageFeatures storage{};
    storage.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_16BIT_STORAGE_FEATURES;
    storage.storageBuffer16BitAccess = VK_TRUE;
    add(storage, has.storage_buffer_16bit_access != 0);
    VkPhysicalDeviceShaderFloat16Int8Features half{};
    half.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_FLOAT16_INT8_FEATURES;
    half.shaderFloat16 = VK_TRUE;
    add(half, has.shader_float16 != 0);
    VkPhysicalDeviceTimelineSemaphoreFeatures timeline{};
    timeline.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_TIMELINE_SEMAPHORE_FEATURES;
    timeline.timelineSemaphore = VK_TRUE;
    add(timeline, has.timeline_semaphore != 0);
    VkPhysicalDeviceSubgroupSizeControlFeatures subgroups{};
    subgroups.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES;
    subgroups.subgroupSizeControl = VK_TRUE;
    subgroups.computeFullSubgroups = VK_TRUE;
    add(subgroups, has.subgroup_size_control != 0);
    VkPhysicalDeviceVulkanMemoryModelFeatures memory_model{};
    memory_model.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_MEMORY_MODEL_FEATURES;
    memory_model.vulkanMemoryModel = VK_TRUE;
    memory_model.vulkanMemoryModelDeviceScope = VK_TRUE;
    add(memory_model, has.vulkan_memory_model != 0);
    struct {  // VkPhysicalDeviceCooperativeMatrixFeaturesKHR, which older headers lack
      VkStructureType sType;
      void* pNext;
      VkBool32 cooperativeMatrix, cooperativeMatrixRobustBufferAccess;
    } matrices{static_cast<VkStructureType>(1000506000), nullptr, VK_TRUE, VK_FALSE};
    add(matrices, has.cooperative_matrix != 0);

    const float priority = 1;
    VkDeviceQueueCreateInfo queue{};
    queue.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO;
    queue.queueFamilyIndex = queue_family_;
    queue.queueCount = 1;
    queue.pQueuePriorities = &priority;
    VkDeviceCreateInfo create{};
    create.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO;
    create.pNext = &chain;
    create.queueCreateInfoCount = 1;
    create.pQueueCreateInfos = &queue;
    if (options_.features) {
      create.enabledExtensionCount = requirements_.extension_count;
      create.ppEnabledExtensionNames = requirements_.extensions;
    }
    ASSERT_VK(vkCreateDevice(physical_device_, &create, nullptr, &device_));
    vkGetDeviceQueue(device_, queue_family_, 0, &queue_);
  }

  void open_object() {
    VkBufferCreateInfo create{};
    create.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO;
    create.size = buffer_words * sizeof(std::uint32_t);
    create.usage = VK_BUFFER_USAGE_TRANSFER_DST_BIT;
    ASSERT_VK(vkCreateBuffer(device_, &create, nullptr, &buffer_));
    VkMemoryRequirements needs{};
    vkGetBufferMemoryRequirements(device_, buffer_, &needs);
    VkPhysicalDeviceMemoryProperties memory{};
    vkGetPhysicalDeviceMemoryProperties(physical_device_, &memory);
    const VkMemoryPropertyFlags wanted = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    std::uint32_t type = 0;
    while ((needs.memoryTypeBits & (1u << type)) == 0 ||
           (memory.memoryTypes[type].propertyFlags & wanted) != wanted) {
      ++type;
    }
    VkMemoryAllocateInfo allocate{};
    allocate.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO;
    allocate.allocationSize = needs.size;
    allocate.memoryTypeIndex = type;
    ASSERT_VK(vkAllocateMemory(device_, &allocate, nullptr, &memory_));
    ASSERT_VK(vkBindBufferMemory(device_, buffer_, memory_, 0));
    void* mapped = nullptr;
    ASSERT_VK(vkMapMemory(device_, memory_, 0, VK_WHOLE_SIZE, 0, &mapped));
    words_ = static_cast<const std::uint32_t*>(mapped);
    VkCommandPoolCreateInfo pool{};
    pool.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO;
    pool.queueFamilyIndex = queue_family_;
    ASSERT_VK(vkCreateCommandPool(device_, &pool, nullptr, &pool_));
    VkCommandBufferAllocateInfo buffers{};
    buffers.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO;
    buffers.commandPool = pool_;
    buffers.commandBufferCount = 1;
    ASSERT_VK(vkAllocateCommandBuffers(device_, &buffers, &commands_));
    VkFenceCreateInfo fence{};
    fence.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO;
    ASSERT_VK(vkCreateFence(device_, &fence, nullptr, &fence_));
  }

  Options options_;
  std::string name_;
  std::atomic<std::uint64_t> messages_{0};
  std::uint64_t locks_ = 0;
  std::mutex mutex_;
  riverhorse_vulkan_requirements requirements_{};
  VkInstance instance_ = VK_NULL_HANDLE;
  VkDebugUtilsMessengerEXT messenger_ = VK_NULL_HANDLE;
  VkPhysicalDevice physical_device_ = VK_NULL_HANDLE;
  VkDevice device_ = VK_NULL_HANDLE;
  VkQueue queue_ = VK_NULL_HANDLE;
  std::uint32_t queue_family_ = 0;
  VkCommandPool pool_ = VK_NULL_HANDLE;
  VkCommandBuffer commands_ = VK_NULL_HANDLE;
  VkFence fence_ = VK_NULL_HANDLE;
  VkBuffer buffer_ = VK_NULL_HANDLE;
  VkDeviceMemory memory_ = VK_NULL_HANDLE;
  const std::uint32_t* words_ = nullptr;
};

}  // namespace api_test
