#include "vulkan/transfer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "vulkan/barrier.h"

namespace riverhorse::vulkan {

Transfer::Transfer(std::shared_ptr<DeviceCore> core, std::shared_ptr<MemoryPool> pool)
    : core_(std::move(core)), pool_(std::move(pool)) {}

// At the first transfer: drivers that only compile (null devices) have no fences.
void Transfer::make_slots() {
  const DeviceFunctions& vk = core_->table;
  for (Slot& slot : slots_) {
    if (slot.commands.made()) continue;
    slot.commands.make(core_);
    VkFenceCreateInfo fence{};
    fence.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO;
    core_->check_device(vk.vkCreateFence(core_->device, &fence, core_->allocator, &slot.fence), "creating a fence");
  }
}

Transfer::~Transfer() {
  const DeviceFunctions& vk = core_->table;
  for (Slot& slot : slots_) {
    if (slot.in_flight && !core_->lost()) vk.vkWaitForFences(core_->device, 1, &slot.fence, VK_TRUE, UINT64_MAX);
    vk.vkDestroyFence(core_->device, slot.fence, core_->allocator);
  }
}

void Transfer::start(Slot& slot, const std::function<void(VkCommandBuffer)>& record) {
  if (core_->lost()) core_->check_device(VK_ERROR_DEVICE_LOST, "starting a transfer");
  make_slots();
  const DeviceFunctions& vk = core_->table;
  core_->check_device(vk.vkResetFences(core_->device, 1, &slot.fence), "resetting a fence");
  VkCommandBuffer commands = slot.commands.begin();
  barrier(vk, commands, work_stages, work_writes, VK_PIPELINE_STAGE_TRANSFER_BIT,
          VK_ACCESS_TRANSFER_READ_BIT | VK_ACCESS_TRANSFER_WRITE_BIT);
  record(commands);
  barrier(vk, commands, VK_PIPELINE_STAGE_TRANSFER_BIT, VK_ACCESS_TRANSFER_WRITE_BIT, VK_PIPELINE_STAGE_HOST_BIT,
          VK_ACCESS_HOST_READ_BIT);
  core_->submit_group(std::span(&slot.commands.end(), 1), slot.fence);
  slot.in_flight = true;
}

void Transfer::finish(Slot& slot) {
  if (!slot.in_flight) return;
  ++core_->counters.host_waits;
  slot.in_flight = false;
  core_->check_device(core_->table.vkWaitForFences(core_->device, 1, &slot.fence, VK_TRUE, UINT64_MAX),
                      "waiting for a transfer");
}

void Transfer::flush_fills() {
  const std::vector<PendingFill> fills = pool_->take_fills();
  if (fills.empty()) return;
  start(slots_[0], [&](VkCommandBuffer commands) {
    for (const PendingFill& fill : fills) {
      core_->table.vkCmdFillBuffer(commands, fill.buffer, fill.offset, fill.size_bytes, 0);
    }
  });
  finish(slots_[0]);
}

void Transfer::make_staging(std::shared_ptr<VulkanBuffer> Slot::*staging, MemoryUse use) {
  for (Slot& slot : slots_) {
    if (slot.*staging == nullptr) slot.*staging = pool_->allocate(piece_bytes, use);
  }
}

std::uint64_t Transfer::bytes_to_come() const {
  std::uint64_t bytes = 0;
  for (const Slot& slot : slots_) {
    bytes += (slot.upload == nullptr ? piece_bytes : 0) + (slot.readback == nullptr ? piece_bytes : 0);
  }
  return bytes;
}

void Transfer::upload(VkBuffer buffer, std::uint64_t offset, std::span<const std::byte> bytes) {
  make_staging(&Slot::upload, MemoryUse::upload);
  flush_fills();
  for (std::uint64_t done = 0, turn = 0; done < bytes.size(); ++turn) {
    Slot& slot = slots_[turn % pieces];
    finish(slot);
    const std::uint64_t size = std::min<std::uint64_t>(piece_bytes, bytes.size() - done);
    std::memcpy(slot.upload->mapped(), bytes.data() + done, size);
    start(slot, [&](VkCommandBuffer commands) {
      const VkBufferCopy copy{slot.upload->offset(), offset + done, size};
      core_->table.vkCmdCopyBuffer(commands, slot.upload->handle(), buffer, 1, &copy);
    });
    done += size;
  }
  for (Slot& slot : slots_) finish(slot);
}

void Transfer::download(VkBuffer buffer, std::uint64_t offset, std::span<std::byte> bytes) {
  make_staging(&Slot::readback, MemoryUse::readback);
  flush_fills();
  struct Piece {
    std::uint64_t begin = 0;
    std::uint64_t size = 0;
  };
  std::array<Piece, pieces> waiting{};
  const auto collect = [&](std::uint64_t index) {
    finish(slots_[index]);
    const Piece piece = std::exchange(waiting[index], {});
    if (piece.size > 0) std::memcpy(bytes.data() + piece.begin, slots_[index].readback->mapped(), piece.size);
  };
  std::uint64_t turn = 0;
  for (std::uint64_t done = 0; done < bytes.size(); ++turn) {
    const std::uint64_t index = turn % pieces;
    Slot& slot = slots_[index];
    collect(index);
    const std::uint64_t size = std::min<std::uint64_t>(piece_bytes, bytes.size() - done);
    start(slot, [&](VkCommandBuffer commands) {
      const VkBufferCopy copy{offset + done, slot.readback->offset(), size};
      core_->table.vkCmdCopyBuffer(commands, buffer, slot.readback->handle(), 1, &copy);
    });
    waiting[index] = {done, size};
    done += size;
  }
  for (std::uint64_t i = 0; i < pieces; ++i) collect((turn + i) % pieces);
}

}  // namespace riverhorse::vulkan
