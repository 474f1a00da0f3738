#include <algorithm>
#include <bit>

#include "base/error.h"
#include "vulkan/encoder.h"
#include "vulkan/grid.h"

namespace riverhorse::vulkan {

namespace {

constexpr std::uint32_t most_pieces = 32;  // of a row; sample.comp
constexpr std::uint32_t most_threads = 1024;
constexpr std::uint32_t software_threads = 32;  // as few as the shader can do with: barriers take long there

}  // namespace

// Workgroups as wide as the device allows, and several a row while rows are fewer than compute units: a row of 50264
// logits is a matter of latency, not of bandwidth.
void VulkanEncoder::record_sample(const SampleArgs& args) {
  const OperationScope scope(*this, "sample");
  struct Push {
    std::uint32_t vocabulary;
    std::uint32_t has_counts;
    std::uint32_t has_bias;
    std::uint32_t history_capacity;
  };
  const std::int64_t batch = args.logits.shape[0];
  if (batch == 0) return;
  if (batch > limits().group_count[0]) {
    fail(StatusCode::unsupported, "sample: {} rows; {} takes {} at once", batch, device_.info().name,
         limits().group_count[0]);
  }
  const Push push{static_cast<std::uint32_t>(args.logits.shape[1]), args.counts ? 1u : 0u, args.bias ? 1u : 0u,
                  args.history ? static_cast<std::uint32_t>(args.history.shape[1]) : 0u};
  const bool software = device_.info().type == DeviceType::software;
  const std::uint32_t constants[] = {
      std::bit_floor(std::min(limits().invocations, software ? software_threads : most_threads))};
  const auto rows = static_cast<std::uint32_t>(batch);
  const std::uint32_t pieces =
      std::min({divide_up(limits().compute_units, rows), divide_up(push.vocabulary, 4 * constants[0]), most_pieces});

  ScratchScope scratch_scope(*this);
  const Tensor bests = scratch(DType::i32, {batch, pieces, 2});
  const Binding bindings[] = {{args.logits, Access::read},
                              {args.slots, Access::read},
                              {args.sampler, Access::read_write},
                              {args.counts ? args.counts : args.sampler, Access::read_write},
                              {args.bias ? args.bias : args.sampler, Access::read},
                              {args.tokens, Access::write},
                              {args.history ? args.history : args.sampler, Access::read_write},
                              {bests, Access::write},
                              {counters(), Access::read_write}};
  Dispatch sample{"sample", constants, bindings, push_bytes(push)};
  sample.groups[0] = rows;
  sample.groups[1] = pieces;
  sample.cost_bytes = static_cast<double>(args.logits.size_bytes());
  dispatch(sample);
}

}  // namespace riverhorse::vulkan
