// What the case table cannot say about the linear, rotary and attention shaders: a row's bits do not depend on its
// neighbours, later tokens cannot touch earlier ones, angles stay right far out, weights larger than a binding work.
#include <cmath>
#include <cstring>

#include "vulkan/linear_tiles.h"
#include "vulkan_support.h"

namespace riverhorse::test {
namespace {

constexpr unsigned seed = 20231;

std::vector<float> random_floats(std::size_t count, unsigned salt, float scale = 1.0f) {
  std::mt19937 generator(seed + salt);
  std::vector<float> values(count);
  for (float& value : values) {
    value = scale * (static_cast<float>(generator() >> 8) * 0x1p-23f - 1.0f);
  }
  return values;
}

class LinearVulkanTest : public VulkanTest {
 protected:
  Tensor upload(const std::vector<float>& values, Shape shape) {
    const Tensor tensor = device_->allocate_tensor(DType::f32, shape);
    device_->upload(tensor, std::as_bytes(std::span(values)));
    return tensor;
  }
  Tensor upload(const std::vector<std::int32_t>& values) {
    const Tensor tensor = device_->allocate_tensor(DType::i32, {static_cast<std::int64_t>(values.size())});
    device_->upload(tensor, std::as_bytes(std::span(values)));
    return tensor;
  }
  std::vector<float> download(const Tensor& tensor) {
    std::vector<float> values(static_cast<std::size_t>(tensor.count()));
    device_->download(tensor, std::as_writable_bytes(std::span(values)));
    return values;
  }
  std::vector<float> linear(const std::vector<float>& x, std::int64_t rows, std::int64_t inputs,
                            const Tensor& weight) {
    LinearArgs args;
    args.x = upload(x, {rows, inputs});
    args.weight = weight;
    args.y = device_->allocate_tensor(DType::f32, {rows, weight.shape[0]});
    device_->run([&](Encoder& encoder) { encoder.linear(args); });
    return download(args.y);
  }
};

TEST_F(LinearVulkanTest, ARowOfFewIsTheSameBitsInAnyCompany) {
  const std::int64_t inputs = 136, outputs = 75;
  const Tensor weight = upload(random_floats(static_cast<std::size_t>(inputs * outputs), 1), {outputs, inputs});
  const std::vector<float> x = random_floats(static_cast<std::size_t>(8 * inputs), 2);
  const std::vector<float> together = linear(x, 8, inputs, weight);
  for (const std::int64_t rows : {1, 2, 3, 5}) {
    const std::vector<float> few(x.begin(), x.begin() + rows * inputs);
    const std::vector<float> y = linear(few, rows, inputs, weight);
    EXPECT_EQ(std::memcmp(y.data(), together.data(), y.size() * 4), 0) << rows << " rows, seed " << seed;
  }
}

TEST_F(LinearVulkanTest, ARowOfManyIsTheSameBitsWhateverTheOthersHold) {
  const std::int64_t inputs = 50, outputs = 70, rows = 41;
  const Tensor weight = upload(random_floats(static_cast<std::size_t>(inputs * outputs), 3), {outputs, inputs});
  std::vector<float> x = random_floats(static_cast<std::size_t>(rows * inputs), 4);
  const std::vector<float> before = linear(x, rows, inputs, weight);
  for (std::int64_t i = 30 * inputs; i < 31 * inputs; ++i) x[static_cast<std::size_t>(i)] += 1.0f;
  const std::vector<float> after = linear(x, rows, inputs, weight);
  for (std::int64_t row = 0; row < rows; ++row) {
    const bool same = std::memcmp(&before[static_cast<std::size_t>(row * outputs)],
                                  &after[static_cast<std::size_t>(row * outputs)], outputs * 4) == 0;
    EXPECT_EQ(same, row != 30) << "row " << row << ", seed " << seed;
  }
}

// On devices of all kinds, for products of all sizes: what the shaders take for granted.
TEST(LinearTiles, FitTheDevice) {
  for (const std::uint32_t subgroup : {16u, 32u, 64u}) {
    for (const std::uint32_t shared_bytes : {32768u, 49152u, 65536u}) {
      for (const std::uint32_t invocations : {4 * subgroup, 512u, 1024u}) {
        for (const std::uint32_t units : {4u, 32u, 132u}) {
          for (const bool wide : {false, true}) {
            vulkan::VulkanLimits limits;
            limits.shared_bytes = shared_bytes;
            limits.invocations = invocations;
            limits.compute_units = units;
            limits.wide_matrix_operands = wide;
            for (const std::uint32_t outputs : {1u, 129u, 768u, 3072u, 50264u}) {
              for (const std::uint32_t rows : {9u, 64u, 1000u, 16384u}) {
                const vulkan::MatrixTile tile = vulkan::choose_matrix_tile(limits, subgroup, {rows, 1024, outputs});
                const std::uint32_t group = tile.invocations(subgroup);
                EXPECT_LE(tile.shared_bytes(), shared_bytes);
                EXPECT_LE(group, invocations);
                EXPECT_EQ(tile.tile_m() * tile.tile_k / 8 % group, 0u);  // invocations bring as many units each
                EXPECT_EQ(tile.tile_r() * tile.tile_k / 8 % group, 0u);
                EXPECT_EQ(tile.tile_k % (16 * tile.warps_k), 0u);
                EXPECT_EQ(subgroup % (tile.warp_m / 4), 0u);  // whole lines at once go out
                EXPECT_EQ(subgroup % (tile.warp_r / 4), 0u);
                const vulkan::PlainTile plain = vulkan::choose_plain_tile(limits, false, {rows, 1024, outputs});
                EXPECT_LE(plain.shared_bytes(), shared_bytes);
                EXPECT_LE(plain.group, invocations);
                EXPECT_EQ(plain.group, plain.tile_m / plain.thread_m * (plain.tile_r / plain.thread_r));
              }
            }
          }
        }
      }
    }
  }
  const vulkan::VulkanLimits minimal;
  const vulkan::PlainTile plain = vulkan::choose_plain_tile(minimal, false, {16384, 768, 50264});
  EXPECT_LE(plain.shared_bytes(), minimal.shared_bytes);
  EXPECT_LE(plain.group, minimal.invocations);
}

// An H100's 132 units and 48 KiB: large tiles for large products, and no unit without work where rows are few.
TEST(LinearTiles, AreLargeWhereThereAreMany) {
  vulkan::VulkanLimits limits;
  limits.shared_bytes = 49152;
  limits.invocations = 1024;
  limits.compute_units = 132;
  const vulkan::MatrixTile large = vulkan::choose_matrix_tile(limits, 32, {16384, 2048, 8192});
  EXPECT_EQ(large.tile_m(), 128u);
  EXPECT_EQ(large.tile_r(), 128u);
  EXPECT_EQ(large.tile_k, 64u);
  const vulkan::MatrixTile few = vulkan::choose_matrix_tile(limits, 32, {1024, 3072, 768});
  EXPECT_GE(768 / few.tile_m() * (1024 / few.tile_r()), limits.compute_units);
  const vulkan::MatrixTile thin = vulkan::choose_matrix_tile(limits, 32, {64, 3072, 768});
  EXPECT_EQ(thin.tile_m(), 32u);
  EXPECT_EQ(thin.warps_k, 4u);
  // Where operands take twice the registers, tiles are half as deep.
  limits.wide_matrix_operands = true;
  EXPECT_EQ(vulkan::choose_matrix_tile(limits, 32, {16384, 2048, 8192}).tile_k, 32u);
}

// Large enough for every tile of cooperative matrices (the case table is too small for most), odd at every edge,
// against the same numbers in f32 on the same device: only the order of the sums differs.
TEST_F(LinearVulkanTest, LargeProductsOnMatricesAreThoseOfPlainArithmetic) {
  if (device_->limits().cooperative_matrix.empty()) GTEST_SKIP() << "no cooperative matrices";
  struct Product {
    std::int64_t rows, inputs, outputs;
    bool x_transposed, y_transposed, accumulate;
  };
  const Product products[] = {
      {4105, 72, 4100, false, false, false}, {4097, 48, 4104, true, false, true},
      {4104, 64, 4099, true, true, false},   {1000, 200, 2310, false, true, false},
      {1001, 96, 770, true, false, true},    {1000, 33, 3072, false, false, true},
      {130, 136, 770, false, false, false},  {66, 264, 1000, true, true, false},
  };
  unsigned salt = 20;
  for (const Product& each : products) {
    const Shape x_shape = each.x_transposed ? Shape{each.inputs, each.rows} : Shape{each.rows, each.inputs};
    const Shape y_shape = each.y_transposed ? Shape{each.outputs, each.rows} : Shape{each.rows, each.outputs};
    const auto floats = [&](Shape shape) {
      return upload(random_floats(static_cast<std::size_t>(shape.count()), ++salt), shape);
    };
    const std::vector<float> before = random_floats(static_cast<std::size_t>(y_shape.count()), ++salt);
    LinearArgs half;
    half.x = device_->allocate_tensor(DType::f16, x_shape);
    half.weight = device_->allocate_tensor(DType::f16, {each.outputs, each.inputs});
    half.bias = floats({each.outputs});
    half.normed = DType::f16;
    half.x_transposed = each.x_transposed;
    half.y_transposed = each.y_transposed;
    half.accumulate = each.accumulate;
    half.y = upload(before, y_shape);
    LinearArgs plain = half;
    plain.x = floats(x_shape);
    plain.weight = floats(half.weight.shape);
    plain.normed = DType::f32;
    plain.y = upload(before, y_shape);
    device_->run([&](Encoder& encoder) {
      encoder.copy({plain.x, half.x});
      encoder.copy({plain.weight, half.weight});
      encoder.copy({half.x, plain.x});
      encoder.copy({half.weight, plain.weight});
      encoder.linear(half);
      encoder.linear(plain);
    });
    const std::vector<float> y = download(half.y);
    const std::vector<float> expected = download(plain.y);
    double error = 0, size = 0;
    for (std::size_t i = 0; i < y.size(); ++i) {
      error += std::pow(static_cast<double>(y[i]) - expected[i], 2);
      size += std::pow(static_cast<double>(expected[i]), 2);
    }
    EXPECT_LT(std::sqrt(error / size), 5e-6)
        << each.rows << " x " << each.inputs << " x " << each.outputs << ", seed " << seed;
  }
}

TEST_F(LinearVulkanTest, AWeightLargerThanABindingIsCut) {
  const std::int64_t inputs = 4096 + 4;
  const std::uint64_t range = device_->limits().storage_range_bytes;
  if (range > (std::uint64_t{256} << 20)) GTEST_SKIP() << "the device binds " << range << " bytes at once";
  const auto outputs = static_cast<std::int64_t>(range / (inputs * 4)) + 37;
  std::shared_ptr<Buffer> memory;
  try {
    memory = device_->allocate(static_cast<std::uint64_t>(outputs * inputs) * 4, MemoryUse::device);
  } catch (const Error& error) {
    GTEST_SKIP() << "no tensor of " << outputs * inputs * 4 << " bytes: " << error.what();
  }
  const Tensor weight{memory, 0, DType::f32, {outputs, inputs}};
  std::vector<float> values(static_cast<std::size_t>(outputs * inputs));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>((i * 2654435761u >> 20) & 15) - 7.0f;
  device_->upload(weight, std::as_bytes(std::span(values)));
  std::vector<float> x(static_cast<std::size_t>(inputs));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 5) - 2.0f;
  const std::vector<float> y = linear(x, 1, inputs, weight);
  for (std::int64_t m = 0; m < outputs; ++m) {  // small integers: sums are exact
    float sum = 0;
    for (std::int64_t k = 0; k < inputs; ++k) {
      sum += values[static_cast<std::size_t>(m * inputs + k)] * x[static_cast<std::size_t>(k)];
    }
    ASSERT_EQ(y[static_cast<std::size_t>(m)], sum) << "output " << m << " of " << outputs;
  }
}

TEST_F(LinearVulkanTest, RotaryAnglesAreRightAtPosition131071) {
  const int width = 66, dim = 64, tokens = 3;
  const std::int32_t position = 131069;
  const std::vector<float> before = random_floats(3 * width * tokens, 5);
  const Tensor qkv = upload(before, {1, tokens, 3 * width});
  const Tensor slots = upload(std::vector<std::int32_t>{1});
  const Tensor positions = upload(std::vector<std::int32_t>{7, position});
  device_->run([&](Encoder& encoder) {
    encoder.rotary({.qkv = qkv, .heads = 1, .rotary_dim = dim, .slots = slots, .positions = positions});
  });
  const std::vector<float> after = download(qkv);
  for (int t = 0; t < tokens; ++t) {
    for (int part = 0; part < 3; ++part) {
      const std::size_t base = static_cast<std::size_t>((t * 3 + part) * width);
      for (int j = 0; j < dim / 2; ++j) {
        const double angle = part == 2 ? 0.0 : (position + t) * std::pow(10000.0, -2.0 * j / dim);
        const double a = before[base + static_cast<std::size_t>(j)];
        const double b = before[base + static_cast<std::size_t>(j + dim / 2)];
        // 1e-6: five units in the last place of values below one
        EXPECT_NEAR(after[base + static_cast<std::size_t>(j)], a * std::cos(angle) - b * std::sin(angle), 1e-6);
        EXPECT_NEAR(after[base + static_cast<std::size_t>(j + dim / 2)], a * std::sin(angle) + b * std::cos(angle),
                    1e-6);
      }
      EXPECT_EQ(after[base + dim], before[base + dim]) << "beyond the rotated part";
    }
  }
}

// In f32, and in f16 in heads that cooperative matrices take where there are any.
TEST_F(LinearVulkanTest, AttentionDoesNotSeeLaterTokens) {
  const std::int64_t tokens = 75, heads = 2, past = 9, capacity = 96, changed = 33;
  for (const auto& [dtype, width] : {std::pair{DType::f32, 20}, std::pair{DType::f16, 64}}) {
    if (dtype == DType::f16 && !device_->supports(Feature::f16).supported) continue;
    const Tensor slots = upload(std::vector<std::int32_t>{0});
    const Tensor positions = upload(std::vector<std::int32_t>{static_cast<std::int32_t>(past)});
    const std::vector<float> cached = random_floats(static_cast<std::size_t>(capacity * width), 6);
    std::vector<float> qkv = random_floats(static_cast<std::size_t>(tokens * 3 * width), 7, 2.0f);
    const auto converted = [&](const Tensor& from, DType to) {
      if (from.dtype == to) return from;
      const Tensor tensor = device_->allocate_tensor(to, from.shape);
      device_->run([&](Encoder& encoder) { encoder.copy({from, tensor}); });
      return tensor;
    };
    const auto attend = [&] {
      AttentionArgs args{.qkv = converted(upload(qkv, {1, tokens, 3 * width}), dtype),
                         .heads = static_cast<int>(heads),
                         .slots = slots,
                         .positions = positions,
                         .cache = {converted(upload(cached, {1, capacity, width}), dtype),
                                   converted(upload(cached, {1, capacity, width}), dtype)},
                         .y = device_->allocate_tensor(dtype, {1, tokens, width})};
      device_->run([&](Encoder& encoder) { encoder.attention(args); });
      return download(converted(args.y, DType::f32));
    };
    const std::vector<float> before = attend();
    for (std::int64_t c = 0; c < 3 * width; ++c) qkv[static_cast<std::size_t>(changed * 3 * width + c)] = 100.0f;
    const std::vector<float> after = attend();
    const auto row_bytes = static_cast<std::size_t>(width) * sizeof(float);
    EXPECT_EQ(std::memcmp(before.data(), after.data(), static_cast<std::size_t>(changed) * row_bytes), 0);
    for (std::int64_t t = changed; t < tokens; ++t) {
      const auto row = static_cast<std::size_t>(t * width);
      EXPECT_NE(std::memcmp(&before[row], &after[row], row_bytes), 0)
          << "token " << t << " must see token " << changed << " (" << dtype_name(dtype) << ")";
    }
  }
}

}  // namespace
}  // namespace riverhorse::test
