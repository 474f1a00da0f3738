// The Vulkan device itself: memory, transfers, recordings, on whatever Vulkan device is here (lavapipe in CI), with
// core and synchronisation validation counting messages.
#include <cmath>

#include "vulkan_support.h"

namespace riverhorse {
namespace {

using test::fetch;
using test::open_vulkan;
using test::put;

class VulkanTest : public testing::Test {
 protected:
  void SetUp() override {
    device_ = open_vulkan();
    if (device_ == nullptr) GTEST_SKIP() << "no Vulkan device";
  }
  void TearDown() override {
    if (device_ != nullptr) {
      EXPECT_EQ(device_->validation_messages(), 0u);
    }
  }
  std::unique_ptr<vulkan::VulkanDevice> device_;
};

TEST_F(VulkanTest, MemoryIsZeroFilledAndKeepsWhatIsUploaded) {
  for (MemoryUse use : {MemoryUse::device, MemoryUse::upload, MemoryUse::readback}) {
    const Tensor tensor = device_->allocate_tensor(DType::i32, {1000}, use);
    for (std::int32_t value : fetch<std::int32_t>(*device_, tensor)) ASSERT_EQ(value, 0);
    std::vector<std::int32_t> values(1000);
    std::iota(values.begin(), values.end(), 7);
    device_->upload(tensor, std::as_bytes(std::span(values)));
    EXPECT_EQ(fetch<std::int32_t>(*device_, tensor), values);
  }
}

TEST_F(VulkanTest, AddLayerNormRuns) {
  const std::int64_t rows = 3, width = 37;
  std::vector<float> x(rows * width), residual(rows * width), weight(width), bias(width);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (auto* values : {&x, &residual, &weight, &bias}) {
    for (float& value : *values) value = normal(random);
  }
  AddLayerNormArgs args;
  args.x = put(*device_, DType::f32, {rows, width}, x);
  args.residual = put(*device_, DType::f32, {rows, width}, residual);
  args.norm.weight = put(*device_, DType::f32, {width}, weight);
  args.norm.bias = put(*device_, DType::f32, {width}, bias);
  args.out = device_->allocate_tensor(DType::f32, {rows, width});
  device_->run([&](Encoder& encoder) { encoder.add_layer_norm(args); });
  const std::vector<float> out = fetch<float>(*device_, args.out);
  const std::vector<float> sum = fetch<float>(*device_, args.residual);
  for (std::int64_t row = 0; row < rows; ++row) {
    double mean = 0, variance = 0;
    for (std::int64_t i = 0; i < width; ++i) mean += x[row * width + i] + residual[row * width + i];
    mean /= width;
    for (std::int64_t i = 0; i < width; ++i) {
      const double centred = x[row * width + i] + residual[row * width + i] - mean;
      variance += centred * centred / width;
    }
    for (std::int64_t i = 0; i < width; ++i) {
      const float expected_sum = x[row * width + i] + residual[row * width + i];
      EXPECT_EQ(sum[row * width + i], expected_sum);
      EXPECT_NEAR(out[row * width + i], (expected_sum - mean) / std::sqrt(variance + 1e-5) * weight[i] + bias[i], 1e-5);
    }
  }
}

}  // namespace
}  // namespace riverhorse
