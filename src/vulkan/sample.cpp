#include <algorithm>
#include <bit>

#include "base/error.h"
#include "vulkan/encoder.h"

namespace riverhorse::vulkan {

// One workgroup a row, as wide as the device allows: a row of 50264 logits is a matter of latency, not of bandwidth.
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
  const Binding bindings[] = {{args.logits, Access::read},
                              {args.slots, Access::read},
                              {args.sampler, Access::read_write},
                              {args.counts ? args.counts : args.sampler, Access::read_write},
                              {args.bias ? args.bias : args.sampler, Access::read},
                              {args.tokens, Access::write},
                              {args.history ? args.history : args.sampler, Access::read_write}};
  const std::uint32_t constants[] = {std::bit_floor(std::min(limits().invocations, 1024u))};
  Dispatch sample{"sample", constants, bindings, push_bytes(push)};
  sample.groups[0] = static_cast<std::uint32_t>(batch);
  sample.cost_bytes = static_cast<double>(args.logits.size_bytes());
  dispatch(sample);
}

}  // namespace riverhorse::vulkan
