#include "encoder.h"

#include <utility>

namespace riverhorse::cuda {

CudaEncoder::CudaEncoder(const DeviceLimits& limits, Gemms& gemms, FusedAttention& fused_attention,
                         std::vector<Operation>* operations, std::shared_ptr<Buffer> workspace)
    : Encoder(std::move(workspace)),
      limits_(limits),
      gemms_(gemms),
      fused_attention_(fused_attention),
      operations_(operations) {}

void CudaEncoder::add(std::string_view name, std::function<void(cudaStream_t)> run) {
  if (!preparing()) operations_->push_back({name, std::move(run)});
}

void CudaEncoder::multiply(std::string_view name, const Gemm& gemm) {
  if (preparing()) return;
  add(name, gemms_.plan(gemm));
}

bool CudaEncoder::multiply_and_finish(std::string_view name, const Gemm& gemm) {
  if (preparing()) return true;
  if (gemm.pre_activation && gemm.n % 8 != 0) return false;  // which cuBLASLt wants of its rows
  auto run = gemms_.plan(gemm);
  if (!run) return false;
  add(name, std::move(run));
  return true;
}

}  // namespace riverhorse::cuda
