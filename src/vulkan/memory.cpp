#include "vulkan/memory.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace riverhorse::vulkan {
namespace {

constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

double mebibytes(std::uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

}  // namespace

VulkanBuffer::VulkanBuffer(std::uint64_t size_bytes, std::shared_ptr<MemoryPool> pool, Slab* slab,
                           std::uint64_t offset, std::uint64_t padded_bytes)
    : Buffer(size_bytes), pool_(std::move(pool)), slab_(slab), offset_(offset), padded_bytes_(padded_bytes) {}

VulkanBuffer::~VulkanBuffer() { pool_->release(*this); }

MemoryPool::MemoryPool(std::shared_ptr<DeviceCore> core) : core_(std::move(core)) {}

MemoryPool::~MemoryPool() {
  while (!slabs_.empty()) destroy_slab(slabs_.back().get());
}

void MemoryPool::refuse(std::uint64_t size_bytes, const std::string& reason) const {
  const MemoryBudget budget = query_memory_budget(*core_->instance, core_->profile);
  fail(StatusCode::out_of_memory,
       "{:.1f} MiB of memory cannot be had on {}: {}; {:.1f} of {:.1f} MiB are free and {:.1f} MiB are ours already. "
       "Use a smaller model, dtype f16, a smaller batch, or close other programs that use the GPU",
       mebibytes(size_bytes), core_->info.name, reason, mebibytes(budget.free_bytes), mebibytes(budget.total_bytes),
       mebibytes(usage_.allocated_bytes));
}

std::uint32_t MemoryPool::memory_type(MemoryUse use, std::uint32_t allowed) const {
  VkMemoryPropertyFlags required = 0;
  VkMemoryPropertyFlags preferred = 0;
  VkMemoryPropertyFlags avoided = 0;
  switch (use) {
    case MemoryUse::device:
      preferred = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT;
      avoided = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT;  // the small window of a discrete GPU is for `upload`
      break;
    case MemoryUse::upload:
      required = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
      preferred = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT;
      avoided = VK_MEMORY_PROPERTY_HOST_CACHED_BIT;
      break;
    case MemoryUse::readback:
      required = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
      preferred = VK_MEMORY_PROPERTY_HOST_CACHED_BIT;
      break;
  }
  const VkMemoryPropertyFlags never = VK_MEMORY_PROPERTY_PROTECTED_BIT | VK_MEMORY_PROPERTY_LAZILY_ALLOCATED_BIT |
                                      VK_MEMORY_PROPERTY_DEVICE_COHERENT_BIT_AMD |
                                      VK_MEMORY_PROPERTY_DEVICE_UNCACHED_BIT_AMD;
  int best = -1;
  int best_score = -1;
  const VkPhysicalDeviceMemoryProperties& memory = core_->profile.memory;
  for (std::uint32_t i = 0; i < memory.memoryTypeCount; ++i) {
    const VkMemoryPropertyFlags flags = memory.memoryTypes[i].propertyFlags;
    if ((allowed & (1u << i)) == 0 || (flags & required) != required || (flags & never) != 0) continue;
    const int score = ((flags & preferred) == preferred ? 2 : 0) + ((flags & avoided) == 0 ? 1 : 0);
    if (score > best_score) {
      best = static_cast<int>(i);
      best_score = score;
    }
  }
  if (best < 0) fail(StatusCode::unsupported, "Vulkan device {} has no suitable memory type", core_->info.name);
  return static_cast<std::uint32_t>(best);
}

// Null when the driver has no memory for it and `required` is false.
Slab* MemoryPool::new_slab(std::uint64_t size_bytes, MemoryUse use, bool required) {
  auto slab = std::make_unique<Slab>();
  slab->size_bytes = size_bytes;
  slab->use = use;
  VkBufferCreateInfo create{};
  create.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO;
  create.size = size_bytes;
  create.usage =
      VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT;
  const DeviceFunctions& vk = core_->table;
  VkResult result = vk.vkCreateBuffer(core_->device, &create, core_->allocator, &slab->buffer);
  if (result == VK_SUCCESS) {
    VkMemoryRequirements needs{};
    vk.vkGetBufferMemoryRequirements(core_->device, slab->buffer, &needs);
    VkMemoryAllocateInfo allocate{};
    allocate.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO;
    allocate.allocationSize = needs.size;
    allocate.memoryTypeIndex = memory_type(use, needs.memoryTypeBits);
    // Where a GPU's memory runs short, what every token reads is moved to the host's last.
    VkMemoryPriorityAllocateInfoEXT priority{};
    priority.sType = VK_STRUCTURE_TYPE_MEMORY_PRIORITY_ALLOCATE_INFO_EXT;
    priority.priority = use == MemoryUse::device ? 1.0f : 0.5f;
    if (core_->profile.memory_priority) allocate.pNext = &priority;
    result = vk.vkAllocateMemory(core_->device, &allocate, core_->allocator, &slab->memory);
    if (result == VK_SUCCESS) {
      result = vk.vkBindBufferMemory(core_->device, slab->buffer, slab->memory, 0);
    }
    if (result == VK_SUCCESS && use != MemoryUse::device) {
      void* mapped = nullptr;
      result = vk.vkMapMemory(core_->device, slab->memory, 0, VK_WHOLE_SIZE, 0, &mapped);
      slab->mapped = static_cast<std::byte*>(mapped);
    }
  }
  if (result != VK_SUCCESS) {
    vk.vkDestroyBuffer(core_->device, slab->buffer, core_->allocator);
    vk.vkFreeMemory(core_->device, slab->memory, core_->allocator);
    if (result == VK_ERROR_DEVICE_LOST) core_->check_device(result, "allocating memory");
    if (required) refuse(size_bytes, fmt::format("the driver said {}", result_text(result)));
    return nullptr;
  }
  slab->free_ranges[0] = size_bytes;
  usage_.allocated_bytes += size_bytes;
  slabs_.push_back(std::move(slab));
  return slabs_.back().get();
}

void MemoryPool::destroy_slab(Slab* slab) {
  core_->table.vkDestroyBuffer(core_->device, slab->buffer, core_->allocator);
  core_->table.vkFreeMemory(core_->device, slab->memory, core_->allocator);
  usage_.allocated_bytes -= slab->size_bytes;
  std::erase_if(slabs_, [&](const std::unique_ptr<Slab>& each) { return each.get() == slab; });
}

std::shared_ptr<VulkanBuffer> MemoryPool::allocate(std::uint64_t size_bytes, MemoryUse use) {
  std::scoped_lock lock(mutex_);
  if (core_->lost()) core_->check_device(VK_ERROR_DEVICE_LOST, "allocating memory");
  const std::uint64_t padded = std::max(round_up(size_bytes, alignment), alignment);
  const std::uint64_t limit = core_->profile.max_allocation_bytes;
  if (size_bytes > UINT64_MAX / 2 || padded > limit) {
    refuse(size_bytes, fmt::format("one allocation may have {:.1f} MiB", mebibytes(limit)));
  }
  const auto fits = [&](const auto& range) { return range.second >= padded; };
  Slab* chosen = nullptr;
  for (const std::unique_ptr<Slab>& slab : slabs_) {
    if (slab->use != use || std::none_of(slab->free_ranges.begin(), slab->free_ranges.end(), fits)) continue;
    chosen = slab.get();
    break;
  }
  if (chosen == nullptr) {
    const MemoryBudget budget = query_memory_budget(*core_->instance, core_->profile);
    if (use == MemoryUse::device && padded > budget.free_bytes) refuse(size_bytes, "more than what is free");
    // Slabs grow with what is held already, so that what is never handed out stays a small share of it, and so that
    // a small model stays small; mapped slabs are always small.
    const std::uint64_t smallest = use == MemoryUse::device ? 2ull << 20 : 1ull << 20;
    std::uint64_t held = 0;
    for (const std::unique_ptr<Slab>& slab : slabs_) held += slab->use == use ? slab->size_bytes : 0;
    std::uint64_t wanted = std::clamp(round_up(held / 16, smallest), smallest, std::min(largest_slab, limit));
    if (wanted > budget.free_bytes / 4) wanted = padded;
    // What fills a good part of a slab would leave the rest of it empty.
    if (padded >= wanted / 4) {
      chosen = new_slab(padded, use, true);
    } else {
      chosen = new_slab(wanted, use, false);
      if (chosen == nullptr) chosen = new_slab(padded, use, true);
    }
  }
  ++core_->counters.allocations;
  const auto range = std::find_if(chosen->free_ranges.begin(), chosen->free_ranges.end(), fits);
  const std::uint64_t offset = range->first;
  const std::uint64_t rest = range->second - padded;
  chosen->free_ranges.erase(range);
  if (rest > 0) chosen->free_ranges[offset + padded] = rest;
  usage_.used_bytes += padded;
  usage_.peak_used_bytes = std::max(usage_.peak_used_bytes, usage_.used_bytes);
  if (chosen->mapped != nullptr) {
    std::memset(chosen->mapped + offset, 0, padded);
  } else {
    fills_.push_back({chosen->buffer, offset, padded});
  }
  return std::make_shared<VulkanBuffer>(size_bytes, shared_from_this(), chosen, offset, padded);
}

void MemoryPool::release(VulkanBuffer& buffer) {
  std::scoped_lock lock(mutex_);
  Slab* slab = buffer.slab_;
  std::uint64_t offset = buffer.offset_;
  std::uint64_t size = buffer.padded_bytes_;
  usage_.used_bytes -= size;
  std::erase_if(fills_,
                [&](const PendingFill& fill) { return fill.buffer == slab->buffer && fill.offset == offset; });
  auto next = slab->free_ranges.lower_bound(offset);
  if (next != slab->free_ranges.end() && next->first == offset + size) {
    size += next->second;
    next = slab->free_ranges.erase(next);
  }
  if (next != slab->free_ranges.begin()) {
    auto previous = std::prev(next);
    if (previous->first + previous->second == offset) {
      offset = previous->first;
      size += previous->second;
      slab->free_ranges.erase(previous);
    }
  }
  slab->free_ranges[offset] = size;
  if (size == slab->size_bytes) destroy_slab(slab);
}

MemoryUsage MemoryPool::usage() const {
  std::scoped_lock lock(mutex_);
  return usage_;
}

std::vector<PendingFill> MemoryPool::take_fills() {
  std::scoped_lock lock(mutex_);
  return std::exchange(fills_, {});
}

}  // namespace riverhorse::vulkan
