#include "train/shapes_device.h"

#include <algorithm>
#include <limits>

#include "base/error.h"

namespace riverhorse {
namespace {

[[noreturn]] void fail_absent() {
  fail(StatusCode::internal, "shapes alone are known here: nothing can be computed");
}

// Of the logits that exist at once, as the CUDA backend has them (cuda/cross_entropy.cu).
std::int64_t chunk_rows(std::int64_t rows, std::int64_t vocabulary, DType logits) {
  const std::int64_t bytes = std::int64_t{logits == DType::f32 ? 800 : 1200} << 20;
  constexpr std::int64_t multiple = 128;
  const std::int64_t most =
      std::max(bytes / (vocabulary * dtype_size_bytes(logits)) / multiple, std::int64_t{1}) * multiple;
  if (rows <= most) return rows;
  const std::int64_t chunks = (rows + most - 1) / most, share = (rows + chunks - 1) / chunks;
  return (share + multiple - 1) / multiple * multiple;
}

class ShapesEncoder final : public Encoder {
 public:
  explicit ShapesEncoder(ShapesTraffic* traffic) : Encoder(nullptr), traffic_(traffic) {}

 private:
  bool trains() const override { return true; }

  void record_copy(const CopyArgs&) override {}
  void record_advance(const AdvanceArgs&) override {}
  void record_embed(const EmbedArgs&) override {}
  void record_add_layer_norm(const AddLayerNormArgs&) override {}
  void record_linear(const LinearArgs&) override {}
  void record_discretize(const DiscretizeArgs&) override {}
  void record_ssm_kernel(const SsmKernelArgs&) override {}
  void record_h3_mixer(const H3MixerArgs&) override {}
  void record_h3_step(const H3StepArgs&) override {}
  void record_fft_conv(const FftConvArgs&) override {}
  void record_rotary(const RotaryArgs&) override {}
  void record_attention(const AttentionArgs&) override {}
  void record_attention_step(const AttentionArgs&) override {}
  void record_sample(const SampleArgs&) override {}

  void record_zero(const ZeroArgs&) override {}
  void record_accumulate(const AccumulateArgs&) override {}
  void record_copy_columns(const CopyColumnsArgs&) override {}
  void record_embed_backward(const EmbedBackwardArgs&) override {}
  void record_residual_norm(const ResidualNormArgs&) override {}
  void record_residual_norm_backward(const ResidualNormBackwardArgs&) override {}
  void record_linear_backward(const LinearBackwardArgs&) override {}
  void record_h3_mixer_backward(const H3MixerBackwardArgs&) override {}
  void record_discretize_backward(const DiscretizeBackwardArgs&) override {}
  void record_ssm_kernel_backward(const SsmKernelBackwardArgs&) override {}
  void record_fft_conv_backward(const FftConvBackwardArgs&) override {}
  void record_attention_backward(const AttentionBackwardArgs&) override {}
  void record_cross_entropy(const CrossEntropyArgs& args) override {
    const ScratchScope scope(*this);
    const std::int64_t rows = args.x.shape[0], vocabulary = args.weight.shape[0];
    const std::int64_t chunk = chunk_rows(rows, vocabulary, args.logits);
    scratch(args.logits, {chunk, vocabulary});
    if (args.d_x && args.x.dtype != args.logits) scratch(args.x.dtype, {chunk, vocabulary});
  }
  void record_grad_norm(const GradNormArgs&) override {}
  void record_adamw(const AdamwArgs&) override {}
  void record_communicate(const CommunicateArgs& args) override {
    if (traffic_ == nullptr) return;
    const auto input = static_cast<double>(args.input.size_bytes()),
               ranks = static_cast<double>(args.communicator->size());
    const double others = (ranks - 1) / ranks;
    switch (args.collective) {
      case Collective::all_reduce: traffic_->summed += 2 * others * input; break;
      case Collective::reduce:
      case Collective::reduce_scatter: traffic_->summed += others * input; break;
      case Collective::all_gather: traffic_->moved += (ranks - 1) * input; break;
      case Collective::pass: traffic_->moved += args.to == no_rank ? 0 : input; break;
      case Collective::all_to_all: traffic_->moved += input * (args.group - 1) / args.group; break;
    }
  }
  void record_await_ranks(const AwaitRanksArgs&) override {}

  ShapesTraffic* traffic_;
};

class ShapesDevice final : public Device {
 public:
  explicit ShapesDevice(ShapesTraffic* traffic) : traffic_(traffic) { info_.name = "shapes"; }

  const DeviceInfo& info() const override { return info_; }
  Support supports(Feature) const override { return {}; }
  std::shared_ptr<Buffer> allocate(std::uint64_t, MemoryUse) override { fail_absent(); }
  MemoryUsage memory_usage() const override { return {}; }
  std::uint64_t memory_free_bytes() const override { return 0; }
  std::uint64_t max_tensor_bytes() const override { return std::numeric_limits<std::uint64_t>::max(); }
  void upload(const Tensor&, std::span<const std::byte>) override { fail_absent(); }
  void download(const Tensor&, std::span<std::byte>) override { fail_absent(); }
  std::span<std::byte> mapped(const Tensor&) override { fail_absent(); }
  void prepare(const RecordFunction& function, const ProgressFunction&) override {
    ShapesEncoder encoder(traffic_);
    function(encoder);
  }
  std::unique_ptr<Recording> record(const RecordFunction&, const RecordOptions&) override { fail_absent(); }
  std::uint64_t submit(Recording&) override { fail_absent(); }
  void wait(std::uint64_t) override { fail_absent(); }
  DeviceCounters counters() const override { return {}; }

 private:
  DeviceInfo info_;
  ShapesTraffic* traffic_;
};

class AbsentRanks final : public Communicator {
 public:
  AbsentRanks(int size, int rank) : Communicator(rank, size, rank, size) {}

  void all_reduce(std::span<float>, Reduction) override { fail_absent(); }
  void all_reduce(std::span<double>, Reduction) override { fail_absent(); }
  void reduce_scatter(std::span<const float>, std::span<float>) override { fail_absent(); }
  void all_gather(std::span<const std::byte>, std::span<std::byte>) override { fail_absent(); }
  void broadcast(std::span<std::byte>, int) override { fail_absent(); }
  void send(std::span<const std::byte>, int) override { fail_absent(); }
  void receive(std::span<std::byte>, int) override { fail_absent(); }
  void exchange(std::span<const Transfer>) override { fail_absent(); }
  void reduce(std::span<float>, int) override { fail_absent(); }
  void barrier() override { fail_absent(); }
  void abort(int) override { fail_absent(); }
};

}  // namespace

std::shared_ptr<Device> make_shapes_device(ShapesTraffic* traffic) { return std::make_shared<ShapesDevice>(traffic); }

std::shared_ptr<Communicator> make_absent_ranks(int size, int rank) {
  return std::make_shared<AbsentRanks>(size, rank);
}

}  // namespace riverhorse
