// Cases of training: linear and cross entropy.
#include <cmath>

#include "backend/op_cases_build.h"

namespace riverhorse::op_cases_detail {

namespace {

const std::vector<Feature> training = {Feature::training};
constexpr CaseRole input = CaseRole::input;
constexpr CaseRole updated = CaseRole::updated;
constexpr DType f32 = DType::f32;

double inverse_root(std::int64_t count) { return 1.0 / std::sqrt(static_cast<double>(count)); }

void add_pre_activation_case(CaseList& list, std::int64_t rows, std::int64_t inputs, std::int64_t outputs,
                             bool rounded_too = false) {
  add_case(
      list, "linear",
      fmt::format("r{}_k{}_m{}{}_gelu_kept", rows, inputs, outputs, rounded_too ? "_biases" : "_bias"),
      activation_dtypes,
      [=](CaseBuilder& builder) {
        const DType act = builder.activation();
        const int x = builder.normal("x", input, act, {rows, inputs});
        const int weight = builder.normal("weight", input, act, {outputs, inputs}, inverse_root(inputs));
        const int bias = builder.normal("bias", input, f32, {outputs});
        const int rounded_bias =
            rounded_too ? builder.floats("rounded_bias", input, act, {outputs}, builder.tensor(bias).floats) : -1;
        const int y = builder.output("y", act, {rows, outputs});
        const int pre_activation = builder.output("pre_activation", act, {rows, outputs});
        return builder.done(
            [=](Encoder& encoder, std::span<const Tensor> t) {
              encoder.linear({.x = t[x],
                              .norm = {},
                              .weight = t[weight],
                              .bias = t[bias],
                              .activation = Activation::gelu_tanh,
                              .y = t[y],
                              .pre_activation = t[pre_activation],
                              .rounded_bias = optional_tensor(t, rounded_bias)});
            },
            2.0 * static_cast<double>(rows * inputs * outputs));
      },
      training);
}

// Flags of a case, as its name spells them.
enum : unsigned {
  with_bias = 1,
  with_gelu = 2,
  x_transposed = 4,
  y_transposed = 8,
  without_d_x = 16,
  overwrite = 32,
};

std::string linear_name(std::int64_t rows, std::int64_t inputs, std::int64_t outputs, unsigned flags) {
  const auto part = [flags](unsigned flag, const char* name) { return (flags & flag) != 0 ? name : ""; };
  return fmt::format("r{}_k{}_m{}{}{}{}{}{}{}", rows, inputs, outputs, part(with_bias, "_bias"),
                     part(with_gelu, "_gelu"), part(x_transposed, "_xt"), part(y_transposed, "_yt"),
                     part(without_d_x, "_nodx"), part(overwrite, "_overwrite"));
}

void add_linear_backward_case(CaseList& list, std::int64_t rows, std::int64_t inputs, std::int64_t outputs,
                              unsigned flags) {
  add_case(
      list, "linear_backward", linear_name(rows, inputs, outputs, flags), activation_dtypes,
      [=](CaseBuilder& builder) {
        const auto has = [flags](unsigned flag) { return (flags & flag) != 0; };
        const DType act = builder.activation();
        const Shape x_shape = has(x_transposed) ? Shape{inputs, rows} : Shape{rows, inputs};
        const Shape y_shape = has(y_transposed) ? Shape{outputs, rows} : Shape{rows, outputs};
        const int d_y = builder.normal("d_y", input, act, y_shape);
        const int x = builder.normal("x", input, act, x_shape, 1.0, 0.2);
        const int weight = builder.normal("weight", input, act, {outputs, inputs}, inverse_root(outputs));
        const int pre_activation = has(with_gelu) ? builder.normal("pre_activation", input, act, x_shape) : -1;
        const int d_x = has(without_d_x) ? -1 : builder.output("d_x", act, x_shape);
        const int d_weight = has(overwrite) ? builder.output("d_weight", f32, {outputs, inputs})
                                            : builder.normal("d_weight", updated, f32, {outputs, inputs});
        const int d_bias = has(with_bias) ? builder.normal("d_bias", updated, f32, {outputs}) : -1;
        return builder.done(
            [=](Encoder& encoder, std::span<const Tensor> t) {
              encoder.linear_backward({.d_y = t[d_y],
                                       .y_transposed = has(y_transposed),
                                       .x = t[x],
                                       .x_transposed = has(x_transposed),
                                       .weight = t[weight],
                                       .pre_activation = optional_tensor(t, pre_activation),
                                       .d_x = optional_tensor(t, d_x),
                                       .d_weight = t[d_weight],
                                       .d_bias = optional_tensor(t, d_bias),
                                       .overwrite = has(overwrite)});
            },
            (has(without_d_x) ? 2.0 : 4.0) * static_cast<double>(rows) * static_cast<double>(inputs * outputs));
      },
      training);
}

void add_linear_gradient(GradientList& list, std::int64_t rows, std::int64_t inputs, std::int64_t outputs,
                         unsigned flags) {
  add_gradient_case(
      list, "linear_backward", linear_name(rows, inputs, outputs, flags),
      [=](CaseBuilder& builder) {
        const auto has = [flags](unsigned flag) { return (flags & flag) != 0; };
        const Shape x_shape = has(x_transposed) ? Shape{inputs, rows} : Shape{rows, inputs};
        const Shape y_shape = has(y_transposed) ? Shape{outputs, rows} : Shape{rows, outputs};
        const int x = builder.normal("x", input, f32, x_shape, 1.0, 0.2);
        const int weight = builder.normal("weight", input, f32, {outputs, inputs}, inverse_root(inputs));
        const int bias = builder.normal("bias", input, f32, {outputs});
        const int y = builder.output("y", f32, y_shape);
        const int d_y = builder.normal("d_y", input, f32, y_shape);
        const int d_x = builder.output("d_x", f32, x_shape);
        const int d_weight = builder.normal("d_weight", updated, f32, {outputs, inputs}, 0);
        const int d_bias = builder.normal("d_bias", updated, f32, {outputs}, 0);
        GradientData data;
        data.forward = [=](Encoder& encoder, std::span<const Tensor> t) {
          encoder.linear({.x = t[x],
                          .x_transposed = has(x_transposed),
                          .norm = {},
                          .weight = t[weight],
                          .bias = t[bias],
                          .y = t[y],
                          .y_transposed = has(y_transposed)});
        };
        data.backward = [=](Encoder& encoder, std::span<const Tensor> t) {
          encoder.linear_backward({.d_y = t[d_y],
                                   .y_transposed = has(y_transposed),
                                   .x = t[x],
                                   .x_transposed = has(x_transposed),
                                   .weight = t[weight],
                                   .pre_activation = {},
                                   .d_x = t[d_x],
                                   .d_weight = t[d_weight],
                                   .d_bias = t[d_bias]});
        };
        data.inputs = {{x, d_x}, {weight, d_weight}, {bias, d_bias}};
        data.outputs = {{y, d_y}};
        return data;
      },
      1e-4, long_step);
}

// Both layers of an MLP: the gradient of GELU is that of the second layer's x.
void add_mlp_gradient(GradientList& list, std::int64_t rows, std::int64_t width, std::int64_t inner) {
  add_gradient_case(
      list, "linear_backward", fmt::format("mlp_r{}_d{}_i{}", rows, width, inner),
      [=](CaseBuilder& builder) {
        const int x = builder.normal("x", input, f32, {rows, width});
        const int weight1 = builder.normal("weight1", input, f32, {inner, width}, 1.5 * inverse_root(width));
        const int bias1 = builder.normal("bias1", input, f32, {inner}, 0.5);
        const int weight2 = builder.normal("weight2", input, f32, {width, inner}, inverse_root(inner));
        const int bias2 = builder.normal("bias2", input, f32, {width}, 0.5);
        const int hidden = builder.output("hidden", f32, {rows, inner});
        const int activated = builder.output("activated", f32, {rows, inner});
        const int y = builder.output("y", f32, {rows, width});
        const int d_y = builder.normal("d_y", input, f32, {rows, width});
        const int d_hidden = builder.output("d_hidden", f32, {rows, inner});
        const int d_x = builder.output("d_x", f32, {rows, width});
        const int d_weight1 = builder.normal("d_weight1", updated, f32, {inner, width}, 0);
        const int d_bias1 = builder.normal("d_bias1", updated, f32, {inner}, 0);
        const int d_weight2 = builder.normal("d_weight2", updated, f32, {width, inner}, 0);
        const int d_bias2 = builder.normal("d_bias2", updated, f32, {width}, 0);
        GradientData data;
        data.forward = [=](Encoder& encoder, std::span<const Tensor> t) {
          encoder.linear({.x = t[x],
                          .norm = {},
                          .weight = t[weight1],
                          .bias = t[bias1],
                          .activation = Activation::gelu_tanh,
                          .y = t[activated],
                          .pre_activation = t[hidden]});
          encoder.linear({.x = t[activated], .norm = {}, .weight = t[weight2], .bias = t[bias2], .y = t[y]});
        };
        data.backward = [=](Encoder& encoder, std::span<const Tensor> t) {
          encoder.linear_backward({.d_y = t[d_y],
                                   .x = t[activated],
                                   .weight = t[weight2],
                                   .pre_activation = t[hidden],
                                   .d_x = t[d_hidden],
                                   .d_weight = t[d_weight2],
                                   .d_bias = t[d_bias2]});
          encoder.linear_backward({.d_y = t[d_hidden],
                                   .x = t[x],
                                   .weight = t[weight1],
                                   .pre_activation = {},
                                   .d_x = t[d_x],
                                   .d_weight = t[d_weight1],
                                   .d_bias = t[d_bias1]});
        };
        data.inputs = {{x, d_x}, {weight1, d_weight1}, {bias1, d_bias1}, {weight2, d_weight2}, {bias2, d_bias2}};
        data.outputs = {{y, d_y}};
        return data;
      },
      1e-4, long_step);
}

// ---------------------------------------------------------------------------------------------- cross entropy

struct LossShape {
  std::int64_t rows, width, vocabulary;
  bool gradients = true;
  bool rounded = false;  // logits of the dtype of x
  bool overwrite = false;
  std::string name() const {
    return fmt::format("r{}_d{}_v{}{}{}{}", rows, width, vocabulary, gradients ? "" : "_loss",
                       rounded ? "_rounded_logits" : "", overwrite ? "_overwrite" : "");
  }
};

void add_cross_entropy_case(CaseList& list, const LossShape& l) {
  add_case(
      list, "cross_entropy", l.name(), l.rounded ? half_dtypes : activation_dtypes,
      [l](CaseBuilder& builder) {
        const DType act = builder.activation();
        const int x = builder.normal("x", input, act, {l.rows, l.width});
        const int weight = builder.normal("weight", input, act, {l.vocabulary, l.width}, 2 * inverse_root(l.width));
        const int targets =
            builder.integers("targets", input, {l.rows}, tokens_with_gaps(l.rows, l.vocabulary, builder.random()));
        const int loss = builder.output("loss", f32, {l.rows});
        const int correct = builder.integers("correct", CaseRole::exact, {l.rows},
                                             std::vector<std::int32_t>(static_cast<std::size_t>(l.rows), -1));
        const int scale = l.gradients ? builder.floats("scale", input, f32, {1}, {0.25f}) : -1;
        const int d_x = l.gradients ? builder.output("d_x", act, {l.rows, l.width}) : -1;
        const Shape d_weight_shape = {l.vocabulary, l.width};
        const int d_weight = !l.gradients  ? -1
                             : l.overwrite ? builder.output("d_weight", f32, d_weight_shape)
                                           : builder.normal("d_weight", updated, f32, d_weight_shape);
        return builder.done(
            [=](Encoder& encoder, std::span<const Tensor> t) {
              encoder.cross_entropy({.x = t[x],
                                     .weight = t[weight],
                                     .targets = t[targets],
                                     .loss = t[loss],
                                     .correct = t[correct],
                                     .scale = optional_tensor(t, scale),
                                     .d_x = optional_tensor(t, d_x),
                                     .d_weight = optional_tensor(t, d_weight),
                                     .overwrite = l.overwrite,
                                     .logits = l.rounded ? act : DType::f32});
            },
            (l.gradients ? 6.0 : 2.0) * static_cast<double>(l.rows) * static_cast<double>(l.width * l.vocabulary));
      },
      training);
}

void add_cross_entropy_gradient(GradientList& list, const LossShape& l) {
  add_gradient_case(
      list, "cross_entropy", l.name(),
      [l](CaseBuilder& builder) {
        constexpr float each = 0.25f;
        const int x = builder.normal("x", input, f32, {l.rows, l.width});
        const int weight = builder.normal("weight", input, f32, {l.vocabulary, l.width}, 2 * inverse_root(l.width));
        const int targets =
            builder.integers("targets", input, {l.rows}, tokens_with_gaps(l.rows, l.vocabulary, builder.random()));
        const int loss = builder.output("loss", f32, {l.rows});
        const int scale = builder.floats("scale", input, f32, {1}, {each});
        const int d_loss = builder.floats("d_loss", input, f32, {l.rows},
                                          std::vector<float>(static_cast<std::size_t>(l.rows), each));
        const int d_x = builder.output("d_x", f32, {l.rows, l.width});
        const int d_weight = builder.normal("d_weight", updated, f32, {l.vocabulary, l.width}, 0);
        const auto record_as = [=](bool gradients) {
          return [=](Encoder& encoder, std::span<const Tensor> t) {
            encoder.cross_entropy({.x = t[x],
                                   .weight = t[weight],
                                   .targets = t[targets],
                                   .loss = t[loss],
                                   .correct = {},
                                   .scale = t[scale],
                                   .d_x = gradients ? t[d_x] : Tensor{},
                                   .d_weight = gradients ? t[d_weight] : Tensor{}});
          };
        };
        GradientData data;
        data.forward = record_as(false);
        data.backward = record_as(true);
        data.inputs = {{x, d_x}, {weight, d_weight}};
        data.outputs = {{loss, d_loss}};
        return data;
      },
      1e-4, long_step);
}

}  // namespace

void add_training_linear_cases(CaseList& list, CaseSet set) {
  if (set == CaseSet::bench) {
    add_linear_backward_case(list, 8192, 768, 2304, with_bias | y_transposed);
    add_linear_backward_case(list, 8192, 768, 768, with_bias | x_transposed);
    add_linear_backward_case(list, 8192, 768, 3072, with_bias);
    add_linear_backward_case(list, 8192, 3072, 768, with_bias | with_gelu);
    add_cross_entropy_case(list, {8192, 768, 50264});
    add_cross_entropy_case(list, {8192, 768, 50264, true, true});
    return;
  }
  add_linear_backward_case(list, 37, 127, 129, with_bias | with_gelu);
  add_cross_entropy_case(list, {37, 7, 127});
  add_cross_entropy_case(list, {37, 7, 127, true, true});
  if (set == CaseSet::quick) return;
  add_pre_activation_case(list, 1, 7, 37);
  add_pre_activation_case(list, 37, 127, 129);
  add_pre_activation_case(list, 128, 64, 256);
  add_pre_activation_case(list, 129, 64, 256, true);
  add_pre_activation_case(list, 37, 127, 129, true);
  add_linear_backward_case(list, 1, 1, 1, with_bias);
  add_linear_backward_case(list, 1, 7, 37, with_bias);
  add_linear_backward_case(list, 7, 37, 1, 0);
  add_linear_backward_case(list, 3, 129, 37, with_bias | with_gelu);
  add_linear_backward_case(list, 127, 37, 127, with_bias | without_d_x);
  add_linear_backward_case(list, 127, 129, 37, with_bias | y_transposed);
  add_linear_backward_case(list, 129, 37, 127, with_bias | x_transposed);
  add_linear_backward_case(list, 37, 7, 127, x_transposed | y_transposed);
  add_linear_backward_case(list, 127, 37, 127, with_gelu | y_transposed);
  add_linear_backward_case(list, 1134, 37, 64, with_bias | y_transposed);
  add_linear_backward_case(list, 264, 37, 40, with_bias | y_transposed);
  add_linear_backward_case(list, 301, 16, 520, with_bias);
  add_linear_backward_case(list, 128, 256, 64, with_bias | with_gelu);
  add_linear_backward_case(list, 129, 37, 127, with_bias | overwrite);
  add_linear_backward_case(list, 127, 129, 37, y_transposed | overwrite);
  add_linear_backward_case(list, 256, 64, 192, with_bias | x_transposed);
  add_cross_entropy_case(list, {1, 1, 7});
  add_cross_entropy_case(list, {7, 37, 1134});
  add_cross_entropy_case(list, {7, 37, 1136});  // rows of whole loads, beyond what the emulated CUDA keeps of one
  add_cross_entropy_case(list, {127, 64, 129});
  add_cross_entropy_case(list, {301, 37, 37});
  add_cross_entropy_case(list, {129, 37, 127, false});
  add_cross_entropy_case(list, {127, 64, 129, true, false, true});
  for (const LossShape& shape : std::vector<LossShape>{{1, 1, 7}, {7, 37, 1134}, {7, 37, 2264}, {127, 64, 136}}) {
    add_cross_entropy_case(list, {shape.rows, shape.width, shape.vocabulary, true, true});
  }
}

void add_linear_gradient_cases(GradientList& list) {
  add_linear_gradient(list, 3, 7, 37, 0);
  add_linear_gradient(list, 37, 127, 129, 0);
  add_linear_gradient(list, 37, 7, 37, x_transposed);
  add_linear_gradient(list, 37, 37, 7, y_transposed);
  add_linear_gradient(list, 37, 7, 127, x_transposed | y_transposed);
  add_mlp_gradient(list, 7, 37, 127);
  add_cross_entropy_gradient(list, {7, 37, 127});
  add_cross_entropy_gradient(list, {301, 7, 37});
}

}  // namespace riverhorse::op_cases_detail
