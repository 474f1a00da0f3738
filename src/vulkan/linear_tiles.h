// The tiles of y that workgroups of the products with many rows make, and which of them a device takes.
#pragma once

#include <algorithm>
#include <cstdint>

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
};

// Of shaders/linear_gemm.comp: invocations, what they make of y, depth, what each of them makes.
struct PlainTile {
  std::uint32_t group, tile_m, tile_r, tile_k, thread_m, thread_r;

  std::uint32_t shared_bytes() const { return 2 * tile_k * (tile_m / 4 + 1 + tile_r / 4 + 1) * 16; }
};

// Tiles of rows of x that workgroups of linear_coopmat.comp work on side by side.
inline constexpr std::uint32_t matrix_band = 8;

struct ProductSize {
  std::uint32_t rows, inputs, outputs;  // y is (rows, outputs), W (outputs, inputs)
};

MatrixTile choose_matrix_tile(const VulkanLimits& limits, std::uint32_t subgroup_size, const ProductSize& size);
PlainTile choose_plain_tile(const VulkanLimits& limits, bool software, const ProductSize& size);

}  // namespace riverhorse::vulkan
