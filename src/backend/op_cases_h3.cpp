// Cases of discretize, ssm_kernel, h3_mixer and h3_step.
//
// The filters are made here, in long double and by a^l = exp(l log a): other formulae than the backends use, so that
// a mistake in one of them shows.
#include "backend/op_cases_h3.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <numbers>

#include "base/quantised.h"

namespace riverhorse::op_cases_detail {

namespace {

using Wide = std::complex<long double>;

}  // namespace

Parameters make_parameters(std::int64_t width, int head_dim, std::int64_t state, std::int64_t rows, Random& random) {
  Parameters p;
  p.heads = width / head_dim;
  p.width = width;
  p.modes = state / 2;
  p.rows = rows;
  for (std::int64_t h = 0; h < p.heads; ++h) {
    p.log_dt.push_back(static_cast<float>(random.uniform(std::log(0.001), std::log(0.1))));
    p.d.push_back(random.normal());
  }
  for (std::int64_t i = 0; i < rows * p.modes; ++i) {
    p.inv_a_real.push_back(static_cast<float>(std::log(0.5) + 0.2 * random.normal()));
    p.a_imag.push_back(
        static_cast<float>(std::numbers::pi * static_cast<double>(i % p.modes) + 0.1 * random.normal()));
    p.b.push_back(1.0f + 0.3f * random.normal());
    p.b.push_back(0.3f * random.normal());
  }
  for (std::int64_t i = 0; i < 2 * p.heads * p.modes; ++i) p.c.push_back(0.7f * random.normal());
  const double bound = 1.0 / std::sqrt(static_cast<double>(state));
  for (std::int64_t i = 0; i < width * state; ++i) {
    p.shift_b.push_back((i % state == 0 ? 1.0f : 0.0f) + 0.1f * random.normal());
    p.shift_c.push_back(static_cast<float>(random.uniform(-bound, bound)));
  }
  for (std::int64_t i = 0; i < width; ++i) p.shift_d.push_back(random.normal());
  return p;
}

ParameterTensors parameter_inputs(CaseBuilder& builder, const Parameters& p) {
  const auto input = [&](const char* name, Shape shape, const std::vector<float>& values) {
    return builder.floats(name, CaseRole::input, DType::f32, shape, values);
  };
  ParameterTensors t;
  t.log_dt = input("log_dt", {p.heads}, p.log_dt);
  t.inv_a_real = input("inv_a_real", {p.rows, p.modes}, p.inv_a_real);
  t.a_imag = input("a_imag", {p.rows, p.modes}, p.a_imag);
  t.b = input("b", {p.rows, p.modes, 2}, p.b);
  t.c = input("c", {p.heads, p.modes, 2}, p.c);
  t.d = input("d", {p.heads}, p.d);
  t.shift_b = input("shift_b", {p.width, 2 * p.modes}, p.shift_b);
  t.shift_c = input("shift_c", {p.width, 2 * p.modes}, p.shift_c);
  t.shift_d = input("shift_d", {p.width}, p.shift_d);
  return t;
}

FilterTensors filter_outputs(CaseBuilder& builder, const Parameters& p) {
  const DType f32 = DType::f32;
  FilterTensors f;
  f.a = builder.output("filter.a", f32, {p.heads, p.modes, 4});
  builder.tensor(f.a).compensated = true;
  builder.tensor(f.a).tolerance = "discretize.a";
  f.b = builder.output("filter.b", f32, {p.heads, p.modes, 2});
  f.c = builder.output("filter.c", f32, {p.heads, p.modes, 2});
  f.d = builder.output("filter.d", f32, {p.heads});
  f.powers = builder.output("filter.powers", f32, {p.heads, p.modes, H3Filter::power_count, 2});
  builder.tensor(f.powers).tolerance = "discretize.powers";
  f.toeplitz = builder.output("filter.toeplitz", f32, {p.heads, H3Filter::chunk});
  f.shift_taps = builder.output("filter.shift_taps", f32, {p.width, 2 * p.modes});
  return f;
}

FilterTensors filter_inputs(CaseBuilder& builder, const Parameters& p, Discretization discretization) {
  std::vector<float> a, b, powers, toeplitz, taps;
  const auto push = [](std::vector<float>& list, Wide value) {
    list.push_back(static_cast<float>(value.real()));
    list.push_back(static_cast<float>(value.imag()));
  };
  for (std::int64_t h = 0; h < p.heads; ++h) {
    const long double dt = std::exp(static_cast<long double>(p.log_dt[h]));
    std::vector<Wide> log_a, gain;
    for (std::int64_t n = 0; n < p.modes; ++n) {
      const std::int64_t shared = (h % p.rows) * p.modes + n, own = h * p.modes + n;
      const Wide continuous(-std::exp(static_cast<long double>(p.inv_a_real[shared])), p.a_imag[shared]);
      const Wide half = continuous * dt / 2.0L;
      const Wide weight(p.b[2 * shared], p.b[2 * shared + 1]);
      const bool zoh = discretization == Discretization::zoh;
      const Wide one_step = zoh ? std::exp(continuous * dt) : (1.0L + half) / (1.0L - half);
      const Wide input = zoh ? weight * (one_step - 1.0L) / continuous : weight * dt / (1.0L - half);
      push(a, one_step);
      push(a, one_step - Wide(a[a.size() - 2], a[a.size() - 1]));
      push(b, input);
      log_a.push_back(std::log(one_step));
      gain.push_back(Wide(p.c[2 * own], p.c[2 * own + 1]) * input);
      for (int e = 0; e < H3Filter::power_count; ++e) {
        push(powers, std::exp(log_a.back() * static_cast<long double>(1 << e)));
      }
    }
    for (int lag = 0; lag < H3Filter::chunk; ++lag) {
      long double sum = lag == 0 ? p.d[h] : 0.0L;
      for (std::int64_t n = 0; n < p.modes; ++n) {
        sum += 2 * (gain[n] * std::exp(log_a[n] * static_cast<long double>(lag))).real();
      }
      toeplitz.push_back(static_cast<float>(sum));
    }
  }
  const std::int64_t state = 2 * p.modes;
  for (std::int64_t channel = 0; channel < p.width; ++channel) {
    for (std::int64_t lag = 0; lag < state; ++lag) {
      long double sum = lag == 0 ? p.shift_d[channel] : 0.0L;
      for (std::int64_t i = lag; i < state; ++i) {
        sum += static_cast<long double>(p.shift_b[channel * state + i - lag]) * p.shift_c[channel * state + i];
      }
      taps.push_back(static_cast<float>(sum));
    }
  }
  const CaseRole input = CaseRole::input;
  const DType f32 = DType::f32;
  FilterTensors f;
  f.a = builder.floats("filter.a", input, f32, {p.heads, p.modes, 4}, a);
  f.b = builder.floats("filter.b", input, f32, {p.heads, p.modes, 2}, b);
  f.c = builder.floats("filter.c", input, f32, {p.heads, p.modes, 2}, p.c);
  f.d = builder.floats("filter.d", input, f32, {p.heads}, p.d);
  f.powers = builder.floats("filter.powers", input, f32, {p.heads, p.modes, H3Filter::power_count, 2}, powers);
  f.toeplitz = builder.floats("filter.toeplitz", input, f32, {p.heads, H3Filter::chunk}, toeplitz);
  f.shift_taps = builder.floats("filter.shift_taps", input, f32, {p.width, state}, taps);
  return f;
}

std::string discretize_name(std::int64_t width, int head_dim, std::int64_t state, std::int64_t rows,
                            Discretization discretization) {
  return fmt::format("d{}_hd{}_n{}_m{}_{}", width, head_dim, state, rows,
                     discretization == Discretization::zoh ? "zoh" : "bilinear");
}

namespace {

void add_discretize_case(CaseList& list, std::int64_t width, int head_dim, std::int64_t state, std::int64_t rows,
                         Discretization discretization) {
  const std::string name = discretize_name(width, head_dim, state, rows, discretization);
  add_case(list, "discretize", name, {DType::f32}, [=](CaseBuilder& builder) {
    const Parameters p = make_parameters(width, head_dim, state, rows, builder.random());
    const ParameterTensors parameters = parameter_inputs(builder, p);
    const FilterTensors filter = filter_outputs(builder, p);
    return builder.done(
        [=](Encoder& encoder, std::span<const Tensor> t) {
          encoder.discretize({parameters.view(t, discretization), filter.view(t)});
        },
        static_cast<double>(p.heads * p.modes * (8 * H3Filter::chunk + 100) + width * state * state));
  });
}

void add_kernel_case(CaseList& list, std::int64_t heads, std::int64_t state, std::int64_t length) {
  const std::string name = fmt::format("h{}_n{}_l{}", heads, state, length);
  add_case(list, "ssm_kernel", name, {DType::f32}, [=](CaseBuilder& builder) {
    const FilterTensors filter = filter_inputs(builder, make_parameters(heads, 1, state, heads, builder.random()));
    const int kernel = builder.output("kernel", DType::f32, {heads, length});
    return builder.done(
        [=](Encoder& encoder, std::span<const Tensor> t) {
          encoder.ssm_kernel({filter.view(t), t[kernel]});
        },
        static_cast<double>(4 * heads * state * length));
  });
}

struct StateTensors {
  int slots, positions, shift, modes;
  H3State view(std::span<const Tensor> t) const { return {t[shift], t[modes]}; }
};

StateTensors state_tensors(CaseBuilder& builder, std::int64_t batch, const std::vector<std::int32_t>& at,
                           std::int64_t width, int head_dim, std::int64_t state) {
  const SlotPool pool = make_pool(batch, at, builder.random());
  StateTensors s;
  s.slots = builder.integers("slots", CaseRole::input, {batch}, pool.slots);
  s.positions = builder.integers("positions", CaseRole::input, {pool.count}, pool.positions);
  // Keys from before the text are zero: of the ring, only what position P has written holds something. Keys are
  // activations, so they are numbers of its dtype, and the ring is compared bit for bit.
  std::vector<float> shift;
  for (std::int64_t slot = 0; slot < pool.count; ++slot) {
    for (std::int64_t i = 0; i < width * state; ++i) {
      const float key = rounded_to(builder.activation(), builder.random().normal());
      shift.push_back(i % state < pool.positions[static_cast<std::size_t>(slot)] ? key : 0.0f);
    }
  }
  s.shift = builder.floats("state.shift", CaseRole::exact, DType::f32, {pool.count, width, state}, std::move(shift));
  s.modes =
      builder.normal("state.modes", CaseRole::updated, DType::f32, {pool.count, width * head_dim, state / 2, 2}, 0.5);
  for (std::size_t slot = 0; slot < pool.positions.size(); ++slot) {  // a text that has not begun has no past
    if (pool.positions[slot] != 0) continue;
    const auto row = static_cast<std::ptrdiff_t>(width * head_dim * state);
    std::vector<float>& modes = builder.tensor(s.modes).floats;
    std::fill_n(modes.begin() + static_cast<std::ptrdiff_t>(slot) * row, row, 0.0f);
  }
  builder.tensor(s.shift).untouched_rows = pool.others;
  builder.tensor(s.modes).untouched_rows = pool.others;
  return s;
}

}  // namespace

void add_mixer_case(CaseList& list, const MixerShape& m, ConvAlgorithm algorithm, const std::vector<DType>& dtypes) {
  const std::string name = fmt::format("{}_{}", m.name(), algorithm_name(algorithm));
  add_case(
      list, "h3_mixer", name, dtypes,
      [m, algorithm](CaseBuilder& builder) {
        const Parameters p = make_parameters(m.width, m.head_dim, m.state, m.width / m.head_dim, builder.random());
        const FilterTensors filter = filter_inputs(builder, p);
        const int qkv =
            builder.normal("qkv", CaseRole::input, builder.activation(), {3 * m.width, m.batch, m.tokens}, 1.0, 0.1);
        const StateTensors state = state_tensors(builder, m.batch, m.at, m.width, m.head_dim, m.state);
        const int y = builder.output("y", builder.activation(), {m.width, m.batch, m.tokens});
        const double elements = static_cast<double>(m.width * m.batch * m.tokens);
        const auto record_as = [=](ConvAlgorithm chosen) {
          return [=](Encoder& encoder, std::span<const Tensor> t) {
            encoder.h3_mixer({.qkv = t[qkv],
                              .filter = filter.view(t),
                              .head_dim = m.head_dim,
                              .head_order = m.order,
                              .algorithm = chosen,
                              .slots = t[state.slots],
                              .positions = t[state.positions],
                              .state = state.view(t),
                              .y = t[y]});
          };
        };
        CaseData data = builder.done(record_as(algorithm), elements * m.head_dim * static_cast<double>(6 * m.state),
                                     elements * 4 * dtype_size_bytes(builder.activation()));
        data.record_oracle = record_as(ConvAlgorithm::automatic);  // on the cpu: the recurrence, the definition
        return data;
      },
      algorithm_needs(algorithm));
}

namespace {

// With `projected`, from the residual stream, by weights quantised so, if anything.
void add_step_case(CaseList& list, const MixerShape& m, bool projected = false, std::optional<DType> weights = {}) {
  const auto make = [=](CaseBuilder& builder) {
    const Parameters p = make_parameters(m.width, m.head_dim, m.state, m.width / m.head_dim, builder.random());
    const FilterTensors filter = filter_inputs(builder, p);
    const DType act = builder.activation();
    const DType f32 = DType::f32;
    int qkv = -1, x = -1, gamma = -1, beta = -1, weight = -1, bias = -1;
    if (projected) {
      x = builder.normal("projection.x", CaseRole::input, f32, {m.batch, m.width}, 1.0, 0.2);
      gamma = builder.normal("projection.norm.weight", CaseRole::input, f32, {m.width}, 0.3, 1.0);
      beta = builder.normal("projection.norm.bias", CaseRole::input, f32, {m.width}, 0.3);
      weight = builder.normal("projection.weight", CaseRole::input, weights.value_or(act), {3 * m.width, m.width},
                              1.0 / std::sqrt(static_cast<double>(m.width)));
      bias = builder.normal("projection.bias", CaseRole::input, f32, {3 * m.width});
    } else {
      qkv = builder.normal("qkv", CaseRole::input, act, {m.batch, 3 * m.width});
    }
    const StateTensors state = state_tensors(builder, m.batch, m.at, m.width, m.head_dim, m.state);
    const int y = builder.output("y", act, {m.batch, m.width});
    if (projected) {
      builder.tensor(state.shift).role = CaseRole::updated;  // the new key is computed, not copied
      for (const int index : {state.shift, state.modes, y}) builder.tensor(index).tolerance = "h3_step.projected";
    }
    const auto channels = static_cast<double>(m.batch * m.width);
    const auto modes = static_cast<double>(m.state * m.head_dim);  // floats of modes a channel
    // Read: the ring, the taps, the modes, a, b, c, and qkv or what makes it. Written: one key, the modes.
    const double width = static_cast<double>(m.width);
    const double made_of =
        projected ? 3 * width * static_cast<double>(row_size_bytes(weights.value_or(act), m.width)) + channels * 4
                  : channels * 3 * dtype_size_bytes(act);
    const double bytes = channels * (4 * static_cast<double>(m.state) + 8 * modes + dtype_size_bytes(act)) + made_of +
                         width * 4 * (static_cast<double>(m.state) + 4 * static_cast<double>(m.state));
    const double flops =
        channels * static_cast<double>(6 * m.state * m.head_dim) + (projected ? 6 * width * channels : 0);
    return builder.done(
        [=](Encoder& encoder, std::span<const Tensor> t) {
          H3StepArgs args;
          if (projected) {
            args.projection = H3Projection{t[x], {t[gamma], t[beta], 1e-5f}, t[weight], t[bias]};
          } else {
            args.qkv = t[qkv];
          }
          args.filter = filter.view(t);
          args.head_dim = m.head_dim;
          args.head_order = m.order;
          args.slots = t[state.slots];
          args.positions = t[state.positions];
          args.state = state.view(t);
          args.y = t[y];
          encoder.h3_step(args);
        },
        flops, bytes);
  };
  add_case(list, "h3_step", m.name() + (projected ? "_projected" : "") + weight_suffix(weights), activation_dtypes,
           make, weight_needs(weights));
}

// From one residual stream to the next, of one token each.
void add_block_case(CaseList& list, const MixerShape& m, std::int64_t inner) {
  const auto make = [=](CaseBuilder& builder) {
    const Parameters p = make_parameters(m.width, 1, m.state, m.width, builder.random());
    const FilterTensors filter = filter_inputs(builder, p);
    const DType act = builder.activation();
    const DType f32 = DType::f32;
    const auto vector = [&](const char* name, std::int64_t count, double scale, double mean = 0.0) {
      return builder.normal(name, CaseRole::input, f32, {count}, scale, mean);
    };
    const auto matrix = [&](const char* name, std::int64_t outputs, std::int64_t inputs) {
      return builder.normal(name, CaseRole::input, act, {outputs, inputs},
                            1.0 / std::sqrt(static_cast<double>(inputs)));
    };
    const int residual = builder.normal("residual", CaseRole::updated, f32, {m.batch, m.width}, 1.0, 0.2);
    const int gamma = vector("projection.norm.weight", m.width, 0.3, 1.0);
    const int beta = vector("projection.norm.bias", m.width, 0.3);
    const int weight = matrix("projection.weight", 3 * m.width, m.width);
    const int bias = vector("projection.bias", 3 * m.width, 1.0);
    const StateTensors state = state_tensors(builder, m.batch, m.at, m.width, 1, m.state);
    const int out_weight = matrix("out_weight", m.width, m.width);
    const int out_bias = vector("out_bias", m.width, 1.0);
    const int norm_weight = vector("norm.weight", m.width, 0.3, 1.0);
    const int norm_bias = vector("norm.bias", m.width, 0.3);
    const int fc1_weight = matrix("fc1_weight", inner, m.width);
    const int fc1_bias = vector("fc1_bias", inner, 1.0);
    const int fc2_weight = matrix("fc2_weight", m.width, inner);
    const int fc2_bias = vector("fc2_bias", m.width, 1.0);
    builder.tensor(state.shift).role = CaseRole::updated;  // the new key is computed, not copied
    for (const int index : {state.shift, state.modes}) builder.tensor(index).tolerance = "h3_step.projected";
    return builder.done(
        [=](Encoder& encoder, std::span<const Tensor> t) {
          const ScratchScope scope(encoder);
          const Tensor y = encoder.scratch(t[weight].dtype, {m.batch, m.width});
          H3BlockArgs args;
          args.step.projection = H3Projection{t[residual], {t[gamma], t[beta], 1e-5f}, t[weight], t[bias]};
          args.step.filter = filter.view(t);
          args.step.slots = t[state.slots];
          args.step.positions = t[state.positions];
          args.step.state = state.view(t);
          args.step.y = y;
          args.rest = {y,
                       t[residual],
                       t[out_weight],
                       t[out_bias],
                       {t[norm_weight], t[norm_bias], 1e-5f},
                       t[fc1_weight],
                       t[fc1_bias],
                       t[fc2_weight],
                       t[fc2_bias]};
          encoder.h3_block(args);
        },
        2.0 * static_cast<double>(m.batch * m.width) * static_cast<double>(4 * m.width + 2 * inner));
  };
  add_case(list, "h3_block", fmt::format("{}_m{}", m.name(), inner), activation_dtypes, make);
}

}  // namespace

void add_h3_cases(CaseList& list, CaseSet set) {
  constexpr HeadOrder head_major = HeadOrder::head_major, dim_major = HeadOrder::dim_major;
  if (set == CaseSet::bench) {
    add_discretize_case(list, 768, 1, 64, 768, Discretization::bilinear);
    add_kernel_case(list, 768, 64, 1024);
    for (const ConvAlgorithm algorithm : {ConvAlgorithm::chunked, ConvAlgorithm::fft}) {
      add_mixer_case(list, {768, 1, 64, 1, 1024, {0}}, algorithm);
      add_mixer_case(list, {768, 1, 64, 8, 1024, {0}}, algorithm);
      add_mixer_case(list, {768, 1, 64, 1, 8192, {0}}, algorithm);
    }
    for (const std::int64_t batch : {1, 8, 64}) add_step_case(list, {768, 1, 64, batch, 1, {1000}});
    for (const std::int64_t batch : {1, 8}) add_step_case(list, {768, 1, 64, batch, 1, {1000}}, true);
    for (const std::int64_t width : {768, 1024}) add_block_case(list, {width, 1, 64, 1, 1, {1000}}, 4 * width);
    return;
  }

  add_discretize_case(list, 37, 1, 64, 37, Discretization::bilinear);
  if (set == CaseSet::full) {
    add_discretize_case(list, 1, 1, 8, 1, Discretization::bilinear);
    add_discretize_case(list, 16, 4, 16, 2, Discretization::zoh);
    add_discretize_case(list, 7, 1, 2, 7, Discretization::zoh);
    add_discretize_case(list, 129, 1, 64, 1, Discretization::zoh);
    add_discretize_case(list, 8, 8, 32, 1, Discretization::bilinear);
    add_discretize_case(list, 3, 1, 74, 3, Discretization::bilinear);
    add_kernel_case(list, 1, 8, 1);
    add_kernel_case(list, 7, 64, 37);
    add_kernel_case(list, 3, 2, 129);
    add_kernel_case(list, 2, 64, 1134);
    add_kernel_case(list, 1, 64, 20000);
    add_kernel_case(list, 1, 16, 131071);
  }
  add_kernel_case(list, 3, 64, 129);

  const std::vector<MixerShape> mixers = {
      {7, 1, 64, 3, 100, {0, 5, 130}},
      {16, 4, 16, 1, 65, {37}, dim_major},
      {1, 1, 8, 1, 7, {0}},
      {7, 1, 64, 1, 1, {64}},
      {37, 1, 64, 3, 2, {0, 5, 70}},
      {8, 1, 8, 3, 63, {0, 3, 9}},
      {7, 1, 16, 1, 64, {17}},
      {129, 1, 16, 1, 64, {0}},
      {16, 2, 64, 3, 65, {1, 64, 129}, head_major},
      {16, 2, 16, 1, 100, {37}, dim_major},
      {8, 4, 8, 3, 127, {0, 8, 1003}, dim_major},
      {16, 8, 16, 1, 100, {5}, head_major},
      {8, 8, 64, 1, 65, {0}, dim_major},
      {3, 1, 64, 3, 128, {100, 63, 0}},
      {7, 1, 64, 1, 1000, {1000003}},
      {5, 1, 32, 1, 1134, {0}},
      {2, 1, 64, 1, 4097, {77}},
  };
  for (std::size_t i = 0; i < (set == CaseSet::quick ? 2 : mixers.size()); ++i) {
    add_mixer_case(list, mixers[i], ConvAlgorithm::chunked);
    add_mixer_case(list, mixers[i], ConvAlgorithm::fft);
    if (set == CaseSet::full && i < 10) add_mixer_case(list, mixers[i], ConvAlgorithm::automatic);
  }

  add_step_case(list, {37, 1, 64, 3, 1, {0, 5, 130}});
  add_step_case(list, {16, 4, 16, 2, 1, {17, 0}, dim_major});
  add_step_case(list, {64, 1, 64, 1, 1, {130}}, true);
  add_block_case(list, {96, 1, 64, 1, 1, {130}}, 384);
  if (set == CaseSet::quick) return;
  add_step_case(list, {1, 1, 8, 1, 1, {0}}, true);
  add_block_case(list, {768, 1, 64, 1, 1, {0}}, 3072);
  add_block_case(list, {128, 1, 16, 1, 1, {1000003}}, 1032);
  add_block_case(list, {37, 1, 64, 3, 1, {0, 5, 130}}, 148);
  add_step_case(list, {37, 1, 64, 3, 1, {0, 5, 130}}, true);
  add_step_case(list, {129, 1, 16, 8, 1, {0, 7, 15, 16, 17, 1000003}}, true);
  add_step_case(list, {256, 1, 32, 1, 1, {1003}}, true);
  add_step_case(list, {768, 1, 64, 1, 1, {64}}, true);
  add_step_case(list, {40, 1, 6, 17, 1, {0, 5, 6}}, true);
  for (const DType weights : quantised_dtypes) {
    add_step_case(list, {64, 1, 64, 1, 1, {130}}, true, weights);
    add_step_case(list, {160, 1, 16, 8, 1, {0, 7, 15, 16, 17, 1000003}}, true, weights);
    add_step_case(list, {768, 1, 64, 1, 1, {64}}, true, weights);
    add_step_case(list, {32, 1, 6, 17, 1, {0, 5, 6}}, true, weights);
    add_step_case(list, {32, 4, 16, 3, 1, {17, 0, 16}, dim_major}, true, weights);
  }
  add_step_case(list, {16, 4, 16, 3, 1, {17, 0, 16}, dim_major}, true);
  add_step_case(list, {1, 1, 8, 1, 1, {0}});
  add_step_case(list, {7, 1, 2, 8, 1, {0, 1, 2, 3, 64}});
  add_step_case(list, {129, 1, 16, 17, 1, {0, 7, 15, 16, 17, 1000003}});
  add_step_case(list, {1134, 1, 8, 1, 1, {63}});
  add_step_case(list, {16, 2, 64, 3, 1, {64, 63, 1}, head_major});
  add_step_case(list, {16, 2, 64, 3, 1, {64, 63, 1}, dim_major});
  add_step_case(list, {24, 8, 16, 3, 1, {100, 0, 16}, head_major});
  add_step_case(list, {24, 8, 16, 3, 1, {100, 0, 16}, dim_major});
  add_step_case(list, {8, 8, 8, 1, 1, {8}, dim_major});
}

}  // namespace riverhorse::op_cases_detail
