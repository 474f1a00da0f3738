// linear for many rows: chooses the tile, and cooperative matrices where the device multiplies f16 with them.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "vulkan/cooperative_matrix.h"
#include "vulkan/grid.h"
#include "vulkan/linear.h"
#include "vulkan/linear_tiles.h"
#include "vulkan/tile_tuner.h"

namespace riverhorse::vulkan {

namespace {

Tiling plain_tiling(const PlainTile& tile, bool f16) {
  return {f16 ? "linear_gemm.f16" : "linear_gemm.f32",
          {tile.group, tile.tile_m, tile.tile_r, tile.tile_k, tile.thread_m, tile.thread_r, 0},
          tile.tile_m,
          tile.tile_r,
          tile.tile_k,
          0,
          400e6,
          0};
}

Tiling matrix_tiling(const MatrixTile& tile, const MatrixUnit& unit) {
  const std::uint32_t subgroup_size = unit.subgroup_size;
  const CooperativeMatrixShape& shape = unit.shape;
  return {"linear_coopmat",
          {tile.invocations(subgroup_size), subgroup_size, tile.warps_m, tile.warps_r, tile.warp_m / shape.m,
           tile.warp_r / shape.n, 0, tile.tile_k, tile.buffers, matrix_band, shape.m, shape.n, shape.k, tile.warps_k},
          tile.tile_m(),
          tile.tile_r(),
          tile.tile_k,
          subgroup_size,
          1e9,
          tile.order()};
}

}  // namespace

std::string Tiling::name() const { return fmt::format("{}-{}", shader, fmt::join(constants, "-")); }

std::vector<Tiling> tilings_for(const VulkanLimits& limits, bool f16, bool software, const ProductSize& size) {
  std::vector<Tiling> tilings;
  if (const std::optional<MatrixUnit> unit = f16 ? matrix_unit(limits) : std::nullopt) {
    for (const MatrixTile& tile : matrix_tiles_for(limits, unit->subgroup_size, size)) {
      tilings.push_back(matrix_tiling(tile, *unit));
    }
  } else {
    for (const PlainTile& tile : plain_tiles_for(limits, software, size)) tilings.push_back(plain_tiling(tile, f16));
  }
  return tilings;
}

std::string product_name(const LinearPart& part, std::uint32_t rows) {
  return fmt::format("{} {} -> {}, {}, {} rows", dtype_name(part.weight.dtype), part.inputs, part.part_outputs(),
                     linear_flags(part), rows);
}

void linear_gemm(VulkanEncoder& encoder, const LinearPart& part) {
  if (encoder.preparing()) encoder.see_product(part);
  VulkanDevice& device = encoder.device();
  const bool software = device.info().type == DeviceType::software;
  const ProductSize size{part.rows, part.inputs, part.part_outputs()};
  const std::vector<Tiling> tilings = tilings_for(encoder.limits(), part.weight.dtype == DType::f16, software, size);
  linear_gemm(encoder, part, tilings[timed_choice(device, part, tilings)]);
}

Tiling specialised(const VulkanLimits& limits, const LinearPart& part, Tiling tiling) {
  const LinearArgs& args = part.args;
  const bool f16 = part.weight.dtype == DType::f16;
  const bool matrix = f16 && matrix_unit(limits).has_value();
  std::uint32_t flags = linear_flags(part);
  const std::uint32_t vector_bytes = matrix ? 16 : (f16 ? 8 : 16);
  if (rows_aligned(part.weight, part.inputs, vector_bytes)) flags |= vector_weight;
  if (part.inputs % tiling.tile_k == 0) flags |= whole_k;
  if (matrix && part.part_outputs() % tiling.tile_m == 0 && part.rows % tiling.tile_r == 0) flags |= whole_tiles;
  if (rows_aligned(part.x, args.x_transposed ? part.rows : part.inputs, vector_bytes)) flags |= vector_x;
  const std::uint32_t y_vector_bytes = part.y.dtype == DType::f32 ? 16 : 8;
  if (rows_aligned(part.y, args.y_transposed ? part.rows : part.outputs, y_vector_bytes) &&
      (args.y_transposed || (part.column % 4 == 0 && part.part_outputs() % 4 == 0))) {
    flags |= vector_y;
  }
  tiling.constants[6] = flags;
  return tiling;
}

void linear_gemm(VulkanEncoder& encoder, const LinearPart& part, const Tiling& plain_tiling) {
  const VulkanLimits& limits = encoder.limits();
  const LinearArgs& args = part.args;
  const Tiling tiling = specialised(limits, part, plain_tiling);
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

  const double flops_a_dispatch = tiling.flops_a_unit * limits.compute_units;
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
