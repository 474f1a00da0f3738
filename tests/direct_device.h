// A second oracle, for the oracle: every operation as the shortest direct sum in double, on the memory of a cpu
// device, with no code of src/cpu. Slow and obvious.
#pragma once

#include "backend/backend.h"

namespace riverhorse::test {

class DirectDevice final : public Device {
 public:
  explicit DirectDevice(Device& cpu) : cpu_(cpu) {}

  const DeviceInfo& info() const override { return cpu_.info(); }
  Support supports(Feature feature) const override { return cpu_.supports(feature); }
  std::shared_ptr<Buffer> allocate(std::uint64_t size_bytes, MemoryUse use) override {
    return cpu_.allocate(size_bytes, use);
  }
  MemoryUsage memory_usage() const override { return cpu_.memory_usage(); }
  std::uint64_t memory_free_bytes() const override { return cpu_.memory_free_bytes(); }
  std::uint64_t max_tensor_bytes() const override { return cpu_.max_tensor_bytes(); }
  void upload(const Tensor& tensor, std::span<const std::byte> bytes) override { cpu_.upload(tensor, bytes); }
  void download(const Tensor& tensor, std::span<std::byte> bytes) override { cpu_.download(tensor, bytes); }
  std::span<std::byte> mapped(const Tensor& tensor) override { return cpu_.mapped(tensor); }
  void prepare(const RecordFunction&, const ProgressFunction&) override {}
  std::unique_ptr<Recording> record(const RecordFunction& function, const RecordOptions& options) override;
  std::uint64_t submit(Recording& recording) override;
  void wait(std::uint64_t) override {}
  DeviceCounters counters() const override { return {}; }

 private:
  Device& cpu_;
};

}  // namespace riverhorse::test
