// The two shader families of `linear`, and what they share.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "vulkan/encoder.h"
#include "vulkan/linear_tiles.h"

namespace riverhorse::vulkan {

// A part of a linear operation whose tensors all fit the storage range: rows [column, column + weight rows) of the
// whole weight make these columns of y.
struct LinearPart {
  const LinearArgs& args;
  Tensor x;       // (R, K), or (K, R) where args.x_transposed
  Tensor weight;  // (M', K); quantised for few rows only
  Tensor y;       // (R, M), or (M, R) where args.y_transposed
  DType activation = DType::f32;
  std::uint32_t rows = 0;
  std::uint32_t inputs = 0;   // K
  std::uint32_t outputs = 0;  // M, of the whole weight
  std::uint32_t column = 0;   // where the part's weight rows start

  std::uint32_t part_outputs() const { return static_cast<std::uint32_t>(weight.shape[0]); }
};

// The push constants of every linear shader.
struct LinearPush {
  std::uint32_t inputs = 0;
  std::uint32_t part_outputs = 0;
  std::uint32_t rows = 0;
  std::uint32_t outputs = 0;
  std::uint32_t column = 0;
  std::uint32_t tile_begin = 0;
  float epsilon = 0;
};

// Bits of the constant FLAGS in shaders/linear_storage.glsl.
enum LinearFlag : std::uint32_t {
  vector_weight = 1,
  vector_x = 2,
  norm_flag = 4,
  x_is_f32 = 8,
  x_transposed_flag = 16,
  y_is_f32 = 32,
  y_transposed_flag = 64,
  bias_flag = 128,
  gelu_flag = 256,
  accumulate_flag = 512,
  vector_y = 1024,
  staged = 2048,  // linear_gemv.glsl
  whole_k = 4096,
  whole_tiles = 8192,
};

// Flags that follow from the arguments alone (all but the vector ones).
std::uint32_t linear_flags(const LinearPart& part);
LinearPush linear_push(const LinearPart& part);
double linear_bytes(const LinearPart& part);
double linear_flops(const LinearPart& part);

// The most rows of x that linear_gemv takes.
inline constexpr std::int64_t linear_gemv_rows = 8;
// How a device runs linear_gemv.glsl on a part.
struct GemvPlan {
  bool subgroups = false;                    // a team is a subgroup; else it meets in shared memory
  std::uint32_t lanes = 32;                  // invocations of a team
  std::uint32_t required_subgroup_size = 0;  // as Dispatch
  std::uint32_t flags = 0;
  std::uint32_t batch = 1;          // rows of x, a power of two
  std::uint32_t rows = 1;           // of W a team
  std::uint32_t teams = 1;          // of a workgroup, a multiple of `split`
  std::uint32_t split = 1;          // teams that share a row of W
  std::uint32_t unroll = 1;         // units in flight a lane and row
  std::uint32_t staged_pieces = 1;  // 16 bytes each, of x in shared memory

  std::uint32_t most_teams(const VulkanLimits& limits) const;  // of a workgroup
};
// `rows_of_team`: of W, where that is given and teams share none; else 0.
GemvPlan plan_gemv(const VulkanLimits& limits, const LinearPart& part, std::uint32_t rows_of_team);
// A shader of linear_gemv.glsl over `groups` workgroups, in the variant for the dtype and the plan; `more_bytes`: its
// traffic beyond that of the product.
void dispatch_gemv(VulkanEncoder& encoder, std::string_view stem, const LinearPart& part, const GemvPlan& plan,
                   std::span<const std::uint32_t> constants, std::span<const Binding> bindings, std::uint32_t groups,
                   double more_bytes);
void linear_gemv(VulkanEncoder& encoder, const LinearPart& part);
// Without norm. By the tile that is best on the device as far as that is known; by a given one.
void linear_gemm(VulkanEncoder& encoder, const LinearPart& part);
void linear_gemm(VulkanEncoder& encoder, const LinearPart& part, const Tiling& tiling);
// With the flags of this product: what its pipeline is made from.
Tiling specialised(const VulkanLimits& limits, const LinearPart& part, Tiling tiling);
// Of a product whose time by a tile is the same: "f16 768 -> 2304, 1088, 1024 rows" (the number: linear_flags).
std::string product_name(const LinearPart& part, std::uint32_t rows);

// True where 16-byte loads of rows of `row_elements` elements from this tensor are aligned, `bytes` at a time.
bool rows_aligned(const Tensor& tensor, std::int64_t row_elements, std::uint32_t bytes);

}  // namespace riverhorse::vulkan
