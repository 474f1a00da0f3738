// attention: the cache is written, then many queries walk over it, a tile at a time.
// attention_step: one query a sequence; the keys are cut into parts that fill the device, and the last to finish of a
// head's parts joins them.
#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "vulkan/cooperative_matrix.h"
#include "vulkan/encoder.h"
#include "vulkan/grid.h"

namespace riverhorse::vulkan {

namespace {

constexpr std::uint32_t group_size = 128;
constexpr std::int64_t max_head_width = 256;
constexpr std::uint32_t query_tile = 32;  // attention.comp: queries a workgroup, keys a tile, channels a chunk
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

// How attention.comp or attention_coopmat.comp runs on a device.
struct AttentionPlan {
  std::string_view shader;
  std::vector<std::uint32_t> constants;
  std::uint32_t queries = query_tile;  // of a workgroup
  std::uint32_t required_subgroup_size = 0;
  double flops_a_dispatch = 0;  // about: one is kept short, because a submission cannot be cut inside it
};

// Bytes of shared memory that shaders/attention_coopmat.comp uses with 4 subgroups.
std::uint32_t matrix_shared_bytes(std::uint32_t head_width, std::uint32_t keys, std::uint32_t subgroup_size) {
  return 2 * keys * (head_width / 8 + 1) * 16 + 4 * 16 * (keys / 4 + 2) * 16 + 4 * subgroup_size * 4;
}

AttentionPlan plan_attention(const VulkanLimits& limits, const AttentionArgs& args, std::uint32_t head_width) {
  constexpr std::uint32_t max_matrix_width = 128;  // queries and outputs must stay in registers
  const bool f16 = args.qkv.dtype == DType::f16;
  const bool aligned = args.qkv.offset_bytes % 16 == 0 && args.cache.k.offset_bytes % 16 == 0 &&
                       args.cache.v.offset_bytes % 16 == 0 && args.y.offset_bytes % 16 == 0;
  const std::optional<MatrixUnit> unit = f16 && aligned ? matrix_unit(limits) : std::nullopt;
  if (unit && unit->square() && unit->subgroup_size >= 16 && unit->subgroup_size <= 64 && head_width % 16 == 0 &&
      head_width <= max_matrix_width) {
    const std::uint32_t subgroup_size = unit->subgroup_size;
    // Where operands take twice the registers, those of wide heads leave none for the next tile.
    const std::uint32_t ahead = limits.wide_matrix_operands && head_width > 80 ? 0 : 1;
    for (const std::uint32_t keys : {64u, 32u}) {
      if (matrix_shared_bytes(head_width, keys, subgroup_size) > limits.shared_bytes) continue;
      return {"attention_coopmat",
              {4 * subgroup_size, subgroup_size, head_width, keys, ahead},
              64,
              subgroup_size,
              400e6 * limits.compute_units};
    }
  }
  return {f16 ? "attention.f16" : "attention.f32",
          {divide_up(head_width, query_tile), by_vectors(args, head_width) ? 1u : 0u},
          query_tile,
          0,
          32e6 * limits.compute_units};
}

}  // namespace

void VulkanEncoder::record_attention(const AttentionArgs& args) {
  const OperationScope operation(*this, "attention");
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
  const AttentionPlan plan = plan_attention(limits(), args, push.head_width);
  Dispatch attend;
  attend.shader = plan.shader;
  attend.constants = plan.constants;
  attend.bindings = bindings;
  attend.required_subgroup_size = plan.required_subgroup_size;
  attend.groups[0] = push.batch * push.heads;
  if (attend.groups[0] > limits().group_count[0]) {
    fail(StatusCode::unsupported, "attention: {} sequences of {} heads are more than the device's grid can hold",
         push.batch, push.heads);
  }
  // How many keys there are is known on the device only: the capacity bounds the work.
  const std::uint32_t blocks = divide_up(push.tokens, plan.queries);
  const std::uint32_t compute_units = limits().compute_units;
  const double flops_a_block = 4.0 * plan.queries * push.capacity * push.width * push.batch;
  const auto most_blocks =
      static_cast<std::uint32_t>(std::clamp(plan.flops_a_dispatch / flops_a_block, 1.0, 65535.0));
  const std::uint32_t at_least = divide_up(compute_units * 2, attend.groups[0]);  // fill the device
  const std::uint32_t step = std::min({blocks, std::max(most_blocks, at_least), limits().group_count[1]});
  for (std::uint32_t begin = 0; begin < blocks; begin += step) {
    push.block_begin = begin;
    attend.push = push_bytes(push);
    attend.groups[1] = std::min(step, blocks - begin);
    attend.cost_flops = flops_a_block * attend.groups[1];
    attend.cost_bytes = 2 * element_bytes * push.capacity * push.width * push.batch;
    dispatch(attend);
  }
}

void VulkanEncoder::record_attention_step(const AttentionArgs& args) {
  const OperationScope operation(*this, "attention_step");
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
