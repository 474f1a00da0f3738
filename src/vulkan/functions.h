// The Vulkan functions in use, as pointers of each instance and each device. Nothing of Vulkan is linked and none of
// its names is a symbol of ours: a host that links the loader, or loads its functions by a library of its own, can
// link a static Riverhorse beside it. And what a device calls never goes by way of another instance's loader.
#pragma once

#include <vulkan/vulkan.h>

namespace riverhorse::vulkan {

// The loader's entry, from which all others follow; null where there is no Vulkan loader. Loaded once a process.
PFN_vkGetInstanceProcAddr find_loader();

// Every name that is used with a device. Those of extensions stay null where the extension is not enabled.
// clang-format off
#define RIVERHORSE_VULKAN_DEVICE_FUNCTIONS(X)                                                                         \
  X(vkAllocateCommandBuffers) X(vkAllocateDescriptorSets) X(vkAllocateMemory) X(vkBeginCommandBuffer)                 \
  X(vkBindBufferMemory) X(vkCmdBindDescriptorSets) X(vkCmdBindPipeline) X(vkCmdCopyBuffer) X(vkCmdDispatch)           \
  X(vkCmdExecuteCommands) X(vkCmdSetEvent) X(vkCreateEvent) X(vkDestroyEvent) X(vkGetEventStatus) X(vkResetEvent)    \
  X(vkCmdFillBuffer) X(vkCmdPipelineBarrier) X(vkCmdPushConstants) X(vkCmdPushDescriptorSetKHR)                       \
  X(vkCmdResetQueryPool) X(vkCmdUpdateBuffer) X(vkCmdWriteTimestamp) X(vkCreateBuffer) X(vkCreateCommandPool)         \
  X(vkCreateComputePipelines) X(vkCreateDescriptorPool) X(vkCreateDescriptorSetLayout) X(vkCreateFence)               \
  X(vkCreatePipelineCache) X(vkCreatePipelineLayout) X(vkCreateQueryPool) X(vkCreateSemaphore)                        \
  X(vkCreateShaderModule) X(vkDestroyBuffer) X(vkDestroyCommandPool) X(vkDestroyDescriptorPool)                       \
  X(vkDestroyDescriptorSetLayout) X(vkDestroyDevice) X(vkDestroyFence) X(vkDestroyPipeline)                           \
  X(vkDestroyPipelineCache) X(vkDestroyPipelineLayout) X(vkDestroyQueryPool) X(vkDestroySemaphore)                    \
  X(vkDestroyShaderModule) X(vkDeviceWaitIdle) X(vkEndCommandBuffer) X(vkFreeCommandBuffers) X(vkFreeMemory)          \
  X(vkGetBufferMemoryRequirements) X(vkGetDeviceQueue) X(vkGetFenceStatus) X(vkGetPipelineCacheData)                  \
  X(vkGetPipelineExecutablePropertiesKHR) X(vkGetPipelineExecutableStatisticsKHR) X(vkGetQueryPoolResults)            \
  X(vkGetSemaphoreCounterValue) X(vkGetSemaphoreCounterValueKHR) X(vkMapMemory) X(vkQueueSubmit) X(vkResetCommandPool)     \
  X(vkResetFences) X(vkUnmapMemory) X(vkUpdateDescriptorSets) X(vkWaitForFences) X(vkWaitSemaphores) X(vkWaitSemaphoresKHR)
// clang-format on

struct DeviceFunctions {
#define RIVERHORSE_MEMBER(name) PFN_##name name = nullptr;
  RIVERHORSE_VULKAN_DEVICE_FUNCTIONS(RIVERHORSE_MEMBER)
#undef RIVERHORSE_MEMBER

  void load(VkDevice device, PFN_vkGetDeviceProcAddr get);
};

}  // namespace riverhorse::vulkan
