// Cases of linear: the shapes of generation (few rows) and of prefill, with every combination of norm, bias, GELU,
// accumulation and transposition that the model uses, and some that it does not.
#include <cmath>

#include "backend/op_cases_build.h"

namespace riverhorse::op_cases_detail {

namespace {

// Flags of a case, as its name spells them.
enum : unsigned {
  norm = 1,
  bias = 2,
  gelu = 4,
  accumulate = 8,
  x_transposed = 16,
  y_transposed = 32,
  y_f32 = 64,  // logits: f32 whatever the activations are
};

std::string flag_names(unsigned flags) {
  std::string names;
  const auto add = [&](unsigned flag, const char* name) {
    if ((flags & flag) != 0) names += name;
  };
  add(norm, "_norm");
  add(bias, "_bias");
  add(gelu, "_gelu");
  add(accumulate, "_acc");
  add(x_transposed, "_xt");
  add(y_transposed, "_yt");
  add(y_f32, "_f32out");
  return names;
}

// `weights`: quantised so, if anything.
void add(CaseList& list, std::int64_t rows, std::int64_t inputs, std::int64_t outputs, unsigned flags,
         std::optional<DType> weights = {}) {
  const std::string name =
      fmt::format("r{}_k{}_m{}{}{}", rows, inputs, outputs, flag_names(flags), weight_suffix(weights));
  const auto make = [=](CaseBuilder& builder) {
    const auto has = [flags](unsigned flag) { return (flags & flag) != 0; };
    const DType act = builder.activation();
    const Shape x_shape = has(x_transposed) ? Shape{inputs, rows} : Shape{rows, inputs};
    const Shape y_shape = has(y_transposed) ? Shape{outputs, rows} : Shape{rows, outputs};
    const DType y_dtype = has(accumulate) || has(y_f32) ? DType::f32 : act;
    const int x = builder.normal("x", CaseRole::input, has(norm) ? DType::f32 : act, x_shape, 1.0, 0.2);
    const int weight = builder.normal("weight", CaseRole::input, weights.value_or(act), {outputs, inputs},
                                      1.0 / std::sqrt(static_cast<double>(inputs)));
    const int norm_weight =
        has(norm) ? builder.normal("norm.weight", CaseRole::input, DType::f32, {inputs}, 0.3, 1.0) : -1;
    const int norm_bias = has(norm) ? builder.normal("norm.bias", CaseRole::input, DType::f32, {inputs}, 0.3) : -1;
    const int y_bias = has(bias) ? builder.normal("bias", CaseRole::input, DType::f32, {outputs}) : -1;
    const int y = has(accumulate) ? builder.normal("y", CaseRole::updated, y_dtype, y_shape)
                                  : builder.output("y", y_dtype, y_shape);
    return builder.done(
        [=](Encoder& encoder, std::span<const Tensor> t) {
          LinearArgs args;
          args.x = t[x];
          args.x_transposed = has(x_transposed);
          if (has(norm)) args.norm = NormWeights{t[norm_weight], t[norm_bias], 1e-5f};
          args.normed = act;
          args.weight = t[weight];
          if (has(bias)) args.bias = t[y_bias];
          args.activation = has(gelu) ? Activation::gelu_tanh : Activation::none;
          args.accumulate = has(accumulate);
          args.y = t[y];
          args.y_transposed = has(y_transposed);
          encoder.linear(args);
        },
        2.0 * static_cast<double>(rows) * static_cast<double>(inputs) * static_cast<double>(outputs));
  };
  add_case(list, "linear", name, activation_dtypes, make, weight_needs(weights));
}

// Widths are multiples of 32.
void add_quantised(CaseList& list, CaseSet set, DType weights) {
  if (set == CaseSet::bench) {
    for (const std::int64_t rows : {1, 8, 64}) {
      add(list, rows, 768, 3072, norm | bias | gelu, weights);
      add(list, rows, 768, 50264, norm | y_f32, weights);
      add(list, rows, 2048, 8192, norm | bias | gelu, weights);
      add(list, rows, 8192, 2048, bias | accumulate, weights);
    }
    add(list, 1024, 2048, 8192, norm | bias | gelu, weights);
    return;
  }
  add(list, 1, 160, 129, norm | bias, weights);
  add(list, 17, 96, 129, bias | accumulate, weights);
  if (set == CaseSet::quick) return;
  add(list, 1, 32, 1, 0, weights);
  add(list, 1, 32, 37, bias, weights);
  add(list, 1, 1152, 127, norm | bias | gelu, weights);
  add(list, 1, 3072, 768, bias | accumulate, weights);
  add(list, 1, 320, 1134, norm | y_f32, weights);
  add(list, 1, 768, 2304, norm | bias, weights);
  add(list, 1, 64, 16, x_transposed, weights);
  add(list, 2, 1024, 7, norm, weights);
  add(list, 3, 160, 127, bias | gelu, weights);
  add(list, 3, 64, 96, norm | bias | y_transposed, weights);
  add(list, 7, 128, 37, x_transposed | bias | gelu, weights);
  add(list, 8, 128, 37, norm | bias | gelu, weights);
  add(list, 8, 64, 1134, y_f32, weights);
  add(list, 8, 1152, 64, bias | accumulate, weights);
  add(list, 11, 160, 65, norm | bias | gelu, weights);
  add(list, 16, 1152, 64, bias | accumulate, weights);
  add(list, 33, 64, 96, bias | y_transposed, weights);
  add(list, 64, 64, 64, 0, weights);
  add(list, 100, 256, 37, norm | y_f32, weights);
  add(list, 100, 128, 127, x_transposed | bias | accumulate, weights);
  add(list, 128, 128, 256, norm | bias | y_transposed, weights);
  add(list, 129, 64, 65, bias | accumulate, weights);
}

void add_out_mlp(CaseList& list, std::int64_t rows, std::int64_t width, std::int64_t inner,
                 std::optional<DType> weights = {}) {
  const auto make = [=](CaseBuilder& builder) {
    const DType act = builder.activation();
    const DType f32 = DType::f32;
    const auto matrix = [&](const char* name, std::int64_t outputs, std::int64_t inputs) {
      return builder.normal(name, CaseRole::input, weights.value_or(act), {outputs, inputs},
                            1.0 / std::sqrt(static_cast<double>(inputs)));
    };
    const int x = builder.normal("x", CaseRole::input, act, {rows, width}, 1.0, 0.2);
    const int residual = builder.normal("residual", CaseRole::updated, f32, {rows, width});
    const int out_weight = matrix("out_weight", width, width);
    const int out_bias = builder.normal("out_bias", CaseRole::input, f32, {width});
    const int norm_weight = builder.normal("norm.weight", CaseRole::input, f32, {width}, 0.3, 1.0);
    const int norm_bias = builder.normal("norm.bias", CaseRole::input, f32, {width}, 0.3);
    const int fc1_weight = matrix("fc1_weight", inner, width);
    const int fc1_bias = builder.normal("fc1_bias", CaseRole::input, f32, {inner});
    const int fc2_weight = matrix("fc2_weight", width, inner);
    const int fc2_bias = builder.normal("fc2_bias", CaseRole::input, f32, {width});
    return builder.done(
        [=](Encoder& encoder, std::span<const Tensor> t) {
          encoder.out_mlp({t[x],
                           t[residual],
                           t[out_weight],
                           t[out_bias],
                           {t[norm_weight], t[norm_bias], 1e-5f},
                           t[fc1_weight],
                           t[fc1_bias],
                           t[fc2_weight],
                           t[fc2_bias]});
        },
        2.0 * static_cast<double>(rows * width) * static_cast<double>(width + 2 * inner));
  };
  add_case(list, "out_mlp", fmt::format("r{}_d{}_m{}{}", rows, width, inner, weight_suffix(weights)),
           activation_dtypes, make, weight_needs(weights));
}

}  // namespace

void add_out_mlp_cases(CaseList& list, CaseSet set) {
  if (set == CaseSet::bench) {
    for (const std::int64_t width : {768, 1024, 2048}) add_out_mlp(list, 1, width, 4 * width);
    return;
  }
  add_out_mlp(list, 1, 160, 640);
  add_out_mlp(list, 1, 768, 3072);
  if (set == CaseSet::quick) return;
  add_out_mlp(list, 1, 32, 256);
  add_out_mlp(list, 1, 64, 272);
  add_out_mlp(list, 1, 128, 1032);
  add_out_mlp(list, 1, 256, 520);
  add_out_mlp(list, 1, 37, 148);
  add_out_mlp(list, 3, 64, 256);
  for (const DType weights : quantised_dtypes) add_out_mlp(list, 1, 96, 384, weights);
}

void add_linear_cases(CaseList& list, CaseSet set) {
  for (const DType weights : quantised_dtypes) add_quantised(list, set, weights);
  if (set == CaseSet::bench) {
    for (const std::int64_t rows : {1, 8, 64}) {  // generation at 125M
      add(list, rows, 768, 2304, norm | bias);
      add(list, rows, 768, 768, bias | accumulate);
      add(list, rows, 768, 3072, norm | bias | gelu);
      add(list, rows, 3072, 768, bias | accumulate);
      add(list, rows, 768, 50264, norm | y_f32);
    }
    add(list, 1024, 768, 2304, norm | bias | y_transposed);  // prefill
    add(list, 1024, 768, 768, bias | accumulate | x_transposed);
    add(list, 1024, 768, 3072, norm | bias | gelu);
    add(list, 1024, 3072, 768, bias | accumulate);
    add(list, 4096, 4096, 4096, 0);
    return;
  }
  add(list, 1, 127, 129, norm | bias);
  add(list, 17, 1134, 129, bias | accumulate);
  add(list, 100, 127, 129, norm | bias | y_transposed);
  if (set == CaseSet::quick) return;
  add(list, 1, 1, 1, 0);
  add(list, 1, 7, 37, bias);
  add(list, 1, 1134, 127, norm | bias | gelu);
  add(list, 1, 129, 1134, bias | accumulate);
  add(list, 1, 37, 1134, norm | y_f32);
  add(list, 1, 768, 2304, norm | bias);
  add(list, 1, 200, 1134, norm | bias | gelu);
  add(list, 1, 256, 1134, norm | bias);
  add(list, 3, 256, 1134, norm | bias);
  add(list, 1, 16, 16, x_transposed);
  add(list, 2, 37, 7, norm);
  add(list, 2, 3072, 768, bias | accumulate);
  add(list, 1, 8200, 33, bias | accumulate);
  add(list, 3, 2304, 40, norm | bias);
  add(list, 2, 3200, 24, norm | bias | gelu);
  add(list, 3, 127, 127, bias | gelu);
  add(list, 3, 127, 37, gelu | accumulate);
  add(list, 3, 37, 129, x_transposed | accumulate);
  add(list, 3, 64, 96, norm | bias | y_transposed);
  add(list, 7, 129, 37, x_transposed | bias | gelu);
  add(list, 8, 129, 37, norm | bias | gelu);
  add(list, 8, 64, 1134, y_f32);
  add(list, 8, 1134, 64, bias | accumulate);
  add(list, 17, 7, 1, 0);
  add(list, 17, 127, 1134, norm | bias);
  add(list, 33, 48, 96, bias | y_transposed);
  add(list, 64, 64, 64, 0);
  add(list, 65, 128, 192, norm | bias | y_transposed);
  add(list, 100, 37, 127, norm | bias | gelu);
  add(list, 100, 129, 127, x_transposed | bias | accumulate);
  add(list, 100, 256, 37, norm | y_f32);
  add(list, 128, 128, 256, norm | bias | y_transposed);
  add(list, 128, 256, 64, x_transposed | bias | accumulate);
  add(list, 129, 127, 7, x_transposed | y_transposed);
  add(list, 129, 64, 65, bias | accumulate);
  add(list, 256, 128, 128, norm | bias | gelu);
  add(list, 1000, 16, 16, norm | bias);
}

}  // namespace riverhorse::op_cases_detail
