#include "core.h"

#include <algorithm>
#include <string>

#include "base/error.h"

namespace riverhorse::cuda {

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // else the next call would be told of it again
  const std::string text = fmt::format("{} ({})", cudaGetErrorString(error), cudaGetErrorName(error));
  switch (error) {
    case cudaErrorMemoryAllocation: {
      std::size_t free_bytes = 0, total_bytes = 0;
      cudaMemGetInfo(&free_bytes, &total_bytes);
      cudaGetLastError();
      fail(StatusCode::out_of_memory,
           "{}: {}; {} of {} MiB of the device are free: choose a smaller model, batch or length, or close what else "
           "uses the device",
           what, text, free_bytes >> 20, total_bytes >> 20);
    }
    case cudaErrorInsufficientDriver:
    case cudaErrorNoDevice: fail(StatusCode::unsupported, "{}: {}", what, text);
    case cudaErrorInvalidValue: fail(StatusCode::internal, "{}: {}", what, text);
    default:
      fail(StatusCode::device_lost, "{}: {}; the device must be opened again, what it held is gone", what, text);
  }
}

CudaBuffer::CudaBuffer(int device, std::uint64_t size_bytes, bool on_host, cudaStream_t stream,
                       std::shared_ptr<MemoryCount> count)
    : Buffer(size_bytes), device_(device), on_host_(on_host), count_(std::move(count)) {
  const std::size_t bytes = std::max<std::uint64_t>(size_bytes, 1);
  check(cudaSetDevice(device_), "cudaSetDevice");
  void* address = nullptr;
  const cudaError_t error =
      on_host ? cudaHostAlloc(&address, bytes, cudaHostAllocDefault) : cudaMalloc(&address, bytes);
  if (error != cudaSuccess) {
    check(error,
          fmt::format("allocating {} MiB of {} memory", size_bytes >> 20, on_host ? "page-locked host" : "device")
              .c_str());
  }
  address_ = static_cast<std::byte*>(address);
  check(cudaMemsetAsync(address_, 0, bytes, stream), "cudaMemset");
  if (on_host) check(cudaStreamSynchronize(stream), "cudaMemset");  // the host may write before the stream gets there
  const std::uint64_t allocated = count_->allocated += size_bytes;
  std::uint64_t peak = count_->peak;
  while (peak < allocated && !count_->peak.compare_exchange_weak(peak, allocated)) {
  }
}

CudaBuffer::~CudaBuffer() {
  cudaSetDevice(device_);
  on_host_ ? cudaFreeHost(address_) : cudaFree(address_);
  count_->allocated -= size_bytes();
}

const CudaBuffer& buffer_of(const Tensor& tensor) {
  const auto* buffer = dynamic_cast<const CudaBuffer*>(tensor.buffer.get());
  if (buffer == nullptr)
    fail(StatusCode::invalid_argument, "a tensor of another device was given to the cuda backend");
  return *buffer;
}

}  // namespace riverhorse::cuda
