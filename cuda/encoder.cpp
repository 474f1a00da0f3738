#include "encoder.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace riverhorse::cuda {

CudaEncoder::CudaEncoder(const DeviceLimits& limits, Gemms& gemms, FusedAttention& fused_attention,
                         std::vector<Operation>* operations, std::shared_ptr<Buffer> workspace)
    : Encoder(std::move(workspace)),
      limits_(limits),
      gemms_(gemms),
      fused_attention_(fused_attention),
      operations_(operations) {}

void CudaEncoder::add(std::string_view name, std::function<void(Launch)> run) {
  if (preparing()) return;
  operations_->push_back({name, std::move(run)});
  in_turn_ = false;
  written_.clear();
}

void CudaEncoder::add_in_turn(std::string_view name, std::initializer_list<Tensor> read_ahead,
                              std::initializer_list<Tensor> written, std::function<void(Launch)> run) {
  if (preparing()) return;
  const bool early = limits_.overlaps_kernels && in_turn_ &&
                     std::none_of(read_ahead.begin(), read_ahead.end(), [this](const Tensor& tensor) {
                       return std::find(written_.begin(), written_.end(), tensor.buffer.get()) != written_.end();
                     });
  operations_->push_back({name, std::move(run), early});
  if (!early) written_.clear();
  in_turn_ = true;
  for (const Tensor& tensor : written) {
    if (tensor) written_.push_back(tensor.buffer.get());
  }
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

DType dtype_of_logits(const CrossEntropyArgs& args) {
  if (!args.d_x || args.logits == DType::f32) return DType::f32;
  if (args.logits == args.x.dtype) return args.logits;
  fail(StatusCode::unsupported, "cross_entropy: logits of {} want x of {}, and it is of {}", dtype_name(args.logits),
       dtype_name(args.logits), dtype_name(args.x.dtype));
}

}  // namespace riverhorse::cuda
