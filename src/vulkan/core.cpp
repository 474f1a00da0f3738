#include "vulkan/core.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "vulkan/adopted.h"
#include "vulkan/barrier.h"

namespace riverhorse::vulkan {
namespace {

DeviceProfile find_profile(const Instance& instance, const DeviceInfo& info, bool minimal) {
  for (VkPhysicalDevice each : instance.physical_devices()) {
    VkPhysicalDeviceProperties properties{};
    instance.functions().get_properties(each, &properties);
    if (properties.apiVersion < VK_API_VERSION_1_1) continue;
    DeviceProfile profile = query_profile(instance, each, minimal);
    if (profile.uuid == info.uuid && info.name == profile.properties.deviceName) return profile;
  }
  fail(StatusCode::not_found, "Vulkan device {} ({}) is no longer there; list the devices again", info.name,
       info.id());
}

}  // namespace

Support low_priority_support(const DeviceInfo& info) {
  const LowPriority low = find_profile(Instance(false), info, true).low_priority;
  return {low.extension != nullptr, low.reason};
}

DeviceCore::DeviceCore(const DeviceInfo& chosen, const DeviceOptions& wanted, QueuePriority priority)
    : instance(std::make_unique<Instance>(wanted.validation)), info(chosen), options(wanted) {
  profile = find_profile(*instance, chosen, wanted.minimal_features);
  device = create_logical_device(*instance, profile, priority, low_priority);
  table.load(device, instance->functions().get_device_proc_addr);
  table.vkGetDeviceQueue(device, profile.queue_family, 0, &queue);
  start();
}

DeviceCore::DeviceCore(std::shared_ptr<AdoptedVulkan> adopted, const DeviceOptions& wanted)
    : options(wanted), low_priority{false, "its queue is the application's"}, owns_device_(false) {
  if (wanted.validation) {
    fail(StatusCode::invalid_argument,
         "validation was asked for on a host's device; it is the host's to enable, with its own instance");
  }
  const VulkanHandles& handles = adopted->handles();
  instance = borrow_instance(handles);
  profile = adopted_profile(*instance, handles, wanted.minimal_features);
  info = describe(*instance, profile);
  info.index = adopted_index;
  device = static_cast<VkDevice>(handles.device);
  queue = static_cast<VkQueue>(handles.queue);
  if (handles.allocation_callbacks != nullptr) {
    host_allocator_ = *static_cast<const VkAllocationCallbacks*>(handles.allocation_callbacks);
    allocator = &host_allocator_;
  }
  queue_lock.adopted = std::move(adopted);
  table.load(device, instance->functions().get_device_proc_addr);
  start();
}

void DeviceCore::start() {
  if (options.groups_may_wait) profile.limits.groups_may_wait = *options.groups_may_wait && !options.minimal_features;
  // Low guesses: the first submission of a recording is cut too finely rather than too coarsely.
  switch (info.type) {
    case DeviceType::discrete_gpu: nominal_bytes_per_ms = 1e8, nominal_flops_per_ms = 1e9; break;
    case DeviceType::integrated_gpu:
    case DeviceType::virtual_gpu: nominal_bytes_per_ms = 1e7, nominal_flops_per_ms = 1e8; break;
    default: nominal_bytes_per_ms = 5e5, nominal_flops_per_ms = 1e6; break;
  }
  nominal_dispatch_ms = info.type == DeviceType::software ? 0.02 : 0.003;
  if (profile.timeline_semaphore && profile.api_version < VK_API_VERSION_1_2) {
    // Before Vulkan 1.2 the functions carry the extension's suffix.
    table.vkWaitSemaphores = table.vkWaitSemaphoresKHR;
    table.vkGetSemaphoreCounterValue = table.vkGetSemaphoreCounterValueKHR;
  }
}

DeviceCore::~DeviceCore() {
  if (device == VK_NULL_HANDLE) return;
  // All of ours has been waited for. A host's device may be busy with work that is none of our business.
  if (!lost_ && owns_device_) table.vkDeviceWaitIdle(device);
  for (const PendingFence& pending : pending_fences_) table.vkDestroyFence(device, pending.fence, allocator);
  for (VkFence fence : free_fences_) table.vkDestroyFence(device, fence, allocator);
  if (timeline_ != VK_NULL_HANDLE) table.vkDestroySemaphore(device, timeline_, allocator);
  if (owns_device_) table.vkDestroyDevice(device, nullptr);
}

// lavapipe notes the time when its rasteriser next runs, which may be after what follows, or after all of it; a
// barrier makes it run.
void DeviceCore::write_timestamp(VkCommandBuffer commands, VkQueryPool pool, std::uint32_t query) const {
  table.vkCmdWriteTimestamp(commands, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, pool, query);
  if (info.type == DeviceType::software) barrier(table, commands, work_stages, 0, work_stages, 0);
}

void DeviceCore::check_device(VkResult result, const std::string& what) {
  if (result == VK_SUCCESS) return;
  if (result == VK_ERROR_DEVICE_LOST) {
    lost_ = true;
    fail(StatusCode::device_lost,
         "Vulkan device {} was lost while {}: its driver reset it or it was removed; open it again, or use another",
         info.name, what);
  }
  check(result, what);
}

// Made at the first submission: drivers that only compile (null devices) have none.
void DeviceCore::make_timeline() {
  VkSemaphoreTypeCreateInfo type{};
  type.sType = VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO;
  type.semaphoreType = VK_SEMAPHORE_TYPE_TIMELINE;
  VkSemaphoreCreateInfo create{};
  create.sType = VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO;
  create.pNext = &type;
  check_device(table.vkCreateSemaphore(device, &create, allocator, &timeline_), "creating a timeline semaphore");
}

VkFence DeviceCore::take_fence() {
  if (!free_fences_.empty()) {
    VkFence fence = free_fences_.back();
    free_fences_.pop_back();
    check_device(table.vkResetFences(device, 1, &fence), "resetting a fence");
    return fence;
  }
  VkFenceCreateInfo create{};
  create.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO;
  VkFence fence = VK_NULL_HANDLE;
  check(table.vkCreateFence(device, &create, allocator, &fence), "creating a fence");
  return fence;
}

void DeviceCore::submit_group(std::span<const VkCommandBuffer> commands, VkFence fence) {
  if (lost_) check_device(VK_ERROR_DEVICE_LOST, "submitting work");
  VkSubmitInfo submit{};
  submit.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO;
  submit.commandBufferCount = static_cast<std::uint32_t>(commands.size());
  submit.pCommandBuffers = commands.data();
  std::scoped_lock lock(queue_lock);
  check_device(table.vkQueueSubmit(queue, 1, &submit, fence), "submitting work");
}

std::uint64_t DeviceCore::submit_final_group(std::span<const VkCommandBuffer> commands) {
  if (lost_) check_device(VK_ERROR_DEVICE_LOST, "submitting work");
  if (profile.timeline_semaphore && timeline_ == VK_NULL_HANDLE) make_timeline();
  const std::uint64_t ticket = last_ticket_ + 1;
  VkSubmitInfo submit{};
  submit.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO;
  submit.commandBufferCount = static_cast<std::uint32_t>(commands.size());
  submit.pCommandBuffers = commands.data();
  VkTimelineSemaphoreSubmitInfo timeline{};
  VkFence fence = VK_NULL_HANDLE;
  if (timeline_ != VK_NULL_HANDLE) {
    timeline.sType = VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO;
    timeline.signalSemaphoreValueCount = 1;
    timeline.pSignalSemaphoreValues = &ticket;
    submit.pNext = &timeline;
    submit.signalSemaphoreCount = 1;
    submit.pSignalSemaphores = &timeline_;
  } else {
    finished(last_ticket_);  // gives fences back
    fence = take_fence();
  }
  {
    std::scoped_lock lock(queue_lock);
    const VkResult result = table.vkQueueSubmit(queue, 1, &submit, fence);
    if (result != VK_SUCCESS && fence != VK_NULL_HANDLE) free_fences_.push_back(fence);
    check_device(result, "submitting work");
  }
  if (fence != VK_NULL_HANDLE) pending_fences_.push_back({ticket, fence});
  last_ticket_ = ticket;
  ++counters.submissions;
  return ticket;
}

bool DeviceCore::finished(std::uint64_t ticket) {
  if (ticket <= finished_ticket_) return true;
  if (lost_) return false;
  if (timeline_ != VK_NULL_HANDLE) {
    std::uint64_t value = 0;
    check_device(table.vkGetSemaphoreCounterValue(device, timeline_, &value), "reading a timeline semaphore");
    finished_ticket_ = std::max(finished_ticket_, value);
  } else {
    while (!pending_fences_.empty()) {
      const PendingFence first = pending_fences_.front();
      const VkResult result = table.vkGetFenceStatus(device, first.fence);
      if (result == VK_NOT_READY) break;
      check_device(result, "reading a fence");
      finished_ticket_ = first.ticket;
      free_fences_.push_back(first.fence);
      pending_fences_.pop_front();
    }
  }
  return ticket <= finished_ticket_;
}

void DeviceCore::wait(std::uint64_t ticket) {
  if (ticket > last_ticket_) {
    fail(StatusCode::invalid_argument, "waiting for submission {}, and the last one was {}", ticket, last_ticket_);
  }
  if (finished(ticket)) return;
  if (lost_) check_device(VK_ERROR_DEVICE_LOST, "waiting for a submission");
  ++counters.host_waits;
  if (timeline_ != VK_NULL_HANDLE) {
    VkSemaphoreWaitInfo wait_info{};
    wait_info.sType = VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO;
    wait_info.semaphoreCount = 1;
    wait_info.pSemaphores = &timeline_;
    wait_info.pValues = &ticket;
    check_device(table.vkWaitSemaphores(device, &wait_info, UINT64_MAX), "waiting for a submission");
    finished_ticket_ = std::max(finished_ticket_, ticket);
    return;
  }
  for (const PendingFence& pending : pending_fences_) {
    if (pending.ticket < ticket) continue;
    check_device(table.vkWaitForFences(device, 1, &pending.fence, VK_TRUE, UINT64_MAX), "waiting for a submission");
    break;
  }
  finished(ticket);
}

void DeviceCore::wait_quietly(std::uint64_t ticket) {
  if (lost_) return;
  try {
    wait(ticket);
  } catch (const Error&) {
    lost_ = true;  // nothing can be waited for any more
  }
}

}  // namespace riverhorse::vulkan
