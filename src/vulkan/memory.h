// Device memory: slabs of at most 256 MiB, cut into pieces by first fit; what is larger has an allocation of its own.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "backend/backend.h"
#include "vulkan/core.h"

namespace riverhorse::vulkan {

class MemoryPool;

// One VkDeviceMemory with one VkBuffer over all of it.
struct Slab {
  VkDeviceMemory memory = VK_NULL_HANDLE;
  VkBuffer buffer = VK_NULL_HANDLE;
  std::uint64_t size_bytes = 0;
  std::byte* mapped = nullptr;
  MemoryUse use = MemoryUse::device;
  std::map<std::uint64_t, std::uint64_t> free_ranges;  // offset -> size
};

class VulkanBuffer final : public Buffer {
 public:
  VulkanBuffer(std::uint64_t size_bytes, std::shared_ptr<MemoryPool> pool, Slab* slab, std::uint64_t offset,
               std::uint64_t padded_bytes);
  ~VulkanBuffer() override;

  VkBuffer handle() const { return slab_->buffer; }
  std::uint64_t offset() const { return offset_; }
  std::uint64_t padded_bytes() const { return padded_bytes_; }
  MemoryUse use() const { return slab_->use; }
  std::byte* mapped() const { return slab_->mapped == nullptr ? nullptr : slab_->mapped + offset_; }
  const MemoryPool* pool() const { return pool_.get(); }

 private:
  friend class MemoryPool;
  std::shared_ptr<MemoryPool> pool_;
  Slab* slab_;
  std::uint64_t offset_;
  std::uint64_t padded_bytes_;
};

struct PendingFill {
  VkBuffer buffer;
  std::uint64_t offset;
  std::uint64_t size_bytes;
};

class MemoryPool : public std::enable_shared_from_this<MemoryPool> {
 public:
  static constexpr std::uint64_t alignment = 256;
  static constexpr std::uint64_t largest_slab = 256ull << 20;

  explicit MemoryPool(std::shared_ptr<DeviceCore> core);
  ~MemoryPool();

  // Errors: out_of_memory with numbers and advice.
  std::shared_ptr<VulkanBuffer> allocate(std::uint64_t size_bytes, MemoryUse use);
  MemoryUsage usage() const;

  // Device memory that is still to be zero-filled before anything else touches it; the caller does it now.
  std::vector<PendingFill> take_fills();

 private:
  friend class VulkanBuffer;
  void release(VulkanBuffer& buffer);
  Slab* new_slab(std::uint64_t size_bytes, MemoryUse use, bool required);
  void destroy_slab(Slab* slab);
  std::uint32_t memory_type(MemoryUse use, std::uint32_t allowed) const;
  [[noreturn]] void refuse(std::uint64_t size_bytes, const std::string& reason) const;

  std::shared_ptr<DeviceCore> core_;
  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<Slab>> slabs_;
  std::vector<PendingFill> fills_;
  MemoryUsage usage_;
};

}  // namespace riverhorse::vulkan
