#include <algorithm>

#include "vulkan/encoder.h"
#include "vulkan/groups.h"

namespace riverhorse::vulkan {

namespace {

constexpr std::uint32_t most_threads = 256;  // of a row
// A software device takes one subgroup after the other and turns to the next at each barrier, which takes longer than
// to add up a row.
constexpr std::uint32_t software_threads = 8;

}  // namespace

// One workgroup a row. Mean and variance in two passes over the row, which its threads find in their cache.
void VulkanEncoder::record_add_layer_norm(const AddLayerNormArgs& args) {
  const OperationScope scope(*this, "add_layer_norm");
  struct Push {
    std::uint32_t rows;
    std::uint32_t width;
    std::uint32_t add;  // 1: x is given
    float epsilon;
  };
  const Push push{static_cast<std::uint32_t>(args.residual.shape[0]),
                  static_cast<std::uint32_t>(args.residual.shape[1]), args.x ? 1u : 0u, args.norm.epsilon};
  if (push.rows == 0) return;
  const Binding bindings[] = {{args.x ? args.x : args.out, args.x ? Access::read : Access::write},
                              {args.residual, Access::read_write},  // as the shader declares it, x or not
                              {args.norm.weight, Access::read},
                              {args.norm.bias, Access::read},
                              {args.out, Access::write}};
  const bool software = device_.info().type == DeviceType::software;
  const std::uint32_t constants[] = {std::min(limits().invocations, software ? software_threads : most_threads)};
  Dispatch norm{args.out.dtype == DType::f16 ? "layer_norm.f16" : "layer_norm.f32", constants, bindings,
                push_bytes(push)};
  norm.groups[0] = groups_for(push.rows, 1, limits());
  norm.cost_bytes = static_cast<double>(2 * args.residual.size_bytes() + 2 * args.out.size_bytes());
  dispatch(norm);
}

}  // namespace riverhorse::vulkan
