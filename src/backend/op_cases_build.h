// What the files of the case table share: random values, tensors of a case under construction, pools of slots.
#pragma once

#include <fmt/core.h>

#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "backend/op_cases.h"
#include "backend/op_cases_shapes.h"
#include "base/hash.h"

namespace riverhorse::op_cases_detail {

// SplitMix64: the same numbers everywhere, whatever the standard library.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t bits() { return mix_bits(state_ += 0x9E3779B97F4A7C15u); }
  double uniform(double low, double high) { return low + (high - low) * static_cast<double>(bits() >> 11) * 0x1p-53; }
  // Sum of four 16-bit uniforms, mean 0 and variance 1: bell-shaped, bounded by 3.5, and cheap.
  float normal() {
    const std::uint64_t x = bits();
    const auto sum = static_cast<double>((x & 0xffff) + ((x >> 16) & 0xffff) + ((x >> 32) & 0xffff) + (x >> 48));
    return static_cast<float>((sum / 65536.0 - 2.0) * 1.7320508);
  }
  std::int32_t below(std::int32_t limit) {
    return static_cast<std::int32_t>(bits() % static_cast<std::uint64_t>(limit));
  }

 private:
  std::uint64_t state_;
};

class CaseBuilder {
 public:
  // The case's name goes into the seed, so that two cases do not see the same values.
  CaseBuilder(DType activation, std::string_view name, std::uint64_t seed);

  Random& random() { return random_; }
  DType activation() const { return activation_; }

  // Each adds a tensor and returns its index; values are rounded to `dtype`.
  int floats(std::string name, CaseRole role, DType dtype, Shape shape, std::vector<float> values);
  int integers(std::string name, CaseRole role, Shape shape, std::vector<std::int32_t> values);
  int normal(std::string name, CaseRole role, DType dtype, Shape shape, double scale = 1.0, double mean = 0.0);
  int output(std::string name, DType dtype, Shape shape);

  CaseTensor& tensor(int index) { return data_.tensors[static_cast<std::size_t>(index)]; }
  // Finishes the case; bytes that must move are counted from the tensors unless given.
  CaseData done(std::function<void(Encoder&, std::span<const Tensor>)> record, double flops, double bytes = -1);

 private:
  DType activation_;
  Random random_;
  CaseData data_;
};

// A pool larger than the batch, the sequences in scrambled slots, the others untouched.
struct SlotPool {
  std::int64_t count = 0;               // S
  std::vector<std::int32_t> slots;      // (B)
  std::vector<std::int32_t> positions;  // (S)
  std::vector<std::int64_t> others;     // slots of no sequence
};
// Sequence b is at position `at[b % at.size()]`.
SlotPool make_pool(std::int64_t batch, const std::vector<std::int32_t>& at, Random& random);

// Adds the input "kernel" (heads, length), which falls by e^-8.
int decaying_kernel(CaseBuilder& builder, std::int64_t heads, std::int64_t length);

using CaseList = std::vector<OpCase>;
using MakeCase = std::function<CaseData(CaseBuilder&)>;
// Adds the case for each dtype.
void add_case(CaseList& list, const std::string& op, const std::string& name, const std::vector<DType>& dtypes,
              const MakeCase& make, const std::vector<Feature>& needs = {});

inline const std::vector<DType> half_dtypes = {DType::f16, DType::bf16};
inline const std::vector<DType> quantised_dtypes = {DType::q8, DType::q4};
inline const std::vector<DType> activation_dtypes = {DType::f32, DType::f16, DType::bf16};

// What a case with weights of this dtype, if it is another than the activations', needs and adds to its name.
inline std::vector<Feature> weight_needs(std::optional<DType> weights) {
  return weights ? std::vector<Feature>{Feature::quantised_weights} : std::vector<Feature>{};
}
inline std::string weight_suffix(std::optional<DType> weights) {
  return weights ? fmt::format("_{}", dtype_name(*weights)) : "";
}

// An optional tensor of a case: index -1 is none.
inline Tensor optional_tensor(std::span<const Tensor> tensors, int index) {
  return index < 0 ? Tensor{} : tensors[static_cast<std::size_t>(index)];
}

// Tokens below `limit`, the last one among them, and every fifth -1: left out by embed, not scored by a loss.
std::vector<std::int32_t> tokens_with_gaps(std::int64_t count, std::int64_t limit, Random& random);

void add_basic_cases(CaseList& list, CaseSet set);     // copy, advance, embed, add_layer_norm
void add_linear_cases(CaseList& list, CaseSet set);    // linear
void add_out_mlp_cases(CaseList& list, CaseSet set);   // out_mlp
void add_h3_cases(CaseList& list, CaseSet set);        // discretize, ssm_kernel, h3_mixer, h3_step
void add_fft_conv_cases(CaseList& list, CaseSet set);  // fft_conv
void add_fft_conv_case(CaseList& list, const ConvolutionShape& shape, const std::vector<DType>& dtypes);
void add_attention_cases(CaseList& list, CaseSet set);           // rotary, attention, attention_step
void add_sample_cases(CaseList& list, CaseSet set);              // sample
void add_training_basic_cases(CaseList& list, CaseSet set);      // zero, embed, residual norm, optimiser
void add_training_linear_cases(CaseList& list, CaseSet set);     // linear, cross entropy
void add_training_h3_cases(CaseList& list, CaseSet set);         // mixer, discretize, kernel
void add_training_fft_conv_cases(CaseList& list, CaseSet set);   // long convolution
void add_training_attention_cases(CaseList& list, CaseSet set);  // attention and rotary

using GradientList = std::vector<GradientCase>;
// Fills all of GradientData but the tensors, which are the builder's.
using MakeGradient = std::function<GradientData(CaseBuilder&)>;
// Cotangents are inputs; gradients begin as `updated` zeros, or are outputs.
void add_gradient_case(GradientList& list, const std::string& op, const std::string& name, const MakeGradient& make,
                       double tolerance = 1e-4, double step = 0x1p-6);
// For functions that bend little: rounding is most of what their differences are off by, and a longer step has less.
inline constexpr double long_step = 0x1p-4;
void add_basic_gradient_cases(GradientList& list);
void add_linear_gradient_cases(GradientList& list);
void add_h3_gradient_cases(GradientList& list);
void add_fft_conv_gradient_cases(GradientList& list);
void add_attention_gradient_cases(GradientList& list);

}  // namespace riverhorse::op_cases_detail
