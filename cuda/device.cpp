// The CUDA device behind the backend interface, and what the program finds when it loads this library.
#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <mutex>
#include <string>
#include <utility>

#include "backend/check.h"
#include "backend/cuda_library.h"
#include "base/error.h"
#include "base/log.h"
#include "encoder.h"
#include "tensor_communicator.h"

namespace riverhorse::cuda {

namespace {

// The oldest generation that the kernels are compiled for (Ampere: bf16, cp.async).
constexpr int least_major = 8;

std::string version_text(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

class Stream {
 public:
  Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream"); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  Event() { check(cudaEventCreate(&event_), "making an event"); }
  ~Event() {
    if (event_ != nullptr) cudaEventDestroy(event_);
  }
  Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  Event& operator=(Event&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  void record(cudaStream_t stream) const { check(cudaEventRecord(event_, stream), "recording an event"); }
  void wait() const { check(cudaEventSynchronize(event_), "waiting for the device"); }
  double since_ms(const Event& begin) const {
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin.event_, event_), "reading a timestamp");
    return milliseconds;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

// A CUDA graph of all operations; with op_timestamps the operations one by one, an event before and after each.
class CudaRecording final : public Recording {
 public:
  CudaRecording(const void* device, std::vector<Operation> operations, std::shared_ptr<Buffer> workspace,
                cudaStream_t stream, bool overlaps, const RecordOptions& options)
      : device_(device), operations_(std::move(operations)), workspace_(std::move(workspace)), options_(options) {
    if (options_.op_timestamps) {
      events_.resize(operations_.size() + 1);
    } else if (options_.timestamps) {
      events_.resize(2);
    }
    if (options_.op_timestamps || operations_.empty()) return;
    cudaGraph_t graph = nullptr;
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "beginning a recording");
    try {
      for (const Operation& operation : operations_) operation.run({stream, operation.early, overlaps});
    } catch (...) {
      if (cudaStreamEndCapture(stream, &graph) == cudaSuccess) cudaGraphDestroy(graph);
      cudaGetLastError();
      throw;
    }
    check(cudaStreamEndCapture(stream, &graph), "ending a recording");
    const cudaError_t error = cudaGraphInstantiate(&executable_, graph, 0);
    cudaGraphDestroy(graph);
    check(error, "building the graph of a recording");
  }
  ~CudaRecording() override {
    if (executable_ != nullptr) cudaGraphExecDestroy(executable_);
  }

  void submit(cudaStream_t stream) {
    if (options_.op_timestamps) {
      events_[0].record(stream);
      for (std::size_t i = 0; i < operations_.size(); ++i) {
        operations_[i].run({stream});
        events_[i + 1].record(stream);
      }
      return;
    }
    if (options_.timestamps) events_[0].record(stream);
    if (executable_ != nullptr) check(cudaGraphLaunch(executable_, stream), "launching a recording");
    if (options_.timestamps) events_[1].record(stream);
  }

  // Kernels that one operation launches stand next to each other and count as one.
  std::vector<OpTiming> timings() override {
    std::vector<OpTiming> list;
    if (!options_.op_timestamps) return list;
    events_.back().wait();
    for (std::size_t i = 0; i < operations_.size(); ++i) {
      list.push_back({std::string(operations_[i].name), events_[i + 1].since_ms(events_[i]),
                      events_[i].since_ms(events_.front())});
    }
    return list;
  }
  double total_time_ms() override {
    if (events_.empty()) return 0;
    events_.back().wait();
    return events_.back().since_ms(events_.front());
  }
  const void* device() const { return device_; }

 private:
  const void* device_;
  std::vector<Operation> operations_;
  std::shared_ptr<Buffer> workspace_;
  RecordOptions options_;
  cudaGraphExec_t executable_ = nullptr;
  std::vector<Event> events_;
};

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(DeviceInfo info)
      : info_(std::move(info)),
        limits_(read_limits(info_.index)),
        gemms_(info_.index),
        fused_attention_(info_.index) {}
  ~CudaDevice() override { cudaStreamSynchronize(stream_); }

  const DeviceInfo& info() const override { return info_; }

  Support supports(Feature feature) const override {
    switch (feature) {
      case Feature::f16:
      case Feature::bf16:
      case Feature::training:
      case Feature::quantised_weights:
      case Feature::conv_chunked:
      case Feature::conv_fft:
      case Feature::timestamps: return {};
      case Feature::cooperative_matrix: return {false, "a feature of Vulkan; cuda uses tensor cores by itself"};
    }
    return {false, "an unknown feature"};
  }

  std::shared_ptr<Buffer> allocate(std::uint64_t size_bytes, MemoryUse use) override {
    auto buffer = std::make_shared<CudaBuffer>(info_.index, size_bytes, use != MemoryUse::device, stream_, memory_);
    ++allocations_;
    return buffer;
  }
  MemoryUsage memory_usage() const override {
    return {
        .allocated_bytes = memory_->allocated, .used_bytes = memory_->allocated, .peak_used_bytes = memory_->peak};
  }
  std::uint64_t memory_free_bytes() const override {
    check(cudaSetDevice(info_.index), "cudaSetDevice");
    std::size_t free_bytes = 0, total_bytes = 0;
    check(cudaMemGetInfo(&free_bytes, &total_bytes), "asking for free memory");
    return free_bytes;
  }
  std::uint64_t max_tensor_bytes() const override { return info_.memory_total_bytes; }

  void upload(const Tensor& tensor, std::span<const std::byte> bytes) override {
    check_transfer("upload", tensor, bytes.size());
    transfer(data<void>(tensor), bytes.data(), bytes.size(), cudaMemcpyHostToDevice);
  }
  void download(const Tensor& tensor, std::span<std::byte> bytes) override {
    check_transfer("download", tensor, bytes.size());
    transfer(bytes.data(), data<void>(tensor), bytes.size(), cudaMemcpyDeviceToHost);
  }
  std::span<std::byte> mapped(const Tensor& tensor) override {
    check_transfer("mapped", tensor, tensor.size_bytes());
    if (!buffer_of(tensor).on_host()) {
      fail(StatusCode::invalid_argument,
           "mapped: the tensor is in device memory; allocate it for upload or readback");
    }
    return {data<std::byte>(tensor), tensor.size_bytes()};
  }

  void prepare(const RecordFunction& function, const ProgressFunction& progress) override {
    CudaEncoder encoder(limits_, gemms_, fused_attention_, nullptr, nullptr);
    function(encoder);
    if (progress) progress(1, 1);
  }

  std::unique_ptr<Recording> record(const RecordFunction& function, const RecordOptions& options) override {
    check(cudaSetDevice(info_.index), "cudaSetDevice");
    CudaEncoder measure(limits_, gemms_, fused_attention_, nullptr, nullptr);
    function(measure);
    std::shared_ptr<Buffer> workspace = workspace_for(options, measure.scratch_peak_bytes());
    check(cudaStreamSynchronize(stream_), "waiting for the device");
    std::vector<Operation> operations;
    CudaEncoder encoder(limits_, gemms_, fused_attention_, &operations, workspace);
    function(encoder);
    ++recordings_;
    return std::make_unique<CudaRecording>(this, std::move(operations), std::move(workspace), stream_,
                                           limits_.overlaps_kernels, options);
  }

  std::uint64_t submit(Recording& recording) override {
    auto* mine = dynamic_cast<CudaRecording*>(&recording);
    if (mine == nullptr || mine->device() != this) {
      fail(StatusCode::invalid_argument, "submit: the recording was made by another device");
    }
    check(cudaSetDevice(info_.index), "cudaSetDevice");
    mine->submit(stream_);
    Event event = spare_events_.empty() ? Event() : std::move(spare_events_.back());
    if (!spare_events_.empty()) spare_events_.pop_back();
    event.record(stream_);
    pending_.push_back({++submissions_, std::move(event)});
    return submissions_;
  }

  void wait(std::uint64_t ticket) override {
    if (ticket > submissions_) {
      fail(StatusCode::invalid_argument, "wait: ticket {} was never given, the last one is {}", ticket,
           submissions_.load());
    }
    ++host_waits_;
    while (!pending_.empty() && pending_.front().ticket <= ticket) {
      pending_.front().event.wait();
      spare_events_.push_back(std::move(pending_.front().event));
      pending_.pop_front();
    }
  }

  std::shared_ptr<Communicator> tensor_communicator(const std::shared_ptr<Communicator>& host) override {
    return join_tensors(info_.index, host);
  }

  DeviceCounters counters() const override {
    return {.allocations = allocations_,
            .pipelines_created = 0,
            .recordings = recordings_,
            .submissions = submissions_,
            .host_waits = host_waits_};
  }

 private:
  struct Submission {
    std::uint64_t ticket;
    Event event;
  };

  static DeviceLimits read_limits(int index) {
#ifdef RIVERHORSE_WARPGROUPS
    constexpr bool built_for_warpgroups = true;
#else
    constexpr bool built_for_warpgroups = false;
#endif
    cudaDeviceProp properties{};
    check(cudaSetDevice(index), "cudaSetDevice");
    check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
    return {.device = index,
            .multiprocessors = properties.multiProcessorCount,
            .shared_bytes = properties.sharedMemPerBlockOptin,
            .overlaps_kernels = properties.major >= 9 && kernels_know_turns(),
            .warpgroups = built_for_warpgroups && properties.major == 9 && properties.minor == 0};
  }

  void transfer(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
    check(cudaSetDevice(info_.index), "cudaSetDevice");
    check(cudaMemcpyAsync(to, from, bytes, kind, stream_), "copying between host and device");
    check(cudaStreamSynchronize(stream_), "copying between host and device");
  }

  DeviceInfo info_;
  DeviceLimits limits_;
  Stream stream_;
  Gemms gemms_;
  FusedAttention fused_attention_;
  std::shared_ptr<MemoryCount> memory_ = std::make_shared<MemoryCount>();
  std::deque<Submission> pending_;
  std::vector<Event> spare_events_;
  std::atomic<std::uint64_t> allocations_{0}, recordings_{0}, submissions_{0}, host_waits_{0};
};

std::vector<DeviceInfo> list_devices(std::string& reason) {
  std::vector<DeviceInfo> list;
  int driver = 0, runtime = 0, count = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  const cudaError_t error = cudaGetDeviceCount(&count);
  cudaGetLastError();
  if (error == cudaErrorInsufficientDriver && driver != 0) {
    reason = fmt::format("the NVIDIA driver is for CUDA {}, this backend needs {}: install a newer driver",
                         version_text(driver), version_text(runtime));
    return list;
  }
  if (error != cudaSuccess || count == 0) {
    reason = driver == 0 ? "no NVIDIA driver (libcuda.so.1) was found; use vulkan or cpu"
                         : fmt::format("the NVIDIA driver shows no device: {}", cudaGetErrorString(error));
    return list;
  }
  for (int index = 0; index < count; ++index) {
    cudaDeviceProp properties{};
    if (cudaGetDeviceProperties(&properties, index) != cudaSuccess) continue;
    if (properties.major < least_major) {
      reason = fmt::format("{} has compute capability {}.{}; {}.0 is needed: use vulkan", properties.name,
                           properties.major, properties.minor, least_major);
      continue;
    }
    DeviceInfo info;
    info.backend = BackendKind::cuda;
    info.index = index;
    info.name = properties.name;
    info.type = properties.integrated != 0 ? DeviceType::integrated_gpu : DeviceType::discrete_gpu;
#ifdef RIVERHORSE_CUDA_EMULATED
    info.type = DeviceType::software;
#endif
    info.driver = fmt::format("CUDA driver {}", version_text(driver));
    info.api =
        fmt::format("CUDA {}, compute capability {}.{}", version_text(runtime), properties.major, properties.minor);
    std::memcpy(info.uuid.data(), properties.uuid.bytes, info.uuid.size());
    info.memory_total_bytes = info.memory_free_bytes = properties.totalGlobalMem;
    std::size_t free_bytes = 0, total_bytes = 0;
    if (cudaSetDevice(index) == cudaSuccess && cudaMemGetInfo(&free_bytes, &total_bytes) == cudaSuccess) {
      info.memory_free_bytes = free_bytes;
    }
    list.push_back(std::move(info));
  }
  return list;
}

std::unique_ptr<Device> open_device(const DeviceInfo& info) { return std::make_unique<CudaDevice>(info); }

}  // namespace

}  // namespace riverhorse::cuda

extern "C" [[gnu::visibility("default")]] const riverhorse::CudaLibrary* riverhorse_cuda_library() {
  static const riverhorse::CudaLibrary library{RIVERHORSE_INTERFACE_ID, riverhorse::cuda::list_devices,
                                               riverhorse::cuda::open_device, riverhorse::set_log_sink};
  return &library;
}
