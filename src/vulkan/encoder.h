// Recording operations as compute dispatches. One file an op family implements the record_ methods (linear.cpp,
// h3_mixer.cpp, ...), all through dispatch(), which owns pipelines, descriptors, barriers and submission bounds.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>

#include "backend/backend.h"
#include "vulkan/device.h"
#include "vulkan/functions.h"

namespace riverhorse::vulkan {

struct PipelineKey;  // pipelines.h
struct LinearPart;   // linear.h

enum class Access { read, write, read_write };

struct Binding {
  const Tensor& tensor;  // offset a multiple of VulkanLimits::offset_alignment (scratch and allocations are)
  Access access;
};

// One compute dispatch. `shader` is "<stem>" or "<stem>.<variant>" as shaders/CMakeLists.txt lists them; binding i
// of set 0 is bindings[i]; constant_id i is constants[i]; push constants at most 128 bytes.
struct Dispatch {
  std::string_view shader;
  std::span<const std::uint32_t> constants = {};
  std::span<const Binding> bindings = {};
  std::span<const std::byte> push = {};
  std::uint32_t groups[3] = {1, 1, 1};  // within the device's limits: the caller folds larger grids
  double cost_bytes = 0;                // memory traffic and arithmetic, to bound submissions by time
  double cost_flops = 0;
  std::uint32_t required_subgroup_size = 0;  // 0: any; else needs VulkanLimits::subgroup_size_control
};

class VulkanEncoder final : public Encoder {
 public:
  VulkanEncoder(VulkanDevice& device, VulkanRecording* recording, std::shared_ptr<Buffer> workspace);
  ~VulkanEncoder() override;

  VulkanDevice& device() { return device_; }
  const VulkanLimits& limits() const;
  using Encoder::preparing;

  // Preparing: makes the pipeline if it is new. Recording: a barrier if the bindings conflict with what was
  // recorded since the last one (tracked by buffer range), then the dispatch.
  void dispatch(const Dispatch& dispatch);

  // Commands that someone else records (VkFFT, transfer): the tensors they touch, and a function that is called
  // with the open command buffer, not called while preparing. A compute <-> transfer barrier is included.
  void external(std::span<const Binding> touched, double cost_bytes,
                const std::function<void(VkCommandBuffer)>& record);

  // The counters of shaders/last_group.glsl, most_counters() zeros before and after every dispatch.
  const Tensor& counters();
  std::uint32_t most_counters() const;

  // Preparing: `watch` is called with every product of many rows.
  void watch_products(std::function<void(const LinearPart&)> watch);
  void see_product(const LinearPart& part);

  // Memory by which the workgroups of a dispatch give each other numbers: `words` words behind those of `control`, in
  // a tensor for each such pair of sizes. At first zeros behind `control`, then what the last dispatch left there.
  const Tensor& exchange(std::span<const std::uint32_t> control, std::uint32_t words);

  // What was asked for so far; the device uses them between preparing and recording.
  std::uint32_t dispatch_count() const;
  std::uint32_t operation_count() const;
  std::span<const PipelineKey> wanted_pipelines() const;

 private:
  friend class OperationScope;
  struct State;

  void record_copy(const CopyArgs& args) override;
  void record_dequantise(const CopyArgs& args);  // of a quantised matrix
  void record_advance(const AdvanceArgs& args) override;
  void record_embed(const EmbedArgs& args) override;
  void record_add_layer_norm(const AddLayerNormArgs& args) override;
  void record_linear(const LinearArgs& args) override;
  void record_out_mlp(const OutMlpArgs& args) override;
  bool fuses_out_mlp(const OutMlpArgs& args) const override;
  void record_h3_block(const H3BlockArgs& args) override;
  bool fuses_h3_block(const H3BlockArgs& args) const override;
  void record_product(const LinearArgs& args, DType activation);  // of linear
  void record_discretize(const DiscretizeArgs& args) override;
  void record_ssm_kernel(const SsmKernelArgs& args) override;
  void record_h3_mixer(const H3MixerArgs& args) override;
  void record_h3_step(const H3StepArgs& args) override;
  bool fuses_projection(const H3StepArgs& args) const override;
  void record_fft_conv(const FftConvArgs& args) override;
  void record_rotary(const RotaryArgs& args) override;
  void record_attention(const AttentionArgs& args) override;
  void record_attention_step(const AttentionArgs& args) override;
  void record_sample(const SampleArgs& args) override;

  void begin_operation(std::string_view name);
  void end_operation();
  void order(std::span<const Binding> touched, VkPipelineStageFlags stages);

  VulkanDevice& device_;
  VulkanRecording* recording_;  // null while preparing
  std::unique_ptr<State> state_;
};

// Names what is dispatched while it lives, for RecordOptions::op_timestamps: the first line of every record_ method.
// The outermost one counts. A dispatch outside any goes by the name of its shader.
class OperationScope {
 public:
  OperationScope(VulkanEncoder& encoder, std::string_view name) : encoder_(encoder) {
    encoder_.begin_operation(name);
  }
  ~OperationScope() { encoder_.end_operation(); }
  OperationScope(const OperationScope&) = delete;
  OperationScope& operator=(const OperationScope&) = delete;

 private:
  VulkanEncoder& encoder_;
};

// A plain struct as the bytes of a push-constant block (std430 scalars only).
template <typename T>
std::span<const std::byte> push_bytes(const T& block) {
  static_assert(sizeof(T) <= 128 && sizeof(T) % 4 == 0);
  return std::as_bytes(std::span<const T, 1>(&block, 1));
}

}  // namespace riverhorse::vulkan
