// A learned long convolution: y = activation(conv(u, kernel) + skip u), by zero-padded transforms.
// The transform is as long as it takes, twice the next power of two; VkFFT splits a long one into passes itself.
#include "vulkan/fft_conv.h"

#include <algorithm>
#include <bit>

#include "base/error.h"
#include "vulkan/grid.h"

namespace riverhorse::vulkan {

FftGroups::FftGroups(std::uint32_t size, std::uint32_t filters, std::uint32_t rows_per_filter, std::uint32_t batch) {
  constexpr std::uint64_t most_data = 32 << 20, most_filters = 16 << 20;
  const std::uint64_t row_bytes = (std::uint64_t{size} + 2) * sizeof(float);
  const std::uint64_t data_rows = most_data / row_bytes, filter_rows = most_filters / row_bytes;
  group_filters = static_cast<std::uint32_t>(
      std::clamp<std::uint64_t>(std::min(data_rows / rows_per_filter, filter_rows), 1, filters));
  group_filters = divide_up(filters, divide_up(filters, group_filters));  // groups of equal size
  group_batch = static_cast<std::uint32_t>(
      std::clamp<std::uint64_t>(data_rows / (std::uint64_t{rows_per_filter} * group_filters), 1, batch));
  group_batch = divide_up(batch, divide_up(batch, group_batch));
}

void record_spectrum_product(VulkanEncoder& encoder, const FftPlan& data, const FftPlan& filters,
                             std::uint32_t row_count, std::uint32_t group_rows, std::uint32_t rows_per_filter) {
  const std::uint32_t frequencies = data.size() / 2 + 1;
  const struct {
    std::uint32_t frequencies, row_count, group_rows, rows_per_filter;
    float scale;
  } push{frequencies, row_count, group_rows, rows_per_filter, 1.0f / static_cast<float>(data.size())};
  const Binding bindings[] = {{data.rows(), Access::read_write}, {filters.rows(), Access::read}};
  Dispatch dispatch{.shader = "fft_conv_product", .bindings = bindings, .push = push_bytes(push)};
  dispatch.groups[0] = fold(divide_up(frequencies, 64), encoder.limits().group_count[0]);
  dispatch.groups[1] = fold(row_count, encoder.limits().group_count[1]);
  dispatch.cost_bytes = 24.0 * row_count * frequencies;
  encoder.dispatch(dispatch);
}

namespace {

struct RowsPush {
  std::uint32_t channels, tokens, first_channel, group_channels, first_sequence, row_count, row_stride;
};

void set_grid(Dispatch& dispatch, const VulkanLimits& limits, std::uint32_t values, std::uint32_t rows) {
  dispatch.groups[0] = fold(divide_up(values, 64), limits.group_count[0]);
  dispatch.groups[1] = fold(rows, limits.group_count[1]);
  dispatch.cost_bytes = 12.0 * values * rows;
}

void record_pack(VulkanEncoder& encoder, const Tensor& values, const FftPlan& plan, const RowsPush& push) {
  const Binding bindings[] = {{values, Access::read}, {plan.rows(), Access::write}};
  Dispatch dispatch{.shader = values.dtype == DType::f16 ? "fft_conv_pack.f16" : "fft_conv_pack.f32",
                    .bindings = bindings,
                    .push = push_bytes(push)};
  set_grid(dispatch, encoder.limits(), plan.size() / 2, push.row_count);
  encoder.dispatch(dispatch);
}

}  // namespace

void VulkanEncoder::record_fft_conv(const FftConvArgs& args) {
  const OperationScope operation(*this, "fft_conv");
  const auto batch = static_cast<std::uint32_t>(args.u.shape[0]);
  const auto channels = static_cast<std::uint32_t>(args.u.shape[1]);
  const auto tokens = static_cast<std::uint32_t>(args.u.shape[2]);
  if (batch == 0 || channels == 0 || tokens == 0) return;
  // VkFFT's in-place real transform was verified up to this length; one row must also fit a binding.
  constexpr std::uint32_t longest = 1u << 19;
  if (tokens > longest || (std::uint64_t{fft_size_for(tokens)} + 2) * sizeof(float) > limits().storage_range_bytes) {
    fail(StatusCode::unsupported, "fft_conv of {} tokens on {}: the longest is {}", tokens, device_.info().name,
         std::min<std::uint64_t>(longest, std::bit_floor(limits().storage_range_bytes / 8 - 1)));
  }
  const std::uint32_t size = fft_size_for(tokens);
  const FftGroups groups(size, channels, 1, batch);
  FftPlans& plans = device_.fft_plans();
  const FftPlan& data = plans.get(*this, FftPlans::Role::data, size, groups.group_filters * groups.group_batch);
  const FftPlan& filters = plans.get(*this, FftPlans::Role::filter, size, groups.group_filters);
  const std::uint32_t constants[] = {args.skip ? 1u : 0u, args.gelu_erf ? 1u : 0u};

  for (std::uint32_t first = 0; first < channels; first += groups.group_filters) {
    const std::uint32_t group_channels = std::min(groups.group_filters, channels - first);
    RowsPush push{channels, tokens, first, group_channels, 0, group_channels, filters.row_stride()};
    record_pack(*this, args.kernel, filters, push);
    filters.forward(*this);
    for (std::uint32_t sequence = 0; sequence < batch; sequence += groups.group_batch) {
      push.first_sequence = sequence;
      push.row_count = group_channels * std::min(groups.group_batch, batch - sequence);
      record_pack(*this, args.u, data, push);
      data.forward(*this);
      record_spectrum_product(*this, data, filters, push.row_count, group_channels, 1);
      data.inverse(*this);
      const Binding bindings[] = {{data.rows(), Access::read},
                                  {args.u, Access::read},
                                  {args.skip ? args.skip : args.u, Access::read},
                                  {args.y, Access::write}};
      Dispatch dispatch{.shader = args.y.dtype == DType::f16 ? "fft_conv_output.f16" : "fft_conv_output.f32",
                        .constants = constants,
                        .bindings = bindings,
                        .push = push_bytes(push)};
      set_grid(dispatch, limits(), tokens, push.row_count);
      this->dispatch(dispatch);
    }
  }
}

}  // namespace riverhorse::vulkan
