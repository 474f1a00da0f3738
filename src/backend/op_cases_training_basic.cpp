// Cases of training: zero, embed, residual norm, the optimiser.
#include <array>
#include <bit>
#include <limits>

#include "backend/op_cases_build.h"

namespace riverhorse::op_cases_detail {

namespace {

const std::vector<Feature> training = {Feature::training};
constexpr CaseRole input = CaseRole::input;
constexpr CaseRole updated = CaseRole::updated;
constexpr DType f32 = DType::f32;

// ---------------------------------------------------------------------------------------------- zero and embed

void add_zero_case(CaseList& list, std::int64_t count) {
  add_case(
      list, "zero", fmt::format("n{}", count), {f32},
      [count](CaseBuilder& builder) {
        const int tensor = builder.normal("tensor", updated, f32, {count});
        return builder.done([=](Encoder& encoder, std::span<const Tensor> t) { encoder.zero({t[tensor]}); }, 0,
                            4.0 * static_cast<double>(count));
      },
      training);
}

void add_accumulate_case(CaseList& list, std::int64_t count) {
  add_case(
      list, "accumulate", fmt::format("n{}", count), activation_dtypes,
      [count](CaseBuilder& builder) {
        const int in = builder.normal("in", input, builder.activation(), {count});
        const int out = builder.normal("out", updated, f32, {count});
        return builder.done(
            [=](Encoder& encoder, std::span<const Tensor> t) {
              encoder.accumulate({t[in], t[out]});
            },
            static_cast<double>(count));
      },
      training);
}

void add_copy_columns_case(CaseList& list, std::int64_t rows, std::int64_t in_columns, std::int64_t out_columns,
                           std::int64_t columns) {
  const std::string name = fmt::format("r{}_i{}_o{}_c{}", rows, in_columns, out_columns, columns);
  add_case(
      list, "copy_columns", name, activation_dtypes,
      [=](CaseBuilder& builder) {
        const int in = builder.normal("in", input, builder.activation(), {rows, in_columns});
        const int out = builder.normal("out", updated, builder.activation(), {rows, out_columns});
        return builder.done(
            [=](Encoder& encoder, std::span<const Tensor> t) {
              encoder.copy_columns({t[in], t[out], in_columns - columns, (out_columns - columns) / 2, columns});
            },
            0, static_cast<double>(2 * rows * columns * dtype_size_bytes(builder.activation())));
      },
      training);
}

void add_embed_backward_case(CaseList& list, std::int64_t rows, std::int64_t vocabulary, std::int64_t width) {
  add_case(
      list, "embed_backward", fmt::format("r{}_v{}_d{}", rows, vocabulary, width), {f32},
      [=](CaseBuilder& builder) {
        std::vector<std::int32_t> values = tokens_with_gaps(rows, vocabulary, builder.random());
        values[0] = rows > 1 ? static_cast<std::int32_t>(vocabulary) : 0;  // outside, too
        const int ids = builder.integers("ids", input, {rows}, values);
        const int d_residual = builder.normal("d_residual", input, f32, {rows, width});
        const int d_table = builder.normal("d_table", updated, f32, {vocabulary, width});
        return builder.done(
            [=](Encoder& encoder, std::span<const Tensor> t) {
              encoder.embed_backward({t[ids], t[d_residual], t[d_table]});
            },
            0, static_cast<double>(12 * rows * width));
      },
      training);
}

void add_embed_gradient(GradientList& list, std::int64_t rows, std::int64_t vocabulary, std::int64_t width) {
  add_gradient_case(
      list, "embed_backward", fmt::format("r{}_v{}_d{}", rows, vocabulary, width),
      [=](CaseBuilder& builder) {
        const int ids = builder.integers("ids", input, {rows}, tokens_with_gaps(rows, vocabulary, builder.random()));
        const int table = builder.normal("table", input, f32, {vocabulary, width});
        const int residual = builder.output("residual", f32, {rows, width});
        const int d_residual = builder.normal("d_residual", input, f32, {rows, width});
        const int d_table = builder.normal("d_table", updated, f32, {vocabulary, width}, 0);
        GradientData data;
        data.forward = [=](Encoder& encoder, std::span<const Tensor> t) {
          encoder.embed({t[ids], t[table], t[residual]});
        };
        data.backward = [=](Encoder& encoder, std::span<const Tensor> t) {
          encoder.embed_backward({t[ids], t[d_residual], t[d_table]});
        };
        data.inputs = {{table, d_table}};
        data.outputs = {{residual, d_residual}};
        return data;
      },
      1e-4, long_step);
}

// --------------------------------------------------------------------------------------------- residual norm

struct DropoutTensors {
  float p;
  int random;
  Dropout view(std::span<const Tensor> t) const { return {p, 3, optional_tensor(t, random)}; }
};

DropoutTensors dropout_tensors(CaseBuilder& builder, float p) {
  if (p == 0) return {p, -1};
  std::vector<std::int32_t> words(3);
  for (std::int32_t& word : words) word = static_cast<std::int32_t>(builder.random().bits());
  return {p, builder.integers("dropout.random", input, {3}, words)};
}

struct NormShape {
  std::int64_t rows, width;
  bool with_x = true;
  float p = 0;
  bool in_place = false;
  bool no_sum = false;  // backward, with x: without d_x_sum
  bool overwrite = false;

  std::string name() const {
    return fmt::format("r{}_d{}{}{}{}{}{}", rows, width, with_x ? "_add" : "", p > 0 ? "_dropout" : "",
                       in_place ? "_inplace" : "", no_sum ? "_nosum" : "", overwrite ? "_overwrite" : "");
  }
};

void add_residual_norm_case(CaseList& list, const NormShape& n) {
  add_case(
      list, "residual_norm", n.name(), activation_dtypes,
      [n](CaseBuilder& builder) {
        const Shape shape = {n.rows, n.width};
        const int x = n.with_x ? builder.normal("x", input, builder.activation(), shape) : -1;
        const int residual = builder.normal("residual", n.in_place ? updated : input, f32, shape, 2.0, 0.3);
        const int weight = builder.normal("norm.weight", input, f32, {n.width}, 0.3, 1.0);
        const int bias = builder.normal("norm.bias", input, f32, {n.width}, 0.3);
        const DropoutTensors dropout = dropout_tensors(builder, n.p);
        const int residual_out = n.in_place ? residual : builder.output("residual_out", f32, shape);
        const int out = builder.output("out", builder.activation(), shape);
        const int statistics = builder.output("statistics", f32, {n.rows, 2});
        return builder.done(
            [=](Encoder& encoder, std::span<const Tensor> t) {
              encoder.residual_norm({.x = optional_tensor(t, x),
                                     .residual = t[residual],
                                     .dropout = dropout.view(t),
                                     .norm = {t[weight], t[bias], 1e-5f},
                                     .residual_out = t[residual_out],
                                     .out = t[out],
                                     .statistics = t[statistics]});
            },
            static_cast<double>(8 * n.rows * n.width));
      },
      training);
}

void add_residual_norm_backward_case(CaseList& list, const NormShape& n) {
  add_case(
      list, "residual_norm_backward", n.name(), activation_dtypes,
      [n](CaseBuilder& builder) {
        const Shape shape = {n.rows, n.width};
        const int d_out = builder.normal("d_out", input, builder.activation(), shape);
        const int residual_out = builder.normal("residual_out", input, f32, shape, 2.0, 0.3);
        // What the forward pass would leave, to within a fraction that no backend should mind.
        std::vector<float> values;
        for (std::int64_t row = 0; row < n.rows; ++row) {
          values.push_back(0.3f + 0.05f * builder.random().normal());
          values.push_back(0.5f + 0.02f * builder.random().normal());
        }
        const int statistics = builder.floats("statistics", input, f32, {n.rows, 2}, values);
        const int weight = builder.normal("norm.weight", input, f32, {n.width}, 0.3, 1.0);
        const int bias = builder.normal("norm.bias", input, f32, {n.width}, 0.3);
        const DropoutTensors dropout = dropout_tensors(builder, n.p);
        const int d_residual = n.overwrite ? builder.output("d_residual", f32, shape)
                                           : builder.normal("d_residual", updated, f32, shape);
        const int d_x = n.with_x ? builder.output("d_x", builder.activation(), shape) : -1;
        const int d_weight = builder.normal("d_weight", updated, f32, {n.width});
        const int d_bias = builder.normal("d_bias", updated, f32, {n.width});
        const int d_x_sum = n.with_x && !n.no_sum ? builder.normal("d_x_sum", updated, f32, {n.width}) : -1;
        return builder.done(
            [=](Encoder& encoder, std::span<const Tensor> t) {
              encoder.residual_norm_backward({.d_out = t[d_out],
                                              .residual_out = t[residual_out],
                                              .statistics = t[statistics],
                                              .dropout = dropout.view(t),
                                              .norm = {t[weight], t[bias], 1e-5f},
                                              .d_residual = t[d_residual],
                                              .d_x = optional_tensor(t, d_x),
                                              .d_weight = t[d_weight],
                                              .d_bias = t[d_bias],
                                              .d_x_sum = optional_tensor(t, d_x_sum),
                                              .overwrite = n.overwrite});
            },
            static_cast<double>(20 * n.rows * n.width));
      },
      training);
}

void add_residual_norm_gradient(GradientList& list, const NormShape& n) {
  add_gradient_case(
      list, "residual_norm_backward", n.name(),
      [n](CaseBuilder& builder) {
        const Shape shape = {n.rows, n.width};
        const int x = n.with_x ? builder.normal("x", input, f32, shape) : -1;
        const int residual = builder.normal("residual", input, f32, shape, 2.0, 0.3);
        const int weight = builder.normal("norm.weight", input, f32, {n.width}, 0.3, 1.0);
        const int bias = builder.normal("norm.bias", input, f32, {n.width}, 0.3);
        const DropoutTensors dropout = dropout_tensors(builder, n.p);
        const int residual_out = builder.output("residual_out", f32, shape);
        const int out = builder.output("out", f32, shape);
        const int statistics = builder.output("statistics", f32, {n.rows, 2});
        const int d_out = builder.normal("d_out", input, f32, shape);
        const int d_residual = builder.normal("d_residual", updated, f32, shape);  // that of residual_out, at first
        const int d_x = n.with_x ? builder.output("d_x", f32, shape) : -1;
        const int d_weight = builder.normal("d_weight", updated, f32, {n.width}, 0);
        const int d_bias = builder.normal("d_bias", updated, f32, {n.width}, 0);
        GradientData data;
        data.forward = [=](Encoder& encoder, std::span<const Tensor> t) {
          encoder.residual_norm({.x = optional_tensor(t, x),
                                 .residual = t[residual],
                                 .dropout = dropout.view(t),
                                 .norm = {t[weight], t[bias], 1e-5f},
                                 .residual_out = t[residual_out],
                                 .out = t[out],
                                 .statistics = t[statistics]});
        };
        data.backward = [=](Encoder& encoder, std::span<const Tensor> t) {
          encoder.residual_norm_backward({.d_out = t[d_out],
                                          .residual_out = t[residual_out],
                                          .statistics = t[statistics],
                                          .dropout = dropout.view(t),
                                          .norm = {t[weight], t[bias], 1e-5f},
                                          .d_residual = t[d_residual],
                                          .d_x = optional_tensor(t, d_x),
                                          .d_weight = t[d_weight],
                                          .d_bias = t[d_bias]});
        };
        data.inputs = {{residual, d_residual}, {weight, d_weight}, {bias, d_bias}};
        if (n.with_x) data.inputs.push_back({x, d_x});
        data.outputs = {{residual_out, d_residual}, {out, d_out}};
        return data;
      },
      1e-4, long_step);
}

// -------------------------------------------------------------------------------------------------- optimiser

void add_grad_norm_case(CaseList& list, std::int64_t count) {
  add_case(
      list, "grad_norm", fmt::format("n{}", count), {f32},
      [count](CaseBuilder& builder) {
        const int gradients = builder.normal("gradients", input, f32, {count}, 0.01);
        const int norm = builder.output("norm", f32, {1});
        return builder.done(
            [=](Encoder& encoder, std::span<const Tensor> t) {
              encoder.grad_norm({t[gradients], t[norm]});
            },
            static_cast<double>(2 * count));
      },
      training);
}

// `skipped`: the norm is one that leaves everything as it was.
void add_adamw_case(CaseList& list, std::int64_t count, const std::string& suffix, float norm_value, bool skipped) {
  add_case(
      list, "adamw", fmt::format("n{}{}", count, suffix), activation_dtypes,
      [=](CaseBuilder& builder) {
        const CaseRole role = skipped ? CaseRole::exact : updated;
        const Shape shape = {count};
        const int parameters = builder.normal("parameters", role, f32, shape);
        const int gradients = builder.normal("gradients", input, f32, shape, 4.0);
        const int m = builder.normal("m", role, f32, shape, 0.01);
        std::vector<float> squares(static_cast<std::size_t>(count));
        for (float& square : squares) square = static_cast<float>(builder.random().uniform(0, 1e-3));
        const int v = builder.floats("v", role, f32, shape, squares);
        const int norm = builder.floats("norm", input, f32, {1}, {norm_value});
        const AdamwRow settings{.learning_rate = 6e-4f,
                                .weight_decay = 0.1f,
                                .correction1 = 1 - 0.9f * 0.9f,
                                .correction2 = 1 - 0.95f * 0.95f,
                                .gradient_scale = 1.0f / 256,
                                .max_norm = 1,
                                .skip_above = 100};
        const auto words = std::bit_cast<std::array<std::int32_t, sizeof(AdamwRow) / 4>>(settings);
        const int row = builder.integers("row", input, {sizeof(AdamwRow) / 4}, {words.begin(), words.end()});
        const int rounded = builder.normal("rounded", role, builder.activation(), shape);
        return builder.done(
            [=](Encoder& encoder, std::span<const Tensor> t) {
              encoder.adamw({t[parameters], t[gradients], t[m], t[v], t[norm], t[row], t[rounded]});
            },
            static_cast<double>(15 * count));
      },
      training);
}

}  // namespace

void add_training_basic_cases(CaseList& list, CaseSet set) {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  if (set == CaseSet::bench) {
    add_zero_case(list, std::int64_t{32} << 20);
    add_accumulate_case(list, std::int64_t{32} << 20);
    add_copy_columns_case(list, 8192, 3 * 768, 3 * 384, 384);
    add_embed_backward_case(list, 8192, 50264, 768);
    add_residual_norm_case(list, {8192, 768, true, 0.1f});
    add_residual_norm_backward_case(list, {8192, 768, true, 0.1f});
    add_grad_norm_case(list, std::int64_t{32} << 20);
    add_adamw_case(list, std::int64_t{32} << 20, "", 256, false);
    return;
  }
  add_zero_case(list, 1134);
  add_accumulate_case(list, 1134);
  add_copy_columns_case(list, 37, 129, 7, 5);
  add_embed_backward_case(list, 37, 7, 127);
  add_residual_norm_case(list, {7, 127, true, 0.2f});
  add_residual_norm_backward_case(list, {7, 127, true, 0.2f});
  add_grad_norm_case(list, 1134);
  add_adamw_case(list, 1134, "_clipped", 300, false);
  if (set == CaseSet::quick) return;
  for (const std::int64_t count : {1, 7, 37, 100003}) {
    add_zero_case(list, count);
    add_accumulate_case(list, count);
    add_copy_columns_case(list, 7, count, count, (count + 1) / 2);
    add_grad_norm_case(list, count);
    add_adamw_case(list, count, "", 200, false);
  }
  add_adamw_case(list, 37, "_too_large", 256 * 101.0f, true);
  add_adamw_case(list, 37, "_nan", nan, true);
  add_embed_backward_case(list, 1, 7, 1);
  add_embed_backward_case(list, 127, 509, 7);
  add_embed_backward_case(list, 1134, 37, 37);
  add_embed_backward_case(list, 129, 7, 1028);
  for (const bool with_x : {true, false}) {
    for (const float p : {0.0f, 0.5f}) {
      for (const auto& [rows, width] : {std::pair{1, 1}, {1, 7}, {37, 37}, {127, 129}, {7, 1134}}) {
        add_residual_norm_case(list, {rows, width, with_x, p});
        add_residual_norm_backward_case(list, {rows, width, with_x, p});
      }
    }
  }
  add_residual_norm_case(list, {37, 768, true, 0.1f, true});
  add_residual_norm_backward_case(list, {1134, 37, true, 0.1f});
  add_residual_norm_backward_case(list, {129, 768, true, 0.1f});
  add_residual_norm_backward_case(list, {65, 128, false});
  add_residual_norm_backward_case(list, {.rows = 65, .width = 128, .no_sum = true});
  add_residual_norm_backward_case(list, {.rows = 65, .width = 128, .p = 0.1f, .overwrite = true});
  add_residual_norm_backward_case(list, {.rows = 7, .width = 1134, .with_x = false, .overwrite = true});
}

void add_basic_gradient_cases(GradientList& list) {
  add_embed_gradient(list, 37, 7, 37);
  for (const float p : {0.0f, 0.3f}) {
    add_residual_norm_gradient(list, {7, 37, true, p});
    add_residual_norm_gradient(list, {7, 37, false, p});
    add_residual_norm_gradient(list, {37, 127, true, p});
  }
}

}  // namespace riverhorse::op_cases_detail
