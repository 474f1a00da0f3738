// Attention without a cache by a library that fuses all of it: cuDNN (fused_attention_cudnn.cpp), where it is found
// at run time and is faster than the kernels of attention.cu. What is left for the backward pass is the same.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "backend/ops.h"

namespace riverhorse::cuda {

class FusedAttention {
 public:
  explicit FusedAttention(int device);
  ~FusedAttention();
  // Bytes of memory that it works in; empty where our own kernels are to compute this. Tells the same of the same
  // shapes, also while preparing. Errors: not_found for a library that was named and cannot be loaded.
  std::optional<std::int64_t> workspace_bytes(const AttentionArgs& args);
  // Where there is a workspace: what launches it on a stream, as often as one likes while this object lives.
  std::function<void(cudaStream_t)> plan(const AttentionArgs& args, const Tensor& workspace);

 private:
  struct Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace riverhorse::cuda
