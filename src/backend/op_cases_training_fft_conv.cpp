// Cases of training: long convolutions.
#include <cmath>

#include "backend/op_cases_build.h"

namespace riverhorse::op_cases_detail {

namespace {

constexpr DType f32 = DType::f32;

struct ConvShape {
  std::int64_t batch, heads, tokens;
  bool with_skip, gelu;

  std::string name() const {
    return fmt::format("b{}_h{}_l{}{}{}", batch, heads, tokens, with_skip ? "_skip" : "", gelu ? "_gelu" : "");
  }
};

struct ConvTensors {
  int u, kernel, skip, d_y, d_u, d_kernel, d_skip;
  FftConvBackwardArgs view(std::span<const Tensor> t, bool gelu) const {
    return {.u = t[u],
            .kernel = t[kernel],
            .skip = skip < 0 ? Tensor{} : t[skip],
            .gelu_erf = gelu,
            .d_y = t[d_y],
            .d_u = t[d_u],
            .d_kernel = t[d_kernel],
            .d_skip = d_skip < 0 ? Tensor{} : t[d_skip]};
  }
};

// Of what is added to, `scale` is there already.
ConvTensors conv_tensors(CaseBuilder& builder, const ConvShape& c, double scale) {
  const DType act = builder.activation();
  ConvTensors t;
  t.u = builder.normal("u", CaseRole::input, act, {c.batch, c.heads, c.tokens});
  t.kernel = decaying_kernel(builder, c.heads, c.tokens);
  t.skip = c.with_skip ? builder.normal("skip", CaseRole::input, f32, {c.heads}) : -1;
  t.d_y = builder.normal("d_y", CaseRole::input, act, {c.batch, c.heads, c.tokens});
  t.d_u = builder.output("d_u", act, {c.batch, c.heads, c.tokens});
  t.d_kernel = builder.normal("d_kernel", CaseRole::updated, f32, {c.heads, c.tokens}, scale);
  t.d_skip = c.with_skip ? builder.normal("d_skip", CaseRole::updated, f32, {c.heads}, scale) : -1;
  if (c.with_skip) builder.tensor(t.d_skip).tolerance = "fft_conv_backward.skip";
  return t;
}

void add_conv_backward_case(CaseList& list, const ConvShape& c,
                            const std::vector<DType>& dtypes = activation_dtypes) {
  add_case(
      list, "fft_conv_backward", c.name(), dtypes,
      [=](CaseBuilder& builder) {
        const ConvTensors tensors = conv_tensors(builder, c, 0.1);
        return builder.done(
            [=](Encoder& encoder, std::span<const Tensor> t) { encoder.fft_conv_backward(tensors.view(t, c.gelu)); },
            static_cast<double>(c.batch * c.heads * c.tokens) * 50 * std::log2(2.0 * static_cast<double>(c.tokens)));
      },
      {Feature::training});
}

void add_conv_gradient(GradientList& list, const ConvShape& c) {
  add_gradient_case(list, "fft_conv_backward", c.name(), [=](CaseBuilder& builder) {
    const ConvTensors tensors = conv_tensors(builder, c, 0.0);
    const int y = builder.output("y", f32, {c.batch, c.heads, c.tokens});
    GradientData data;
    data.forward = [=](Encoder& encoder, std::span<const Tensor> t) {
      encoder.fft_conv({t[tensors.u], t[tensors.kernel], c.with_skip ? t[tensors.skip] : Tensor{}, c.gelu, t[y]});
    };
    data.backward = [=](Encoder& encoder, std::span<const Tensor> t) {
      encoder.fft_conv_backward(tensors.view(t, c.gelu));
    };
    data.inputs = {{tensors.u, tensors.d_u}, {tensors.kernel, tensors.d_kernel}};
    if (c.with_skip) data.inputs.push_back({tensors.skip, tensors.d_skip});
    data.outputs = {{y, tensors.d_y}};
    return data;
  });
}

}  // namespace

void add_training_fft_conv_cases(CaseList& list, CaseSet set) {
  if (set == CaseSet::bench) {
    add_conv_backward_case(list, {8, 768, 1024, true, false});
    return;
  }
  add_conv_backward_case(list, {2, 3, 127, true, false});
  if (set == CaseSet::quick) return;
  add_conv_backward_case(list, {1, 3, 1, true, false});
  add_conv_backward_case(list, {1, 1, 2, false, false});
  add_conv_backward_case(list, {2, 7, 7, true, true});
  add_conv_backward_case(list, {3, 7, 63, false, true});
  add_conv_backward_case(list, {1, 37, 64, false, false});
  add_conv_backward_case(list, {2, 2, 1134, true, true});
  add_conv_backward_case(list, {1, 1, 4097, true, false});
  add_conv_backward_case(list, {5, 2, 251, true, true});
  add_conv_backward_case(list, {7, 1, 509, false, false});
  add_conv_backward_case(list, {3, 1, 2039, true, false});
  add_conv_backward_case(list, {2, 1, 4093, false, true});
  add_conv_backward_case(list, {3, 1, 8209, true, true});
  // Around the tiles of direct products in 16 bits.
  add_conv_backward_case(list, {64, 1, 1, true, false}, half_dtypes);
  add_conv_backward_case(list, {65, 1, 63, true, false}, half_dtypes);
  add_conv_backward_case(list, {16, 2, 64, false, true}, half_dtypes);
  add_conv_backward_case(list, {17, 3, 129, true, false}, half_dtypes);
  add_conv_backward_case(list, {16, 1, 1000, false, false}, half_dtypes);
  add_conv_backward_case(list, {3, 1, 2047, true, false}, half_dtypes);
}

void add_fft_conv_gradient_cases(GradientList& list) {
  add_conv_gradient(list, {2, 3, 37, true, false});
  add_conv_gradient(list, {1, 2, 127, false, false});
  add_conv_gradient(list, {2, 3, 37, true, true});
}

}  // namespace riverhorse::op_cases_detail

namespace riverhorse {

OpCase fft_conv_case(const ConvolutionShape& shape, bool backward, DType dtype) {
  op_cases_detail::CaseList list;
  if (backward) {
    op_cases_detail::add_conv_backward_case(list, {shape.batch, shape.width, shape.tokens, true, false}, {dtype});
  } else {
    op_cases_detail::add_fft_conv_case(list, shape, {dtype});
  }
  return list.front();
}

}  // namespace riverhorse
