#include "vulkan/ssm_kernel.h"

#include "vulkan/grid.h"

namespace riverhorse::vulkan {

void record_ssm_rows(VulkanEncoder& encoder, const H3Filter& filter, const Tensor& rows, std::uint32_t first_head,
                     std::uint32_t heads, std::uint32_t lags, std::uint32_t padded_lags, std::uint32_t row_stride,
                     bool skip_in_lag_zero) {
  const auto modes = static_cast<std::uint32_t>(filter.b.shape[1]);
  const struct {
    std::uint32_t first_head, heads, modes, power_count, lags, padded_lags, row_stride, skip;
  } push{first_head, heads, modes, H3Filter::power_count, lags, padded_lags, row_stride, skip_in_lag_zero ? 1u : 0u};
  const Binding bindings[] = {{filter.powers, Access::read},
                              {filter.b, Access::read},
                              {filter.c, Access::read},
                              {filter.d, Access::read},
                              {rows, Access::write}};
  Dispatch dispatch{.shader = "ssm_kernel", .bindings = bindings, .push = push_bytes(push)};
  dispatch.groups[0] = divide_up(padded_lags, 1024);
  dispatch.groups[1] = fold(heads, encoder.limits().group_count[1]);
  dispatch.cost_bytes = 4.0 * heads * lags;
  dispatch.cost_flops = 6.0 * heads * lags * modes;
  encoder.dispatch(dispatch);
}

void VulkanEncoder::record_ssm_kernel(const SsmKernelArgs& args) {
  const OperationScope operation(*this, "ssm_kernel");
  const auto heads = static_cast<std::uint32_t>(args.kernel.shape[0]);
  const auto lags = static_cast<std::uint32_t>(args.kernel.shape[1]);
  record_ssm_rows(*this, args.filter, args.kernel, 0, heads, lags, lags, lags, false);
}

}  // namespace riverhorse::vulkan
