#include "backend/op_cases.h"

#include <algorithm>
#include <numeric>

#include "backend/op_cases_build.h"
#include "base/error.h"

namespace riverhorse {

namespace op_cases_detail {

namespace {

// Larger tensors, those of benchmarks, repeat their first values: making more takes seconds.
constexpr std::int64_t most_values = std::int64_t{1} << 22;

std::uint64_t hash_of(std::string_view text) {  // FNV-1a
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char character : text) hash = (hash ^ static_cast<unsigned char>(character)) * 0x100000001b3u;
  return hash;
}

}  // namespace

CaseBuilder::CaseBuilder(DType activation, std::string_view name, std::uint64_t seed)
    : activation_(activation), random_(seed ^ hash_of(name)) {}

int CaseBuilder::floats(std::string name, CaseRole role, DType dtype, Shape shape, std::vector<float> values) {
  for (float& value : values) value = rounded_to(dtype, value);
  CaseTensor tensor;
  tensor.name = std::move(name);
  tensor.role = role;
  tensor.dtype = dtype;
  tensor.shape = shape;
  tensor.floats = std::move(values);
  data_.tensors.push_back(std::move(tensor));
  return static_cast<int>(data_.tensors.size()) - 1;
}

int CaseBuilder::integers(std::string name, CaseRole role, Shape shape, std::vector<std::int32_t> values) {
  CaseTensor tensor;
  tensor.name = std::move(name);
  tensor.role = role;
  tensor.dtype = DType::i32;
  tensor.shape = shape;
  tensor.integers = std::move(values);
  data_.tensors.push_back(std::move(tensor));
  return static_cast<int>(data_.tensors.size()) - 1;
}

int CaseBuilder::normal(std::string name, CaseRole role, DType dtype, Shape shape, double scale, double mean) {
  std::vector<float> values(static_cast<std::size_t>(std::min(shape.count(), most_values)));
  for (float& value : values) value = static_cast<float>(mean + scale * random_.normal());
  return floats(std::move(name), role, dtype, shape, std::move(values));
}

int CaseBuilder::output(std::string name, DType dtype, Shape shape) {
  const auto count = static_cast<std::size_t>(std::min(shape.count(), most_values));
  if (dtype == DType::i32)
    return integers(std::move(name), CaseRole::output, shape, std::vector<std::int32_t>(count));
  return floats(std::move(name), CaseRole::output, dtype, shape, std::vector<float>(count));
}

CaseData CaseBuilder::done(std::function<void(Encoder&, std::span<const Tensor>)> record, double flops,
                           double bytes) {
  data_.record = std::move(record);
  data_.flops = flops;
  data_.bytes = bytes;
  if (bytes < 0) {
    data_.bytes = 0;
    for (const CaseTensor& tensor : data_.tensors) {
      const bool both = tensor.role == CaseRole::updated || tensor.role == CaseRole::exact;
      const Tensor placed{nullptr, 0, tensor.dtype, tensor.shape};
      data_.bytes += static_cast<double>(placed.size_bytes()) * (both ? 2 : 1);
    }
  }
  return std::move(data_);
}

SlotPool make_pool(std::int64_t batch, const std::vector<std::int32_t>& at, Random& random) {
  SlotPool pool;
  pool.count = batch + 2;
  std::vector<std::int32_t> order(static_cast<std::size_t>(pool.count));
  std::iota(order.begin(), order.end(), 0);
  for (std::size_t i = order.size() - 1; i > 0; --i) {
    std::swap(order[i], order[static_cast<std::size_t>(random.below(static_cast<std::int32_t>(i + 1)))]);
  }
  pool.slots.assign(order.begin(), order.begin() + batch);
  pool.others.assign(order.begin() + batch, order.end());
  pool.positions.assign(static_cast<std::size_t>(pool.count), 0);
  for (std::size_t b = 0; b < pool.slots.size(); ++b) {
    pool.positions[static_cast<std::size_t>(pool.slots[b])] = at[b % at.size()];
  }
  for (const std::int64_t slot : pool.others) pool.positions[static_cast<std::size_t>(slot)] = 11;
  return pool;
}

std::vector<std::int32_t> tokens_with_gaps(std::int64_t count, std::int64_t limit, Random& random) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = i % 5 == 2 ? -1 : random.below(static_cast<std::int32_t>(limit));
  }
  tokens.back() = static_cast<std::int32_t>(limit - 1);
  return tokens;
}

void add_case(CaseList& list, const std::string& op, const std::string& name, const std::vector<DType>& dtypes,
              const MakeCase& make, const std::vector<Feature>& needs) {
  for (const DType dtype : dtypes) {
    OpCase op_case{.op = op, .name = name, .dtype = dtype, .needs = needs, .make = {}};
    op_case.make = [make, dtype, full_name = fmt::format("{}.{}", op, name)](std::uint64_t seed) {
      CaseBuilder builder(dtype, full_name, seed);
      return make(builder);
    };
    list.push_back(std::move(op_case));
  }
}

}  // namespace op_cases_detail

std::string OpCase::id() const { return fmt::format("{}.{}.{}", op, name, dtype_name(dtype)); }

std::vector<OpCase> op_cases(CaseSet set) {
  std::vector<OpCase> list;
  op_cases_detail::add_basic_cases(list, set);
  op_cases_detail::add_linear_cases(list, set);
  op_cases_detail::add_out_mlp_cases(list, set);
  op_cases_detail::add_h3_cases(list, set);
  op_cases_detail::add_fft_conv_cases(list, set);
  op_cases_detail::add_attention_cases(list, set);
  op_cases_detail::add_sample_cases(list, set);
  op_cases_detail::add_training_basic_cases(list, set);
  op_cases_detail::add_training_linear_cases(list, set);
  op_cases_detail::add_training_h3_cases(list, set);
  op_cases_detail::add_training_fft_conv_cases(list, set);
  op_cases_detail::add_training_attention_cases(list, set);
  return list;
}

// Where the numbers come from. fp32 keeps 6e-8 a rounding; a sum of K terms in any order loses about sqrt(K) of
// these, and K is at most some thousands: 5e-6 with a margin. An output rounded to f16 is off by at most 4.9e-4 (half
// a unit in the last place; 2e-4 in relative L2 over many elements); operands rounded on the way (tensor cores) add
// about 3e-4 each. bf16 has 8 bits where f16 has 11, so that each rounding is off by 8 times as much, and nothing
// else differs: its tolerance is 8 times that of f16 where there is a rounding, that is, where f16 differs from f32.
const std::vector<OpTolerance>& op_tolerances() {
  static const std::vector<OpTolerance> table = {
      {"copy", 0, 5e-4, 3, "exact, but for the rounding to f16"},
      {"advance", 0, 0, 1, "integers"},
      {"embed", 0, 0, 1, "a widening copy"},
      {"add_layer_norm", 3e-6, 5e-4, 8, "two sums over the width; f16: output rounding"},
      {"linear", 5e-6, 8e-4, 8, "fp32 sums; f16: the normalised row and the output are rounded"},
      {"out_mlp", 8e-6, 1.5e-3, 8, "three of linear, one after another; f16: the hidden row is rounded on the way"},
      {"discretize", 2e-6, 2e-6, 8, "parameters to filter; sums of N terms"},
      {"discretize.a", 1e-10, 1e-10, 8, "one step of the SSM, both parts together: its error grows with the text"},
      {"discretize.powers", 2e-7, 2e-7, 8, "each rounded once from more than fp32"},
      {"ssm_kernel", 3e-6, 3e-6, 8, "products of at most 17 rounded powers"},
      {"h3_mixer", 1e-5, 1.5e-3, 8,
       "fp32 FFT or chunk products, as the golden files; f16: taps, states and outputs rounded"},
      {"h3_mixer_backward", 1e-5, 1.5e-3, 8, "as h3_mixer; f16: d_z and d_k' are rounded too, 6e-4 in all"},
      {"h3_mixer_backward.filter", 2e-5, 1.5e-3, 8,
       "sums over all tokens of products of two convolutions; f16: of operands rounded on the way, 6e-4 in all"},
      {"h3_mixer_backward.filter.d", 2e-5, 4e-3, 8,
       "as the rest of the filter, but one number a head: its sum cancels, 2.4e-2 seen in bf16"},
      {"discretize_backward", 5e-6, 5e-6, 8, "a chain of some ten operations; sums over the heads of a row"},
      {"ssm_kernel_backward", 5e-6, 5e-6, 8, "sums over the length with products of at most 17 rounded powers"},
      {"fft_conv_backward", 5e-6, 8e-4, 8, "as fft_conv"},
      {"fft_conv_backward.skip", 2e-5, 8e-4, 8,
       "one number a head: its sum cancels, its error is a transform's, 4e-8 of what the products could add up to"},
      {"h3_step", 3e-6, 5e-4, 8, "one step of the recurrence; f16: output rounding"},
      {"h3_block", 1e-5, 2e-3, 8, "h3_step with its projection, then out_mlp"},
      {"h3_step.projected", 8e-6, 1.5e-3, 8, "linear, then h3_step; f16: q, k, v rounded on the way"},
      {"fft_conv", 5e-6, 8e-4, 8, "fp32 FFT, as the golden files; f16: the output rounded, and filters in products"},
      {"rotary", 2e-6, 5e-4, 8, "angles up to thousands of turns; f16: output rounding"},
      {"attention", 5e-6, 8e-4, 8, "fp32 softmax; f16: probabilities and outputs rounded"},
      {"attention_step", 5e-6, 8e-4, 8, "as attention"},
      {"attention_backward", 1e-5, 2e-3, 8, "differences of what attention computes; f16: y and d_qkv rounded"},
      {"sample", 0, 0, 1, "the same token: weights are integers"},
      {"zero", 0, 0, 1, "exact"},
      {"accumulate", 1e-7, 1e-7, 1, "one rounding in fp32"},
      {"copy_columns", 0, 0, 1, "exact"},
      {"embed_backward", 3e-6, 3e-6, 8, "sums over the rows of one id"},
      {"residual_norm", 3e-6, 5e-4, 8, "as add_layer_norm"},
      {"residual_norm_backward", 5e-6, 8e-4, 8,
       "two sums over the width, and one over the rows; f16: output rounding"},
      {"linear_backward", 5e-6, 8e-4, 8, "as linear"},
      {"cross_entropy", 5e-6, 8e-4, 8, "fp32 logits and softmax; f16: their gradients and d_x rounded"},
      {"grad_norm", 1e-6, 1e-6, 8, "one sum in double, or an equal"},
      {"adamw", 2e-6, 5e-4, 8, "a few roundings an element; f16: the operands rounded"},
  };
  return table;
}

double OpTolerance::of(DType dtype) const {
  constexpr double bf16_over_f16 = 8;
  if (dtype == DType::f32 || f16 == f32) return f32;
  return dtype == DType::bf16 ? bf16_over_f16 * f16 : f16;
}

std::string why_unsupported(Device& device, const OpCase& op_case) {
  std::vector<Feature> needs = op_case.needs;
  if (is_half(op_case.dtype)) needs.push_back(half_feature(op_case.dtype));
  for (const Feature feature : needs) {
    const Support support = device.supports(feature);
    if (!support.supported) return fmt::format("{}: {}", feature_name(feature), support.reason);
  }
  return {};
}

}  // namespace riverhorse
