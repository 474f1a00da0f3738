// What everything made from one device shares: the instance, the logical device, its functions, its profile, its
// queue. Kept alive by the last buffer or recording, so that destruction may happen in any order.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "backend/adopted_vulkan.h"
#include "backend/backend.h"
#include "vulkan/functions.h"
#include "vulkan/instance.h"
#include "vulkan/profile.h"

namespace riverhorse::vulkan {

struct AtomicCounters {
  std::atomic<std::uint64_t> allocations{0};
  std::atomic<std::uint64_t> pipelines_created{0};
  std::atomic<std::uint64_t> recordings{0};
  std::atomic<std::uint64_t> submissions{0};
  std::atomic<std::uint64_t> host_waits{0};
  std::atomic<std::uint64_t> products_timed{0};
};

// Held around every call on a queue; BasicLockable. On a host's queue it is the host's lock, which all engines share.
class QueueLock {
 public:
  void lock() { adopted != nullptr ? adopted->lock() : mutex_.lock(); }
  void unlock() { adopted != nullptr ? adopted->unlock() : mutex_.unlock(); }
  std::shared_ptr<AdoptedVulkan> adopted;  // null: the queue is ours alone

 private:
  std::mutex mutex_;
};

class DeviceCore {
 public:
  // Opens the physical device that `info` lists. Errors: not_found, unsupported.
  DeviceCore(const DeviceInfo& info, const DeviceOptions& options, QueuePriority priority);
  // On a host's device, which it leaves alone in the end. Errors: as open_adopted_device.
  DeviceCore(std::shared_ptr<AdoptedVulkan> adopted, const DeviceOptions& options);
  ~DeviceCore();
  DeviceCore(const DeviceCore&) = delete;
  DeviceCore& operator=(const DeviceCore&) = delete;

  // One vkQueueSubmit, after everything submitted before. `fence` may be null. Errors: device_lost.
  void submit_group(std::span<const VkCommandBuffer> commands, VkFence fence);
  // The same for the last group of a recording; returns its ticket.
  std::uint64_t submit_final_group(std::span<const VkCommandBuffer> commands);

  bool finished(std::uint64_t ticket);
  void wait(std::uint64_t ticket);          // errors: device_lost, invalid_argument for a ticket never given
  void wait_quietly(std::uint64_t ticket);  // for destructors: no throw, returns at once when the device is lost
  std::uint64_t last_ticket() const { return last_ticket_; }

  // Writes the time at which all commands so far are done.
  void write_timestamp(VkCommandBuffer commands, VkQueryPool pool, std::uint32_t query) const;

  // Checks a result; remembers a lost device so that nothing waits for it again.
  void check_device(VkResult result, const std::string& what);
  bool lost() const { return lost_; }

  std::unique_ptr<Instance> instance;
  DeviceProfile profile;
  DeviceInfo info;
  DeviceOptions options;
  Support low_priority;  // whether the queue has it
  VkDevice device = VK_NULL_HANDLE;
  VkQueue queue = VK_NULL_HANDLE;
  DeviceFunctions table;
  const VkAllocationCallbacks* allocator = nullptr;  // for all that is made from the device
  QueueLock queue_lock;
  AtomicCounters counters;

  // Nominal rates to estimate by, and the factor from the estimates to what was measured.
  double nominal_bytes_per_ms = 0;
  double nominal_flops_per_ms = 0;
  double nominal_dispatch_ms = 0;
  double time_scale = 1;

 private:
  void start();
  VkFence take_fence();
  void make_timeline();

  bool owns_device_ = true;
  VkAllocationCallbacks host_allocator_{};
  VkSemaphore timeline_ = VK_NULL_HANDLE;  // counts tickets, where the device has timeline semaphores
  struct PendingFence {
    std::uint64_t ticket;
    VkFence fence;
  };
  std::deque<PendingFence> pending_fences_;  // else a fence for each ticket in flight
  std::vector<VkFence> free_fences_;
  std::uint64_t last_ticket_ = 0;
  std::uint64_t finished_ticket_ = 0;
  std::atomic<bool> lost_{false};
};

}  // namespace riverhorse::vulkan
