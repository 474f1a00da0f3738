// attention: the cache is written, then many queries walk over it, a tile at a time.
// attention_step: one query a sequence; the keys are cut into parts that fill the device, and the last to finish of a
// head's parts joins them.
#include <algorithm>
#include <bit>
#include <cmath>

#include "base/error.h"
#include "vulkan/encoder.h"
#include "vulkan/grid.h"

namespace riverhorse::vulkan {

namespace {

constexpr std::uint32_t group_size = 128;
constexpr std::int64_t max_head_width = 256;
constexpr std::uint32_t query_tile = 32;  // queries a workgroup, keys a tile, channels a chunk
constexpr std::uint32_t least_part = 64;  // keys of a part of attention_step, at least
constexpr std::uint32_t most_parts = 128;

struct AttentionPush {
  std::uint32_t batch = 0;
  std::uint32_t tokens = 0;
  std::uint32_t width = 0;
  std::uint32_t heads = 0;
  std::uint32_t head_width = 0;
  std::uint32_t capacity = 0;
  std::uint32_t block_begin = 0;
  std::uint32_t splits = 1;
  float scale = 1;
};

AttentionPush attention_push(const AttentionArgs& args) {
  AttentionPush push;
  push.batch = static_cast<std::uint32_t>(args.qkv.shape[0]);
  push.tokens = static_cast<std::uint32_t>(args.qkv.shape[1]);
  push.width = static_cast<std::uint32_t>(args.y.shape[2]);
  push.heads = static_cast<std::uint32_t>(args.heads);
  push.head_width = push.width / push.heads;
  push.capacity = static_cast<std::uint32_t>(args.cache.k.shape[1]);
  push.scale = 1.0f / std::sqrt(static_cast<float>(push.head_width));
  if (push.head_width > max_head_width) {
    fail(StatusCode::unsupported, "attention: heads of width {}; the limit of the Vulkan backend is {}",
         push.head_width, max_head_width);
  }
  return push;
}

// Whether heads can be read four channels at a time.
bool by_vectors(const AttentionArgs& args, std::uint32_t head_width) {
  const std::uint64_t bytes = args.qkv.dtype == DType::f16 ? 8 : 16;
  return head_width % 4 == 0 && args.qkv.offset_bytes % bytes == 0 && args.cache.k.offset_bytes % bytes == 0 &&
         args.cache.v.offset_bytes % bytes == 0;
}

}  // namespace

void VulkanEncoder::record_attention(const AttentionArgs& args) {
  AttentionPush push = attention_push(args);
  if (args.qkv.count() == 0) return;
  const bool f16 = args.qkv.dtype == DType::f16;
  const double element_bytes = dtype_size_bytes(args.qkv.dtype);

  const Binding write_bindings[] = {{args.qkv, Access::read},
                                    {args.slots, Access::read},
                                    {args.positions, Access::read},
                                    {args.cache.k, Access::write},
                                    {args.cache.v, Access::write}};
  const std::uint32_t write_constants[] = {group_size};
  const std::uint32_t elements = push.batch * push.tokens * push.width;
  Dispatch write;
  write.shader = f16 ? "attention_write.f16" : "attention_write.f32";
  write.constants = write_constants;
  write.bindings = write_bindings;
  write.push = push_bytes(push);
  write.groups[0] = std::min(divide_up(elements, group_size), limits().group_count[0]);
  write.cost_bytes = 4 * element_bytes * elements;
  dispatch(write);

  const Binding bindings[] = {{args.qkv, Access::read},       {args.slots, Access::read},
                              {args.positions, Access::read}, {args.cache.k, Access::read},
                              {args.cache.v, Access::read},   {args.y, Access::write}};
  const std::uint32_t constants[] = {divide_up(push.head_width, query_tile),
                                     by_vectors(args, push.head_width) ? 1u : 0u};
  Dispatch attend;
  attend.shader = f16 ? "attention.f16" : "attention.f32";
  attend.constants = constants;
  attend.bindings = bindings;
  attend.groups[1] = push.batch * push.heads;
  if (attend.groups[1] > limits().group_count[1]) {
    fail(StatusCode::unsupported, "attention: {} sequences of {} heads are more than the device's grid can hold",
         push.batch, push.heads);
  }
  // How many keys there are is known on the device only: the capacity bounds the work. A dispatch is kept short,
  // because a submission cannot be cut inside it.
  const std::uint32_t blocks = divide_up(push.tokens, query_tile);
  const std::uint32_t compute_units = limits().compute_units;
  const double flops_a_block = 4.0 * query_tile * push.capacity * push.width * push.batch;
  const auto most_blocks = static_cast<std::uint32_t>(std::clamp(32e6 * compute_units / flops_a_block, 1.0, 65535.0));
  const std::uint32_t at_least = divide_up(compute_units * 2, attend.groups[1]);  // fill the device
  const std::uint32_t step = std::min({blocks, std::max(most_blocks, at_least), limits().group_count[0]});
  for (std::uint32_t begin = 0; begin < blocks; begin += step) {
    push.block_begin = begin;
    attend.push = push_bytes(push);
    attend.groups[0] = std::min(step, blocks - begin);
    attend.cost_flops = flops_a_block * attend.groups[0];
    attend.cost_bytes = 2 * element_bytes * push.capacity * push.width * push.batch;
    dispatch(attend);
  }
}

void VulkanEncoder::record_attention_step(const AttentionArgs& args) {
  AttentionPush push = attention_push(args);
  if (args.qkv.count() == 0) return;
  const bool f16 = args.qkv.dtype == DType::f16;
  const std::uint32_t heads_total = push.batch * push.heads;
  if (heads_total > limits().group_count[1]) {
    fail(StatusCode::unsupported, "attention_step: {} sequences of {} heads are more than the device's grid can hold",
         push.batch, push.heads);
  }
  push.splits = std::clamp(divide_up(most_counters(), heads_total), 1u,
                           std::min(most_parts, divide_up(push.capacity, least_part)));

  const bool vectors = by_vectors(args, push.head_width);
  const std::uint32_t items = vectors ? push.head_width / 4 : push.head_width;  // that lanes go across
  const std::uint32_t lanes = std::min(std::bit_ceil(items), group_size);

  ScratchScope scope(*this);
  const Tensor partial = scratch(DType::f32, {heads_total, push.splits, push.head_width + 2});
  const Binding bindings[] = {{args.qkv, Access::read},
                              {args.slots, Access::read},
                              {args.positions, Access::read},
                              {args.cache.k, Access::read_write},
                              {args.cache.v, Access::read_write},
                              {partial, Access::write},
                              {args.y, Access::write},
                              {counters(), Access::read_write}};
  const std::uint32_t held = divide_up(items, lanes);
  // Of a tile of 64 keys, 128 / lanes at a time; up to 16 vectors an invocation.
  const std::uint32_t ahead = vectors && held == 1 && lanes >= 2 && lanes <= 32 ? lanes / 2 : 0;
  const std::uint32_t constants[] = {lanes, vectors ? 1u : 0u, held, ahead};
  Dispatch parts;
  parts.shader = f16 ? "attention_step.f16" : "attention_step.f32";
  parts.constants = constants;
  parts.bindings = bindings;
  parts.push = push_bytes(push);
  parts.groups[0] = push.splits;
  parts.groups[1] = heads_total;
  parts.cost_bytes = 2.0 * dtype_size_bytes(args.qkv.dtype) * push.capacity * push.width * push.batch;
  parts.cost_flops = 4.0 * push.capacity * push.width * push.batch;
  dispatch(parts);
}

}  // namespace riverhorse::vulkan
