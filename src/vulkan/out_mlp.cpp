// Out projection and MLP of one token in one dispatch (shaders/out_mlp.comp), with the mixer's step before them or
// without, where workgroups may wait for others.
#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "vulkan/core.h"
#include "vulkan/device_impl.h"
#include "vulkan/encoder.h"
#include "vulkan/grid.h"
#include "vulkan/linear.h"

namespace riverhorse::vulkan {

namespace {

constexpr std::uint32_t most_teams = 24;      // more were not measured
constexpr std::uint32_t most_rows = 4;        // of a product, a team
constexpr std::uint32_t most_norm_quads = 4;  // of the row, an invocation that normalises
constexpr std::uint32_t most_taps = 256;      // of a channel
constexpr std::uint32_t tag_bits = 16;
constexpr std::uint32_t most_units = 8;  // of 16 bytes in flight a lane

// The shader's constants.
struct Plan {
  std::uint32_t group = 0;
  std::uint32_t teams = 0;
  std::uint32_t lanes = 0;
  std::uint32_t width = 0;
  std::uint32_t hidden = 0;
  std::uint32_t out_split = 1;
  std::uint32_t out_rows = 1;
  std::uint32_t up_rows = 1;
  std::uint32_t down_split = 1;
  std::uint32_t down_rows = 1;
  std::uint32_t norm_group = 0;
  std::uint32_t groups = 0;
};

// How linear, or the projection of a step, would make one of the products.
GemvPlan product_plan(const VulkanLimits& limits, const Tensor& x, const Tensor& weight, const Tensor& y,
                      const NormWeights* norm, DType activation, std::uint32_t rows_of_team = 0) {
  LinearArgs args;
  args.x = x;
  args.weight = weight;
  args.y = y;
  if (norm != nullptr) args.norm = *norm;
  LinearPart part{args, x, weight, y, activation};
  part.rows = 1;
  part.inputs = static_cast<std::uint32_t>(weight.shape[1]);
  part.outputs = static_cast<std::uint32_t>(weight.shape[0]);
  return plan_gemv(limits, part, rows_of_team);
}

bool is_plain(const VulkanLimits& limits, const Tensor& weight) {
  return weight.dtype == DType::f16 && weight.size_bytes() <= limits.storage_range_bytes &&
         rows_aligned(weight, weight.shape[1], 16);
}

// None where the shader cannot, or would not add in the order of the operations that it stands for.
std::optional<Plan> plan_out_mlp(const VulkanLimits& limits, const OutMlpArgs& args, const H3StepArgs* step) {
  if (!limits.groups_may_wait || !limits.subgroup_vote || !limits.subgroup_size_control) return std::nullopt;
  if (args.x.shape[0] != 1 || args.x.dtype != DType::f16) return std::nullopt;
  if (!is_plain(limits, args.out_weight) || !is_plain(limits, args.fc1_weight) ||
      !is_plain(limits, args.fc2_weight) || !rows_aligned(args.x, args.x.shape[1], 16) ||
      !rows_aligned(args.residual, args.x.shape[1], 16)) {
    return std::nullopt;
  }
  const DType dtype = args.x.dtype;
  Tensor hidden = args.x;
  hidden.shape = {1, args.fc1_weight.shape[0]};
  const GemvPlan out = product_plan(limits, args.x, args.out_weight, args.residual, nullptr, dtype);
  const GemvPlan up = product_plan(limits, args.residual, args.fc1_weight, hidden, &args.norm, dtype);
  const GemvPlan down = product_plan(limits, hidden, args.fc2_weight, args.residual, nullptr, dtype);
  if (!out.subgroups || up.split != 1) return std::nullopt;
  Plan plan;
  plan.lanes = out.lanes;
  plan.width = static_cast<std::uint32_t>(args.x.shape[1]);
  plan.hidden = static_cast<std::uint32_t>(hidden.shape[1]);
  plan.out_split = out.split;
  plan.down_split = down.split;
  plan.norm_group = up.teams * up.lanes;

  // A share of each product for every compute unit. Four teams make a channel of the step: so many, then.
  plan.groups = std::min({limits.compute_units, plan.width, limits.group_count[0]});
  plan.teams = std::max(4 * divide_up(plan.width, plan.groups), up.teams);
  plan.groups = divide_up(plan.width, plan.teams / 4);
  const std::uint32_t unit = std::max({4u, out.split, down.split});  // powers of two
  if (plan.teams > std::min(most_teams, limits.invocations / plan.lanes) || plan.teams % unit != 0 ||
      plan.groups > limits.compute_units) {
    return std::nullopt;
  }
  plan.group = plan.teams * plan.lanes;
  plan.out_rows = divide_up(plan.width, plan.groups * (plan.teams / plan.out_split));
  plan.up_rows = divide_up(plan.hidden, plan.groups * plan.teams);
  plan.down_rows = divide_up(plan.width, plan.groups * (plan.teams / plan.down_split));
  const auto units = [&](std::uint32_t inputs, std::uint32_t parts) {
    return divide_up(inputs / 8, plan.lanes * parts);
  };
  const std::uint32_t flying =
      std::max({units(plan.width, 1) * plan.up_rows, units(plan.width, plan.out_split) * plan.out_rows,
                units(plan.hidden, plan.down_split) * plan.down_rows});
  const std::uint32_t shared_bytes = std::max(4 * plan.width, 2 * plan.hidden) +
                                     4 * plan.teams * (std::max(plan.out_rows, plan.down_rows) + 3) +
                                     plan.teams * most_taps + 64;
  const bool fits = std::max({plan.out_rows, plan.up_rows, plan.down_rows}) <= most_rows && flying <= most_units &&
                    divide_up(plan.width / 4, plan.norm_group) <= most_norm_quads &&
                    shared_bytes <= limits.shared_bytes && 5 * plan.groups < 1u << tag_bits;  // items and groups
  if (!fits) return std::nullopt;
  if (step == nullptr) return plan;
  const H3Projection& projection = *step->projection;
  if (step->head_dim != 1 || !is_plain(limits, projection.weight) || !projection.bias) return std::nullopt;
  const GemvPlan in = product_plan(limits, projection.x, projection.weight, step->y, &projection.norm, dtype, 3);
  if (in.teams * in.lanes != plan.norm_group || step->filter.shift_taps.shape[1] > most_taps) return std::nullopt;
  return plan;
}

bool has_bindings(const VulkanDevice& device, std::uint32_t count) {
  return device.impl().core->profile.properties.limits.maxPerStageDescriptorStorageBuffers >= count;
}

constexpr std::uint32_t plain_bindings = 12, step_bindings = 24;

void record(VulkanEncoder& encoder, const OutMlpArgs& args, const H3StepArgs* step) {
  const Plan plan = plan_out_mlp(encoder.limits(), args, step).value();
  std::vector<std::uint32_t> constants = {plan.group,      plan.teams,     plan.lanes,     plan.width,
                                          plan.hidden,     plan.out_split, plan.out_rows,  plan.up_rows,
                                          plan.down_split, plan.down_rows, plan.norm_group};
  // The counter. Tags are counted from a little before they begin again, so that every user has seen that they do.
  std::uint32_t first[64] = {};  // so that a binding may begin behind
  first[0] = ((1u << tag_bits) - 20) << tag_bits;
  const std::uint32_t words = 2 * plan.width + plan.hidden + (step != nullptr ? plan.width : 0);
  const Tensor& whole = encoder.exchange(first, words);
  Tensor control = whole, numbers = whole;
  if (whole) {
    control = whole.slice(0, std::size(first));
    numbers = whole.slice(std::size(first), words);
  }
  std::vector<Binding> bindings = {{step != nullptr ? step->projection->weight : args.x, Access::read},
                                   {args.residual, Access::read_write},
                                   {args.out_weight, Access::read},
                                   {args.out_bias, Access::read},
                                   {args.norm.weight, Access::read},
                                   {args.norm.bias, Access::read},
                                   {args.fc1_weight, Access::read},
                                   {args.fc1_bias, Access::read},
                                   {args.fc2_weight, Access::read},
                                   {args.fc2_bias, Access::read},
                                   {numbers, Access::read_write},
                                   {control, Access::read_write}};
  double bytes =
      static_cast<double>(args.out_weight.size_bytes() + args.fc1_weight.size_bytes() + args.fc2_weight.size_bytes());
  struct {
    float width;
    float epsilon;
    float step_epsilon;
  } push{static_cast<float>(plan.width), args.norm.epsilon, 0};
  if (step != nullptr) {
    const auto state_size = static_cast<std::uint32_t>(step->filter.shift_taps.shape[1]);
    constants.push_back(state_size);
    constants.push_back(divide_up(state_size / 2, plan.lanes));
    const H3Projection& projection = *step->projection;
    push.step_epsilon = projection.norm.epsilon;
    const Binding more[] = {{projection.bias, Access::read},         {projection.norm.weight, Access::read},
                            {projection.norm.bias, Access::read},    {step->slots, Access::read},
                            {step->positions, Access::read},         {step->state.shift, Access::read_write},
                            {step->state.modes, Access::read_write}, {step->filter.a, Access::read},
                            {step->filter.b, Access::read},          {step->filter.c, Access::read},
                            {step->filter.d, Access::read},          {step->filter.shift_taps, Access::read}};
    for (const Binding& binding : more) bindings.push_back(binding);
    bytes += static_cast<double>(projection.weight.size_bytes()) + 72.0 * state_size * plan.width;
  }
  Dispatch all;
  all.shader = step != nullptr ? "out_mlp.f16_step" : "out_mlp.f16";
  all.constants = constants;
  all.bindings = bindings;
  all.push = push_bytes(push);
  all.required_subgroup_size = plan.lanes;
  all.groups[0] = plan.groups;
  all.cost_bytes = bytes;
  encoder.dispatch(all);
}

}  // namespace

bool VulkanEncoder::fuses_out_mlp(const OutMlpArgs& args) const {
  return has_bindings(device_, plain_bindings) && plan_out_mlp(limits(), args, nullptr).has_value();
}

void VulkanEncoder::record_out_mlp(const OutMlpArgs& args) {
  const OperationScope operation(*this, "out_mlp");
  record(*this, args, nullptr);
}

bool VulkanEncoder::fuses_h3_block(const H3BlockArgs& args) const {
  return has_bindings(device_, step_bindings) && plan_out_mlp(limits(), args.rest, &args.step).has_value();
}

void VulkanEncoder::record_h3_block(const H3BlockArgs& args) {
  const OperationScope operation(*this, "h3_block");
  record(*this, args.rest, &args.step);
}

}  // namespace riverhorse::vulkan
