// Cases of training: the H3 mixer and its filter.
#include <cmath>
#include <utility>

#include "backend/op_cases_h3.h"

namespace riverhorse::op_cases_detail {

namespace {

constexpr DType f32 = DType::f32;

FilterGradientTensors filter_gradient_inputs(CaseBuilder& builder, const Parameters& p) {
  return {builder.normal("d_filter.log_a", CaseRole::input, f32, {p.heads, p.modes, 2}),
          builder.normal("d_filter.gain", CaseRole::input, f32, {p.heads, p.modes, 2}),
          builder.normal("d_filter.d", CaseRole::input, f32, {p.heads}),
          builder.normal("d_filter.shift_taps", CaseRole::input, f32, {p.width, 2 * p.modes})};
}

// Something is there already, unless `scale` is 0.
ParameterTensors parameter_gradients(CaseBuilder& builder, const Parameters& p, double scale) {
  const auto updated = [&](const char* name, Shape shape) {
    return builder.normal(name, CaseRole::updated, f32, shape, scale);
  };
  ParameterTensors t;
  t.log_dt = updated("d_parameters.log_dt", {p.heads});
  t.inv_a_real = updated("d_parameters.inv_a_real", {p.rows, p.modes});
  t.a_imag = updated("d_parameters.a_imag", {p.rows, p.modes});
  t.b = updated("d_parameters.b", {p.rows, p.modes, 2});
  t.c = updated("d_parameters.c", {p.heads, p.modes, 2});
  t.d = updated("d_parameters.d", {p.heads});
  t.shift_b = updated("d_parameters.shift_b", {p.width, 2 * p.modes});
  t.shift_c = updated("d_parameters.shift_c", {p.width, 2 * p.modes});
  t.shift_d = updated("d_parameters.shift_d", {p.width});
  return t;
}

void add_discretize_backward_case(CaseList& list, std::int64_t width, int head_dim, std::int64_t state,
                                  std::int64_t rows, Discretization discretization) {
  const std::string name = discretize_name(width, head_dim, state, rows, discretization);
  add_case(list, "discretize_backward", name, {f32},
           [=](CaseBuilder& builder) {
             const Parameters p = make_parameters(width, head_dim, state, rows, builder.random());
             const ParameterTensors parameters = parameter_inputs(builder, p);
             const FilterTensors filter = filter_inputs(builder, p, discretization);
             const FilterGradientTensors d_filter = filter_gradient_inputs(builder, p);
             const ParameterTensors d_parameters = parameter_gradients(builder, p, 0.1);
             return builder.done(
                 [=](Encoder& encoder, std::span<const Tensor> t) {
                   encoder.discretize_backward({parameters.view(t, discretization), filter.view(t), d_filter.view(t),
                                                d_parameters.view(t, discretization)});
                 },
                 static_cast<double>(p.heads * p.modes * 200 + 2 * width * state * state));
           },
           {Feature::training});
}

// From carried states, with gradients of those that the sequences leave.
void add_carried_backward_case(CaseList& list, const MixerShape& m, ConvAlgorithm algorithm) {
  const std::string name = fmt::format("{}_{}_carried", m.name(), algorithm_name(algorithm));
  add_case(
      list, "h3_mixer_backward", name, activation_dtypes,
      [=](CaseBuilder& builder) {
        const Parameters p = mixer_parameters(m, builder.random());
        const FilterTensors filter = filter_inputs(builder, p);
        const DType act = builder.activation();
        const int qkv = builder.normal("qkv", CaseRole::input, act, {3 * m.width, m.batch, m.tokens}, 1.0, 0.1);
        const int d_y = builder.normal("d_y", CaseRole::input, act, {m.width, m.batch, m.tokens});
        const int d_qkv = builder.output("d_qkv", act, {3 * m.width, m.batch, m.tokens});
        const FilterGradientTensors d_filter = filter_gradient_outputs(builder, p);
        for (const int index : {d_filter.log_a, d_filter.gain, d_filter.shift_taps}) {
          builder.tensor(index).tolerance = "h3_mixer_backward.filter";
        }
        builder.tensor(d_filter.d).tolerance = "h3_mixer_backward.filter.d";
        const SlotPool pool = make_pool(m.batch, m.at, builder.random());
        const int slots = builder.integers("slots", CaseRole::input, {m.batch}, pool.slots);
        const int positions = builder.integers("positions", CaseRole::input, {pool.count}, pool.positions);
        const Shape keys = {pool.count, m.width, m.state};
        const Shape modes = {pool.count, m.width * m.head_dim, m.state / 2, 2};
        const int shift = builder.normal("state.shift", CaseRole::input, f32, keys);
        const int state_modes = builder.normal("state.modes", CaseRole::input, f32, modes, 0.1);
        const int d_shift = builder.normal("d_state.shift", CaseRole::updated, f32, keys);
        const int d_modes = builder.normal("d_state.modes", CaseRole::updated, f32, modes, 10.0);
        for (const int index : {d_shift, d_modes}) builder.tensor(index).untouched_rows = pool.others;
        const auto record_as = [=](ConvAlgorithm chosen) {
          return [=](Encoder& encoder, std::span<const Tensor> t) {
            encoder.h3_mixer_backward({.qkv = t[qkv],
                                       .filter = filter.view(t),
                                       .head_dim = m.head_dim,
                                       .head_order = m.order,
                                       .algorithm = chosen,
                                       .d_y = t[d_y],
                                       .d_qkv = t[d_qkv],
                                       .d_filter = d_filter.view(t),
                                       .slots = t[slots],
                                       .positions = t[positions],
                                       .state = {t[shift], t[state_modes]},
                                       .d_state = {t[d_shift], t[d_modes]}});
          };
        };
        const auto elements = static_cast<double>(m.width * m.batch * m.tokens);
        CaseData data =
            builder.done(record_as(algorithm), 3 * elements * m.head_dim * static_cast<double>(6 * m.state),
                         7 * elements * dtype_size_bytes(act));
        data.record_oracle = record_as(ConvAlgorithm::automatic);
        return data;
      },
      training_needs(algorithm));
}

void add_kernel_backward_case(CaseList& list, std::int64_t heads, std::int64_t state, std::int64_t length) {
  add_case(list, "ssm_kernel_backward", fmt::format("h{}_n{}_l{}", heads, state, length), {f32},
           [=](CaseBuilder& builder) {
             const Parameters p = make_parameters(heads, 1, state, heads, builder.random());
             const FilterTensors filter = filter_inputs(builder, p);
             const int d_kernel = builder.normal("d_kernel", CaseRole::input, f32, {heads, length});
             const int log_a = builder.output("d_filter.log_a", f32, {heads, p.modes, 2});
             const int gain = builder.output("d_filter.gain", f32, {heads, p.modes, 2});
             return builder.done(
                 [=](Encoder& encoder, std::span<const Tensor> t) {
                   encoder.ssm_kernel_backward({filter.view(t), t[d_kernel], {t[log_a], t[gain], {}, {}}});
                 },
                 static_cast<double>(7 * heads * state * length));
           },
           {Feature::training});
}

}  // namespace

void add_training_h3_cases(CaseList& list, CaseSet set) {
  constexpr ConvAlgorithm chunked = ConvAlgorithm::chunked, fft = ConvAlgorithm::fft;
  constexpr Discretization bilinear = Discretization::bilinear, zoh = Discretization::zoh;
  if (set == CaseSet::bench) {
    const MixerShape m{768, 1, 64, 8, 1024, {}};
    for (const ConvAlgorithm algorithm : {chunked, fft}) {
      add_mixer_training_case(list, m, algorithm, MixerPass::forward);
      add_mixer_training_case(list, m, algorithm, MixerPass::backward);
    }
    add_discretize_backward_case(list, 768, 1, 64, 768, bilinear);
    add_kernel_backward_case(list, 768, 64, 1024);
    return;
  }

  const std::vector<MixerShape> mixers = {
      {7, 1, 64, 3, 37, {}},
      {16, 4, 16, 2, 65, {}, HeadOrder::dim_major},
      {1, 1, 8, 1, 1, {}},
      {37, 1, 16, 2, 7, {}},
      {16, 2, 16, 3, 127, {}, HeadOrder::head_major},
      {8, 8, 8, 1, 100, {}, HeadOrder::dim_major},
      {8, 8, 8, 2, 64, {}, HeadOrder::head_major},
      {3, 1, 64, 2, 128, {}},
      {129, 1, 2, 1, 63, {}},
      {5, 1, 32, 1, 1000, {}},
      {2, 1, 64, 1, 1134, {}},
  };
  for (std::size_t i = 0; i < (set == CaseSet::quick ? 1 : mixers.size()); ++i) {
    for (const ConvAlgorithm algorithm : {chunked, fft}) {
      add_mixer_training_case(list, mixers[i], algorithm, MixerPass::forward);
      add_mixer_training_case(list, mixers[i], algorithm, MixerPass::backward);
    }
    if (set == CaseSet::full && i < 3) {
      add_mixer_training_case(list, mixers[i], ConvAlgorithm::automatic, MixerPass::backward);
    }
  }
  add_mixer_training_case(list, {3, 1, 64, 2, 100, {}}, chunked, MixerPass::keeping);

  // On tensor cores: whole and odd chunks; several sequences a tile, in a run of tokens or not; a warp a sequence,
  // and warps that take turns; lengths that are no multiple of 8.
  for (const auto& [batch, tokens] : {std::pair{6, 64},
                                      {1, 100},
                                      {2, 1024},
                                      {5, 1500},
                                      {3, 2104},
                                      {8, 1024},
                                      {8, 1200},
                                      {33, 256},
                                      {4, 2100},
                                      {5, 1104},
                                      {4, 1104},
                                      {9, 256},
                                      {5, 200},
                                      {3, 511},
                                      {1, 5000}}) {
    add_mixer_training_case(list, {2, 1, 64, batch, tokens, {}}, chunked, MixerPass::backward_from_states);
    if (set == CaseSet::quick) break;
  }
  add_carried_backward_case(list, {3, 1, 16, 2, 37, {0, 40}}, chunked);
  add_discretize_backward_case(list, 37, 1, 64, 37, bilinear);
  add_kernel_backward_case(list, 3, 64, 129);
  if (set == CaseSet::quick) return;
  for (const MixerShape& m : std::vector<MixerShape>{{2, 1, 64, 3, 100, {5, 64, 1003}},
                                                     {8, 4, 8, 2, 65, {17, 3}, HeadOrder::dim_major},
                                                     {2, 1, 64, 3, 7, {5, 63, 130}},
                                                     {3, 1, 2, 1, 32, {32}},
                                                     {1, 1, 74, 2, 200, {200}}}) {
    add_carried_backward_case(list, m, chunked);
    add_carried_backward_case(list, m, ConvAlgorithm::automatic);
  }
  // Long sequences, more and fewer than their superchunks; short ones that share a tile; lengths that do not divide.
  for (const MixerShape& m : std::vector<MixerShape>{{1, 1, 64, 2, 2100, {}},
                                                     {2, 1, 64, 1, 7000, {}},
                                                     {1, 1, 32, 3, 1152, {}},
                                                     {2, 1, 64, 6, 1024, {}},
                                                     {3, 1, 64, 19, 64, {}},
                                                     {2, 1, 64, 5, 200, {}},
                                                     {2, 1, 6, 3, 511, {}},
                                                     {40, 1, 64, 1, 129, {}}}) {
    add_mixer_training_case(list, m, chunked, MixerPass::keeping);
    add_mixer_training_case(list, m, ConvAlgorithm::automatic, MixerPass::forward);
  }
  // More channels than an H100 has places for blocks: some walk over two.
  add_mixer_training_case(list, {300, 1, 8, 1, 1100, {}}, chunked, MixerPass::keeping);
  add_mixer_training_case(list, {2, 1, 40, 2, 2100, {}}, fft, MixerPass::keeping);
  for (const ConvAlgorithm algorithm : {chunked, fft}) {
    add_mixer_training_case(list, {2, 1, 64, 3, 2100, {}}, algorithm, MixerPass::step);
  }
  add_discretize_backward_case(list, 1, 1, 8, 1, bilinear);
  add_discretize_backward_case(list, 16, 4, 16, 2, zoh);
  add_discretize_backward_case(list, 7, 1, 2, 7, zoh);
  add_discretize_backward_case(list, 129, 1, 64, 1, bilinear);
  add_discretize_backward_case(list, 127, 1, 16, 127, zoh);
  add_discretize_backward_case(list, 24, 4, 32, 3, bilinear);
  add_discretize_backward_case(list, 3, 1, 74, 3, bilinear);
  add_kernel_backward_case(list, 1, 8, 1);
  add_kernel_backward_case(list, 7, 64, 37);
  add_kernel_backward_case(list, 37, 2, 127);
  add_kernel_backward_case(list, 2, 64, 1134);
  add_kernel_backward_case(list, 1, 16, 20000);
}

// ---------------------------------------------------------------------------------------------- gradient cases

namespace {

// What the differences need: log_dt and a_imag turn phases l dt a_imag by many radians, inv_a_real moves decays so
// little that rounding shows, so each kind has steps, and cases, of its own.
struct Inputs {
  enum Kind { phases, decays, others } kind;
  const char* suffix;
  double step;
};
constexpr Inputs input_kinds[] = {
    {Inputs::phases, "_phases", 0x1p-9}, {Inputs::decays, "_decays", 0x1p-3}, {Inputs::others, "", 0x1p-6}};

// The step has to suit all heads, so here dt is about the same for all.
Parameters gradient_parameters(std::int64_t width, int head_dim, std::int64_t state, std::int64_t rows,
                               Random& random) {
  Parameters p = make_parameters(width, head_dim, state, rows, random);
  for (float& log_dt : p.log_dt) log_dt = static_cast<float>(random.uniform(std::log(0.02), std::log(0.05)));
  return p;
}

// Parameters and their gradients.
void add_parameter_pairs(GradientData& data, const ParameterTensors& p, const ParameterTensors& d,
                         Inputs::Kind kind) {
  switch (kind) {
    case Inputs::phases: data.inputs.insert(data.inputs.end(), {{p.log_dt, d.log_dt}, {p.a_imag, d.a_imag}}); break;
    case Inputs::decays: data.inputs.push_back({p.inv_a_real, d.inv_a_real}); break;
    case Inputs::others:
      data.inputs.insert(data.inputs.end(), {{p.b, d.b},
                                             {p.c, d.c},
                                             {p.d, d.d},
                                             {p.shift_b, d.shift_b},
                                             {p.shift_c, d.shift_c},
                                             {p.shift_d, d.shift_d}});
      break;
  }
}

// From the raw parameters and qkv to y.
void add_mixer_gradient(GradientList& list, const MixerShape& m, ConvAlgorithm algorithm, const Inputs& inputs) {
  const std::string name = fmt::format("{}_{}{}", m.name(), algorithm_name(algorithm), inputs.suffix);
  add_gradient_case(list, "h3_mixer_backward", name, [=](CaseBuilder& builder) {
    constexpr Discretization bilinear = Discretization::bilinear;
    const Parameters p = gradient_parameters(m.width, m.head_dim, m.state, m.width / m.head_dim, builder.random());
    const ParameterTensors parameters = parameter_inputs(builder, p);
    const FilterTensors filter = filter_outputs(builder, p);
    const int qkv = builder.normal("qkv", CaseRole::input, f32, {3 * m.width, m.batch, m.tokens}, 1.0, 0.1);
    const int y = builder.output("y", f32, {m.width, m.batch, m.tokens});
    const int d_y = builder.normal("d_y", CaseRole::input, f32, {m.width, m.batch, m.tokens});
    const int d_qkv = builder.output("d_qkv", f32, {3 * m.width, m.batch, m.tokens});
    const FilterGradientTensors d_filter = filter_gradient_outputs(builder, p);
    const ParameterTensors d_parameters = parameter_gradients(builder, p, 0.0);
    GradientData data;
    data.forward = [=](Encoder& encoder, std::span<const Tensor> t) {
      encoder.discretize({parameters.view(t, bilinear), filter.view(t)});
      encoder.h3_mixer(mixer_args(m, algorithm, t[qkv], filter.view(t), t[y]));
    };
    data.backward = [=](Encoder& encoder, std::span<const Tensor> t) {
      encoder.h3_mixer_backward({.qkv = t[qkv],
                                 .filter = filter.view(t),
                                 .head_dim = m.head_dim,
                                 .head_order = m.order,
                                 .algorithm = algorithm,
                                 .d_y = t[d_y],
                                 .d_qkv = t[d_qkv],
                                 .d_filter = d_filter.view(t)});
      encoder.discretize_backward(
          {parameters.view(t, bilinear), filter.view(t), d_filter.view(t), d_parameters.view(t, bilinear)});
    };
    if (inputs.kind == Inputs::others) data.inputs.push_back({qkv, d_qkv});
    add_parameter_pairs(data, parameters, d_parameters, inputs.kind);
    data.outputs = {{y, d_y}};
    return data;
  });
  list.back().step = inputs.step;
  list.back().needs = training_needs(algorithm);
}

// The same in two pieces, the second from the state that the first left.
void add_carried_gradient(GradientList& list, const MixerShape& m, std::int64_t more_tokens, ConvAlgorithm algorithm,
                          const Inputs& inputs) {
  const std::string name =
      fmt::format("{}_and_{}_{}{}_carried", m.name(), more_tokens, algorithm_name(algorithm), inputs.suffix);
  add_gradient_case(list, "h3_mixer_backward", name, [=](CaseBuilder& builder) {
    constexpr Discretization bilinear = Discretization::bilinear;
    const Parameters p = gradient_parameters(m.width, m.head_dim, m.state, m.width / m.head_dim, builder.random());
    const ParameterTensors parameters = parameter_inputs(builder, p);
    const FilterTensors filter = filter_outputs(builder, p);
    const ParameterTensors d_parameters = parameter_gradients(builder, p, 0.0);
    std::vector<std::int32_t> order;
    for (std::int64_t b = m.batch; b-- > 0;) order.push_back(static_cast<std::int32_t>(b));
    const int slots = builder.integers("slots", CaseRole::input, {m.batch}, order);
    struct Piece {
      std::int64_t tokens;
      int positions, qkv, y, d_y, d_qkv, shift, modes;
      FilterGradientTensors d_filter;
    };
    const auto all = [&](std::int64_t position) {
      return std::vector<std::int32_t>(static_cast<std::size_t>(m.batch), static_cast<std::int32_t>(position));
    };
    const Shape keys = {m.batch, m.width, m.state}, modes = {m.batch, m.width * m.head_dim, m.state / 2, 2};
    const auto piece = [&](const char* number, std::int64_t position, std::int64_t tokens) {
      const auto called = [&](const char* tensor) { return fmt::format("{}{}", tensor, number); };
      const Shape narrow = {m.width, m.batch, tokens}, wide = {3 * m.width, m.batch, tokens};
      return Piece{tokens,
                   builder.integers(called("positions"), CaseRole::input, {m.batch}, all(position)),
                   builder.normal(called("qkv"), CaseRole::input, f32, wide, 1.0, 0.1),
                   builder.output(called("y"), f32, narrow),
                   builder.normal(called("d_y"), CaseRole::input, f32, narrow),
                   builder.output(called("d_qkv"), f32, wide),
                   builder.output(called("shift"), f32, keys),
                   builder.output(called("modes"), f32, modes),
                   filter_gradient_outputs(builder, p)};
    };
    const Piece first = piece("1", 0, m.tokens), second = piece("2", m.tokens, more_tokens);
    const int shift = builder.output("shift", f32, keys), left = builder.output("modes", f32, modes);
    const int d_shift = builder.output("d_shift", f32, keys), d_left = builder.output("d_modes", f32, modes);
    GradientData data;
    data.forward = [=](Encoder& encoder, std::span<const Tensor> t) {
      encoder.discretize({parameters.view(t, bilinear), filter.view(t)});
      encoder.zero({t[shift]});
      encoder.zero({t[left]});
      for (const Piece& each : {first, second}) {
        encoder.copy({t[shift], t[each.shift]});
        encoder.copy({t[left], t[each.modes]});
        H3MixerArgs args = mixer_args(m, algorithm, t[each.qkv], filter.view(t), t[each.y]);
        args.slots = t[slots];
        args.positions = t[each.positions];
        args.state = {t[shift], t[left]};
        encoder.h3_mixer(args);
      }
    };
    data.backward = [=](Encoder& encoder, std::span<const Tensor> t) {
      encoder.zero({t[d_shift]});
      encoder.zero({t[d_left]});
      for (const Piece& each : {second, first}) {
        encoder.h3_mixer_backward({.qkv = t[each.qkv],
                                   .filter = filter.view(t),
                                   .head_dim = m.head_dim,
                                   .head_order = m.order,
                                   .algorithm = algorithm,
                                   .d_y = t[each.d_y],
                                   .d_qkv = t[each.d_qkv],
                                   .d_filter = each.d_filter.view(t),
                                   .slots = t[slots],
                                   .positions = t[each.positions],
                                   .state = {t[each.shift], t[each.modes]},
                                   .d_state = {t[d_shift], t[d_left]}});
        encoder.discretize_backward(
            {parameters.view(t, bilinear), filter.view(t), each.d_filter.view(t), d_parameters.view(t, bilinear)});
      }
    };
    if (inputs.kind == Inputs::others) {
      data.inputs.insert(data.inputs.end(), {{first.qkv, first.d_qkv}, {second.qkv, second.d_qkv}});
    }
    add_parameter_pairs(data, parameters, d_parameters, inputs.kind);
    data.outputs = {{first.y, first.d_y}, {second.y, second.d_y}};
    return data;
  });
  list.back().step = inputs.step;
  list.back().needs = training_needs(algorithm);
}

// From the raw parameters to the kernel, the skip and the taps.
void add_discretize_gradient(GradientList& list, std::int64_t width, int head_dim, std::int64_t state,
                             std::int64_t rows, Discretization discretization, const Inputs& inputs) {
  const std::string name = discretize_name(width, head_dim, state, rows, discretization) + inputs.suffix;
  add_gradient_case(list, "discretize_backward", name, [=](CaseBuilder& builder) {
    const std::int64_t length = state < 64 ? 37 : 7;
    const Parameters p = gradient_parameters(width, head_dim, state, rows, builder.random());
    const ParameterTensors parameters = parameter_inputs(builder, p);
    const FilterTensors filter = filter_outputs(builder, p);
    const int kernel = builder.output("kernel", f32, {p.heads, length});
    const int d_kernel = builder.normal("d_kernel", CaseRole::input, f32, {p.heads, length});
    const FilterGradientTensors d_filter = {
        builder.output("d_filter.log_a", f32, {p.heads, p.modes, 2}),
        builder.output("d_filter.gain", f32, {p.heads, p.modes, 2}),
        builder.normal("d_filter.d", CaseRole::input, f32, {p.heads}),
        builder.normal("d_filter.shift_taps", CaseRole::input, f32, {p.width, state})};
    const ParameterTensors d_parameters = parameter_gradients(builder, p, 0.0);
    GradientData data;
    data.forward = [=](Encoder& encoder, std::span<const Tensor> t) {
      encoder.discretize({parameters.view(t, discretization), filter.view(t)});
      encoder.ssm_kernel({filter.view(t), t[kernel]});
    };
    data.backward = [=](Encoder& encoder, std::span<const Tensor> t) {
      encoder.ssm_kernel_backward({filter.view(t), t[d_kernel], {t[d_filter.log_a], t[d_filter.gain], {}, {}}});
      encoder.discretize_backward({parameters.view(t, discretization), filter.view(t), d_filter.view(t),
                                   d_parameters.view(t, discretization)});
    };
    add_parameter_pairs(data, parameters, d_parameters, inputs.kind);
    data.outputs = {{kernel, d_kernel}, {filter.d, d_filter.d}, {filter.shift_taps, d_filter.shift_taps}};
    return data;
  });
  list.back().step = inputs.step;
}

}  // namespace

void add_h3_gradient_cases(GradientList& list) {
  for (const Inputs& inputs : input_kinds) {
    for (const ConvAlgorithm algorithm : {ConvAlgorithm::automatic, ConvAlgorithm::chunked, ConvAlgorithm::fft}) {
      add_mixer_gradient(list, {7, 1, 16, 2, 37, {}}, algorithm, inputs);
    }
    add_mixer_gradient(list, {8, 4, 8, 2, 19, {}, HeadOrder::head_major}, ConvAlgorithm::automatic, inputs);
    add_mixer_gradient(list, {8, 4, 8, 2, 19, {}, HeadOrder::dim_major}, ConvAlgorithm::fft, inputs);
    add_mixer_gradient(list, {3, 1, 64, 1, 7, {}}, ConvAlgorithm::chunked, inputs);
    add_carried_gradient(list, {5, 1, 16, 2, 20, {}}, 17, ConvAlgorithm::chunked, inputs);
    add_carried_gradient(list, {8, 4, 8, 2, 3, {}, HeadOrder::dim_major}, 16, ConvAlgorithm::automatic, inputs);
    for (const Discretization discretization : {Discretization::bilinear, Discretization::zoh}) {
      add_discretize_gradient(list, 7, 1, 16, 7, discretization, inputs);
      add_discretize_gradient(list, 12, 2, 8, 2, discretization, inputs);
      add_discretize_gradient(list, 3, 1, 64, 1, discretization, inputs);
    }
  }
}

}  // namespace riverhorse::op_cases_detail
