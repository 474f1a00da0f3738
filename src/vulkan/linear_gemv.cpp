// linear for few rows: chooses how many weight rows, units in flight and K splits fill the device.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <string>

#include "vulkan/grid.h"
#include "vulkan/linear.h"

namespace riverhorse::vulkan {

std::uint32_t GemvPlan::most_teams(const VulkanLimits& limits) const {
  return std::max(1u, std::min(limits.invocations, 256u) / lanes);
}

GemvPlan plan_gemv(const VulkanLimits& limits, const LinearPart& part, bool may_split) {
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

  // Teams share a row along K while the device has room for more teams and each lane more than one unit to read.
  // This decides the order of additions, so it must not depend on the number of rows of x.
  const std::uint32_t units = vectors ? part.inputs / unit : part.inputs;
  const std::uint32_t most_split = may_split ? std::min(plan.most_teams(limits), 8u) : 1;
  while (plan.split * 2 <= most_split && part.outputs * plan.split < limits.compute_units * 16 &&
         units > plan.lanes * plan.split) {
    plan.split *= 2;
  }
  const std::uint32_t lane_units = divide_up(units, plan.lanes * plan.split);
  plan.unroll = std::min(lane_units, 4u);

  // One row of x that 32 registers a lane can hold, next to as many of gamma and of beta.
  const std::uint32_t held_units = 32 / unit;
  if (args.norm && vectors && (plan.flags & vector_x) != 0 && plan.batch == 1 && plan.split == 1 &&
      lane_units <= held_units) {
    plan.flags |= hold_norm;
    plan.unroll = lane_units;
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
  const GemvPlan plan = plan_gemv(limits, part, true);

  // Several weight rows a team where there are plenty: they share what is read of x.
  const std::uint32_t weight_rows = part.outputs >= limits.compute_units * 16 ? 2 : 1;
  const std::uint32_t teams = std::max(plan.split, std::min(plan.most_teams(limits), 4u));

  const std::uint32_t constants[] = {teams * plan.lanes, weight_rows, plan.batch, plan.split, teams,
                                     plan.unroll,        plan.flags};
  const std::uint32_t groups = divide_up(part.part_outputs(), teams / plan.split * weight_rows);
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
