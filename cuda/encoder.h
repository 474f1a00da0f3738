// Recording on CUDA: each record_ method (one file an op family) adds closures that launch its kernels on a stream.
#pragma once

#include <functional>
#include <initializer_list>
#include <memory>
#include <string_view>
#include <vector>

#include "backend/backend.h"
#include "core.h"
#include "fused_attention.h"
#include "gemm.h"

namespace riverhorse::cuda {

struct DeviceLimits {
  int device = 0;
  int multiprocessors = 1;
  std::size_t shared_bytes = 48 << 10;  // a block can be given at most
  bool overlaps_kernels = false;        // launches of kernels may be early
  bool warpgroups = false;              // kernels for compute capability 9.0 alone are there, and run
};

// Whether the kernels were compiled for an architecture on which let_next_begin() and wait_for_previous()
// (kernel.cuh) do what they say. For the current device.
bool kernels_know_turns();

struct Operation {
  std::string_view name;
  std::function<void(Launch)> run;
  bool early = false;  // its first kernel may be launched early
};

// As which they are kept. Errors: unsupported, in 16 bits with an f32 x.
DType dtype_of_logits(const CrossEntropyArgs& args);

class CudaEncoder final : public Encoder {
 public:
  // `operations` and `workspace` are null while preparing.
  CudaEncoder(const DeviceLimits& limits, Gemms& gemms, FusedAttention& fused_attention,
              std::vector<Operation>* operations, std::shared_ptr<Buffer> workspace);

 private:
  void add(std::string_view name, std::function<void(Launch)> run);
  // One whose kernels are all launched in turn. What it reads before its turn, and all that it writes, are named, so
  // that it is early only where no operation that may still be running writes the former.
  void add_in_turn(std::string_view name, std::initializer_list<Tensor> read_ahead,
                   std::initializer_list<Tensor> written, std::function<void(Launch)> run);
  // A plain product as part of operation `name`.
  void multiply(std::string_view name, const Gemm& gemm);
  // One with what follows it; false where that cannot be done at once, and nothing was added.
  bool multiply_and_finish(std::string_view name, const Gemm& gemm);
  bool finish_at_once(const LinearArgs& args, Gemm gemm);  // the same, of linear
  // layer_norm(x) as the product reads it, in scratch memory of the caller's scope.
  Tensor record_norm_of_linear(const LinearArgs& args);
  bool multiplies_few_rows(const LinearArgs& args, std::int64_t rows) const;
  void record_linear_gemv(const LinearArgs& args, std::int64_t rows);
  bool multiplies_batch(const LinearArgs& args, std::int64_t rows) const;
  void record_linear_batch(const LinearArgs& args, std::int64_t rows);
  void record_linear_quantised(const LinearArgs& args, std::int64_t rows);
  void record_bias_gradient(const LinearBackwardArgs& args, std::int64_t rows);

  void record_copy(const CopyArgs& args) override;
  void record_advance(const AdvanceArgs& args) override;
  void record_embed(const EmbedArgs& args) override;
  void record_add_layer_norm(const AddLayerNormArgs& args) override;
  void record_linear(const LinearArgs& args) override;
  void record_discretize(const DiscretizeArgs& args) override;
  void record_ssm_kernel(const SsmKernelArgs& args) override;
  void record_h3_mixer(const H3MixerArgs& args) override;
  void record_h3_mixer_fft(const H3MixerArgs& args);  // all but the ring of keys
  void record_h3_step(const H3StepArgs& args) override;
  void record_h3_step_walk(const H3StepArgs& args);
  bool fuses_projection(const H3StepArgs& args) const override;
  void record_fft_conv(const FftConvArgs& args) override;
  void record_rotary(const RotaryArgs& args) override;
  void record_attention(const AttentionArgs& args) override;
  void record_attention_step(const AttentionArgs& args) override;
  void record_sample(const SampleArgs& args) override;

  bool trains() const override { return true; }
  void record_zero(const ZeroArgs& args) override;
  void record_accumulate(const AccumulateArgs& args) override;
  void record_copy_columns(const CopyColumnsArgs& args) override;
  void record_embed_backward(const EmbedBackwardArgs& args) override;
  void record_residual_norm(const ResidualNormArgs& args) override;
  void record_residual_norm_backward(const ResidualNormBackwardArgs& args) override;
  void record_linear_backward(const LinearBackwardArgs& args) override;
  void record_h3_mixer_backward(const H3MixerBackwardArgs& args) override;
  // From k' to the gradients of q, k', v and of the filter but for its taps.
  void record_h3_mixer_backward_walk(const H3MixerBackwardArgs& args, const Tensor& shifted, const Tensor& d_shifted);
  void record_h3_mixer_backward_fft(const H3MixerBackwardArgs& args, const Tensor& shifted, const Tensor& d_shifted);
  void record_discretize_backward(const DiscretizeBackwardArgs& args) override;
  void record_ssm_kernel_backward(const SsmKernelBackwardArgs& args) override;
  void record_fft_conv_backward(const FftConvBackwardArgs& args) override;
  void record_fft_conv_backward_gelu(const FftConvBackwardArgs& args);
  void record_attention_backward(const AttentionBackwardArgs& args) override;
  void record_cross_entropy(const CrossEntropyArgs& args) override;
  void record_grad_norm(const GradNormArgs& args) override;
  void record_adamw(const AdamwArgs& args) override;
  void record_communicate(const CommunicateArgs& args) override;
  void record_await_ranks(const AwaitRanksArgs& args) override;

  const DeviceLimits& limits_;
  Gemms& gemms_;
  FusedAttention& fused_attention_;
  std::vector<Operation>* operations_;
  // Of the operations in turn since the last one that was not, or that was not early.
  bool in_turn_ = false;
  std::vector<const Buffer*> written_;
};

}  // namespace riverhorse::cuda
