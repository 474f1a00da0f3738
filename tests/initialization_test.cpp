// A new model against the original's initial values: what is exact to 1e-6, what is random by mean and deviation.
#include "model/initialization.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numbers>

#include "base/error.h"
#include "formats/tensor_file.h"
#include "model/content_hash.h"

namespace riverhorse {

namespace {

constexpr double rounding = 0x1p-24;  // to fp32, relative
const std::string golden = std::string(RIVERHORSE_TEST_DATA) + "/init/";

ModelConfig one_layer(const std::string& measure, std::int64_t state) {
  ModelConfig config;
  config.n_embd = 2;
  config.n_layer = 1;
  config.vocab_size = 8;
  config.ssm_measure = measure;
  config.ssm_d_state = state;
  return config;
}

std::vector<float> ssm_parameter(const ModelConfig& config, const std::string& name) {
  return to_floats(random_checkpoint(config, 1).file.at("backbone.layers.0.mixer.kernel.kernel." + name));
}

struct Moments {
  double mean = 0, deviation = 0, least = 0, largest = 0;
};

Moments moments(const std::vector<float>& values) {
  Moments m{0, 0, values[0], values[0]};
  for (const double value : values) {
    m.mean += value / static_cast<double>(values.size());
    m.least = std::min(m.least, value);
    m.largest = std::max(m.largest, value);
  }
  for (const double value : values) m.deviation += (value - m.mean) * (value - m.mean);
  m.deviation = std::sqrt(m.deviation / static_cast<double>(values.size()));
  return m;
}

// To 1e-6, and to what the original, in fp32, loses of N / pi (N / (2n + 1) - 1) where the quotient is close to 1.
TEST(initialization, exact_values) {
  const TensorFile file = read_safetensors(golden + "exact.safetensors");
  EXPECT_EQ(file.tensors.size(), 36u);
  for (const auto& [name, tensor] : file.tensors) {  // "diag-legs.N64.A_imag"
    const std::size_t first = name.find('.'), second = name.find('.', first + 1);
    const std::int64_t state = std::stoll(name.substr(first + 2, second - first - 2));
    const std::vector<float> expected = to_floats(tensor);
    const std::vector<float> values = ssm_parameter(one_layer(name.substr(0, first), state), name.substr(second + 1));
    ASSERT_EQ(values.size(), expected.size()) << name;
    const double lost = rounding * static_cast<double>(state) / std::numbers::pi;
    for (std::size_t i = 0; i < values.size(); ++i) {
      EXPECT_NEAR(values[i], expected[i], 1e-6 * std::abs(expected[i]) + lost) << name << " " << i;
    }
  }
}

// Where the golden file ends: of the eigenvalues +-i omega of S, the squares add up to |S|^2 = (sum a)^2 - sum a^2,
// and the product is det S = prod a (a matrix of signs, of even size, has determinant 1).
TEST(initialization, legs_frequencies_of_a_large_state) {
  constexpr std::int64_t state = 256;
  const std::vector<float> values = ssm_parameter(one_layer("diag-legs", state), "A_imag");
  EXPECT_TRUE(std::is_sorted(values.begin(), values.begin() + state / 2));
  double squares = 0, logarithms = 0, sum = 0, sum_of_squares = 0, determinant = 0;
  for (std::size_t n = 0; n < state / 2; ++n) {
    squares += 2.0 * values[n] * values[n];
    logarithms += 2 * std::log(-values[n]);
  }
  for (std::int64_t i = 0; i < state; ++i) {
    const double a = static_cast<double>(i) + 0.5;
    sum += a;
    sum_of_squares += a * a;
    determinant += std::log(a);
  }
  EXPECT_NEAR(squares / (sum * sum - sum_of_squares), 1, 2 * rounding);
  EXPECT_NEAR(logarithms, determinant, state * rounding);
}

// Two samples of n numbers of deviation s: their means differ by s sqrt(2 / n), their deviations by s / sqrt(n) (a
// normal distribution; less for a uniform one), each times a number that exceeds 5 once in 1.7 million. There are 76
// comparisons, so that a right initialisation fails for one seed in 20000; and the seed is fixed.
TEST(initialization, random_values_have_the_moments_of_the_original) {
  const nlohmann::json json = nlohmann::json::parse(std::ifstream(golden + "empirical.json"));
  std::vector<std::string> warnings;
  const ModelConfig config = parse_model_config(json.at("model").dump(), "empirical.json", warnings);
  const Checkpoint checkpoint = random_checkpoint(config, 1);
  EXPECT_EQ(checkpoint.file.tensors.size(), json.at("empirical").size());
  int random_count = 0;
  double worst = 0;  // of those numbers
  for (const auto& [name, entry] : json.at("empirical").items()) {
    const HostTensor& tensor = checkpoint.file.at(name);
    EXPECT_EQ(tensor.shape, entry.at("shape").get<std::vector<std::int64_t>>()) << name;
    const Moments m = moments(to_floats(tensor));
    const double mean = entry.at("mean"), deviation = entry.at("std");
    const double least = entry.at("min"), largest = entry.at("max");
    const bool exact = deviation == 0 || name.ends_with("A_imag") || name.ends_with("kernel.B");
    const auto count = static_cast<double>(tensor.count());
    if (exact) {
      for (const auto& [value, expected] : {std::pair{m.mean, mean}, std::pair{m.deviation, deviation},
                                            std::pair{m.least, least}, std::pair{m.largest, largest}}) {
        EXPECT_NEAR(value, expected, 1e-6 * std::abs(expected)) << name;
      }
      continue;
    }
    ++random_count;
    const double mean_error = std::abs(m.mean - mean) / (deviation * std::sqrt(2 / count));
    const double deviation_error = std::abs(m.deviation - deviation) / (deviation / std::sqrt(count));
    EXPECT_LE(mean_error, 5) << name;
    EXPECT_LE(deviation_error, 5) << name;
    worst = std::max({worst, mean_error, deviation_error});
  }
  EXPECT_EQ(random_count, 38);
  RecordProperty("worst", std::to_string(worst));
}

TEST(initialization, uniform_values_keep_to_their_range) {
  ModelConfig config = one_layer("diag-lin", 64);
  config.n_embd = 1024;
  const Checkpoint checkpoint = random_checkpoint(config, 2);
  const auto expect_range = [&](const std::string& name, double low, double high) {
    const std::vector<float> values = to_floats(checkpoint.file.at("backbone.layers.0.mixer." + name));
    const Moments m = moments(values);
    const double gap = 30 * (high - low) / static_cast<double>(values.size());  // missed once in e^30
    EXPECT_GE(m.least, low - 1e-6);
    EXPECT_LE(m.least, low + gap);
    EXPECT_GE(m.largest, high - gap);
    EXPECT_LE(m.largest, high + 1e-6);
  };
  expect_range("kernel.kernel.log_dt", std::log(0.001), std::log(0.1));
  expect_range("ssm_k_kernel.kernel.C", -0.125, 0.125);
}

TEST(initialization, same_seed_same_bytes) {
  ModelConfig config = one_layer("diag-lin", 16);
  config.n_layer = 2;
  config.n_embd = 48;
  config.attn_layer_idx = {1};
  config.attn_n_head = 4;
  const auto hash = [&](std::uint64_t seed) { return content_hash(config, random_checkpoint(config, seed).file); };
  EXPECT_EQ(hash(7), "da656981e23d6499") << "not the bytes of other machines";
  EXPECT_NE(hash(7), hash(8));
}

TEST(initialization, an_unknown_measure_is_refused) {
  try {
    random_checkpoint(one_layer("diag-rand", 8), 1);
    FAIL() << "not refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), StatusCode::invalid_argument);
  }
}

}  // namespace

}  // namespace riverhorse
