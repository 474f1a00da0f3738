// What the case table cannot say about the linear, rotary and attention shaders: a row's bits do not depend on its
// neighbours, later tokens cannot touch earlier ones, angles stay right far out, weights larger than a binding work.
#include <cmath>
#include <cstring>

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
