// Cases of training: attention without a cache, its backward, and rotary from the beginning of the text.
#include "backend/op_cases_build.h"

namespace riverhorse::op_cases_detail {

namespace {

struct AttentionShape {
  std::int64_t batch, tokens;
  int heads;
  std::int64_t head_width;
  float dropout = 0;
  bool keeps_sums = true;  // log_sum_exp, for a backward pass

  std::int64_t width() const { return heads * head_width; }
  double pairs() const { return static_cast<double>(batch * tokens * (tokens + 1)) / 2; }
  std::string name() const {
    return fmt::format("b{}_l{}_h{}x{}{}{}", batch, tokens, heads, head_width, dropout > 0 ? "_dropout" : "",
                       keeps_sums ? "" : "_no_sums");
  }
};

// The tensors of attention, by their place in a case. `y` and `log_sum_exp` are outputs, or inputs of any value.
struct AttentionTensors {
  int qkv, y, log_sum_exp = -1, random = -1;

  AttentionTensors(CaseBuilder& builder, const AttentionShape& a, bool forward) {
    const DType act = builder.activation();
    const Shape y_shape = {a.batch, a.tokens, a.width()}, sum_shape = {a.batch, a.heads, a.tokens};
    qkv = builder.normal("qkv", CaseRole::input, act, {a.batch, a.tokens, 3 * a.width()}, 1.5);
    if (forward) {
      y = builder.output("y", act, y_shape);
      if (a.keeps_sums) log_sum_exp = builder.output("log_sum_exp", DType::f32, sum_shape);
    } else {
      y = builder.normal("y", CaseRole::input, act, y_shape);
      log_sum_exp = builder.normal("log_sum_exp", CaseRole::input, DType::f32, sum_shape, 0, 10);
    }
    if (a.dropout > 0) random = builder.integers("dropout.random", CaseRole::input, {3}, {1234567, -7, 3});
  }

  Dropout dropout(const AttentionShape& a, std::span<const Tensor> t) const {
    return random < 0 ? Dropout{} : Dropout{a.dropout, 5, t[random]};
  }
  void forward(const AttentionShape& a, Encoder& encoder, std::span<const Tensor> t) const {
    AttentionArgs args;
    args.qkv = t[qkv];
    args.heads = a.heads;
    args.y = t[y];
    args.log_sum_exp = optional_tensor(t, log_sum_exp);
    args.dropout = dropout(a, t);
    encoder.attention(args);
  }
  void backward(const AttentionShape& a, Encoder& encoder, std::span<const Tensor> t, int d_y, int d_qkv) const {
    encoder.attention_backward({.qkv = t[qkv],
                                .heads = a.heads,
                                .dropout = dropout(a, t),
                                .y = t[y],
                                .log_sum_exp = t[log_sum_exp],
                                .d_y = t[d_y],
                                .d_qkv = t[d_qkv]});
  }
};

void add_attention(CaseList& list, const AttentionShape& a, const std::vector<DType>& dtypes = activation_dtypes) {
  add_case(list, "attention", a.name() + "_no_cache", dtypes,
           [a](CaseBuilder& builder) {
             const AttentionTensors tensors(builder, a, true);
             return builder.done([=](Encoder& encoder, std::span<const Tensor> t) { tensors.forward(a, encoder, t); },
                                 4 * a.pairs() * static_cast<double>(a.width()));
           },
           {Feature::training});
}

// The backward pass is given what the device's own forward pass has left, or, to be timed, runs `alone`.
void add_attention_backward(CaseList& list, const AttentionShape& a, bool alone = false,
                            const std::vector<DType>& dtypes = activation_dtypes) {
  add_case(list, "attention_backward", a.name(), dtypes,
           [=](CaseBuilder& builder) {
             const AttentionTensors tensors(builder, a, !alone);
             for (const int index : {tensors.y, tensors.log_sum_exp}) builder.tensor(index).tolerance = "attention";
             const DType act = builder.activation();
             const int d_y = builder.normal("d_y", CaseRole::input, act, {a.batch, a.tokens, a.width()});
             const int d_qkv = builder.output("d_qkv", act, {a.batch, a.tokens, 3 * a.width()});
             return builder.done(
                 [=](Encoder& encoder, std::span<const Tensor> t) {
                   if (!alone) tensors.forward(a, encoder, t);
                   tensors.backward(a, encoder, t, d_y, d_qkv);
                 },
                 10 * a.pairs() * static_cast<double>(a.width()));
           },
           {Feature::training});
}

void add_rotary(CaseList& list, const AttentionShape& a, int rotary_dim, bool inverse) {
  const std::string name = fmt::format("{}_r{}{}", a.name(), rotary_dim, inverse ? "_inverse" : "_from_zero");
  add_case(list, "rotary", name, activation_dtypes,
           [=](CaseBuilder& builder) {
             const Shape shape = {a.batch, a.tokens, 3 * a.width()};
             const int qkv = builder.normal("qkv", CaseRole::updated, builder.activation(), shape);
             const double turned = static_cast<double>(2 * a.batch * a.tokens * a.heads * rotary_dim);
             return builder.done(
                 [=](Encoder& encoder, std::span<const Tensor> t) {
                   encoder.rotary({.qkv = t[qkv],
                                   .heads = a.heads,
                                   .rotary_dim = rotary_dim,
                                   .slots = {},
                                   .positions = {},
                                   .inverse = inverse});
                 },
                 3 * turned, 2 * turned * dtype_size_bytes(builder.activation()));
           },
           {Feature::training});
}

void add_attention_gradient(GradientList& list, const AttentionShape& a) {
  add_gradient_case(list, "attention_backward", a.name(), [a](CaseBuilder& builder) {
    const AttentionTensors tensors(builder, a, true);
    const int d_y = builder.normal("d_y", CaseRole::input, DType::f32, {a.batch, a.tokens, a.width()});
    const int d_qkv = builder.output("d_qkv", DType::f32, {a.batch, a.tokens, 3 * a.width()});
    GradientData data;
    data.forward = [=](Encoder& encoder, std::span<const Tensor> t) { tensors.forward(a, encoder, t); };
    data.backward = [=](Encoder& encoder, std::span<const Tensor> t) { tensors.backward(a, encoder, t, d_y, d_qkv); };
    data.inputs = {{tensors.qkv, d_qkv}};
    data.outputs = {{tensors.y, d_y}};
    return data;
  });
}

// In place both ways: the cotangent becomes the gradient.
void add_rotary_gradient(GradientList& list, const AttentionShape& a, int rotary_dim) {
  add_gradient_case(list, "rotary", fmt::format("{}_r{}", a.name(), rotary_dim), [=](CaseBuilder& builder) {
    const Shape shape = {a.batch, a.tokens, 3 * a.width()};
    const int qkv = builder.normal("qkv", CaseRole::updated, DType::f32, shape);
    const int d_qkv = builder.normal("d_qkv", CaseRole::updated, DType::f32, shape);
    const auto turn = [=](int index, bool inverse) {
      return [=](Encoder& encoder, std::span<const Tensor> t) {
        encoder.rotary({t[index], a.heads, rotary_dim, {}, {}, inverse});
      };
    };
    GradientData data;
    data.forward = turn(qkv, false);
    data.backward = turn(d_qkv, true);
    data.inputs = data.outputs = {{qkv, d_qkv}};
    return data;
  });
}

}  // namespace

void add_training_attention_cases(CaseList& list, CaseSet set) {
  if (set == CaseSet::bench) {
    add_attention(list, {8, 1024, 12, 64});
    add_attention_backward(list, {8, 1024, 12, 64}, true);
    // The sizes of tests/peers/attention.py, too large for the cpu.
    for (const AttentionShape& shape : {AttentionShape{32, 1024, 12, 64}, AttentionShape{4, 8192, 12, 64}}) {
      add_attention(list, shape, half_dtypes);
      add_attention_backward(list, shape, true, half_dtypes);
    }
    return;
  }
  for (const bool inverse : {false, true}) add_rotary(list, {3, 7, 3, 8}, 8, inverse);
  add_attention(list, {3, 7, 3, 8, 0.25f});
  add_attention_backward(list, {3, 7, 3, 8, 0.25f});
  if (set == CaseSet::quick) return;
  for (const bool inverse : {false, true}) {
    add_rotary(list, {1, 1, 1, 2}, 2, inverse);
    add_rotary(list, {1, 37, 5, 7}, 6, inverse);
    add_rotary(list, {2, 127, 2, 80}, 64, inverse);
  }
  const std::vector<AttentionShape> shapes = {
      {1, 1, 1, 1},  {3, 1, 2, 7, 0.5f},    {1, 37, 1, 7},    {2, 64, 4, 12, 0.1f}, {1, 65, 2, 32},
      {7, 2, 3, 16}, {1, 127, 3, 16, 0.1f}, {2, 129, 1, 128}, {1, 100, 2, 80},      {1, 37, 12, 64, 0.9f},
  };
  for (const AttentionShape& shape : shapes) {
    add_attention(list, shape);
    add_attention_backward(list, shape);
  }
  // Long enough for a library in the place of kernels of our own (cuda/fused_attention.h).
  for (const auto& shape : {AttentionShape{2, 257, 3, 64}, {1, 300, 2, 80}, {1, 256, 1, 128}, {1, 384, 1, 8}}) {
    add_attention(list, shape);
    add_attention_backward(list, shape);
  }
  add_attention(list, {1, 260, 2, 64, 0, false});
}

void add_attention_gradient_cases(GradientList& list) {
  add_attention_gradient(list, {1, 1, 1, 1});
  add_attention_gradient(list, {3, 7, 3, 8, 0.25f});
  add_attention_gradient(list, {2, 37, 2, 7});
  add_attention_gradient(list, {1, 127, 1, 64, 0.1f});
  add_attention_gradient(list, {1, 70, 2, 160, 0.1f});
  add_rotary_gradient(list, {3, 7, 3, 8}, 8);
  add_rotary_gradient(list, {1, 127, 2, 7}, 6);
}

}  // namespace riverhorse::op_cases_detail
