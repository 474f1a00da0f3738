// Blocking transfers: zero fills of new memory, uploads and downloads through a small ring of staging memory.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <span>

#include "vulkan/core.h"
#include "vulkan/functions.h"
#include "vulkan/memory.h"
#include "vulkan/one_time_commands.h"

namespace riverhorse::vulkan {

class Transfer {
 public:
  static constexpr std::uint64_t piece_bytes =
      2ull << 20;  // two pieces each way: one copied by the host, one by the device
  static constexpr int pieces = 2;

  Transfer(std::shared_ptr<DeviceCore> core, std::shared_ptr<MemoryPool> pool);
  ~Transfer();
  Transfer(const Transfer&) = delete;
  Transfer& operator=(const Transfer&) = delete;

  // Does what MemoryPool::take_fills asks. Cheap when there is nothing.
  void flush_fills();
  void upload(VkBuffer buffer, std::uint64_t offset, std::span<const std::byte> bytes);
  void download(VkBuffer buffer, std::uint64_t offset, std::span<std::byte> bytes);
  // That the first upload and the first download will take; 0 from then on.
  std::uint64_t bytes_to_come() const;

 private:
  struct Slot {
    std::shared_ptr<VulkanBuffer> upload;  // made at the first use
    std::shared_ptr<VulkanBuffer> readback;
    OneTimeCommands commands;
    VkFence fence = VK_NULL_HANDLE;
    bool in_flight = false;
  };
  void make_slots();
  // The whole ring of a direction at its first use, so that what it takes is known.
  void make_staging(std::shared_ptr<VulkanBuffer> Slot::*staging, MemoryUse use);
  void start(Slot& slot, const std::function<void(VkCommandBuffer)>& record);
  void finish(Slot& slot);

  std::shared_ptr<DeviceCore> core_;
  std::shared_ptr<MemoryPool> pool_;
  std::array<Slot, pieces> slots_;
};

}  // namespace riverhorse::vulkan
