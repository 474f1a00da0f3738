// Normal numbers come from a table of 65536 quantiles, indexed by random bits: 126 million parameters take a fraction
// of a second, and no library function that differs between machines is asked at run time for a parameter. Their
// tails end at 4.3 standard deviations, which an initialisation does not need.
#include "model/random_model.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <numbers>
#include <span>
#include <string_view>

#include "base/error.h"

namespace riverhorse {

namespace {

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {
    // The middle of each of 65536 slices of equal probability, by Newton's method from the neighbouring slice.
    constexpr int slices = 1 << 16;
    quantiles_.resize(slices);
    double x = 0;
    for (int i = slices / 2; i < slices; ++i) {
      const double upper_tail = 1.0 - (i + 0.5) / slices;
      for (int iteration = 0; iteration < 6; ++iteration) {
        const double error = 0.5 * std::erfc(x / std::numbers::sqrt2) - upper_tail;
        x += error * std::sqrt(2 * std::numbers::pi) * std::exp(0.5 * x * x);
      }
      quantiles_[static_cast<std::size_t>(i)] = static_cast<float>(x);
      quantiles_[static_cast<std::size_t>(slices - 1 - i)] = static_cast<float>(-x);
    }
  }

  std::uint64_t bits() {  // SplitMix64
    state_ += 0x9e3779b97f4a7c15u;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }

  void fill_normal(std::span<float> values, float deviation) {
    std::size_t i = 0;
    for (; i + 4 <= values.size(); i += 4) {
      const std::uint64_t four = bits();
      for (std::size_t j = 0; j < 4; ++j) values[i + j] = deviation * quantiles_[(four >> (16 * j)) & 0xffffu];
    }
    for (; i < values.size(); ++i) values[i] = deviation * quantiles_[bits() & 0xffffu];
  }

 private:
  std::uint64_t state_;
  std::vector<float> quantiles_;
};

bool ends_with(std::string_view name, std::string_view suffix) { return name.ends_with(suffix); }

void fill_a_imag(std::span<float> values, const ModelConfig& config) {
  const std::int64_t modes = config.ssm_d_state / 2;
  const std::int64_t rows = static_cast<std::int64_t>(values.size()) / modes;
  const auto state = static_cast<double>(config.ssm_d_state);
  const auto inverse = [&](std::int64_t n) {
    return state / std::numbers::pi * (state / static_cast<double>(2 * n + 1) - 1.0);
  };
  for (std::int64_t h = 0; h < rows; ++h) {
    for (std::int64_t n = 0; n < modes; ++n) {
      double value = std::numbers::pi * static_cast<double>(n);  // diag-lin
      if (config.ssm_measure == "diag-inv" || (config.ssm_measure == "diag" && h < rows / 2)) {
        value = inverse(n);
      } else if (config.ssm_measure != "diag-lin" && config.ssm_measure != "diag") {
        fail(StatusCode::unsupported, "a new model with ssm_measure \"{}\"; use diag-lin, diag-inv or diag",
             config.ssm_measure);
      }
      values[static_cast<std::size_t>(h * modes + n)] = static_cast<float>(value);
    }
  }
}

void fill(std::span<float> values, const std::string& name, const ModelConfig& config, Random& random) {
  const auto range = static_cast<float>(config.initializer_range);
  const double state = static_cast<double>(config.ssm_d_state);
  if (ends_with(name, "kernel.kernel.log_dt")) {
    for (float& value : values) {
      value = static_cast<float>(std::log(0.001) + random.uniform() * (std::log(0.1) - std::log(0.001)));
    }
  } else if (ends_with(name, "kernel.kernel.inv_A_real")) {
    for (float& value : values) value = static_cast<float>(std::log(0.5));
  } else if (ends_with(name, "kernel.kernel.A_imag")) {
    fill_a_imag(values, config);
  } else if (ends_with(name, "ssm_k_kernel.kernel.B")) {
    const auto width = static_cast<std::size_t>(config.ssm_d_state);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = i % width == 0 ? 1.0f : 0.0f;
  } else if (ends_with(name, "ssm_k_kernel.kernel.C")) {
    for (float& value : values) value = static_cast<float>((2 * random.uniform() - 1) / std::sqrt(state));
  } else if (ends_with(name, "kernel.kernel.B")) {
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = i % 2 == 0 ? 1.0f : 0.0f;
  } else if (ends_with(name, "kernel.kernel.C")) {
    random.fill_normal(values, static_cast<float>(std::sqrt(0.5)));
  } else if (ends_with(name, "mixer.D") || ends_with(name, "mixer.ssm_k_D")) {
    random.fill_normal(values, 1.0f);
  } else if (ends_with(name, ".bias")) {
    for (float& value : values) value = 0.0f;
  } else if (ends_with(name, "norm1.weight") || ends_with(name, "norm2.weight") || ends_with(name, "ln_f.weight")) {
    for (float& value : values) value = 1.0f;
  } else if (ends_with(name, "out_proj.weight") || ends_with(name, "fc2.weight")) {
    random.fill_normal(values, range / std::sqrt(2.0f * static_cast<float>(config.n_layer)));
  } else {
    random.fill_normal(values, range);
  }
}

}  // namespace

Checkpoint random_checkpoint(const ModelConfig& config, std::uint64_t seed) {
  Checkpoint checkpoint;
  checkpoint.config = config;
  checkpoint.file.path = "(random weights)";
  checkpoint.content_hash = fmt::format("random-{:016x}", seed);
  Random random(seed);
  for (const ParameterSpec& spec : parameter_table(config)) {
    HostTensor tensor;
    tensor.dtype = DType::f32;
    tensor.shape = spec.shape;
    auto values = std::make_shared<std::vector<float>>(static_cast<std::size_t>(tensor.count()));
    fill(*values, spec.name, config, random);
    tensor.bytes = std::as_bytes(std::span(*values));
    tensor.owner = values;
    checkpoint.file.tensors.emplace(spec.name, std::move(tensor));
  }
  return checkpoint;
}

}  // namespace riverhorse
