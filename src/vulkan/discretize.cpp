// SSM parameters -> the filter that the mixer uses, on the device, in two-float arithmetic (discretize_df64.glsl).
#include <cstdint>

#include "vulkan/encoder.h"
#include "vulkan/grid.h"

namespace riverhorse::vulkan {

void VulkanEncoder::record_discretize(const DiscretizeArgs& args) {
  const OperationScope operation(*this, "discretize");
  const H3Parameters& parameters = args.parameters;
  const H3Filter& filter = args.filter;
  const auto heads = static_cast<std::uint32_t>(parameters.log_dt.shape[0]);
  const auto rows = static_cast<std::uint32_t>(parameters.inv_a_real.shape[0]);
  const auto modes = static_cast<std::uint32_t>(parameters.inv_a_real.shape[1]);
  const auto channels = static_cast<std::uint32_t>(parameters.shift_b.shape[0]);
  const auto state_size = static_cast<std::uint32_t>(parameters.shift_b.shape[1]);
  {
    const struct {
      std::uint32_t heads, rows, modes, zoh, power_count;
    } push{heads, rows, modes, parameters.discretization == Discretization::zoh ? 1u : 0u, H3Filter::power_count};
    const Binding bindings[] = {{parameters.log_dt, Access::read}, {parameters.inv_a_real, Access::read},
                                {parameters.a_imag, Access::read}, {parameters.b, Access::read},
                                {filter.a, Access::write},         {filter.b, Access::write},
                                {filter.powers, Access::write}};
    Dispatch dispatch{.shader = "discretize", .bindings = bindings, .push = push_bytes(push)};
    dispatch.groups[0] = divide_up(heads * modes, 64);
    dispatch.cost_flops = 8000.0 * heads * modes;
    this->dispatch(dispatch);
  }
  {
    const struct { std::uint32_t heads, modes; } push{heads, modes};
    const Binding bindings[] = {{filter.a, Access::read},        {filter.b, Access::read},
                                {parameters.c, Access::read},    {parameters.d, Access::read},
                                {filter.c, Access::write},       {filter.d, Access::write},
                                {filter.toeplitz, Access::write}};
    Dispatch dispatch{.shader = "discretize_lags", .bindings = bindings, .push = push_bytes(push)};
    dispatch.groups[0] = fold(heads, limits().group_count[0]);
    dispatch.cost_flops = 64.0 * 130 * heads * modes;
    this->dispatch(dispatch);
  }
  const struct { std::uint32_t channels, state_size; } push{channels, state_size};
  const Binding bindings[] = {{parameters.shift_b, Access::read},
                              {parameters.shift_c, Access::read},
                              {parameters.shift_d, Access::read},
                              {filter.shift_taps, Access::write}};
  Dispatch dispatch{.shader = "discretize_taps", .bindings = bindings, .push = push_bytes(push)};
  dispatch.groups[0] = divide_up(channels * state_size, 64);
  dispatch.cost_flops = 20.0 * channels * state_size * state_size;
  this->dispatch(dispatch);
}

}  // namespace riverhorse::vulkan
