// linear for few rows: chooses how many weight rows, units in flight and K splits fill the device.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <string>

#include "vulkan/grid.h"
#include "vulkan/linear.h"

namespace riverhorse::vulkan {

namespace {

constexpr std::uint32_t most_taps = 256;  // of a channel, in h3_step_projected.comp

}  // namespace

std::uint32_t GemvPlan::most_teams(const VulkanLimits& limits) const {
  return std::max(1u, std::min(limits.invocations, 256u) / lanes);
}

GemvPlan plan_gemv(const VulkanLimits& limits, const LinearPart& part, std::uint32_t rows_of_team) {
  const LinearArgs& args = part.args;
  GemvPlan plan;
  plan.subgroups = limits.subgroup_arithmetic && limits.subgroup_size >= 4;
  if (plan.subgroups) {
    plan.lanes = limits.subgroup_size;
    if (limits.subgroup_size_control) {
      plan.lanes = std::clamp(32u, limits.min_subgroup_size, limits.max_subgroup_size);
      plan.required_subgroup_size = plan.lanes;
    }
  }
  std::uint32_t unit = part.activation == DType::f16 ? 8 : 4;  // weights of 16 bytes
  if (part.weight.dtype == DType::q8) unit = 16;
  if (part.weight.dtype == DType::q4) unit = 32;
  plan.flags = linear_flags(part);
  const bool vectors = is_quantised(part.weight.dtype) || rows_aligned(part.weight, part.inputs, 16);
  if (vectors) plan.flags |= vector_weight;
  if (!args.x_transposed && rows_aligned(part.x, part.inputs, part.x.dtype == DType::f32 ? 16 : 8)) {
    plan.flags |= vector_x;
  }
  plan.batch = std::bit_ceil(part.rows);
  const bool quantised = is_quantised(part.weight.dtype);
  const bool may_stage =
      vectors && !args.x_transposed && rows_aligned(part.x, part.inputs, 16) && (args.norm.has_value() || quantised);
  // What a workgroup normalises is shared by all of its teams; a step's channels do that for the widest rows.
  plan.teams = std::min(plan.most_teams(limits), rows_of_team > 0 && part.inputs >= 1024 ? 8u : 4u);

  // Teams share a row along K while the device has room for more teams and each lane more than one unit to read.
  // This decides the order of additions, so it must not depend on the number of rows of x.
  const std::uint32_t units = vectors ? part.inputs / unit : part.inputs;
  const std::uint32_t most_split = rows_of_team > 0 ? 1 : plan.teams;
  const std::uint32_t enough_teams = limits.compute_units * (quantised ? 8 : 16);
  while (plan.split * 2 <= most_split && part.outputs * plan.split < enough_teams &&
         units > plan.lanes * plan.split) {
    plan.split *= 2;
  }

  // Several weight rows a team where there are plenty: they share what is read of x, the more so the smaller weights
  // are. Limits and what is in flight by times on an H100 (vulkan_decode_variants.txt).
  const bool q4 = part.weight.dtype == DType::q4;
  const std::uint32_t most_rows = std::min(q4 ? 4u : 2u, 16 / plan.batch);
  const std::uint32_t least_teams = limits.compute_units * (q4 ? 7 : quantised ? 10 : 8);
  plan.rows = std::max(rows_of_team, 1u);
  while (rows_of_team == 0 && plan.rows < most_rows && part.outputs / (2 * plan.rows) >= least_teams) plan.rows *= 2;
  plan.unroll = std::min(divide_up(units, plan.lanes * plan.split), plan.rows == 4 ? 2u : 4u);

  // Next to the sums of linear_gemv.glsl, and to the partial sums of a product or the taps of a step.
  const std::uint32_t group = plan.teams * plan.lanes;
  const std::uint32_t other_bytes =
      2 * plan.batch * group + 4 * group + 4 * plan.teams * std::max(plan.rows * plan.batch, most_taps);
  const bool x_is_half = !args.norm && part.x.dtype == DType::f16;
  const std::uint32_t staged_bytes = plan.batch * part.inputs * (x_is_half ? 2 : 4);
  if (may_stage && staged_bytes + other_bytes <= limits.shared_bytes) {
    plan.flags |= staged;
    plan.staged_pieces = staged_bytes / 16;
  }
  return plan;
}

void dispatch_gemv(VulkanEncoder& encoder, std::string_view stem, const LinearPart& part, const GemvPlan& plan,
                   std::span<const std::uint32_t> constants, std::span<const Binding> bindings, std::uint32_t groups,
                   double more_bytes) {
  const LinearPush push = linear_push(part);
  std::string shader = fmt::format("{}.{}", stem, dtype_name(part.activation));
  if (is_quantised(part.weight.dtype)) shader += fmt::format("_{}", dtype_name(part.weight.dtype));
  if (plan.subgroups) shader += "_subgroup";
  Dispatch dispatch;
  dispatch.shader = shader;
  dispatch.constants = constants;
  dispatch.bindings = bindings;
  dispatch.push = push_bytes(push);
  dispatch.groups[0] = std::min(groups, encoder.limits().group_count[0]);
  dispatch.groups[1] = divide_up(groups, dispatch.groups[0]);
  dispatch.cost_bytes = linear_bytes(part) + more_bytes;
  dispatch.cost_flops = linear_flops(part);
  dispatch.required_subgroup_size = plan.required_subgroup_size;
  encoder.dispatch(dispatch);
}

void linear_gemv(VulkanEncoder& encoder, const LinearPart& part) {
  const VulkanLimits& limits = encoder.limits();
  const LinearArgs& args = part.args;
  const GemvPlan plan = plan_gemv(limits, part, 0);
  const std::uint32_t constants[] = {
      plan.teams * plan.lanes, plan.rows, plan.batch, plan.split, plan.teams, plan.unroll,
      plan.staged_pieces,      plan.flags};
  const std::uint32_t groups = divide_up(part.part_outputs(), plan.teams / plan.split * plan.rows);
  const Tensor& bias = args.bias ? args.bias : part.weight;
  const Tensor& gamma = args.norm ? args.norm->weight : part.weight;
  const Tensor& beta = args.norm ? args.norm->bias : part.weight;
  const Binding bindings[] = {{part.x, Access::read},
                              {bias, Access::read},
                              {part.y, args.accumulate ? Access::read_write : Access::write},
                              {part.weight, Access::read},
                              {gamma, Access::read},
                              {beta, Access::read}};
  dispatch_gemv(encoder, "linear_gemv", part, plan, constants, bindings, groups, 0);
}

}  // namespace riverhorse::vulkan
