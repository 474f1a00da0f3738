// VkFFT inside Riverhorse: two devices in one process, plans kept on disk and rejected when damaged, the host's
// locale.
#include <gtest/gtest.h>

#include <clocale>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "vulkan/fft_plans.h"
#include "vulkan_support.h"

namespace riverhorse {
namespace {

constexpr std::uint64_t seed = 20230117;

struct Convolution {
  static constexpr std::int64_t channels = 2, tokens = 700;

  explicit Convolution(std::uint64_t which) {
    std::mt19937_64 random(seed + which);
    std::normal_distribution<float> normal;
    u.resize(channels * tokens);
    kernel.resize(channels * tokens);
    for (float& each : u) each = normal(random);
    for (std::size_t i = 0; i < kernel.size(); ++i) {
      kernel[i] = normal(random) * std::exp(-static_cast<float>(i % tokens) / 200.0f);
    }
  }

  // Relative L2 against the direct sum.
  double error_on(Device& device) const {
    const Tensor in = test::put(device, DType::f32, {1, channels, tokens}, u);
    const Tensor filter = test::put(device, DType::f32, {channels, tokens}, kernel);
    const Tensor y = device.allocate_tensor(DType::f32, {1, channels, tokens});
    device.run([&](Encoder& encoder) {
      encoder.fft_conv({.u = in, .kernel = filter, .skip = {}, .gelu_erf = false, .y = y});
    });
    const std::vector<float> values = test::fetch<float>(device, y);
    double difference = 0, norm = 0;
    for (std::int64_t row = 0; row < channels; ++row) {
      for (std::int64_t t = 0; t < tokens; ++t) {
        double sum = 0;
        for (std::int64_t s = 0; s <= t; ++s) {
          sum += static_cast<double>(kernel[row * tokens + t - s]) * u[row * tokens + s];
        }
        difference += std::pow(values[row * tokens + t] - sum, 2);
        norm += sum * sum;
      }
    }
    return std::sqrt(difference / norm);
  }

  std::vector<float> u, kernel;
};

constexpr double tolerance = 2e-6;

TEST(VkfftVulkan, TwoDevicesAtOnce) {
  auto first = test::open_vulkan();
  if (first == nullptr) GTEST_SKIP() << "no Vulkan device";
  auto second = test::open_vulkan();
  EXPECT_LT(Convolution(1).error_on(*first), tolerance);
  EXPECT_LT(Convolution(2).error_on(*second), tolerance);
  EXPECT_LT(Convolution(3).error_on(*first), tolerance);
  EXPECT_EQ(first->validation_messages(), 0u);
  first.reset();
  EXPECT_LT(Convolution(4).error_on(*second), tolerance);
  EXPECT_EQ(second->validation_messages(), 0u);
}

// A kernel of few lags tells the exact result at any length; this one needs several passes and room to reorder.
TEST(VkfftVulkan, LongConvolution) {
  const auto device = test::open_vulkan();
  if (device == nullptr) GTEST_SKIP() << "no Vulkan device";
  const char* longer = std::getenv("RIVERHORSE_TEST_TOKENS");  // by hand: up to 524288
  const std::int64_t tokens = longer == nullptr ? 70000 : std::atoll(longer);
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> u(static_cast<std::size_t>(tokens)), kernel(u.size()), expected(u.size());
  for (float& each : u) each = normal(random);
  for (const std::int64_t lag : {std::int64_t{0}, std::int64_t{1}, std::int64_t{777}, tokens / 2, tokens - 1}) {
    const float weight = normal(random);
    kernel[static_cast<std::size_t>(lag)] += weight;
    for (std::int64_t t = lag; t < tokens; ++t) expected[t] += weight * u[t - lag];
  }
  const Tensor in = test::put(*device, DType::f32, {1, 1, tokens}, u);
  const Tensor filter = test::put(*device, DType::f32, {1, tokens}, kernel);
  const Tensor y = device->allocate_tensor(DType::f32, {1, 1, tokens});
  device->run([&](Encoder& encoder) {
    encoder.fft_conv({.u = in, .kernel = filter, .skip = {}, .gelu_erf = false, .y = y});
  });
  const std::vector<float> values = test::fetch<float>(*device, y);
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    difference += std::pow(static_cast<double>(values[i]) - expected[i], 2);
    norm += std::pow(static_cast<double>(expected[i]), 2);
  }
  EXPECT_LT(std::sqrt(difference / norm), tolerance);
  EXPECT_EQ(device->validation_messages(), 0u);
}

TEST(VkfftVulkan, PlansAreKeptOnDiskAndRejectedWhenDamaged) {
  const std::filesystem::path folder = std::filesystem::path(::testing::TempDir()) / "riverhorse-fft-plans";
  std::filesystem::remove_all(folder);
  DeviceOptions options = test::test_options();
  options.cache_folder = folder.string();
  const auto run = [&](std::uint32_t compiled, std::uint32_t loaded, const char* when) {
    const auto device = test::open_vulkan(options);
    EXPECT_LT(Convolution(5).error_on(*device), tolerance) << when;
    EXPECT_EQ(device->fft_plans().counts().compiled, compiled) << when;
    EXPECT_EQ(device->fft_plans().counts().loaded, loaded) << when;
    EXPECT_EQ(device->validation_messages(), 0u) << when;
  };
  if (test::vulkan_devices().empty()) GTEST_SKIP() << "no Vulkan device";
  run(2, 0, "without files");  // one plan for the data, one for the filters
  run(0, 2, "with files");
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".plan") files.push_back(entry.path());
  }
  ASSERT_EQ(files.size(), 2u);
  {
    std::fstream file(files[0], std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(1000);
    const char byte = static_cast<char>(file.get() ^ 1);
    file.seekp(1000);
    file.put(byte);
  }
  std::filesystem::resize_file(files[1], 50);
  run(2, 0, "with damaged files");
  run(0, 2, "with the files made again");
  std::filesystem::remove_all(folder);
}

TEST(VkfftVulkan, TheLocaleOfTheProcessIsLeftAlone) {
  const auto device = test::open_vulkan();
  if (device == nullptr) GTEST_SKIP() << "no Vulkan device";
  // Where it is installed, one that prints a comma: VkFFT must still write numbers with a point into its shaders.
  if (std::setlocale(LC_ALL, "de_DE.UTF-8") == nullptr)
    std::printf("de_DE.UTF-8 is not installed: C.UTF-8 instead\n");
  if (std::string(std::setlocale(LC_ALL, nullptr)) == "C") std::setlocale(LC_ALL, "C.UTF-8");
  const std::string before = std::setlocale(LC_ALL, nullptr);
  EXPECT_NE(before, "C");
  EXPECT_LT(Convolution(6).error_on(*device), tolerance);
  EXPECT_EQ(std::setlocale(LC_ALL, nullptr), before);
  std::setlocale(LC_ALL, "C");
}

}  // namespace
}  // namespace riverhorse
