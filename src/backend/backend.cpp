// What all backends share: names, scratch memory, and the conveniences of Device. The argument checks of the
// operations are in encoder_checks.cpp.
#include "backend/backend.h"

#include <algorithm>
#include <utility>

#include "backend/adopted_vulkan.h"
#include "base/error.h"

namespace riverhorse {

namespace {

// A multiple of every device's storage-buffer offset alignment (Vulkan guarantees that 256 is enough).
constexpr std::uint64_t scratch_alignment = 256;

}  // namespace

std::string_view backend_name(BackendKind kind) {
  switch (kind) {
    case BackendKind::cpu: return "cpu";
    case BackendKind::vulkan: return "vulkan";
    case BackendKind::cuda: return "cuda";
  }
  return "?";
}

std::string_view device_type_name(DeviceType type) {
  switch (type) {
    case DeviceType::cpu: return "CPU";
    case DeviceType::discrete_gpu: return "discrete GPU";
    case DeviceType::integrated_gpu: return "integrated GPU";
    case DeviceType::virtual_gpu: return "virtual GPU";
    case DeviceType::software: return "software";
    case DeviceType::other: return "other";
  }
  return "?";
}

std::string_view feature_name(Feature feature) {
  switch (feature) {
    case Feature::f16: return "f16";
    case Feature::bf16: return "bf16";
    case Feature::quantised_weights: return "quantised_weights";
    case Feature::conv_chunked: return "conv_chunked";
    case Feature::conv_fft: return "conv_fft";
    case Feature::cooperative_matrix: return "cooperative_matrix";
    case Feature::timestamps: return "timestamps";
    case Feature::training: return "training";
  }
  return "?";
}

std::string DeviceInfo::id() const {
  if (index == adopted_index) return fmt::format("{}:adopted", backend_name(backend));
  return fmt::format("{}:{}", backend_name(backend), index);
}

// While preparing, scratch tensors share an empty buffer: not null, so that an optional argument that is given can
// be told from one that is not.
Encoder::Encoder(std::shared_ptr<Buffer> workspace)
    : workspace_(std::move(workspace)), preparing_(workspace_ == nullptr) {
  if (preparing_) workspace_ = std::make_shared<Buffer>(0);
}

Tensor Encoder::scratch(DType dtype, Shape shape) {
  for (int i = 0; i < shape.rank(); ++i) {
    if (shape[i] < 1) fail(StatusCode::invalid_argument, "scratch: shape {} has an empty dimension", shape.text());
  }
  Tensor tensor{workspace_, scratch_used_bytes_, dtype, shape};
  const std::uint64_t end = scratch_used_bytes_ + tensor.size_bytes();
  scratch_used_bytes_ = (end + scratch_alignment - 1) / scratch_alignment * scratch_alignment;
  scratch_peak_bytes_ = std::max(scratch_peak_bytes_, scratch_used_bytes_);
  if (!preparing_ && scratch_used_bytes_ > workspace_->size_bytes()) {
    fail(StatusCode::internal,
         "scratch: the recording asks for {} bytes, but {} were counted while preparing: the function that records "
         "must do the same each time",
         scratch_used_bytes_, workspace_->size_bytes());
  }
  return tensor;
}

Tensor Device::allocate_tensor(DType dtype, Shape shape, MemoryUse use) {
  for (int i = 0; i < shape.rank(); ++i) {
    if (shape[i] < 1) fail(StatusCode::invalid_argument, "allocate: shape {} has an empty dimension", shape.text());
  }
  Tensor tensor{nullptr, 0, dtype, shape};
  tensor.buffer = allocate(tensor.size_bytes(), use);
  return tensor;
}

std::shared_ptr<Communicator> Device::tensor_communicator(const std::shared_ptr<Communicator>& /*host*/) {
  fail(StatusCode::unsupported, "{} ({}) cannot train with other ranks: choose --backend cuda or cpu", info().name,
       info().id());
}

void Device::require_activation(DType dtype) const {
  if (dtype == DType::f32) return;
  if (!is_half(dtype)) {
    fail(StatusCode::invalid_argument, "dtype is {}; it must be f32, f16 or bf16", dtype_name(dtype));
  }
  const Support support = supports(half_feature(dtype));
  if (support.supported) return;
  std::string supported = "f32";
  for (const Feature feature : {Feature::f16, Feature::bf16}) {
    if (supports(feature).supported) supported += fmt::format(" and {}", feature_name(feature));
  }
  fail(StatusCode::unsupported, "{} ({}) cannot use dtype {}, only {}: {}", info().name, info().id(),
       dtype_name(dtype), supported, support.reason);
}

std::uint64_t Device::scratch_bytes(const RecordFunction& function) {
  std::uint64_t bytes = 0;
  prepare(
      [&](Encoder& encoder) {
        function(encoder);
        bytes = encoder.scratch_peak_bytes();
      },
      {});
  return bytes;
}

std::shared_ptr<Buffer> Device::workspace_for(const RecordOptions& options, std::uint64_t scratch_bytes) {
  if (options.workspace && options.workspace->size_bytes() >= scratch_bytes) return options.workspace;
  return allocate(std::max<std::uint64_t>(scratch_bytes, 1), MemoryUse::device);
}

void Device::run(const RecordFunction& function) {
  const std::unique_ptr<Recording> recording = record(function, {});
  wait(submit(*recording));
}

}  // namespace riverhorse
