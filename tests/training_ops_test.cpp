// Training operations beyond the case table: the optimiser against a plain computation in double, dropout against its
// definition and its statistics, the loss against a golden file, gradients that add up; and the gradient check
// itself.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <set>

#include "backend/op_cases.h"
#include "base/error.h"
#include "cpu/philox.h"
#include "ops_devices.h"
#include "ops_golden.h"

namespace riverhorse::test {

namespace {

// ------------------------------------------------------------------------------------------------- optimiser

// Values that look random, from -1 to 1.
std::vector<float> values(std::size_t count, double seed) {
  std::vector<float> list;
  for (std::size_t i = 0; i < count; ++i) {
    list.push_back(static_cast<float>(std::sin(12.9898 * static_cast<double>(i + 1) + 78.233 * seed)));
  }
  return list;
}

struct Optimiser {
  Device& device;
  Tensor parameters, gradients, m, v, norm, row, rounded;

  Optimiser(Device& on, const std::vector<float>& initial) : device(on) {
    const Shape shape = {static_cast<std::int64_t>(initial.size())};
    const std::vector<float> zeros(initial.size(), 0.0f);
    parameters = put_floats(device, shape, initial);
    rounded = put_floats(device, shape, initial);
    gradients = put_floats(device, shape, zeros);
    m = put_floats(device, shape, zeros);
    v = put_floats(device, shape, zeros);
    norm = put_floats(device, {1}, {0});
    row = put_integers(device, {16}, std::vector<std::int32_t>(16, 0));
  }

  void step(const std::vector<float>& by, const AdamwRow& settings) {
    device.upload(gradients, std::as_bytes(std::span(by)));
    device.upload(row, std::as_bytes(std::span(&settings, 1)));
    device.run([&](Encoder& encoder) {
      encoder.grad_norm({gradients, norm});
      encoder.adamw({parameters, gradients, m, v, norm, row, rounded});
    });
  }

  std::vector<std::vector<float>> state() const {
    return {fetch(device, parameters), fetch(device, m), fetch(device, v), fetch(device, rounded)};
  }
};

// The gradients hold 8 times what they should: the loss scale.
void adamw_follows_double(Device& device) {
  constexpr std::size_t count = 37;
  constexpr double rate = 0.02, decay = 0.1, beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, loss_scale = 8, max_norm = 2;
  const std::vector<float> initial = values(count, 0);
  Optimiser optimiser(device, initial);
  std::vector<double> p(initial.begin(), initial.end()), m(count, 0.0), v(count, 0.0);
  int clipped = 0;
  for (int t = 1; t <= 6; ++t) {
    const double size = t % 2 == 0 ? 0.2 : 3.0;  // every second step is small enough not to be clipped
    std::vector<float> scaled = values(count, t);
    for (float& gradient : scaled) gradient = static_cast<float>(gradient * size * loss_scale);

    double squares = 0;
    for (const float gradient : scaled) squares += gradient / loss_scale * (gradient / loss_scale);
    const double norm = std::sqrt(squares);
    const double clip = norm > max_norm ? max_norm / (norm + 1e-6) : 1;
    if (norm > max_norm) ++clipped;
    const double correction1 = 1 - std::pow(beta1, t), correction2 = 1 - std::pow(beta2, t);
    for (std::size_t i = 0; i < count; ++i) {
      const double gradient = scaled[i] / loss_scale * clip;
      m[i] = beta1 * m[i] + (1 - beta1) * gradient;
      v[i] = beta2 * v[i] + (1 - beta2) * gradient * gradient;
      p[i] -= rate * decay * p[i];
      p[i] -= rate * (m[i] / correction1) / (std::sqrt(v[i] / correction2) + epsilon);
    }

    optimiser.step(scaled, {.learning_rate = static_cast<float>(rate),
                            .weight_decay = static_cast<float>(decay),
                            .correction1 = static_cast<float>(correction1),
                            .correction2 = static_cast<float>(correction2),
                            .gradient_scale = static_cast<float>(1 / loss_scale),
                            .max_norm = static_cast<float>(max_norm),
                            .skip_above = 100});
    EXPECT_NEAR(fetch(device, optimiser.norm)[0], norm * loss_scale, 2e-6 * norm * loss_scale);
  }
  EXPECT_EQ(clipped, 3);
  const auto state = optimiser.state();
  EXPECT_LT(max_error(state[0], {p.begin(), p.end()}), 2e-6);
  EXPECT_LT(max_error(state[1], {m.begin(), m.end()}), 2e-6);
  EXPECT_LT(max_error(state[2], {v.begin(), v.end()}), 2e-6);
  EXPECT_EQ(state[3], state[0]);
}

void adamw_skips(Device& device) {
  Optimiser optimiser(device, values(37, 0));
  const AdamwRow settings{.learning_rate = 0.1f, .weight_decay = 0.1f, .gradient_scale = 0.5f, .skip_above = 4};
  optimiser.step(values(37, 1), settings);  // the norm is 4.3 or so, half of it counts
  const auto before = optimiser.state();
  EXPECT_NE(before[0], values(37, 0));

  std::vector<float> gradients = values(37, 2);
  for (float& gradient : gradients) gradient *= 2;
  optimiser.step(gradients, settings);
  EXPECT_EQ(optimiser.state(), before) << "a norm above skip_above";
  AdamwRow unlimited = settings;
  unlimited.skip_above = 0;
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    gradients[7] = bad;
    optimiser.step(gradients, unlimited);
    EXPECT_EQ(optimiser.state(), before) << "a gradient of " << bad;
  }
  gradients[7] = 0;
  optimiser.step(gradients, unlimited);
  EXPECT_NE(optimiser.state()[0], before[0]) << "without skip_above any finite norm will do";
}

// --------------------------------------------------------------------------------------------------- dropout

// What dropout makes of ones: the factors of rows * width elements.
std::vector<float> factors(Device& device, float p, std::uint32_t site, const std::vector<std::int32_t>& random,
                           std::int64_t rows, std::int64_t width) {
  const auto count = static_cast<std::size_t>(rows * width);
  const Tensor ones = put_floats(device, {rows, width}, std::vector<float>(count, 1.0f));
  const Tensor weight = put_floats(device, {width}, std::vector<float>(static_cast<std::size_t>(width), 1.0f));
  const Tensor kept = device.allocate_tensor(DType::f32, {rows, width});
  const Tensor out = device.allocate_tensor(DType::f32, {rows, width});
  const Tensor statistics = device.allocate_tensor(DType::f32, {rows, 2});
  const Dropout dropout{p, site, put_integers(device, {3}, random)};
  device.run([&](Encoder& encoder) {
    encoder.residual_norm({{}, ones, dropout, {weight, weight, 1e-5f}, kept, out, statistics});
  });
  return fetch(device, kept);
}

void dropout_follows_its_definition(Device& device) {
  const std::vector<std::int32_t> random = {0x01234567, -2, 41};
  const float p = 0.37f;
  const std::vector<float> found = factors(device, p, 5, random, 7, 37);
  for (std::size_t i = 0; i < found.size(); ++i) {
    const auto words = cpu::philox({static_cast<std::uint32_t>(i / 4), 0, 5, 41}, 0x01234567u, 0xfffffffeu);
    const bool kept = static_cast<double>(words[i % 4]) >= static_cast<double>(p) * 4294967296.0;
    EXPECT_FLOAT_EQ(found[i], kept ? 1 / (1 - p) : 0.0f) << "element " << i;
  }
}

void dropout_keeps_its_share(Device& device) {
  constexpr std::int64_t rows = 512, width = 128;
  constexpr double count = rows * width;
  const auto share_kept = [](const std::vector<float>& list) {
    return static_cast<double>(std::count_if(list.begin(), list.end(), [](float f) { return f != 0; })) / count;
  };
  for (const float p : {0.1f, 0.5f, 0.9f}) {
    const std::vector<float> first = factors(device, p, 0, {1, 2, 1}, rows, width);
    const double deviation = std::sqrt(p * (1 - p) / count);
    EXPECT_NEAR(share_kept(first), 1 - p, 4 * deviation) << "p " << p;
    // Another step, site or seed draws independently: both keep an element with probability (1 - p)^2.
    const double both = (1 - p) * (1 - p);
    for (const auto& [site, random] : std::vector<std::pair<std::uint32_t, std::vector<std::int32_t>>>{
             {0, {1, 2, 2}}, {1, {1, 2, 1}}, {0, {3, 2, 1}}, {0, {1, 3, 1}}}) {
      std::vector<float> together = factors(device, p, site, random, rows, width);
      for (std::size_t i = 0; i < together.size(); ++i) together[i] *= first[i];
      EXPECT_NEAR(share_kept(together), both, 4 * std::sqrt(both * (1 - both) / count)) << "p " << p;
    }
  }
  EXPECT_EQ(factors(device, 0.5f, 0, {1, 2, 1}, 7, 37), factors(device, 0.5f, 0, {1, 2, 1}, 7, 37));
}

// ------------------------------------------------------------------------------------------------------ loss

struct Loss {
  std::vector<float> loss;
  std::vector<std::int32_t> correct;
};

// Of given logits: the classifier is the identity.
Loss loss_of(Device& device, const std::vector<float>& logits, std::int64_t columns,
             const std::vector<std::int32_t>& targets) {
  const auto rows = static_cast<std::int64_t>(targets.size());
  std::vector<float> identity(static_cast<std::size_t>(columns * columns), 0.0f);
  for (std::int64_t i = 0; i < columns; ++i) identity[static_cast<std::size_t>(i * columns + i)] = 1;
  const Tensor x = put_floats(device, {rows, columns}, logits);
  const Tensor weight = put_floats(device, {columns, columns}, identity);
  const Tensor target = put_integers(device, {rows}, targets);
  const Tensor loss = device.allocate_tensor(DType::f32, {rows});
  const Tensor correct = device.allocate_tensor(DType::i32, {rows});
  device.run([&](Encoder& encoder) { encoder.cross_entropy({x, weight, target, loss, correct, {}, {}, {}}); });
  return {fetch(device, loss), fetch<std::int32_t>(device, correct)};
}

void loss_of_simple_logits(Device& device) {
  // The same everywhere; one large, which is the target's or not; two largest; far apart; not scored.
  const std::vector<float> logits = {5, 5, 5, 5, 0, 9, 0, 0, 0, 9, 0, 0, 0, 9, 9, 0, 200, 0, 0, 0, 1, 2, 3, 4};
  const Loss result = loss_of(device, logits, 4, {0, 1, 3, 2, 1, -1});
  const double nine = std::log(std::exp(9.0) + 3), nines = std::log(2 * std::exp(9.0) + 2);
  const std::vector<double> expected = {std::log(4.0), nine - 9, nine, nines - 9, 200, 0};
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(result.loss[i], expected[i], 1e-5) << "row " << i;
  EXPECT_EQ(result.correct, (std::vector<std::int32_t>{1, 1, 0, 0, 0, 0}));

  // Two largest far from each other, the target the first or the second of them.
  std::vector<float> far(2 * 12, 0.0f);
  for (const std::size_t i : {1, 10, 12 + 1, 12 + 10}) far[i] = 9;
  EXPECT_EQ(loss_of(device, far, 12, {1, 10}).correct, (std::vector<std::int32_t>{1, 0}));
}

void loss_is_that_of_the_golden_file(Device& device) {
  const GoldenFile file("lm/h3-hybrid/io.safetensors");
  const Shape shape = file.shape("logits");  // (B, L, V)
  const std::vector<std::int64_t> ids = file.integers("input_ids");
  std::vector<std::int32_t> targets;  // the next token; the last of a text has none
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const bool last = static_cast<std::int64_t>(i + 1) % shape[1] == 0;
    targets.push_back(last ? -1 : static_cast<std::int32_t>(ids[i + 1]));
  }
  double sum = 0;
  for (const float loss : loss_of(device, file.floats("logits"), shape[2], targets).loss) sum += loss;
  const auto scored = static_cast<double>(shape[0] * (shape[1] - 1));
  file.expect({static_cast<float>(sum / scored)}, "loss");
}

// Of given logits (rows, columns): loss, then the gradients of all logits, in double.
std::vector<double> exact_loss(const std::vector<float>& logits, const std::vector<std::int32_t>& targets) {
  const std::size_t columns = logits.size() / targets.size();
  std::vector<double> losses, gradients;
  for (std::size_t row = 0; row < targets.size(); ++row) {
    const std::span<const float> of_row(logits.data() + row * columns, columns);
    double total = 0;
    for (const float logit : of_row) total += std::exp(static_cast<double>(logit));
    const bool scored = targets[row] >= 0;
    const auto target = static_cast<std::size_t>(targets[row]);
    losses.push_back(scored ? std::log(total) - of_row[target] : 0);
    for (std::size_t i = 0; i < columns; ++i) {
      gradients.push_back(scored ? std::exp(static_cast<double>(of_row[i])) / total - (i == target ? 1 : 0) : 0);
    }
  }
  losses.insert(losses.end(), gradients.begin(), gradients.end());
  return losses;
}

// With x = (high, low) and two identities side by side as the classifier, a logit is high + low, which 16 bits cannot
// hold: where it is asked for, loss and gradients are exactly those of the rounded logits, and else of the exact
// ones, but for fp32 sums and one rounding of the gradient.
void logits_are_rounded_where_asked(Device& device) {
  constexpr std::int64_t rows = 7, columns = 136, width = 2 * columns;
  const std::vector<float> high = values(rows * columns, 1), low = values(rows * columns, 2);
  const std::vector<std::int32_t> targets = {0, 135, 64, -1, 7, 8, 100};
  std::vector<float> identities(columns * width, 0.0f);
  for (std::int64_t i = 0; i < columns; ++i) {
    identities[static_cast<std::size_t>(i * width + i)] = 1;
    identities[static_cast<std::size_t>(i * width + columns + i)] = 1;
  }
  for (const DType dtype : {DType::f16, DType::bf16}) {
    const bool has_dtype = device.supports(half_feature(dtype)).supported;
    const DType act = has_dtype ? dtype : DType::f32;
    std::vector<float> x, exact, rounded;
    for (std::size_t i = 0; i < high.size(); ++i) {
      const float first = rounded_to(dtype, 6 * high[i]), second = rounded_to(dtype, 0.01f * low[i]);
      const std::size_t begin = i / columns * width + i % columns;
      x.resize(static_cast<std::size_t>(rows * width));
      x[begin] = first;
      x[begin + columns] = second;
      exact.push_back(first + second);
      rounded.push_back(rounded_to(dtype, exact.back()));
    }
    const Tensor inputs = put_as(device, act, {rows, width}, x);
    const Tensor weight = put_as(device, act, {columns, width}, identities);
    const Tensor target = put_integers(device, {rows}, targets);
    const Tensor loss = device.allocate_tensor(DType::f32, {rows});
    const Tensor scale = put_floats(device, {1}, {1});
    const Tensor d_x = device.allocate_tensor(act, {rows, width});
    const Tensor d_weight = put_floats(device, {columns, width}, std::vector<float>(columns * width, 0.0f));
    struct Errors {
      double loss = 0, gradient = 0;  // the largest; of gradients relative
    };
    const auto errors_of = [&](DType logits, bool gradients, const std::vector<float>& seen) {
      device.run([&](Encoder& encoder) {
        CrossEntropyArgs args = {inputs, weight, target, loss, {}, {}, {}, {}, false, logits};
        if (gradients) {
          args.scale = scale;
          args.d_x = d_x;
          args.d_weight = d_weight;
        }
        encoder.cross_entropy(args);
      });
      const std::vector<double> expected = exact_loss(seen, targets);
      const std::vector<float> losses = fetch(device, loss), d_inputs = fetch_as_floats(device, d_x);
      Errors errors;
      for (std::size_t row = 0; row < losses.size(); ++row) {
        errors.loss = std::max(errors.loss, std::abs(losses[row] - expected[row]));
      }
      for (std::size_t i = 0; i < seen.size() && gradients; ++i) {
        const double gradient = expected[rows + i], given = d_inputs[i / columns * width + i % columns];
        errors.gradient = std::max(errors.gradient, std::abs(given - gradient) / (std::abs(gradient) + 1e-4));
      }
      return errors;
    };
    // Half a unit in the last place of a gradient; in f32 what sums and exponentials lose.
    const double tolerance = !has_dtype ? 1e-5 : dtype == DType::bf16 ? 0x1p-8 : 0x1p-11;
    for (const auto& [logits, seen] : {std::pair(dtype, &rounded), std::pair(DType::f32, &exact)}) {
      SCOPED_TRACE(fmt::format("x of {}, logits of {}", dtype_name(act), dtype_name(logits)));
      const Errors errors = errors_of(logits, true, *seen);
      EXPECT_LE(errors.loss, 2e-5);
      EXPECT_LE(errors.gradient, tolerance + 1e-5);
    }
    EXPECT_LE(errors_of(dtype, false, exact).loss, 2e-5) << "without gradients nothing is rounded";
    const Errors unlike = errors_of(DType::f32, true, rounded);
    EXPECT_GT(unlike.loss, 1e-3) << "what this test tells apart";
    EXPECT_GT(unlike.gradient, 2 * tolerance) << "what this test tells apart";
  }
}

// CUDA keeps logits of 16 bits in the dtype of x only.
void logits_of_another_dtype_are_refused(Device& device) {
  const Tensor x = put_floats(device, {1, 8}, std::vector<float>(8, 0.0f));
  const Tensor weight = put_floats(device, {8, 8}, std::vector<float>(64, 0.0f));
  const Tensor loss = device.allocate_tensor(DType::f32, {1}), d_x = device.allocate_tensor(DType::f32, {1, 8});
  const Tensor d_weight = device.allocate_tensor(DType::f32, {8, 8});
  const Tensor scale = put_floats(device, {1}, {1}), target = put_integers(device, {1}, {0});
  const auto refusal = [&](DType logits) -> std::string {
    try {
      device.run([&](Encoder& encoder) {
        encoder.cross_entropy({x, weight, target, loss, {}, scale, d_x, d_weight, false, logits});
      });
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_NE(refusal(DType::i32).find("logits are f32, f16 or bf16"), std::string::npos);
  const bool keeps_bf16 = device.supports(Feature::bf16).supported;
  EXPECT_EQ(refusal(DType::bf16).find("want x of bf16") != std::string::npos, keeps_bf16);
}

// ------------------------------------------------------------------------------------------ gradients add up

// Two micro-batches that are the same give twice the gradient of every parameter, and no more of anything else.
void gradients_add_up(Device& device) {
  static const std::set<std::string> parameters = {"d_table", "d_weight", "d_bias", "d_kernel", "d_skip"};
  int found = 0;
  for (const GradientCase& gradient_case : gradient_cases()) {
    if (std::any_of(gradient_case.needs.begin(), gradient_case.needs.end(),
                    [&](Feature feature) { return !device.supports(feature).supported; })) {
      continue;
    }
    const GradientData data = gradient_case.make(test_seed);
    std::vector<Tensor> tensors;
    for (const CaseTensor& tensor : data.tensors) {
      tensors.push_back(tensor.dtype == DType::i32 ? put_integers(device, tensor.shape, tensor.integers)
                                                   : put_floats(device, tensor.shape, tensor.floats));
    }
    const auto gradients_of = [&](int times) {
      for (std::size_t i = 0; i < tensors.size(); ++i) {
        if (data.tensors[i].role != CaseRole::updated) continue;
        device.upload(tensors[i], std::as_bytes(std::span(data.tensors[i].floats)));
      }
      device.run([&](Encoder& encoder) {
        data.forward(encoder, tensors);
        for (int i = 0; i < times; ++i) data.backward(encoder, tensors);
      });
      std::vector<std::vector<float>> gradients;
      for (std::size_t i = 0; i < tensors.size(); ++i) {
        const CaseTensor& tensor = data.tensors[i];
        if (tensor.role != CaseRole::updated || !parameters.contains(tensor.name)) continue;
        gradients.push_back(fetch(device, tensors[i]));
      }
      return gradients;
    };
    std::vector<std::vector<float>> once = gradients_of(1);
    const std::vector<std::vector<float>> twice = gradients_of(2);
    for (std::size_t i = 0; i < once.size(); ++i) {
      for (float& value : once[i]) value *= 2;
      EXPECT_LT(max_error(twice[i], once[i]), 1e-6) << gradient_case.op << " " << gradient_case.name;
      ++found;
    }
  }
  EXPECT_GT(found, 5);
}

}  // namespace

void register_training_tests() {
  register_for_training("training", "adamw_follows_double", adamw_follows_double);
  register_for_training("training", "adamw_skips", adamw_skips);
  register_for_training("training", "dropout_follows_its_definition", dropout_follows_its_definition);
  register_for_training("training", "dropout_keeps_its_share", dropout_keeps_its_share);
  register_for_training("training", "loss_of_simple_logits", loss_of_simple_logits);
  register_for_training("training", "loss_is_that_of_the_golden_file", loss_is_that_of_the_golden_file);
  register_for_training("training", "logits_are_rounded_where_asked", logits_are_rounded_where_asked);
  register_for_training("training", "logits_of_another_dtype_are_refused", logits_of_another_dtype_are_refused);
  register_for_training("training", "gradients_add_up", gradients_add_up);
}

// The vectors that the authors of the generator publish.
TEST(philox, known_answers) {
  using Words = std::array<std::uint32_t, 4>;
  EXPECT_EQ(cpu::philox({0, 0, 0, 0}, 0, 0), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr std::uint32_t ones = 0xffffffff;
  EXPECT_EQ(cpu::philox({ones, ones, ones, ones}, ones, ones),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(cpu::philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0xa4093822, 0x299f31d0),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(checks, cross_entropy_targets) {
  try {
    loss_of(cpu_device(), {1, 2, 3, 4}, 2, {0, 2});
    FAIL() << "column 2 of 2";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("target 2 of row 1"), std::string::npos) << error.what();
  }
}

// A gradient that is a little wrong must be found out.
TEST(gradient_check, finds_faults) {
  const auto check = [](float error_of_one, bool write) {
    GradientCase gradient_case{.op = "copy", .name = "faulty", .make = {}};
    gradient_case.make = [=](std::uint64_t) {
      GradientData data;
      const auto add = [&](const char* name, CaseRole role, std::vector<float> floats) {
        const Shape shape = {static_cast<std::int64_t>(floats.size())};
        data.tensors.push_back({name, role, DType::f32, shape, std::move(floats), {}, false, {}, {}});
      };
      add("x", CaseRole::input, values(100, 1));
      add("y", CaseRole::output, values(100, 1));
      std::vector<float> cotangent = values(100, 2);
      add("d_y", CaseRole::input, cotangent);
      cotangent[41] *= 1 + error_of_one;
      add("given", CaseRole::input, cotangent);
      add("d_x", CaseRole::output, cotangent);
      data.forward = [](Encoder& encoder, std::span<const Tensor> t) { encoder.copy({t[0], t[1]}); };
      data.backward = [write](Encoder& encoder, std::span<const Tensor> t) {
        if (write) encoder.copy({t[3], t[4]});
      };
      data.inputs = {{0, 4}};
      data.outputs = {{1, 2}};
      return data;
    };
    return run_gradient_check(cpu_device(), gradient_case, test_seed);
  };
  const CaseResult right = check(0, true);
  EXPECT_TRUE(right.passed) << right.message;
  EXPECT_LT(right.relative_error, 1e-5);
  const CaseResult wrong = check(0.1f, true);
  EXPECT_FALSE(wrong.passed) << wrong.message;
  EXPECT_NE(wrong.message.find("the derivative by x"), std::string::npos) << wrong.message;
  EXPECT_NE(wrong.message.find(std::to_string(test_seed)), std::string::npos) << "the seed is printed";
  EXPECT_FALSE(check(0, false).passed) << "the gradient was never written";
}

}  // namespace riverhorse::test
