// The rule for matrix tiles, where none were timed on the device: a unit of the device works its tiles off in
// turn, so the time of a product is that of a tile times the most tiles that a unit has. Microseconds of a tile were
// measured on an H100 that had at most one a unit; elsewhere their ratios stand in. In 17 products of 64, 256 and
// 1024 rows of the models of 125M, 355M and 1.3B the choice was within 11 % of the best of eleven tiles, in most
// within 5 %.
#include "vulkan/linear_tiles.h"

#include "vulkan/grid.h"

namespace riverhorse::vulkan {

std::uint32_t MatrixTile::shared_bytes() const {
  const std::uint32_t stride_k = tile_k / 8 + 1;
  const std::uint32_t x = std::max(tile_r() * stride_k, tile_k * (tile_r() / 8 + 1));
  const std::uint32_t out = warps_m * warps_r * 16 * (std::max(warp_m, warp_r) / 4 + 1);
  const std::uint32_t sums = warps_k > 1 ? tile_m() * tile_r() / 16 * 5 : 0;
  return 16 * std::max({buffers * (tile_m() * stride_k + x), out, sums});
}

namespace {

struct TimedTile {
  MatrixTile tile;
  double fixed_us, us_a_column;  // of W's
  bool for_wide = true;          // also where operands take twice the registers
};

constexpr TimedTile matrix_tiles[] = {
    {{2, 2, 64, 64, 64, 1, 1}, 7.0, 0.0133, false},  {{2, 2, 64, 64, 32, 2, 1}, 7.0, 0.0180},
    {{2, 2, 32, 64, 64, 1, 1}, 4.2, 0.0095},         {{2, 2, 32, 32, 64, 1, 1}, 2.6, 0.0045},
    {{1, 2, 32, 32, 128, 1, 4}, 3.2, 0.0031, false},
};

struct RatedTile {
  MatrixTile tile;
  double us = 0;  // as the rule expects
};

std::vector<RatedTile> rated_tiles(const VulkanLimits& limits, std::uint32_t subgroup_size, const ProductSize& size) {
  std::vector<RatedTile> rated;
  for (const TimedTile& each : matrix_tiles) {
    const MatrixTile& tile = each.tile;
    if ((limits.wide_matrix_operands && !each.for_wide) || tile.shared_bytes() > limits.shared_bytes ||
        tile.invocations(subgroup_size) > limits.invocations) {
      continue;
    }
    const std::uint64_t turns = turns_of(limits, size, tile.tile_m(), tile.tile_r());
    rated.push_back({tile, static_cast<double>(turns) * (each.fixed_us + each.us_a_column * size.inputs)});
  }
  std::stable_sort(rated.begin(), rated.end(),
                   [](const RatedTile& one, const RatedTile& other) { return one.us < other.us; });
  if (rated.empty()) rated.push_back({{2, 2, 32, 32, 32, 2, 1}});  // fits wherever there are cooperative matrices
  return rated;
}

}  // namespace

std::uint64_t turns_of(const VulkanLimits& limits, const ProductSize& size, std::uint32_t tile_m,
                       std::uint32_t tile_r) {
  const std::uint64_t count = std::uint64_t{divide_up(size.outputs, tile_m)} * divide_up(size.rows, tile_r);
  return divide_up(count, limits.compute_units);
}

MatrixTile choose_matrix_tile(const VulkanLimits& limits, std::uint32_t subgroup_size, const ProductSize& size) {
  return rated_tiles(limits, subgroup_size, size).front().tile;
}

std::vector<MatrixTile> matrix_tiles_for(const VulkanLimits& limits, std::uint32_t subgroup_size,
                                         const ProductSize& size) {
  std::vector<MatrixTile> tiles;
  const std::vector<RatedTile> rated = rated_tiles(limits, subgroup_size, size);
  for (const RatedTile& each : rated) {
    if (each.us <= 2 * rated.front().us) tiles.push_back(each.tile);
  }
  return tiles;
}

namespace {

constexpr PlainTile large_plain_tiles[] = {
    {128, 128, 64, 16, 8, 8}, {64, 64, 64, 16, 8, 8}, {128, 64, 64, 16, 8, 4}, {128, 64, 64, 8, 8, 4}};
constexpr PlainTile small_plain_tile = {64, 32, 32, 16, 4, 4};

bool fits(const VulkanLimits& limits, const PlainTile& tile) {
  return limits.invocations >= tile.group && limits.shared_bytes >= tile.shared_bytes();
}

}  // namespace

// The largest tile that still gives most compute units one; on a CPU the smallest, which compiles fastest. On an H100
// 8 x 8 an invocation are best in groups of 128 (f32, 4096^3): 39 TFLOP/s, in groups of 256 38, of 64 37; 8 x 4 33.
PlainTile choose_plain_tile(const VulkanLimits& limits, bool software, const ProductSize& size) {
  for (const PlainTile& each : large_plain_tiles) {
    const std::uint64_t count =
        std::uint64_t{divide_up(size.outputs, each.tile_m)} * divide_up(size.rows, each.tile_r);
    if (!software && 4 * count >= 3 * limits.compute_units && fits(limits, each)) return each;
  }
  return small_plain_tile;
}

std::vector<PlainTile> plain_tiles_for(const VulkanLimits& limits, bool software, const ProductSize& size) {
  std::vector<PlainTile> tiles = {choose_plain_tile(limits, software, size)};
  for (const PlainTile& each : large_plain_tiles) {
    if (each != tiles.front() && fits(limits, each)) tiles.push_back(each);
  }
  if (tiles.front() != small_plain_tile) tiles.push_back(small_plain_tile);
  return tiles;
}

}  // namespace riverhorse::vulkan
