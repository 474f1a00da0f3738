// The tiles of y that workgroups of the products with many rows make, and which of them a device takes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "vulkan/device.h"

namespace riverhorse::vulkan {

// Of shaders/linear_coopmat.comp: sets of subgroups along m and r, what each subgroup makes of y, depth, buffers, and
// how many such sets share the depth.
struct MatrixTile {
  std::uint32_t warps_m, warps_r, warp_m, warp_r, tile_k, buffers, warps_k;

  std::uint32_t tile_m() const { return warps_m * warp_m; }
  std::uint32_t tile_r() const { return warps_r * warp_r; }
  std::uint32_t invocations(std::uint32_t subgroup_size) const { return warps_m * warps_r * warps_k * subgroup_size; }
  std::uint32_t shared_bytes() const;  // for the worse of x and y as they are and transposed
  // Tiles with the same number make the same sums in the same order, to the last bit; 0: along k in turn.
  std::uint32_t order() const { return warps_k == 1 ? 0 : warps_k << 16 | tile_k; }
  bool operator==(const MatrixTile&) const = default;
};

// Of shaders/linear_gemm.comp: invocations, what they make of y, depth, what each of them makes.
struct PlainTile {
  std::uint32_t group, tile_m, tile_r, tile_k, thread_m, thread_r;

  std::uint32_t shared_bytes() const { return 2 * tile_k * (tile_m / 4 + 1 + tile_r / 4 + 1) * 16; }
  bool operator==(const PlainTile&) const = default;
};

// Tiles of rows of x that workgroups of linear_coopmat.comp work on side by side.
inline constexpr std::uint32_t matrix_band = 8;

struct ProductSize {
  std::uint32_t rows, inputs, outputs;  // y is (rows, outputs), W (outputs, inputs)
};

// How often a unit of the device has a tile to make.
std::uint64_t turns_of(const VulkanLimits& limits, const ProductSize& size, std::uint32_t tile_m,
                       std::uint32_t tile_r);

// By a rule, from times on one GPU. tile_tuner.h times tiles on the device at hand.
MatrixTile choose_matrix_tile(const VulkanLimits& limits, std::uint32_t subgroup_size, const ProductSize& size);
PlainTile choose_plain_tile(const VulkanLimits& limits, bool software, const ProductSize& size);

// All that a device takes, the rule's choice first. Matrix tiles for which the rule expects more than twice the time
// of its choice are left out.
std::vector<MatrixTile> matrix_tiles_for(const VulkanLimits& limits, std::uint32_t subgroup_size,
                                         const ProductSize& size);
std::vector<PlainTile> plain_tiles_for(const VulkanLimits& limits, bool software, const ProductSize& size);

// A way to make a product of many rows: a shader for a tile.
struct Tiling {
  std::string_view shader;
  std::vector<std::uint32_t> constants;  // [6] is FLAGS, 0 so far
  std::uint32_t tile_m = 0;
  std::uint32_t tile_r = 0;
  std::uint32_t tile_k = 0;
  std::uint32_t required_subgroup_size = 0;
  // One dispatch is short enough to keep a desktop alive, because a submission cannot be cut inside it: some two
  // milliseconds of a GPU's compute unit. Much shorter ones would leave units without work at the end of each.
  double flops_a_unit = 0;
  std::uint32_t order = 0;  // as MatrixTile::order()

  std::string name() const;  // tells it from others: "linear_gemm.f32-128-128-64-16-8-8-0"
};

// Of a device, in f16 or f32; the rule's first.
std::vector<Tiling> tilings_for(const VulkanLimits& limits, bool f16, bool software, const ProductSize& size);

}  // namespace riverhorse::vulkan
