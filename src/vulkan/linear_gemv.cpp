// linear for few rows: chooses how many weight rows, units in flight and K splits fill the device.
#include <algorithm>

#include "vulkan/linear.h"

namespace riverhorse::vulkan {

namespace {

std::uint32_t divide_up(std::uint32_t value, std::uint32_t by) { return (value + by - 1) / by; }

}  // namespace

void linear_gemv(VulkanEncoder& encoder, const LinearPart& part) {
  const VulkanLimits& limits = encoder.limits();
  const LinearArgs& args = part.args;
  const bool f16 = part.weight.dtype == DType::f16;
  const bool subgroups = limits.subgroup_arithmetic && limits.subgroup_size >= 4;
  std::uint32_t width = 32;  // invocations of a team
  std::uint32_t required = 0;
  if (subgroups) {
    width = limits.subgroup_size;
    if (limits.subgroup_size_control) {
      width = std::clamp(32u, limits.min_subgroup_size, limits.max_subgroup_size);
      required = width;
    }
  }

  const std::uint32_t unit = f16 ? 8 : 4;
  std::uint32_t flags = linear_flags(part);
  if (rows_aligned(part.weight, part.inputs, 16)) flags |= vector_weight;
  if (!args.x_transposed && rows_aligned(part.x, part.inputs, part.x.dtype == DType::f32 ? 16 : 8)) flags |= vector_x;

  std::uint32_t batch = 1;
  while (batch < part.rows) batch *= 2;
  const std::uint32_t units = (flags & vector_weight) != 0 ? part.inputs / unit : part.inputs;
  const std::uint32_t compute_units = limits.compute_units_hint != 0 ? limits.compute_units_hint : 16;

  // Teams share a row along K while the device has room for more teams and each lane more than one unit to read.
  // This decides the order of additions, so it must not depend on the number of rows of x.
  const std::uint32_t most_teams = std::max(1u, std::min(limits.invocations, 256u) / width);
  std::uint32_t split = 1;
  while (split * 2 <= std::min(most_teams, 8u) && part.outputs * split < compute_units * 16 &&
         units > width * split) {
    split *= 2;
  }
  // Several weight rows a team where there are plenty: they share what is read of x.
  const std::uint32_t weight_rows = part.outputs >= compute_units * 16 ? 2 : 1;
  const std::uint32_t teams = std::max(split, std::min(most_teams, 4u));
  const std::uint32_t unroll = std::clamp(divide_up(units, width * split), 1u, 4u);

  const std::uint32_t constants[] = {teams * width, weight_rows, batch, split, teams, unroll, flags};
  const std::uint32_t groups = divide_up(part.part_outputs(), teams / split * weight_rows);
  const Tensor& bias = args.bias ? args.bias : part.weight;
  const Tensor& gamma = args.norm ? args.norm->weight : part.weight;
  const Tensor& beta = args.norm ? args.norm->bias : part.weight;
  const Binding bindings[] = {{part.x, Access::read},
                              {bias, Access::read},
                              {part.y, args.accumulate ? Access::read_write : Access::write},
                              {part.weight, Access::read},
                              {gamma, Access::read},
                              {beta, Access::read}};
  const LinearPush push = linear_push(part);
  Dispatch dispatch;
  if (subgroups) {
    dispatch.shader = f16 ? "linear_gemv.f16_subgroup" : "linear_gemv.f32_subgroup";
  } else {
    dispatch.shader = f16 ? "linear_gemv.f16" : "linear_gemv.f32";
  }
  dispatch.constants = constants;
  dispatch.bindings = bindings;
  dispatch.push = push_bytes(push);
  dispatch.groups[0] = std::min(groups, limits.group_count[0]);
  dispatch.groups[1] = divide_up(groups, dispatch.groups[0]);
  dispatch.cost_bytes = linear_bytes(part);
  dispatch.cost_flops = linear_flops(part);
  dispatch.required_subgroup_size = required;
  encoder.dispatch(dispatch);
}

}  // namespace riverhorse::vulkan
