// A Vulkan device: instance, queue, memory slabs, pipelines, staging. No globals: two of them live side by side.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "backend/adopted_vulkan.h"
#include "backend/backend.h"
#include "backend/frame_recording.h"
#include "backend/queue_priority.h"
#include "vulkan/functions.h"

namespace riverhorse::vulkan {

class DeviceCore;
class VulkanRecording;
class FftPlans;   // fft_plans.h: VkFFT applications by size, and their cache on disk
class TileTimes;  // tile_times.h

struct CooperativeMatrixShape {  // subgroup scope, A M x K, B K x N in f16, C and result M x N
  std::uint32_t m = 0, n = 0, k = 0;
  bool f32_accumulate = false;
};

// What op files ask before they choose a shader variant. Under DeviceOptions::minimal_features: 16 KiB, 128
// invocations and nothing optional.
struct VulkanLimits {
  std::uint32_t shared_bytes = 16384;
  std::uint32_t invocations = 128;
  std::uint32_t group_count[3] = {65535, 65535, 65535};
  std::uint32_t offset_alignment = 256;
  std::uint64_t storage_range_bytes = 0;
  std::uint32_t subgroup_size = 1;  // 1: subgroup operations in compute are not usable
  bool subgroup_arithmetic = false;
  bool subgroup_vote = false;
  bool subgroup_size_control = false;  // required_subgroup_size between the next two
  std::uint32_t min_subgroup_size = 1;
  std::uint32_t max_subgroup_size = 1;
  bool f16_storage = false;  // 16-bit storage buffers: needed for dtype f16
  bool f16_arithmetic = false;
  bool vulkan_memory_model = false;
  std::vector<CooperativeMatrixShape> cooperative_matrix;  // empty: none
  bool wide_matrix_operands = false;  // their operands take twice the registers that their elements fill (RDNA 3)
  // A workgroup may wait for what others that have begun will write: they make progress meanwhile. No part of Vulkan;
  // known of NVIDIA's driver (CUDA promises it of the same hardware). Known not to hold of lavapipe, which ends an
  // invocation's loops after 65,535 turns in all (LP_MAX_TGSI_LOOP_ITERATIONS), waiting or not.
  bool groups_may_wait = false;
  std::uint32_t compute_units = 16;  // a guess where the driver does not say
};

class VulkanDevice final : public Device, public FrameDevice {
 public:
  VulkanDevice(const DeviceInfo& info, const DeviceOptions& options, QueuePriority priority = QueuePriority::normal);
  VulkanDevice(std::shared_ptr<AdoptedVulkan> adopted, const DeviceOptions& options);
  ~VulkanDevice() override;

  const DeviceInfo& info() const override;
  Support supports(Feature feature) const override;
  std::shared_ptr<Buffer> allocate(std::uint64_t size_bytes, MemoryUse use) override;
  MemoryUsage memory_usage() const override;
  std::uint64_t memory_free_bytes() const override;
  std::uint64_t staging_bytes() const override;
  std::uint64_t max_tensor_bytes() const override;
  void upload(const Tensor& tensor, std::span<const std::byte> bytes) override;
  void download(const Tensor& tensor, std::span<std::byte> bytes) override;
  std::span<std::byte> mapped(const Tensor& tensor) override;
  void prepare(const RecordFunction& function, const ProgressFunction& progress) override;
  void tune(std::span<const RecordFunction> functions, const std::shared_ptr<Buffer>& workspace) override;
  std::uint64_t scratch_bytes(const RecordFunction& function) override;  // compiles nothing
  std::unique_ptr<Recording> record(const RecordFunction& function, const RecordOptions& options) override;
  std::unique_ptr<FrameQueue> make_frame_queue() override;
  std::shared_ptr<FrameRecording> record_for_frames(const RecordFunction& function,
                                                    const std::shared_ptr<Buffer>& workspace,
                                                    const FrameRecording* like) override;
  std::uint64_t submit(Recording& recording) override;
  void wait(std::uint64_t ticket) override;
  DeviceCounters counters() const override;

  const VulkanLimits& limits() const;
  const DeviceFunctions& table() const;
  VkDevice handle() const;
  VkPhysicalDevice physical_device() const;
  VkQueue queue() const;
  std::uint32_t queue_family() const;
  const DeviceOptions& options() const;
  const Support& low_priority() const;  // of the queue
  // Names vendor, device, driver version, cache UUID and shaders: files made under another key are void.
  std::string cache_key() const;
  std::uint64_t validation_messages() const;
  FftPlans& fft_plans();
  TileTimes& tile_times() const;

  // The Vulkan buffer, and the offset in it, where a tensor of this device lies.
  struct BufferRange {
    VkBuffer buffer;
    VkDeviceSize offset;
    VkDeviceSize size;
  };
  BufferRange range(const Tensor& tensor) const;

  struct Impl;  // device_impl.h
  Impl& impl() const { return *impl_; }

 private:
  explicit VulkanDevice(std::shared_ptr<DeviceCore> core);
  std::unique_ptr<VulkanRecording> make_recording(const RecordFunction& function, const RecordOptions& options,
                                                  std::optional<double> frame_scale);
  std::unique_ptr<Impl> impl_;
};

// What VulkanDevice::fft_plans() makes at its first use (fft_plans.cpp); destroyed before the device.
std::shared_ptr<FftPlans> make_fft_plans(VulkanDevice& device);

// Every usable Vulkan device, ranked: discrete by free memory, integrated, virtual, software; a GPU that two drivers
// offer once. `reason` says why there is none, or stays empty. Never throws for a missing or broken driver.
std::vector<DeviceInfo> list_vulkan_devices(std::string& reason);

// Of backend/queue_priority.h.
Support low_priority_support(const DeviceInfo& info);

// Of backend/adopted_vulkan.h.
void check_adoptable(const VulkanHandles& handles);
VulkanRequirements requirements_of(const VulkanHandles& handles);

}  // namespace riverhorse::vulkan
