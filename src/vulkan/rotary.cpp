// rotary: one dispatch, in place.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "vulkan/encoder.h"

namespace riverhorse::vulkan {

namespace {

constexpr std::uint32_t group_size = 128;

struct RotaryPush {
  std::uint32_t powers[8][2] = {};  // 10000^(-2 * 2^i / rotary_dim), 0.64 fixed point: low word, high word
  std::uint32_t tokens = 0;
  std::uint32_t width = 0;
  std::uint32_t heads = 0;
  std::uint32_t head_width = 0;
  std::uint32_t half_dim = 0;
  std::uint32_t total = 0;
};

}  // namespace

void VulkanEncoder::record_rotary(const RotaryArgs& args) {
  const OperationScope operation(*this, "rotary");
  const std::int64_t batch = args.qkv.shape[0];
  const std::int64_t tokens = args.qkv.shape[1];
  const std::int64_t width = args.qkv.shape[2] / 3;
  const std::int64_t pairs = batch * tokens * 2 * args.heads * (args.rotary_dim / 2);
  if (pairs == 0) return;
  if (args.rotary_dim > 512) {
    fail(StatusCode::unsupported, "rotary: a dimension of {}; the limit of the Vulkan backend is 512",
         args.rotary_dim);
  }

  RotaryPush push;
  for (int i = 0; i < 8; ++i) {
    // Only powers below one are used: ratio^0 is never multiplied, and rotary_dim 2 has the pair j = 0 alone.
    const long double power = std::pow(10000.0L, -2.0L * static_cast<long double>(1 << i) / args.rotary_dim);
    const auto bits = static_cast<std::uint64_t>(std::ldexp(power, 64));
    push.powers[i][0] = static_cast<std::uint32_t>(bits);
    push.powers[i][1] = static_cast<std::uint32_t>(bits >> 32);
  }
  push.tokens = static_cast<std::uint32_t>(tokens);
  push.width = static_cast<std::uint32_t>(width);
  push.heads = static_cast<std::uint32_t>(args.heads);
  push.head_width = static_cast<std::uint32_t>(width / args.heads);
  push.half_dim = static_cast<std::uint32_t>(args.rotary_dim / 2);
  push.total = static_cast<std::uint32_t>(pairs);

  const Binding bindings[] = {
      {args.qkv, Access::read_write}, {args.slots, Access::read}, {args.positions, Access::read}};
  const std::uint32_t constants[] = {group_size};
  Dispatch dispatch;
  dispatch.shader = args.qkv.dtype == DType::f16 ? "rotary.f16" : "rotary.f32";
  dispatch.constants = constants;
  dispatch.bindings = bindings;
  dispatch.push = push_bytes(push);
  dispatch.groups[0] = std::min((push.total + group_size - 1) / group_size, limits().group_count[0]);
  dispatch.cost_bytes = 4.0 * dtype_size_bytes(args.qkv.dtype) * static_cast<double>(pairs);
  dispatch.cost_flops = 100.0 * static_cast<double>(pairs);
  this->dispatch(dispatch);
}

}  // namespace riverhorse::vulkan
