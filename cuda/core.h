// What every file of the CUDA backend stands on: errors, memory, tensors as device pointers.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <cstdint>
#include <memory>

#include "backend/backend.h"

namespace riverhorse::cuda {

// Turns an error of the runtime into an Error: out_of_memory with the numbers, device_lost, unsupported, internal.
void check(cudaError_t error, const char* what);

// When an operation's kernels run: on a stream, the first of them, if it is `early`, before the one before it has
// ended (kernel.cuh).
struct Launch {
  cudaStream_t stream = nullptr;
  bool early = false;
  bool overlaps = false;  // whether kernels after the first may be early
  Launch next() const { return {stream, overlaps, overlaps}; }
  operator cudaStream_t() const { return stream; }
};

// Buffers may outlive their device, so what they report to is shared.
struct MemoryCount {
  std::atomic<std::uint64_t> allocated{0};
  std::atomic<std::uint64_t> peak{0};
};

// Device memory, or page-locked host memory that the device reads and writes in place. Zero-filled.
class CudaBuffer final : public Buffer {
 public:
  // Errors: out_of_memory.
  CudaBuffer(int device, std::uint64_t size_bytes, bool on_host, cudaStream_t stream,
             std::shared_ptr<MemoryCount> count);
  ~CudaBuffer() override;
  std::byte* address() const { return address_; }
  bool on_host() const { return on_host_; }

 private:
  int device_;
  std::byte* address_ = nullptr;
  bool on_host_;
  std::shared_ptr<MemoryCount> count_;
};

// Errors: invalid_argument for a tensor of another device.
const CudaBuffer& buffer_of(const Tensor& tensor);

// Where a tensor's elements are on the device; null for an empty tensor.
template <typename T>
T* data(const Tensor& tensor) {
  if (!tensor) return nullptr;
  return static_cast<T*>(static_cast<void*>(buffer_of(tensor).address() + tensor.offset_bytes));
}

}  // namespace riverhorse::cuda
