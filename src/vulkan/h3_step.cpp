// One token of the mixer: one dispatch, from q, k, v (h3_step.comp) or from the residual stream
// (h3_step_projected.comp).
#include <algorithm>
#include <cstdint>

#include "base/error.h"
#include "vulkan/core.h"
#include "vulkan/device_impl.h"
#include "vulkan/encoder.h"
#include "vulkan/grid.h"
#include "vulkan/linear.h"

namespace riverhorse::vulkan {

namespace {

constexpr std::uint32_t projected_bindings = 15;

// The traffic of the state and the filter.
double step_bytes(const H3StepArgs& args) {
  const double sequences = static_cast<double>(args.y.shape[0]);
  const double channels = static_cast<double>(args.y.shape[1]);
  const double state_size = static_cast<double>(args.filter.shift_taps.shape[1]);
  return channels * (args.head_dim * state_size * 16.0 + 4.0 * state_size) * (sequences + 1);
}

void record_projected_step(VulkanEncoder& encoder, const H3StepArgs& args) {
  const VulkanLimits& limits = encoder.limits();
  const H3Projection& projection = *args.projection;
  const auto channels = static_cast<std::uint32_t>(args.y.shape[1]);
  const auto modes = static_cast<std::uint32_t>(args.filter.b.shape[1]);
  LinearArgs linear;
  linear.x = projection.x;
  linear.norm = projection.norm;
  linear.weight = projection.weight;
  linear.bias = projection.bias;
  linear.y = args.y;
  LinearPart part{linear, projection.x, projection.weight, args.y, args.y.dtype};
  part.rows = static_cast<std::uint32_t>(args.y.shape[0]);
  part.inputs = channels;
  part.outputs = 3 * channels;
  const GemvPlan plan = plan_gemv(limits, part, 3);  // q, k and v of one channel
  const std::uint32_t constants[] = {plan.teams * plan.lanes,
                                     plan.rows,
                                     plan.batch,
                                     plan.split,
                                     plan.teams,
                                     plan.unroll,
                                     plan.staged_pieces,
                                     plan.flags,
                                     2 * modes,
                                     divide_up(modes, plan.lanes)};
  const Binding bindings[projected_bindings] = {{projection.x, Access::read},
                                                {projection.bias ? projection.bias : projection.weight, Access::read},
                                                {args.y, Access::write},
                                                {projection.weight, Access::read},
                                                {projection.norm.weight, Access::read},
                                                {projection.norm.bias, Access::read},
                                                {args.slots, Access::read},
                                                {args.positions, Access::read},
                                                {args.state.shift, Access::read_write},
                                                {args.state.modes, Access::read_write},
                                                {args.filter.a, Access::read},
                                                {args.filter.b, Access::read},
                                                {args.filter.c, Access::read},
                                                {args.filter.d, Access::read},
                                                {args.filter.shift_taps, Access::read}};
  dispatch_gemv(encoder, "h3_step_projected", part, plan, constants, bindings, divide_up(channels, plan.teams),
                step_bytes(args));
}

}  // namespace

bool VulkanEncoder::fuses_projection(const H3StepArgs& args) const {
  const std::uint32_t bindings = device_.impl().core->profile.properties.limits.maxPerStageDescriptorStorageBuffers;
  // What a lane holds of q4, 32 weights a row of W, leaves no registers for x and states of 8 rows (RADV).
  const std::int64_t most_rows = args.projection->weight.dtype == DType::q4 ? linear_gemv_rows / 2 : linear_gemv_rows;
  return args.head_dim == 1 && args.y.shape[0] <= most_rows && bindings >= projected_bindings &&
         args.projection->weight.size_bytes() <= limits().storage_range_bytes;
}

void VulkanEncoder::record_h3_step(const H3StepArgs& args) {
  const OperationScope operation(*this, "h3_step");
  const auto sequences = static_cast<std::uint32_t>(args.y.shape[0]);
  const auto channels = static_cast<std::uint32_t>(args.y.shape[1]);
  const auto modes = static_cast<std::uint32_t>(args.filter.b.shape[1]);
  const auto state_size = static_cast<std::uint32_t>(args.filter.shift_taps.shape[1]);
  const auto head_dim = static_cast<std::uint32_t>(args.head_dim);
  if (sequences == 0 || channels == 0) return;
  if (modes > 128)
    fail(StatusCode::unsupported, "the Vulkan H3 step takes state sizes up to 256; this one is {}", state_size);
  if (args.projection) {
    record_projected_step(*this, args);
    return;
  }
  const std::uint32_t constants[] = {state_size == 64 ? 64u : 0u, head_dim == 1 ? 1u : 0u, divide_up(modes, 32)};
  const struct {
    std::uint32_t channels, sequences, dim_major, state_size, head_dim;
  } push{channels, sequences, args.head_order == HeadOrder::dim_major ? 1u : 0u, state_size, head_dim};
  const Binding bindings[] = {{args.qkv, Access::read},
                              {args.slots, Access::read},
                              {args.positions, Access::read},
                              {args.state.shift, Access::read_write},
                              {args.state.modes, Access::read_write},
                              {args.filter.a, Access::read},
                              {args.filter.b, Access::read},
                              {args.filter.c, Access::read},
                              {args.filter.d, Access::read},
                              {args.filter.shift_taps, Access::read},
                              {args.y, Access::write}};
  Dispatch dispatch{.shader = args.y.dtype == DType::f16 ? "h3_step.f16" : "h3_step.f32",
                    .constants = constants,
                    .bindings = bindings,
                    .push = push_bytes(push)};
  dispatch.groups[0] = divide_up(channels, 4);
  dispatch.groups[1] = fold(sequences, limits().group_count[1]);
  dispatch.cost_bytes = step_bytes(args);
  this->dispatch(dispatch);
}

}  // namespace riverhorse::vulkan
