// Recording on the cpu: each record_ method (one file an op family) adds a closure that holds its arguments.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string_view>
#include <vector>

#include "backend/backend.h"

namespace riverhorse::cpu {

// Host memory, zero-filled, aligned to 64 bytes.
class CpuBuffer final : public Buffer {
 public:
  // `released` is told the size when the memory is given back. Errors: out_of_memory.
  CpuBuffer(std::uint64_t size_bytes, std::function<void(std::uint64_t)> released);
  ~CpuBuffer() override;
  std::byte* bytes() const { return bytes_; }

 private:
  void* allocation_;
  std::byte* bytes_;
  std::function<void(std::uint64_t)> released_;
};

// Where a tensor's elements are. Errors: invalid_argument for a tensor of another device.
std::byte* host_bytes(const Tensor& tensor);
inline float* floats(const Tensor& tensor) { return reinterpret_cast<float*>(host_bytes(tensor)); }
inline std::int32_t* integers(const Tensor& tensor) { return reinterpret_cast<std::int32_t*>(host_bytes(tensor)); }

// What lies in device memory can be checked here, where it is read. Errors: invalid_argument, for a slot outside of
// the pool or a negative position.
void check_slots(std::string_view op, const Tensor& slots, std::int64_t slot_count);
void check_positions(std::string_view op, const Tensor& slots, const Tensor& positions);

struct Operation {
  std::string_view name;
  std::function<void()> run;
};

class CpuEncoder final : public Encoder {
 public:
  // Both null while preparing.
  CpuEncoder(std::vector<Operation>* operations, std::shared_ptr<Buffer> workspace);

 private:
  void add(std::string_view name, std::function<void()> run);

  void record_copy(const CopyArgs& args) override;
  void record_advance(const AdvanceArgs& args) override;
  void record_embed(const EmbedArgs& args) override;
  void record_add_layer_norm(const AddLayerNormArgs& args) override;
  void record_linear(const LinearArgs& args) override;
  void record_discretize(const DiscretizeArgs& args) override;
  void record_ssm_kernel(const SsmKernelArgs& args) override;
  void record_h3_mixer(const H3MixerArgs& args) override;
  void record_h3_step(const H3StepArgs& args) override;
  void record_fft_conv(const FftConvArgs& args) override;
  void record_rotary(const RotaryArgs& args) override;
  void record_attention(const AttentionArgs& args) override;
  void record_attention_step(const AttentionArgs& args) override;
  void record_sample(const SampleArgs& args) override;

  bool trains() const override { return true; }
  void record_h3_mixer_backward(const H3MixerBackwardArgs& args) override;
  void record_discretize_backward(const DiscretizeBackwardArgs& args) override;
  void record_ssm_kernel_backward(const SsmKernelBackwardArgs& args) override;
  void record_fft_conv_backward(const FftConvBackwardArgs& args) override;
  void record_zero(const ZeroArgs& args) override;
  void record_accumulate(const AccumulateArgs& args) override;
  void record_copy_columns(const CopyColumnsArgs& args) override;
  void record_embed_backward(const EmbedBackwardArgs& args) override;
  void record_residual_norm(const ResidualNormArgs& args) override;
  void record_residual_norm_backward(const ResidualNormBackwardArgs& args) override;
  void record_linear_backward(const LinearBackwardArgs& args) override;
  void record_attention_backward(const AttentionBackwardArgs& args) override;
  void record_cross_entropy(const CrossEntropyArgs& args) override;
  void record_grad_norm(const GradNormArgs& args) override;
  void record_adamw(const AdamwArgs& args) override;
  void record_communicate(const CommunicateArgs& args) override;
  void record_await_ranks(const AwaitRanksArgs& args) override;

  std::vector<Operation>* operations_;
};

// Errors: unsupported, when a tensor is f16.
void require_f32(std::string_view op, std::initializer_list<const Tensor*> tensors);

}  // namespace riverhorse::cpu
