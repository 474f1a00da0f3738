// One token of the mixer: one dispatch (h3_step.comp).
#include <cstdint>

#include "base/error.h"
#include "vulkan/encoder.h"
#include "vulkan/grid.h"

namespace riverhorse::vulkan {

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
  dispatch.cost_bytes = 1.0 * channels * (head_dim * modes * 32.0 + 4.0 * state_size) * (sequences + 1);
  this->dispatch(dispatch);
}

}  // namespace riverhorse::vulkan
