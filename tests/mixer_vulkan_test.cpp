// The SSM operations on Vulkan, beyond the op table (ops_test): whole = in pieces = token by token by every
// algorithm, state sizes that the table lacks, causality bit for bit, the precision of the filter.
#include <gtest/gtest.h>

#include <cmath>
#include <complex>
#include <string>

#include "vulkan_support.h"

namespace riverhorse {
namespace {

constexpr std::uint64_t seed = 20230117;

// One layer with random parameters of usual sizes, on the device.
struct Layer {
  Layer(Device& on, std::int64_t channels, int head_dimension, std::int64_t n, Discretization kind)
      : device(on), width(channels), head_dim(head_dimension), state_size(n) {
    std::mt19937_64 random(seed);
    const std::int64_t heads = width / head_dim, modes = n / 2;
    const auto values = [&](std::int64_t count, float low, float high) {
      std::uniform_real_distribution<float> uniform(low, high);
      std::vector<float> list(static_cast<std::size_t>(count));
      for (float& each : list) each = uniform(random);
      return list;
    };
    const auto tensor = [&](Shape shape, float low, float high, std::vector<float>* keep = nullptr) {
      const std::vector<float> list = values(shape.count(), low, high);
      if (keep != nullptr) *keep = list;
      return test::put(device, DType::f32, shape, list);
    };
    parameters.log_dt = tensor({heads}, std::log(0.001f), std::log(0.1f), &log_dt);
    parameters.inv_a_real = tensor({heads, modes}, std::log(0.3f), std::log(0.7f), &inv_a_real);
    parameters.a_imag = tensor({heads, modes}, 0.0f, 3.14159f * static_cast<float>(modes), &a_imag);
    parameters.b = tensor({heads, modes, 2}, -1, 1);
    parameters.c = tensor({heads, modes, 2}, -1, 1);
    parameters.d = tensor({heads}, -1, 1);
    parameters.shift_b = tensor({width, n}, -0.3f, 0.3f);
    parameters.shift_c = tensor({width, n}, -0.3f, 0.3f);
    parameters.shift_d = tensor({width}, -1, 1);
    parameters.discretization = kind;
    filter.a = device.allocate_tensor(DType::f32, {heads, modes, 4});
    filter.b = device.allocate_tensor(DType::f32, {heads, modes, 2});
    filter.c = device.allocate_tensor(DType::f32, {heads, modes, 2});
    filter.d = device.allocate_tensor(DType::f32, {heads});
    filter.powers = device.allocate_tensor(DType::f32, {heads, modes, H3Filter::power_count, 2});
    filter.toeplitz = device.allocate_tensor(DType::f32, {heads, H3Filter::chunk});
    filter.shift_taps = device.allocate_tensor(DType::f32, {width, n});
    slots = test::put<std::int32_t>(device, DType::i32, {2}, {2, 0});
    device.run([&](Encoder& encoder) { encoder.discretize({parameters, filter}); });
    reset();
  }

  void reset() {
    state.shift = device.allocate_tensor(DType::f32, {3, width, state_size});
    state.modes = device.allocate_tensor(DType::f32, {3, width * head_dim, state_size / 2, 2});
    positions = device.allocate_tensor(DType::i32, {3});
  }

  // q, k, v as (3 D, 2, L) values; continues from the carried state. Gives y as (D, 2, L).
  std::vector<float> forward(const std::vector<float>& qkv, std::int64_t tokens, ConvAlgorithm algorithm) {
    const Tensor in = test::put(device, DType::f32, {3 * width, 2, tokens}, qkv);
    const Tensor y = device.allocate_tensor(DType::f32, {width, 2, tokens});
    device.run([&](Encoder& encoder) {
      encoder.h3_mixer({.qkv = in,
                        .filter = filter,
                        .head_dim = head_dim,
                        .algorithm = algorithm,
                        .slots = slots,
                        .positions = positions,
                        .state = state,
                        .y = y});
      encoder.advance({slots, positions, static_cast<std::int32_t>(tokens)});
    });
    return test::fetch<float>(device, y);
  }

  std::vector<float> inputs(std::int64_t tokens) const {
    std::mt19937_64 random(seed + 1);
    std::normal_distribution<float> normal;
    std::vector<float> list(static_cast<std::size_t>(3 * width * 2 * tokens));
    for (float& each : list) each = normal(random);
    return list;
  }

  Device& device;
  std::int64_t width;
  int head_dim;
  std::int64_t state_size;
  std::vector<float> log_dt, inv_a_real, a_imag;
  H3Parameters parameters;
  H3Filter filter;
  H3State state;
  Tensor slots, positions;
};

// Tokens [begin, begin + count) of (rows, tokens).
std::vector<float> columns(const std::vector<float>& all, std::int64_t tokens, std::int64_t begin,
                           std::int64_t count) {
  std::vector<float> part;
  for (std::size_t row = 0; row < all.size() / static_cast<std::size_t>(tokens); ++row) {
    const auto from = all.begin() + static_cast<std::ptrdiff_t>(row) * tokens + begin;
    part.insert(part.end(), from, from + count);
  }
  return part;
}

double relative_difference(const std::vector<float>& value, const std::vector<float>& reference) {
  EXPECT_EQ(value.size(), reference.size());
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    difference += std::pow(static_cast<double>(value[i]) - reference[i], 2);
    norm += std::pow(static_cast<double>(reference[i]), 2);
  }
  return std::sqrt(difference / norm);
}

// lavapipe ends an invocation's loops after 65,535 turns in all, without a word.
TEST(MixerVulkan, NoTextIsTooLongForOneDispatch) {
  const auto device = test::open_vulkan();
  if (device == nullptr) GTEST_SKIP() << "no Vulkan device";
  struct Sizes {
    int head_dim;
    std::int64_t state, tokens;
    ConvAlgorithm algorithm;
  };
  constexpr Sizes all[] = {{1, 256, 98304, ConvAlgorithm::chunked},
                           {1, 256, 65536, ConvAlgorithm::fft},
                           {8, 256, 8192, ConvAlgorithm::chunked}};
  for (const auto [head_dim, state, tokens, algorithm] : all) {
    SCOPED_TRACE(fmt::format("head_dim {}, state {}, {} tokens, seed {}", head_dim, state, tokens, seed));
    Layer layer(*device, head_dim, head_dim, state, Discretization::zoh);
    const std::vector<float> qkv = layer.inputs(tokens);
    const std::vector<float> whole = layer.forward(qkv, tokens, algorithm);
    layer.reset();
    const std::int64_t piece = tokens / 16;
    for (std::int64_t begin = 0; begin < tokens; begin += piece) {
      const std::vector<float> y = layer.forward(columns(qkv, tokens, begin, piece), piece, ConvAlgorithm::chunked);
      ASSERT_LT(relative_difference(columns(whole, tokens, begin, piece), y), 3e-6) << "tokens from " << begin;
    }
  }
}

TEST(MixerVulkan, WholeInPiecesAndTokenByTokenAgree) {
  const auto device = test::open_vulkan();
  if (device == nullptr) GTEST_SKIP() << "no Vulkan device";
  constexpr std::int64_t tokens = 300;
  struct Sizes {
    int head_dim;
    std::int64_t state;
  };
  for (const auto [head_dim, state] : {Sizes{1, 64}, Sizes{4, 16}, Sizes{2, 130}}) {
    SCOPED_TRACE(fmt::format("head_dim {}, state {}, seed {}", head_dim, state, seed));
    Layer layer(*device, 8, head_dim, state, Discretization::bilinear);
    const std::vector<float> qkv = layer.inputs(tokens);
    const std::vector<float> whole = layer.forward(qkv, tokens, ConvAlgorithm::chunked);
    const std::vector<float> whole_modes = test::fetch<float>(*device, layer.state.modes);
    const std::vector<float> whole_shift = test::fetch<float>(*device, layer.state.shift);
    for (const ConvAlgorithm algorithm : {ConvAlgorithm::chunked, ConvAlgorithm::fft}) {
      layer.reset();
      std::int64_t begin = 0;
      for (const std::int64_t piece : {1, 7, 64, 100, 128}) {
        const std::vector<float> y = layer.forward(columns(qkv, tokens, begin, piece), piece, algorithm);
        EXPECT_LT(relative_difference(y, columns(whole, tokens, begin, piece)), 3e-6) << "tokens from " << begin;
        begin += piece;
      }
      ASSERT_EQ(begin, tokens);
      EXPECT_LT(relative_difference(test::fetch<float>(*device, layer.state.modes), whole_modes), 3e-6);
      EXPECT_EQ(test::fetch<float>(*device, layer.state.shift), whole_shift) << "keys are only copied";
    }
    layer.reset();
    const std::int64_t rows = 3 * layer.width;
    const Tensor in = device->allocate_tensor(DType::f32, {2, rows});
    const Tensor out = device->allocate_tensor(DType::f32, {2, layer.width});
    const auto step = device->record(
        [&](Encoder& encoder) {
          encoder.h3_step({.qkv = in,
                           .filter = layer.filter,
                           .head_dim = head_dim,
                           .slots = layer.slots,
                           .positions = layer.positions,
                           .state = layer.state,
                           .y = out});
          encoder.advance({layer.slots, layer.positions, 1});
        },
        {});
    std::vector<float> stepped(whole.size());
    for (std::int64_t token = 0; token < tokens; ++token) {
      std::vector<float> row(static_cast<std::size_t>(2 * rows));
      for (std::int64_t b = 0; b < 2; ++b) {
        for (std::int64_t r = 0; r < rows; ++r) row[b * rows + r] = qkv[(r * 2 + b) * tokens + token];
      }
      device->upload(in, std::as_bytes(std::span(row)));
      device->wait(device->submit(*step));
      const std::vector<float> y = test::fetch<float>(*device, out);
      for (std::int64_t b = 0; b < 2; ++b) {
        for (std::int64_t r = 0; r < layer.width; ++r) stepped[(r * 2 + b) * tokens + token] = y[b * layer.width + r];
      }
    }
    EXPECT_LT(relative_difference(stepped, whole), 3e-6);
    EXPECT_LT(relative_difference(test::fetch<float>(*device, layer.state.modes), whole_modes), 3e-6);
    EXPECT_EQ(test::fetch<float>(*device, layer.state.shift), whole_shift);
  }
  EXPECT_EQ(device->validation_messages(), 0u);
}

TEST(MixerVulkan, LaterTokensChangeNothingBeforeThem) {
  const auto device = test::open_vulkan();
  if (device == nullptr) GTEST_SKIP() << "no Vulkan device";
  constexpr std::int64_t tokens = 200;
  for (const int head_dim : {1, 2}) {
    Layer layer(*device, 4, head_dim, 16, Discretization::bilinear);
    std::vector<float> qkv = layer.inputs(tokens);
    const std::vector<float> before = layer.forward(qkv, tokens, ConvAlgorithm::automatic);
    for (const std::int64_t changed : {1, 63, 64, 130, 199}) {
      std::vector<float> other = qkv;
      for (std::size_t row = 0; row < other.size() / tokens; ++row) {
        for (std::int64_t t = changed; t < tokens; ++t) other[row * tokens + static_cast<std::size_t>(t)] += 100.0f;
      }
      layer.reset();
      const std::vector<float> after = layer.forward(other, tokens, ConvAlgorithm::automatic);
      EXPECT_EQ(columns(after, tokens, 0, changed), columns(before, tokens, 0, changed))
          << "changed from " << changed;
      EXPECT_NE(columns(after, tokens, changed, 1), columns(before, tokens, changed, 1));
    }
  }
}

// The reference is long double; two-float arithmetic has to reach 1e-13, where plain fp32 would give 1e-7.
TEST(MixerVulkan, FilterIsMoreThanSinglePrecision) {
  const auto device = test::open_vulkan();
  if (device == nullptr) GTEST_SKIP() << "no Vulkan device";
  using Complex = std::complex<long double>;
  for (const Discretization kind : {Discretization::bilinear, Discretization::zoh}) {
    const Layer layer(*device, 16, 1, 64, kind);
    const std::vector<float> a = test::fetch<float>(*device, layer.filter.a);
    const std::vector<float> powers = test::fetch<float>(*device, layer.filter.powers);
    long double worst = 0, worst_power = 0;
    for (std::size_t i = 0; i < 16 * 32; ++i) {
      const Complex pole(-std::exp(static_cast<long double>(layer.inv_a_real[i])), layer.a_imag[i]);
      const Complex z = pole * std::exp(static_cast<long double>(layer.log_dt[i / 32]));
      Complex power = kind == Discretization::zoh ? std::exp(z) : (1.0L + z / 2.0L) / (1.0L - z / 2.0L);
      const Complex made(static_cast<long double>(a[4 * i]) + a[4 * i + 2],
                         static_cast<long double>(a[4 * i + 1]) + a[4 * i + 3]);
      worst = std::max(worst, std::abs(made - power) / std::abs(power));
      for (int j = 0; j < H3Filter::power_count; ++j, power *= power) {
        const std::size_t at = (i * H3Filter::power_count + static_cast<std::size_t>(j)) * 2;
        if (std::abs(power) < 1e-30L) break;  // the square would lose bits below 2^-126
        worst_power = std::max(worst_power, std::abs(Complex(powers[at], powers[at + 1]) - power) / std::abs(power));
      }
    }
    EXPECT_LT(static_cast<double>(worst), 2e-13);
    EXPECT_LT(static_cast<double>(worst_power), 1e-7);
    std::printf("a: %.1Le, powers: %.1Le\n", worst, worst_power);
  }
}

}  // namespace
}  // namespace riverhorse
