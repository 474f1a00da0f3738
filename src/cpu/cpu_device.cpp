#include "cpu/cpu_device.h"

#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <string>

#include "backend/check.h"
#include "base/error.h"
#include "cpu/cpu_encoder.h"

namespace riverhorse {

namespace cpu {

namespace {

constexpr std::uint64_t buffer_alignment = 64;

std::uint64_t total_memory_bytes() {
  return static_cast<std::uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

// What the kernel would give without swapping; free pages alone where it does not say.
std::uint64_t available_memory_bytes() {
  std::ifstream file("/proc/meminfo");
  std::string key, unit;
  std::uint64_t kilobytes = 0;
  while (file >> key >> kilobytes) {
    if (key == "MemAvailable:") return kilobytes * 1024;
    std::getline(file, unit);
  }
  return static_cast<std::uint64_t>(sysconf(_SC_AVPHYS_PAGES)) * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    if (!line.starts_with("model name")) continue;
    const std::size_t colon = line.find(':');
    if (colon != std::string::npos && colon + 2 < line.size()) return line.substr(colon + 2);
  }
  return "CPU";
}

// Buffers may outlive their device, so what they report to is shared.
struct MemoryCount {
  std::atomic<std::uint64_t> used{0};
  std::atomic<std::uint64_t> peak{0};
};

class CpuRecording final : public Recording {
 public:
  CpuRecording(const void* device, RecordOptions options) : device_(device), options_(options) {}

  void run() {
    using Clock = std::chrono::steady_clock;
    const auto milliseconds = [](Clock::duration time) {
      return std::chrono::duration<double, std::milli>(time).count();
    };
    timings_.clear();
    const Clock::time_point begin = Clock::now();
    for (const Operation& operation : operations) {
      const Clock::time_point start = Clock::now();
      operation.run();
      if (options_.op_timestamps) {
        timings_.push_back(
            {std::string(operation.name), milliseconds(Clock::now() - start), milliseconds(start - begin)});
      }
    }
    total_ms_ = milliseconds(Clock::now() - begin);
  }

  std::vector<OpTiming> timings() override { return timings_; }
  double total_time_ms() override { return total_ms_; }
  const void* device() const { return device_; }

  std::vector<Operation> operations;
  std::shared_ptr<Buffer> workspace;

 private:
  const void* device_;
  RecordOptions options_;
  std::vector<OpTiming> timings_;
  double total_ms_ = 0;
};

class CpuDevice final : public Device {
 public:
  CpuDevice(DeviceInfo info, std::uint64_t memory_limit_bytes)
      : info_(std::move(info)), memory_(std::make_shared<MemoryCount>()), memory_limit_bytes_(memory_limit_bytes) {}

  const DeviceInfo& info() const override { return info_; }

  Support supports(Feature feature) const override {
    switch (feature) {
      case Feature::f16:
      case Feature::bf16: return {false, "the cpu backend stores f32 only: choose --dtype f32"};
      case Feature::cooperative_matrix: return {false, "cooperative matrices are a feature of GPUs"};
      case Feature::training:
      case Feature::quantised_weights:
      case Feature::conv_chunked:
      case Feature::conv_fft:
      case Feature::timestamps: return {};
    }
    return {false, "an unknown feature"};
  }

  std::shared_ptr<Buffer> allocate(std::uint64_t size_bytes, MemoryUse) override {
    const std::uint64_t available = available_memory_bytes();
    if (size_bytes > available) {
      fail(StatusCode::out_of_memory,
           "{} MiB of host memory were asked for, but {} MiB are available: choose a smaller model or batch",
           size_bytes >> 20, available >> 20);
    }
    const std::uint64_t held = memory_->used;
    if (size_bytes > left_of_limit()) {
      fail(
          StatusCode::out_of_memory,
          "{:.1f} MiB were asked for, and {:.1f} of the {:.1f} MiB that the cpu backend may use are in use: choose a "
          "smaller model or batch, or a higher limit",
          static_cast<double>(size_bytes) / (1 << 20), static_cast<double>(held) / (1 << 20),
          static_cast<double>(memory_limit_bytes_) / (1 << 20));
    }
    const std::shared_ptr<MemoryCount> memory = memory_;
    auto buffer = std::make_shared<CpuBuffer>(size_bytes, [memory](std::uint64_t size) { memory->used -= size; });
    const std::uint64_t used = memory->used += size_bytes;
    std::uint64_t peak = memory->peak;
    while (peak < used && !memory->peak.compare_exchange_weak(peak, used)) {
    }
    ++allocations_;
    return buffer;
  }

  MemoryUsage memory_usage() const override {
    return {.allocated_bytes = memory_->used, .used_bytes = memory_->used, .peak_used_bytes = memory_->peak};
  }
  std::uint64_t memory_free_bytes() const override { return std::min(available_memory_bytes(), left_of_limit()); }
  std::uint64_t max_tensor_bytes() const override { return info_.memory_total_bytes; }

  void upload(const Tensor& tensor, std::span<const std::byte> bytes) override {
    check_transfer("upload", tensor, bytes.size());
    std::memcpy(host_bytes(tensor), bytes.data(), bytes.size());
  }
  void download(const Tensor& tensor, std::span<std::byte> bytes) override {
    check_transfer("download", tensor, bytes.size());
    std::memcpy(bytes.data(), host_bytes(tensor), bytes.size());
  }
  std::span<std::byte> mapped(const Tensor& tensor) override {
    check_transfer("mapped", tensor, tensor.size_bytes());
    return {host_bytes(tensor), tensor.size_bytes()};
  }

  void prepare(const RecordFunction& function, const ProgressFunction& progress) override {
    CpuEncoder encoder(nullptr, nullptr);
    function(encoder);
    if (progress) progress(1, 1);
  }

  std::unique_ptr<Recording> record(const RecordFunction& function, const RecordOptions& options) override {
    CpuEncoder measure(nullptr, nullptr);
    function(measure);
    auto recording = std::make_unique<CpuRecording>(this, options);
    recording->workspace = workspace_for(options, measure.scratch_peak_bytes());
    CpuEncoder encoder(&recording->operations, recording->workspace);
    function(encoder);
    ++recordings_;
    return recording;
  }

  std::uint64_t submit(Recording& recording) override {
    auto* mine = dynamic_cast<CpuRecording*>(&recording);
    if (mine == nullptr || mine->device() != this) {
      fail(StatusCode::invalid_argument, "submit: the recording was made by another device");
    }
    mine->run();
    return ++submissions_;
  }

  void wait(std::uint64_t ticket) override {
    if (ticket > submissions_) {
      fail(StatusCode::invalid_argument, "wait: ticket {} was never given, the last one is {}", ticket,
           submissions_.load());
    }
    ++host_waits_;
  }

  // Its tensors are host memory.
  std::shared_ptr<Communicator> tensor_communicator(const std::shared_ptr<Communicator>& host) override {
    if (!host->moves_tensors()) {
      fail(StatusCode::unsupported, "ranks of the cpu backend are joined by MPI: start them with mpirun");
    }
    return host;
  }

  DeviceCounters counters() const override {
    return {.allocations = allocations_,
            .pipelines_created = 0,
            .recordings = recordings_,
            .submissions = submissions_,
            .host_waits = host_waits_};
  }

 private:
  std::uint64_t left_of_limit() const {
    if (memory_limit_bytes_ == 0) return std::numeric_limits<std::uint64_t>::max();
    return memory_limit_bytes_ - std::min<std::uint64_t>(memory_limit_bytes_, memory_->used);
  }

  DeviceInfo info_;
  std::shared_ptr<MemoryCount> memory_;
  std::uint64_t memory_limit_bytes_;  // 0: none
  std::atomic<std::uint64_t> allocations_{0};
  std::atomic<std::uint64_t> recordings_{0};
  std::atomic<std::uint64_t> submissions_{0};
  std::atomic<std::uint64_t> host_waits_{0};
};

}  // namespace

CpuBuffer::CpuBuffer(std::uint64_t size_bytes, std::function<void(std::uint64_t)> released)
    : Buffer(size_bytes), allocation_(nullptr), bytes_(nullptr), released_(std::move(released)) {
  allocation_ = std::calloc(size_bytes + buffer_alignment, 1);  // large ones are zero pages until they are written
  if (allocation_ == nullptr) {
    fail(StatusCode::out_of_memory, "{} MiB of host memory could not be had: choose a smaller model or batch",
         size_bytes >> 20);
  }
  const auto address = reinterpret_cast<std::uintptr_t>(allocation_);
  bytes_ = static_cast<std::byte*>(allocation_) + (buffer_alignment - address % buffer_alignment);
}

CpuBuffer::~CpuBuffer() {
  std::free(allocation_);
  released_(size_bytes());
}

std::byte* host_bytes(const Tensor& tensor) {
  const auto* buffer = dynamic_cast<const CpuBuffer*>(tensor.buffer.get());
  if (buffer == nullptr)
    fail(StatusCode::invalid_argument, "a tensor of another device was given to the cpu backend");
  return buffer->bytes() + tensor.offset_bytes;
}

void check_slots(std::string_view op, const Tensor& slots, std::int64_t slot_count) {
  for (std::int64_t sequence = 0; sequence < slots.count(); ++sequence) {
    const std::int64_t slot = integers(slots)[sequence];
    if (slot >= 0 && slot < slot_count) continue;
    fail(StatusCode::invalid_argument, "{}: slot {} of sequence {} is outside of the pool of {}", op, slot, sequence,
         slot_count);
  }
}

void check_positions(std::string_view op, const Tensor& slots, const Tensor& positions) {
  check_slots(op, slots, positions.count());
  for (std::int64_t sequence = 0; sequence < slots.count(); ++sequence) {
    const std::int32_t position = integers(positions)[integers(slots)[sequence]];
    if (position < 0) fail(StatusCode::invalid_argument, "{}: sequence {} is at position {}", op, sequence, position);
  }
}

CpuEncoder::CpuEncoder(std::vector<Operation>* operations, std::shared_ptr<Buffer> workspace)
    : Encoder(std::move(workspace)), operations_(operations) {}

void CpuEncoder::add(std::string_view name, std::function<void()> run) {
  if (!preparing()) operations_->push_back({name, std::move(run)});
}

void require_f32(std::string_view op, std::initializer_list<const Tensor*> tensors) {
  for (const Tensor* tensor : tensors) {
    if (*tensor && tensor->dtype != DType::f32) {
      fail(StatusCode::unsupported,
           "{}: a tensor is {}, but the cpu backend computes in f32 only: choose --dtype f32", op,
           dtype_name(tensor->dtype));
    }
  }
}

}  // namespace cpu

DeviceInfo cpu_device_info() {
  DeviceInfo info;
  info.backend = BackendKind::cpu;
  info.name = cpu::processor_name();
  info.type = DeviceType::cpu;
  info.driver = fmt::format("OpenMP, {} threads; OpenBLAS", omp_get_max_threads());
  info.api = "host";
  info.memory_total_bytes = cpu::total_memory_bytes();
  info.memory_free_bytes = cpu::available_memory_bytes();
  return info;
}

std::unique_ptr<Device> open_cpu_device(const DeviceInfo& info, const DeviceOptions& options) {
  if (info.backend != BackendKind::cpu) {
    fail(StatusCode::invalid_argument, "{} is not a device of the cpu backend", info.id());
  }
  return std::make_unique<cpu::CpuDevice>(info, options.memory_limit_bytes);
}

}  // namespace riverhorse
