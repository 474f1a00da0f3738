// Cases of fft_conv: kernels that decay, any length.
#include <cmath>

#include "backend/op_cases_build.h"

namespace riverhorse::op_cases_detail {

int decaying_kernel(CaseBuilder& builder, std::int64_t heads, std::int64_t length) {
  const int kernel = builder.normal("kernel", CaseRole::input, DType::f32, {heads, length}, 0.5);
  std::vector<float>& values = builder.tensor(kernel).floats;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto lag = static_cast<double>(i % static_cast<std::size_t>(length));
    values[i] *= static_cast<float>(std::exp(-8.0 * lag / static_cast<double>(length)));
  }
  return kernel;
}

namespace {

void add(CaseList& list, std::int64_t batch, std::int64_t heads, std::int64_t length, bool with_skip, bool gelu,
         const std::vector<DType>& dtypes = activation_dtypes) {
  const std::string name =
      fmt::format("b{}_h{}_l{}{}{}", batch, heads, length, with_skip ? "_skip" : "", gelu ? "_gelu" : "");
  add_case(list, "fft_conv", name, dtypes, [=](CaseBuilder& builder) {
    const int u = builder.normal("u", CaseRole::input, builder.activation(), {batch, heads, length});
    const int kernel = decaying_kernel(builder, heads, length);
    const int skip = with_skip ? builder.normal("skip", CaseRole::input, DType::f32, {heads}) : -1;
    const int y = builder.output("y", builder.activation(), {batch, heads, length});
    const auto elements = static_cast<double>(batch * heads * length);
    return builder.done(
        [=](Encoder& encoder, std::span<const Tensor> t) {
          encoder.fft_conv(
              {.u = t[u], .kernel = t[kernel], .skip = with_skip ? t[skip] : Tensor{}, .gelu_erf = gelu, .y = t[y]});
        },
        elements * 20 * std::log2(2.0 * static_cast<double>(length)));
  });
}

}  // namespace

void add_fft_conv_case(CaseList& list, const ConvolutionShape& shape, const std::vector<DType>& dtypes) {
  add(list, shape.batch, shape.width, shape.tokens, true, false, dtypes);
}

void add_fft_conv_cases(CaseList& list, CaseSet set) {
  if (set == CaseSet::bench) {
    add(list, 1, 768, 1024, true, false);
    add(list, 1, 768, 8192, true, false);
    return;
  }
  add(list, 2, 3, 127, true, false);
  if (set == CaseSet::quick) return;
  add(list, 1, 3, 1, true, false);
  add(list, 1, 1, 2, false, false);
  add(list, 2, 7, 8, true, true);
  add(list, 3, 7, 63, false, true);
  add(list, 1, 2, 64, true, false);
  add(list, 1, 37, 65, false, false);
  add(list, 2, 2, 1024, true, false);
  add(list, 1, 3, 1134, true, true);
  add(list, 1, 1, 4097, true, false);
  // Every size of transform that CUDA has on chip, an odd batch, and the first length beyond them on an H100.
  add(list, 3, 2, 251, true, false);
  add(list, 5, 1, 509, false, true);
  add(list, 3, 1, 2039, true, false);
  add(list, 2, 1, 4093, false, false);
  add(list, 3, 1, 8209, true, true);
  // Around the tiles of direct products in 16 bits: 32 rows, chunks of 64 tokens, blocks of up to 64 sequences.
  add(list, 64, 1, 1, true, false, half_dtypes);
  add(list, 65, 1, 63, true, false, half_dtypes);
  add(list, 16, 2, 64, false, true, half_dtypes);
  add(list, 17, 1, 65, true, false, half_dtypes);
  add(list, 64, 1, 127, false, false, half_dtypes);
  add(list, 3, 2, 128, true, true, half_dtypes);
  add(list, 65, 1, 129, true, false, half_dtypes);
  add(list, 16, 1, 1000, true, false, half_dtypes);
  add(list, 17, 1, 1024, true, false, half_dtypes);
  add(list, 3, 1, 2047, false, true, half_dtypes);
}

}  // namespace riverhorse::op_cases_detail
