// VkFFT calls the Vulkan API by its plain names. We link none of them: before vkFFT.h is included, each name it uses
// becomes a macro for the entry of the right DeviceFunctions, those of the call in progress on this thread. That is
// exact for any number of devices, instances and threads, and it lets us correct five more things on the way:
//   * descriptors: our memory is a part of a slab, and VkFFT knows only whole buffers. It is given two tokens for
//     buffers, which vkUpdateDescriptorSets turns into the real buffer, offset and size;
//   * limits: VkFFT sees VulkanLimits, so that DeviceOptions::minimal_features holds for it too;
//   * the queue, on which VkFFT uploads its tables while planning: its lock is held;
//   * allocation callbacks, which VkFFT does not know: those of a host that brought its own;
//   * setlocale, which 1.2.x calls to print numbers with a point, for the whole process and not thread-safe: the
//     locale of this thread is set instead.
#include "vulkan/vkfft_application.h"

#include <locale.h>

#include <algorithm>
#include <clocale>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "base/error.h"
#include "vulkan/core.h"
#include "vulkan/device_impl.h"

namespace riverhorse::vulkan {
namespace {

struct CallContext {
  DeviceCore* core;
  const VkfftApplication::Memory* memory;
};

thread_local const CallContext* call_in_progress = nullptr;

// What VkFFT takes for the handles of its two buffers: addresses of our own, which no driver hands out.
const char rows_token = 0;
const char temporary_token = 0;
VkBuffer token_handle(const char& token) {
  return reinterpret_cast<VkBuffer>(reinterpret_cast<std::uintptr_t>(&token));
}

class CallScope {
 public:
  CallScope(DeviceCore& core, const VkfftApplication::Memory* memory) : context_{&core, memory} {
    call_in_progress = &context_;
  }
  ~CallScope() { call_in_progress = nullptr; }
  CallScope(const CallScope&) = delete;
  CallScope& operator=(const CallScope&) = delete;

 private:
  CallContext context_;
};

class PlainLocale {  // numbers with a point, on this thread
 public:
  PlainLocale() : plain_(newlocale(LC_ALL_MASK, "C", nullptr)), before_(uselocale(plain_)) {}
  ~PlainLocale() {
    uselocale(before_);
    freelocale(plain_);
  }
  PlainLocale(const PlainLocale&) = delete;
  PlainLocale& operator=(const PlainLocale&) = delete;

 private:
  locale_t plain_;
  locale_t before_;
};

[[maybe_unused]] char* locale_of_thread() {  // what setlocale would return; PlainLocale has set it
  static char name[] = "C";
  return name;
}

const DeviceFunctions& table_in_use() { return call_in_progress->core->table; }
[[maybe_unused]] const VkAllocationCallbacks* allocator_in_use() { return call_in_progress->core->allocator; }

[[maybe_unused]] void limited_properties(VkPhysicalDevice physical_device, VkPhysicalDeviceProperties* properties) {
  const DeviceCore& core = *call_in_progress->core;
  core.instance->functions().get_properties(physical_device, properties);
  const VulkanLimits& limits = core.profile.limits;
  VkPhysicalDeviceLimits& seen = properties->limits;
  seen.maxComputeSharedMemorySize = std::min(seen.maxComputeSharedMemorySize, limits.shared_bytes);
  seen.maxComputeWorkGroupInvocations = std::min(seen.maxComputeWorkGroupInvocations, limits.invocations);
  for (int axis = 0; axis < 3; ++axis) {
    seen.maxComputeWorkGroupSize[axis] = std::min(seen.maxComputeWorkGroupSize[axis], limits.invocations);
    seen.maxComputeWorkGroupCount[axis] = std::min(seen.maxComputeWorkGroupCount[axis], limits.group_count[axis]);
  }
}

[[maybe_unused]] void memory_properties(VkPhysicalDevice physical_device,
                                        VkPhysicalDeviceMemoryProperties* properties) {
  VkPhysicalDeviceMemoryProperties2 properties2{};
  properties2.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2;
  call_in_progress->core->instance->functions().get_memory_properties2(physical_device, &properties2);
  *properties = properties2.memoryProperties;
}

[[maybe_unused]] VkResult submit_locked(VkQueue queue, std::uint32_t count, const VkSubmitInfo* submits,
                                        VkFence fence) {
  std::scoped_lock lock(call_in_progress->core->queue_lock);
  return table_in_use().vkQueueSubmit(queue, count, submits, fence);
}

[[maybe_unused]] void update_sets(VkDevice device, std::uint32_t count, const VkWriteDescriptorSet* writes,
                                  std::uint32_t, const VkCopyDescriptorSet*) {
  for (std::uint32_t i = 0; i < count; ++i) {
    VkWriteDescriptorSet write = writes[i];
    std::vector<VkDescriptorBufferInfo> buffers(write.pBufferInfo, write.pBufferInfo + write.descriptorCount);
    for (VkDescriptorBufferInfo& each : buffers) {
      const bool rows = each.buffer == token_handle(rows_token);
      if (!rows && each.buffer != token_handle(temporary_token)) continue;
      const VkfftApplication::Memory& memory = *call_in_progress->memory;
      const VulkanDevice::BufferRange where = rows ? memory.rows() : memory.temporary();
      each = {where.buffer, where.offset, where.size};
    }
    write.pBufferInfo = buffers.data();
    table_in_use().vkUpdateDescriptorSets(device, 1, &write, 0, nullptr);
  }
}

}  // namespace
}  // namespace riverhorse::vulkan

#define RIVERHORSE_ALLOCATOR (riverhorse::vulkan::allocator_in_use())
#define RIVERHORSE_VK(name) (riverhorse::vulkan::table_in_use().name)
#define vkAllocateCommandBuffers RIVERHORSE_VK(vkAllocateCommandBuffers)
#define vkAllocateDescriptorSets RIVERHORSE_VK(vkAllocateDescriptorSets)
#define vkAllocateMemory(device, info, none, out) \
  RIVERHORSE_VK(vkAllocateMemory)(device, info, RIVERHORSE_ALLOCATOR, out)
#define vkBeginCommandBuffer RIVERHORSE_VK(vkBeginCommandBuffer)
#define vkBindBufferMemory RIVERHORSE_VK(vkBindBufferMemory)
#define vkCmdBindDescriptorSets RIVERHORSE_VK(vkCmdBindDescriptorSets)
#define vkCmdBindPipeline RIVERHORSE_VK(vkCmdBindPipeline)
#define vkCmdCopyBuffer RIVERHORSE_VK(vkCmdCopyBuffer)
#define vkCmdDispatch RIVERHORSE_VK(vkCmdDispatch)
#define vkCmdPipelineBarrier RIVERHORSE_VK(vkCmdPipelineBarrier)
#define vkCmdPushConstants RIVERHORSE_VK(vkCmdPushConstants)
#define vkCreateBuffer(device, info, none, out) RIVERHORSE_VK(vkCreateBuffer)(device, info, RIVERHORSE_ALLOCATOR, out)
#define vkCreateComputePipelines(device, cache, count, infos, none, out) \
  RIVERHORSE_VK(vkCreateComputePipelines)(device, cache, count, infos, RIVERHORSE_ALLOCATOR, out)
#define vkCreateDescriptorPool(device, info, none, out) \
  RIVERHORSE_VK(vkCreateDescriptorPool)(device, info, RIVERHORSE_ALLOCATOR, out)
#define vkCreateDescriptorSetLayout(device, info, none, out) \
  RIVERHORSE_VK(vkCreateDescriptorSetLayout)(device, info, RIVERHORSE_ALLOCATOR, out)
#define vkCreatePipelineLayout(device, info, none, out) \
  RIVERHORSE_VK(vkCreatePipelineLayout)(device, info, RIVERHORSE_ALLOCATOR, out)
#define vkCreateShaderModule(device, info, none, out) \
  RIVERHORSE_VK(vkCreateShaderModule)(device, info, RIVERHORSE_ALLOCATOR, out)
#define vkDestroyBuffer(device, object, none) RIVERHORSE_VK(vkDestroyBuffer)(device, object, RIVERHORSE_ALLOCATOR)
#define vkDestroyDescriptorPool(device, object, none) \
  RIVERHORSE_VK(vkDestroyDescriptorPool)(device, object, RIVERHORSE_ALLOCATOR)
#define vkDestroyDescriptorSetLayout(device, object, none) \
  RIVERHORSE_VK(vkDestroyDescriptorSetLayout)(device, object, RIVERHORSE_ALLOCATOR)
#define vkDestroyPipeline(device, object, none) RIVERHORSE_VK(vkDestroyPipeline)(device, object, RIVERHORSE_ALLOCATOR)
#define vkDestroyPipelineLayout(device, object, none) \
  RIVERHORSE_VK(vkDestroyPipelineLayout)(device, object, RIVERHORSE_ALLOCATOR)
#define vkDestroyShaderModule(device, object, none) \
  RIVERHORSE_VK(vkDestroyShaderModule)(device, object, RIVERHORSE_ALLOCATOR)
#define vkEndCommandBuffer RIVERHORSE_VK(vkEndCommandBuffer)
#define vkFreeCommandBuffers RIVERHORSE_VK(vkFreeCommandBuffers)
#define vkFreeMemory(device, object, none) RIVERHORSE_VK(vkFreeMemory)(device, object, RIVERHORSE_ALLOCATOR)
#define vkGetBufferMemoryRequirements RIVERHORSE_VK(vkGetBufferMemoryRequirements)
#define vkMapMemory RIVERHORSE_VK(vkMapMemory)
#define vkResetFences RIVERHORSE_VK(vkResetFences)
#define vkUnmapMemory RIVERHORSE_VK(vkUnmapMemory)
#define vkWaitForFences RIVERHORSE_VK(vkWaitForFences)
#define vkGetPhysicalDeviceMemoryProperties riverhorse::vulkan::memory_properties
#define vkGetPhysicalDeviceProperties riverhorse::vulkan::limited_properties
#define vkQueueSubmit riverhorse::vulkan::submit_locked
#define vkUpdateDescriptorSets riverhorse::vulkan::update_sets
#define setlocale(category, name) riverhorse::vulkan::locale_of_thread()

#include <vkFFT.h>

namespace riverhorse::vulkan {

struct VkfftApplication::Impl {
  std::shared_ptr<DeviceCore> core;
  // What VkFFT keeps pointers to.
  VkPhysicalDevice physical_device = VK_NULL_HANDLE;
  VkDevice device = VK_NULL_HANDLE;
  VkQueue queue = VK_NULL_HANDLE;
  VkCommandPool pool = VK_NULL_HANDLE;
  VkFence fence = VK_NULL_HANDLE;
  VkBuffer rows = VK_NULL_HANDLE;
  VkBuffer temporary = VK_NULL_HANDLE;
  Memory memory;
  std::uint64_t rows_bytes = 0;
  std::uint64_t temporary_bytes = 0;
  VkFFTApplication application = {};
  bool planned = false;

  ~Impl() {
    const CallScope call(*core, &memory);
    if (planned) deleteVkFFT(&application);
    core->table.vkDestroyFence(device, fence, core->allocator);
    core->table.vkDestroyCommandPool(device, pool, core->allocator);
  }
};

namespace {

std::mutex& planning_mutex() {  // glslang's start and end are counted for the whole process
  static std::mutex mutex;
  return mutex;
}

}  // namespace

VkfftApplication::VkfftApplication(VulkanDevice& device, const FftShape& shape, const Memory& memory,
                                   std::span<const std::byte> saved)
    : impl_(std::make_unique<Impl>()) {
  Impl& impl = *impl_;
  impl.core = device.impl().core;
  impl.memory = memory;
  DeviceCore& core = *impl.core;
  impl.physical_device = device.physical_device();
  impl.device = device.handle();
  impl.queue = device.queue();
  VkCommandPoolCreateInfo pool_info{};
  pool_info.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO;
  pool_info.queueFamilyIndex = device.queue_family();
  pool_info.flags = VK_COMMAND_POOL_CREATE_TRANSIENT_BIT;
  check(core.table.vkCreateCommandPool(impl.device, &pool_info, core.allocator, &impl.pool),
        "creating VkFFT's command pool");
  VkFenceCreateInfo fence_info{};
  fence_info.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO;
  check(core.table.vkCreateFence(impl.device, &fence_info, core.allocator, &impl.fence), "creating VkFFT's fence");
  impl.rows = token_handle(rows_token);
  impl.temporary = token_handle(temporary_token);
  impl.rows_bytes = std::uint64_t{shape.rows} * (shape.size + 2) * sizeof(float);
  impl.temporary_bytes = 2 * impl.rows_bytes;  // 1.3.x counts full complex rows

  VkFFTConfiguration configuration = {};
  configuration.FFTdim = 1;
  configuration.size[0] = shape.size;
  configuration.numberBatches = shape.rows;
  configuration.performR2C = 1;
  // Tables instead of the shader's sin and cos, whose error Vulkan bounds by 2^-11 only.
  configuration.useLUT = 1;
  // Else two rows are the real and imaginary part of one transform, and what is in one (another sequence's large
  // values, or infinity, or what an unused row happens to hold) shows in the other's last digits, or destroys it.
  configuration.disableMergeSequencesR2C = 1;
  configuration.makeForwardPlanOnly = shape.forward_only ? 1 : 0;
  configuration.performZeropadding[0] = 1;
  configuration.fft_zeropad_left[0] = shape.size / 2;
  configuration.fft_zeropad_right[0] = shape.size;
  configuration.physicalDevice = &impl.physical_device;
  configuration.device = &impl.device;
  configuration.queue = &impl.queue;
  configuration.commandPool = &impl.pool;
  configuration.fence = &impl.fence;
  configuration.buffer = &impl.rows;
  configuration.bufferSize = &impl.rows_bytes;
  configuration.userTempBuffer = 1;
  configuration.tempBuffer = &impl.temporary;
  configuration.tempBufferSize = &impl.temporary_bytes;
  if (saved.empty()) {
    configuration.saveApplicationToString = 1;
  } else {
    configuration.loadApplicationFromString = 1;
    configuration.loadApplicationString = const_cast<std::byte*>(saved.data());
  }

  std::scoped_lock lock(planning_mutex());
  const PlainLocale locale;
  const CallScope call(core, &impl.memory);
  const VkFFTResult result = initializeVkFFT(&impl.application, configuration);
  if (result != VKFFT_SUCCESS) {  // it has deleted what it had made
    fail(result == VKFFT_ERROR_MALLOC_FAILED || result == VKFFT_ERROR_FAILED_TO_ALLOCATE_MEMORY
             ? StatusCode::out_of_memory
             : StatusCode::unsupported,
         "VkFFT cannot plan {} real transforms of {} values on {} (its error {}): use --conv chunked", shape.rows,
         shape.size, core.info.name, static_cast<int>(result));
  }
  impl.planned = true;
}

VkfftApplication::~VkfftApplication() {
  std::scoped_lock lock(planning_mutex());
  impl_.reset();
}

void VkfftApplication::append(VkCommandBuffer commands, bool inverse) {
  Impl& impl = *impl_;
  const CallScope call(*impl.core, &impl.memory);
  VkFFTLaunchParams parameters = {};
  parameters.commandBuffer = &commands;
  const VkFFTResult result = VkFFTAppend(&impl.application, inverse ? 1 : -1, &parameters);
  if (result != VKFFT_SUCCESS) {
    fail(StatusCode::internal, "VkFFT could not record a transform (its error {})", static_cast<int>(result));
  }
}

std::span<const std::byte> VkfftApplication::saved_form() const {
  const VkFFTApplication& application = impl_->application;
  if (application.saveApplicationString == nullptr) return {};
  return {static_cast<const std::byte*>(application.saveApplicationString), application.applicationStringSize};
}

std::uint32_t VkfftApplication::version() { return static_cast<std::uint32_t>(VkFFTGetVersion()); }

}  // namespace riverhorse::vulkan
