// What the cases of the H3 operations share, forward and backward: parameters, filters, shapes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "backend/op_cases_build.h"
#include "backend/op_cases_shapes.h"

namespace riverhorse::op_cases_detail {

// Parameters like those of a trained layer: S4D-Lin, disturbed.
struct Parameters {
  std::int64_t heads = 0, width = 0, modes = 0, rows = 0;  // H, D, n, m
  std::vector<float> log_dt, inv_a_real, a_imag, b, c, d, shift_b, shift_c, shift_d;
};
Parameters make_parameters(std::int64_t width, int head_dim, std::int64_t state, std::int64_t rows, Random& random);

struct ParameterTensors {
  int log_dt, inv_a_real, a_imag, b, c, d, shift_b, shift_c, shift_d;
  H3Parameters view(std::span<const Tensor> t, Discretization discretization) const {
    return {t[log_dt], t[inv_a_real], t[a_imag],  t[b],       t[c],
            t[d],      t[shift_b],    t[shift_c], t[shift_d], discretization};
  }
};
ParameterTensors parameter_inputs(CaseBuilder& builder, const Parameters& p);

struct FilterTensors {
  int a, b, c, d, powers, toeplitz, shift_taps;
  H3Filter view(std::span<const Tensor> t) const {
    return {t[a], t[b], t[c], t[d], t[powers], t[toeplitz], t[shift_taps]};
  }
};
FilterTensors filter_outputs(CaseBuilder& builder, const Parameters& p);
FilterTensors filter_inputs(CaseBuilder& builder, const Parameters& p,
                            Discretization discretization = Discretization::bilinear);

struct MixerShape {
  std::int64_t width;  // D
  int head_dim;
  std::int64_t state, batch, tokens;
  std::vector<std::int32_t> at;  // positions; none: the mixer without a carried state
  HeadOrder order = HeadOrder::head_major;

  std::string name() const;
};

// The modes as each superchunk begins, (D, B, superchunks, N): head_dim 1, from an empty state.
std::vector<float> entry_states(CaseBuilder& builder, const MixerShape& m, const FilterTensors& filter, int qkv);

struct FilterGradientTensors {
  int log_a, gain, d, shift_taps;
  H3FilterGradient view(std::span<const Tensor> t) const { return {t[log_a], t[gain], t[d], t[shift_taps]}; }
};
FilterGradientTensors filter_gradient_outputs(CaseBuilder& builder, const Parameters& p);

// The mixer without a carried state.
Parameters mixer_parameters(const MixerShape& m, Random& random);
H3MixerArgs mixer_args(const MixerShape& m, ConvAlgorithm algorithm, const Tensor& qkv, const H3Filter& filter,
                       const Tensor& y);
std::vector<Feature> training_needs(ConvAlgorithm algorithm);
void add_mixer_training_case(CaseList& list, const MixerShape& m, ConvAlgorithm algorithm, MixerPass pass,
                             const std::vector<DType>& dtypes = activation_dtypes);
// From a carried state.
void add_mixer_case(CaseList& list, const MixerShape& m, ConvAlgorithm algorithm,
                    const std::vector<DType>& dtypes = activation_dtypes);

std::string_view algorithm_name(ConvAlgorithm algorithm);  // "auto", "chunked", "fft"
std::vector<Feature> algorithm_needs(ConvAlgorithm algorithm);

// "d16_hd4_n16_m2_zoh"
std::string discretize_name(std::int64_t width, int head_dim, std::int64_t state, std::int64_t rows,
                            Discretization discretization);

}  // namespace riverhorse::op_cases_detail
