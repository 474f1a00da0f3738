// Normal numbers come from a table of 65536 quantiles, indexed by random bits: 126 million parameters take a fraction
// of a second, and no library function that differs between machines is asked at run time for a parameter. Their
// tails end at 4.3 standard deviations, which an initialisation does not need.
//
// Im A of mode n < N/2, by measure:
//   diag-lin   pi n
//   diag-inv   N / pi (N / (2n + 1) - 1)
//   diag       diag-inv in the first half of the heads, diag-lin in the second
//   diag-legs  -omega_n, where i omega_n are the eigenvalues of S, the skew-symmetric part of HiPPO-LegS:
//              S_ij = sign(j - i) sqrt(a_i a_j), a_i = i + 1/2, i < N
// S has a characteristic equation in one line. With x_i = sqrt(a_i) w_i, S x = lambda x says between
// neighbouring rows
//   w_{i+1} (lambda + a_{i+1}) = w_i (lambda - a_i),   and the first and the last together
//   w_0 (lambda + a_0) = -w_{N-1} (lambda - a_{N-1}),   so   prod_i (lambda - a_i) / (lambda + a_i) = -1.
// At lambda = i omega each factor is exp(2 i atan(a_i / omega)), hence omega_n, largest first, is the root of
//   f(omega) = sum_i atan(a_i / omega) = pi (n + 1/2).
#include "model/initialization.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <numbers>
#include <span>
#include <string_view>

#include "base/error.h"
#include "base/hash.h"

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

  std::uint64_t bits() { return mix_bits(state_ += 0x9e3779b97f4a7c15u); }  // SplitMix64
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

// See the top of the file. f is convex and falls, so that Newton's method climbs to each root from the one below.
std::vector<double> legs_frequencies(std::int64_t state) {
  std::vector<double> frequencies(static_cast<std::size_t>(state / 2));
  double omega = 0;
  for (std::int64_t n = state / 2 - 1; n >= 0; --n) {
    for (int iteration = 0; iteration < 10; ++iteration) {
      double excess = -std::numbers::pi * (static_cast<double>(n) + 0.5), slope = 0;
      for (std::int64_t i = 0; i < state; ++i) {
        const double a = static_cast<double>(i) + 0.5;
        excess += std::atan2(a, omega);
        slope += a / (omega * omega + a * a);
      }
      omega += excess / slope;
    }
    frequencies[static_cast<std::size_t>(n)] = omega;
  }
  return frequencies;
}

// One row of A_imag: `state` / 2 modes.
std::vector<double> imaginary_parts(std::string_view measure, std::int64_t state) {
  std::vector<double> values;
  if (measure == "diag-legs") {
    for (const double omega : legs_frequencies(state)) values.push_back(-omega);
    return values;
  }
  const auto width = static_cast<double>(state);
  for (std::int64_t n = 0; n < state / 2; ++n) {
    const auto mode = static_cast<double>(n);
    values.push_back(measure == "diag-lin" ? std::numbers::pi * mode
                                           : width / std::numbers::pi * (width / (2 * mode + 1) - 1));
  }
  return values;
}

void fill_a_imag(std::span<float> values, const ModelConfig& config) {
  const std::string& measure = config.ssm_measure;
  const bool both = measure == "diag";
  if (!both && measure != "diag-lin" && measure != "diag-inv" && measure != "diag-legs") {
    fail(StatusCode::invalid_argument, "ssm_measure is \"{}\"; it must be diag-lin, diag-inv, diag-legs or diag",
         measure);
  }
  const std::vector<double> first = imaginary_parts(both ? "diag-inv" : measure, config.ssm_d_state);
  const std::vector<double> second = both ? imaginary_parts("diag-lin", config.ssm_d_state) : first;
  const std::size_t rows = values.size() / first.size();
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::vector<double>& row = i / first.size() < rows / 2 ? first : second;
    values[i] = static_cast<float>(row[i % row.size()]);
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
