#include "vulkan/device.h"

#include <algorithm>
#include <cstring>
#include <tuple>

#include "base/error.h"
#include "vulkan/device_impl.h"
#include "vulkan/encoder.h"
#include "vulkan/recording.h"
#include "vulkan/shaders.h"
#include "vulkan/tile_tuner.h"

namespace riverhorse::vulkan {
namespace {

const VulkanBuffer& own_buffer(const Tensor& tensor, const MemoryPool* pool) {
  const auto* buffer = dynamic_cast<const VulkanBuffer*>(tensor.buffer.get());
  if (buffer == nullptr || buffer->pool() != pool) {
    fail(StatusCode::invalid_argument, "a tensor of shape {} is not of this Vulkan device", tensor.shape.text());
  }
  return *buffer;
}

}  // namespace

VulkanDevice::VulkanDevice(const DeviceInfo& info, const DeviceOptions& options, QueuePriority priority)
    : VulkanDevice(std::make_shared<DeviceCore>(info, options, priority)) {}

VulkanDevice::VulkanDevice(std::shared_ptr<AdoptedVulkan> adopted, const DeviceOptions& options)
    : VulkanDevice(std::make_shared<DeviceCore>(std::move(adopted), options)) {}

VulkanDevice::VulkanDevice(std::shared_ptr<DeviceCore> core) : impl_(std::make_unique<Impl>()) {
  impl_->core = std::move(core);
  impl_->memory = std::make_shared<MemoryPool>(impl_->core);
  impl_->pipelines = std::make_shared<Pipelines>(impl_->core, cache_key());
  impl_->transfer = std::make_unique<Transfer>(impl_->core, impl_->memory);
  impl_->tile_times = std::make_unique<TileTimes>(tile_times_path(*this), tile_times_key(*this));
}

VulkanDevice::~VulkanDevice() {
  impl_->core->wait_quietly(impl_->core->last_ticket());
  impl_->pipelines->save_cache();
}

const DeviceInfo& VulkanDevice::info() const { return impl_->core->info; }
const VulkanLimits& VulkanDevice::limits() const { return impl_->core->profile.limits; }
const DeviceFunctions& VulkanDevice::table() const { return impl_->core->table; }
VkDevice VulkanDevice::handle() const { return impl_->core->device; }
VkPhysicalDevice VulkanDevice::physical_device() const { return impl_->core->profile.physical_device; }
VkQueue VulkanDevice::queue() const { return impl_->core->queue; }
std::uint32_t VulkanDevice::queue_family() const { return impl_->core->profile.queue_family; }
const DeviceOptions& VulkanDevice::options() const { return impl_->core->options; }
const Support& VulkanDevice::low_priority() const { return impl_->core->low_priority; }
std::uint64_t VulkanDevice::validation_messages() const { return impl_->core->instance->validation_messages(); }

std::string VulkanDevice::cache_key() const {
  const VkPhysicalDeviceProperties& properties = impl_->core->profile.properties;
  std::string uuid;
  for (std::uint8_t byte : properties.pipelineCacheUUID) uuid += fmt::format("{:02x}", byte);
  return fmt::format("{:04x}-{:04x}-{:08x}-{}-{:016x}{}", properties.vendorID, properties.deviceID,
                     properties.driverVersion, uuid, shader_set_hash(),
                     impl_->core->options.minimal_features ? "-minimal" : "");
}

TileTimes& VulkanDevice::tile_times() const { return *impl_->tile_times; }

FftPlans& VulkanDevice::fft_plans() {
  std::scoped_lock lock(impl_->fft_mutex);
  if (impl_->fft_plans == nullptr) impl_->fft_plans = make_fft_plans(*this);
  return *impl_->fft_plans;
}

Support VulkanDevice::supports(Feature feature) const {
  const VulkanLimits& have = limits();
  switch (feature) {
    case Feature::f16:
      if (have.f16_storage) return {};
      return {false, fmt::format("{} has no 16-bit storage buffers{}: use dtype f32", info().name,
                                 options().minimal_features ? " (minimal features were asked for)" : "")};
    case Feature::bf16: return {false, "the vulkan backend has no bf16 shaders: use dtype f16 or f32"};
    case Feature::quantised_weights:
    case Feature::conv_chunked:
    case Feature::conv_fft: return {};
    case Feature::cooperative_matrix:
      if (!have.cooperative_matrix.empty()) return {};
      return {false,
              fmt::format("{} has no VK_KHR_cooperative_matrix for f16; plain arithmetic is used", info().name)};
    case Feature::timestamps:
      if (impl_->core->profile.timestamp_bits > 0) return {};
      return {false,
              fmt::format("the compute queue of {} has no timestamps; times are taken by the host", info().name)};
    case Feature::training: return {false, "the vulkan backend does not train yet: use the cuda or cpu backend"};
  }
  return {false, "unknown feature"};
}

std::shared_ptr<Buffer> VulkanDevice::allocate(std::uint64_t size_bytes, MemoryUse use) {
  return impl_->memory->allocate(size_bytes, use);
}

MemoryUsage VulkanDevice::memory_usage() const { return impl_->memory->usage(); }

std::uint64_t VulkanDevice::memory_free_bytes() const {
  return query_memory_budget(*impl_->core->instance, impl_->core->profile).free_bytes;
}

std::uint64_t VulkanDevice::staging_bytes() const { return impl_->transfer->bytes_to_come(); }

std::uint64_t VulkanDevice::max_tensor_bytes() const {
  return std::min<std::uint64_t>(limits().storage_range_bytes, impl_->core->profile.max_allocation_bytes);
}

VulkanDevice::BufferRange VulkanDevice::range(const Tensor& tensor) const {
  const VulkanBuffer& buffer = own_buffer(tensor, impl_->memory.get());
  // Up to a multiple of 4, which the padding of every allocation covers: shaders see 16-bit pairs and words.
  const std::uint64_t size = (std::max<std::uint64_t>(tensor.size_bytes(), 1) + 3) / 4 * 4;
  if (tensor.offset_bytes + size > buffer.padded_bytes()) {
    fail(StatusCode::invalid_argument, "a tensor of shape {} reaches beyond its buffer", tensor.shape.text());
  }
  return {buffer.handle(), buffer.offset() + tensor.offset_bytes, size};
}

void VulkanDevice::upload(const Tensor& tensor, std::span<const std::byte> bytes) {
  const VulkanBuffer& buffer = own_buffer(tensor, impl_->memory.get());
  if (bytes.size() != tensor.size_bytes()) {
    fail(StatusCode::invalid_argument, "upload of {} bytes to a tensor of {} bytes", bytes.size(),
         tensor.size_bytes());
  }
  if (bytes.empty()) return;
  if (buffer.mapped() != nullptr) {
    impl_->core->wait(impl_->core->last_ticket());
    std::memcpy(buffer.mapped() + tensor.offset_bytes, bytes.data(), bytes.size());
    return;
  }
  impl_->transfer->upload(buffer.handle(), buffer.offset() + tensor.offset_bytes, bytes);
}

void VulkanDevice::download(const Tensor& tensor, std::span<std::byte> bytes) {
  const VulkanBuffer& buffer = own_buffer(tensor, impl_->memory.get());
  if (bytes.size() != tensor.size_bytes()) {
    fail(StatusCode::invalid_argument, "download of {} bytes from a tensor of {} bytes", bytes.size(),
         tensor.size_bytes());
  }
  if (bytes.empty()) return;
  if (buffer.mapped() != nullptr) {
    impl_->core->wait(impl_->core->last_ticket());
    std::memcpy(bytes.data(), buffer.mapped() + tensor.offset_bytes, bytes.size());
    return;
  }
  impl_->transfer->download(buffer.handle(), buffer.offset() + tensor.offset_bytes, bytes);
}

std::span<std::byte> VulkanDevice::mapped(const Tensor& tensor) {
  const VulkanBuffer& buffer = own_buffer(tensor, impl_->memory.get());
  if (buffer.mapped() == nullptr) {
    fail(StatusCode::invalid_argument,
         "a tensor of shape {} is device memory; only upload and readback memory is mapped", tensor.shape.text());
  }
  return {buffer.mapped() + tensor.offset_bytes, tensor.size_bytes()};
}

void VulkanDevice::prepare(const RecordFunction& function, const ProgressFunction& progress) {
  VulkanEncoder encoder(*this, nullptr, nullptr);
  function(encoder);
  const std::span<const PipelineKey> wanted = encoder.wanted_pipelines();
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    impl_->pipelines->get(wanted[i]);
    if (progress) progress(i + 1, wanted.size());
  }
  impl_->pipelines->save_cache();
}

void VulkanDevice::tune(std::span<const RecordFunction> functions, const std::shared_ptr<Buffer>& workspace) {
  if (wants_tuning(*this)) tune_products(*this, functions, workspace);
}

std::uint64_t VulkanDevice::scratch_bytes(const RecordFunction& function) {
  VulkanEncoder encoder(*this, nullptr, nullptr);
  function(encoder);
  return encoder.scratch_peak_bytes();
}

std::unique_ptr<Recording> VulkanDevice::record(const RecordFunction& function, const RecordOptions& options) {
  return make_recording(function, options, std::nullopt);
}

std::unique_ptr<VulkanRecording> VulkanDevice::make_recording(const RecordFunction& function,
                                                              const RecordOptions& options,
                                                              std::optional<double> frame_scale) {
  VulkanEncoder preparing(*this, nullptr, nullptr);
  function(preparing);
  for (const PipelineKey& key : preparing.wanted_pipelines()) impl_->pipelines->get(key);
  std::shared_ptr<Buffer> workspace = workspace_for(options, preparing.scratch_peak_bytes());
  auto recording = std::make_unique<VulkanRecording>(
      impl_->core, impl_->pipelines, options, preparing.dispatch_count(), preparing.operation_count(), frame_scale);
  VulkanEncoder encoder(*this, recording.get(), std::move(workspace));
  function(encoder);
  recording->finish();
  impl_->transfer->flush_fills();  // of what was allocated meanwhile
  return recording;
}

std::uint64_t VulkanDevice::submit(Recording& recording) {
  auto* own = dynamic_cast<VulkanRecording*>(&recording);
  if (own == nullptr || own->core() != impl_->core.get()) {
    fail(StatusCode::invalid_argument, "a recording of another device was submitted to {}", info().name);
  }
  impl_->transfer->flush_fills();
  return own->submit();
}

void VulkanDevice::wait(std::uint64_t ticket) { impl_->core->wait(ticket); }

DeviceCounters VulkanDevice::counters() const {
  const AtomicCounters& from = impl_->core->counters;
  return {from.allocations, from.pipelines_created, from.recordings,
          from.submissions, from.host_waits,        from.products_timed};
}

}  // namespace riverhorse::vulkan
