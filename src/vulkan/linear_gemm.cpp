// linear for many rows: chooses the tile, and cooperative matrices where the device multiplies f16 with them.
#include <algorithm>
#include <array>

#include "base/error.h"
#include "vulkan/cooperative_matrix.h"
#include "vulkan/grid.h"
#include "vulkan/linear.h"

namespace riverhorse::vulkan {

namespace {

struct Tiling {
  std::string_view shader;
  std::array<std::uint32_t, 7> constants{};  // the last one is FLAGS
  std::uint32_t tile_m = 0;
  std::uint32_t tile_r = 0;
  std::uint32_t required_subgroup_size = 0;
};

// Bytes of shared memory that shaders/linear_gemm.comp uses.
std::uint32_t simt_shared_bytes(std::uint32_t tile_m, std::uint32_t tile_r, std::uint32_t tile_k) {
  return 2 * tile_k * (tile_m / 4 + 1 + tile_r / 4 + 1) * 16;
}

// The largest tile that still gives every compute unit one; on a CPU the smallest, which compiles fastest.
Tiling simt_tiling(const VulkanLimits& limits, bool f16, bool software, std::uint32_t outputs, std::uint32_t rows,
                   std::uint32_t compute_units) {
  const std::string_view shader = f16 ? "linear_gemm.f16" : "linear_gemm.f32";
  const auto fits = [&](std::uint32_t tile, std::uint32_t tile_k, std::uint32_t invocations) {
    return !software && divide_up(outputs, tile) * divide_up(rows, tile) >= compute_units &&
           limits.invocations >= invocations && limits.shared_bytes >= simt_shared_bytes(tile, tile, tile_k);
  };
  if (fits(128, 16, 256)) return {shader, {256, 128, 128, 16, 8, 8, 0}, 128, 128, 0};
  if (fits(64, 16, 128)) return {shader, {128, 64, 64, 16, 8, 4, 0}, 64, 64, 0};
  if (fits(64, 8, 128)) return {shader, {128, 64, 64, 8, 8, 4, 0}, 64, 64, 0};
  return {shader, {64, 32, 32, 16, 4, 4, 0}, 32, 32, 0};
}

// Bytes of shared memory that shaders/linear_coopmat.comp uses with 2 x 2 subgroups.
std::uint32_t matrix_shared_bytes(std::uint32_t tile, bool x_transposed) {
  const std::uint32_t rows = tile * 5 * 16;
  return 2 * (rows + (x_transposed ? 32 * (tile / 8 + 1) * 16 : rows));
}

Tiling matrix_tiling(const VulkanLimits& limits, std::uint32_t subgroup_size, bool x_transposed,
                     std::uint32_t outputs, std::uint32_t rows, std::uint32_t compute_units) {
  const bool large = divide_up(outputs, 128) * divide_up(rows, 128) >= compute_units &&
                     limits.shared_bytes >= matrix_shared_bytes(128, x_transposed);
  const std::uint32_t fragments = large ? 4 : 2;
  const std::uint32_t tile = fragments * 32;
  return {
      "linear_coopmat", {4 * subgroup_size, subgroup_size, 2, 2, fragments, fragments, 0}, tile, tile, subgroup_size};
}

}  // namespace

void linear_gemm(VulkanEncoder& encoder, const LinearPart& part) {
  const VulkanLimits& limits = encoder.limits();
  const LinearArgs& args = part.args;
  const bool f16 = part.weight.dtype == DType::f16;

  const std::optional<MatrixUnit> unit = f16 ? matrix_unit(limits) : std::nullopt;
  const bool matrix = unit && unit->square();
  Tiling tiling = matrix ? matrix_tiling(limits, unit->subgroup_size, args.x_transposed, part.outputs, part.rows,
                                         limits.compute_units)
                         : simt_tiling(limits, f16, encoder.device().info().type == DeviceType::software,
                                       part.outputs, part.rows, limits.compute_units);

  std::uint32_t flags = linear_flags(part);
  const std::uint32_t vector_bytes = matrix ? 16 : (f16 ? 8 : 16);
  if (rows_aligned(part.weight, part.inputs, vector_bytes)) flags |= vector_weight;
  if (rows_aligned(part.x, args.x_transposed ? part.rows : part.inputs, vector_bytes)) flags |= vector_x;
  const std::uint32_t y_vector_bytes = part.y.dtype == DType::f32 ? 16 : 8;
  if (rows_aligned(part.y, args.y_transposed ? part.rows : part.outputs, y_vector_bytes) &&
      (args.y_transposed || (part.column % 4 == 0 && part.part_outputs() % 4 == 0))) {
    flags |= vector_y;
  }
  tiling.constants[6] = flags;

  const Tensor& bias = args.bias ? args.bias : part.weight;
  const Binding bindings[] = {{part.x, Access::read},
                              {bias, Access::read},
                              {part.y, args.accumulate ? Access::read_write : Access::write},
                              {part.weight, Access::read}};
  Dispatch dispatch;
  dispatch.shader = tiling.shader;
  dispatch.constants = tiling.constants;
  dispatch.bindings = bindings;
  dispatch.required_subgroup_size = tiling.required_subgroup_size;
  dispatch.groups[0] = divide_up(part.part_outputs(), tiling.tile_m);
  if (dispatch.groups[0] > limits.group_count[0]) {
    fail(StatusCode::unsupported, "linear: {} outputs are more than the device's grid can hold", part.outputs);
  }

  // One dispatch is short enough to keep a desktop alive: a submission cannot be cut inside it.
  const double flops_a_dispatch = 64e6 * limits.compute_units;
  const double flops_a_tile = 2.0 * part.inputs * part.part_outputs() * tiling.tile_r;
  const std::uint32_t tiles = divide_up(part.rows, tiling.tile_r);
  const auto most_tiles = static_cast<std::uint32_t>(std::clamp(flops_a_dispatch / flops_a_tile, 1.0, 65535.0));
  const std::uint32_t step = std::min({tiles, most_tiles, limits.group_count[1]});
  LinearPush push = linear_push(part);
  for (std::uint32_t begin = 0; begin < tiles; begin += step) {
    push.tile_begin = begin;
    dispatch.push = push_bytes(push);
    dispatch.groups[1] = std::min(step, tiles - begin);
    const double share = static_cast<double>(dispatch.groups[1]) / tiles;
    dispatch.cost_bytes = linear_bytes(part) * share;
    dispatch.cost_flops = linear_flops(part) * share;
    encoder.dispatch(dispatch);
  }
}

}  // namespace riverhorse::vulkan
