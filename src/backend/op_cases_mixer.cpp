// Cases of the H3 mixer between the projections without a carried state: forward, backward, or both; and what those
// with one share with them.
#include "backend/op_cases_h3.h"

namespace riverhorse::op_cases_detail {

std::string MixerShape::name() const {
  std::string text = fmt::format("d{}_hd{}_n{}_b{}_l{}", width, head_dim, state, batch, tokens);
  if (!at.empty()) text += fmt::format("_p{}", at.back());
  if (head_dim > 1) text += order == HeadOrder::head_major ? "_hdmajor" : "_dimmajor";
  return text;
}

std::string_view algorithm_name(ConvAlgorithm algorithm) {
  switch (algorithm) {
    case ConvAlgorithm::chunked: return "chunked";
    case ConvAlgorithm::fft: return "fft";
    default: return "auto";
  }
}

std::vector<Feature> algorithm_needs(ConvAlgorithm algorithm) {
  switch (algorithm) {
    case ConvAlgorithm::chunked: return {Feature::conv_chunked};
    case ConvAlgorithm::fft: return {Feature::conv_fft};
    default: return {};
  }
}

FilterGradientTensors filter_gradient_outputs(CaseBuilder& builder, const Parameters& p) {
  constexpr DType f32 = DType::f32;
  return {builder.output("d_filter.log_a", f32, {p.heads, p.modes, 2}),
          builder.output("d_filter.gain", f32, {p.heads, p.modes, 2}), builder.output("d_filter.d", f32, {p.heads}),
          builder.output("d_filter.shift_taps", f32, {p.width, 2 * p.modes})};
}

Parameters mixer_parameters(const MixerShape& m, Random& random) {
  return make_parameters(m.width, m.head_dim, m.state, m.width / m.head_dim, random);
}

H3MixerArgs mixer_args(const MixerShape& m, ConvAlgorithm algorithm, const Tensor& qkv, const H3Filter& filter,
                       const Tensor& y) {
  H3MixerArgs args;
  args.qkv = qkv;
  args.filter = filter;
  args.head_dim = m.head_dim;
  args.head_order = m.order;
  args.algorithm = algorithm;
  args.y = y;
  return args;
}

std::vector<Feature> training_needs(ConvAlgorithm algorithm) {
  std::vector<Feature> needs = algorithm_needs(algorithm);
  needs.push_back(Feature::training);
  return needs;
}

namespace {

bool goes_forward(MixerPass pass) { return pass < MixerPass::backward || pass == MixerPass::step; }
bool goes_backward(MixerPass pass) { return pass >= MixerPass::backward; }

std::string case_name(const MixerShape& m, ConvAlgorithm algorithm, MixerPass pass) {
  const auto way = algorithm_name(algorithm);
  switch (pass) {
    case MixerPass::keeping: return fmt::format("{}_training_keeping_{}", m.name(), way);
    case MixerPass::backward: return fmt::format("{}_{}", m.name(), way);
    case MixerPass::backward_from_states: return fmt::format("{}_{}_states", m.name(), way);
    case MixerPass::step: return fmt::format("{}_{}_step", m.name(), way);
    default: return fmt::format("{}_training_{}", m.name(), way);
  }
}

// Where `pass` has the states: read, written, or both, or nowhere (-1).
int state_tensor(CaseBuilder& builder, const MixerShape& m, MixerPass pass, const FilterTensors& filter, int qkv) {
  const std::int64_t superchunks = (m.tokens + H3Filter::superchunk - 1) / H3Filter::superchunk;
  const Shape shape = {m.width, m.batch, superchunks, m.state};
  if (pass == MixerPass::forward || pass == MixerPass::backward) return -1;
  if (pass == MixerPass::step && superchunks == 1) return -1;  // as in training: it begins with zeros
  if (goes_forward(pass)) return builder.output("entry_states", DType::f32, shape);
  // Of values that repeat, those of a benchmark, any states serve.
  const bool whole = static_cast<std::int64_t>(builder.tensor(qkv).floats.size()) == 3 * m.width * m.batch * m.tokens;
  if (!whole) return builder.normal("entry_states", CaseRole::input, DType::f32, shape);
  return builder.floats("entry_states", CaseRole::input, DType::f32, shape, entry_states(builder, m, filter, qkv));
}

CaseData mixer_data(CaseBuilder& builder, const MixerShape& m, ConvAlgorithm algorithm, MixerPass pass) {
  const Parameters p = mixer_parameters(m, builder.random());
  const FilterTensors filter = filter_inputs(builder, p);
  const DType act = builder.activation();
  const Shape narrow = {m.width, m.batch, m.tokens}, wide = {3 * m.width, m.batch, m.tokens};
  const int qkv = builder.normal("qkv", CaseRole::input, act, wide, 1.0, 0.1);
  const int d_y = goes_backward(pass) ? builder.normal("d_y", CaseRole::input, act, narrow) : -1;
  const int states = state_tensor(builder, m, pass, filter, qkv);
  const int y = goes_forward(pass) ? builder.output("y", act, narrow) : -1;
  const int d_qkv = goes_backward(pass) ? builder.output("d_qkv", act, wide) : -1;
  FilterGradientTensors d_filter{};
  if (goes_backward(pass)) {
    d_filter = filter_gradient_outputs(builder, p);
    for (const int index : {d_filter.log_a, d_filter.gain, d_filter.shift_taps}) {
      builder.tensor(index).tolerance = "h3_mixer_backward.filter";
    }
    builder.tensor(d_filter.d).tolerance = "h3_mixer_backward.filter.d";
    if (goes_forward(pass)) {
      for (const int index : {y, states}) {
        if (index >= 0) builder.tensor(index).tolerance = "h3_mixer";
      }
    }
  }
  const auto record_as = [=](ConvAlgorithm chosen) {
    return [=](Encoder& encoder, std::span<const Tensor> t) {
      if (goes_forward(pass)) {
        H3MixerArgs args = mixer_args(m, chosen, t[qkv], filter.view(t), t[y]);
        args.entry_states = optional_tensor(t, states);
        encoder.h3_mixer(args);
      }
      if (goes_backward(pass)) {
        encoder.h3_mixer_backward({.qkv = t[qkv],
                                   .filter = filter.view(t),
                                   .head_dim = m.head_dim,
                                   .head_order = m.order,
                                   .algorithm = chosen,
                                   .d_y = t[d_y],
                                   .d_qkv = t[d_qkv],
                                   .d_filter = d_filter.view(t),
                                   .entry_states = optional_tensor(t, states)});
      }
    };
  };
  const auto elements = static_cast<double>(m.width * m.batch * m.tokens);
  const double recurrence_flops = elements * m.head_dim * static_cast<double>(6 * m.state);
  const int recurrences = (goes_forward(pass) ? 1 : 0) + (goes_backward(pass) ? 3 : 0);  // z again, two adjoints
  const int moved = (goes_forward(pass) ? 4 : 0) + (goes_backward(pass) ? 7 : 0);
  CaseData data =
      builder.done(record_as(algorithm), recurrences * recurrence_flops, moved * elements * dtype_size_bytes(act));
  data.record_oracle = record_as(ConvAlgorithm::automatic);
  return data;
}

}  // namespace

void add_mixer_training_case(CaseList& list, const MixerShape& m, ConvAlgorithm algorithm, MixerPass pass,
                             const std::vector<DType>& dtypes) {
  add_case(
      list, goes_backward(pass) ? "h3_mixer_backward" : "h3_mixer", case_name(m, algorithm, pass), dtypes,
      [=](CaseBuilder& builder) { return mixer_data(builder, m, algorithm, pass); }, training_needs(algorithm));
}

}  // namespace riverhorse::op_cases_detail

namespace riverhorse {

OpCase mixer_case(const ConvolutionShape& shape, MixerPass pass, ConvAlgorithm algorithm, DType dtype) {
  using namespace op_cases_detail;
  MixerShape m{shape.width, 1, shape.state, shape.batch, shape.tokens, {}};
  CaseList list;
  if (pass == MixerPass::carrying) {
    m.at = {0};
    add_mixer_case(list, m, algorithm, {dtype});
  } else {
    add_mixer_training_case(list, m, algorithm, pass, {dtype});
  }
  return list.front();
}

}  // namespace riverhorse
