// Where cuDNN was not there to compile against, or CUDA is emulated: attention is our own kernels' alone.
#include "fused_attention.h"

namespace riverhorse::cuda {

struct FusedAttention::Implementation {};

FusedAttention::FusedAttention(int /*device*/) {}
FusedAttention::~FusedAttention() = default;

std::optional<std::int64_t> FusedAttention::workspace_bytes(const AttentionArgs& /*args*/) { return {}; }
std::function<void(cudaStream_t)> FusedAttention::plan(const AttentionArgs& /*args*/, const Tensor& /*workspace*/) {
  return {};
}

}  // namespace riverhorse::cuda
