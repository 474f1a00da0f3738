// The golden language models: logits, losses, activations and greedy texts as the original computes them.
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "engine/loss.h"
#include "engine_fixture.h"
#include "model/h3_model.h"

namespace riverhorse::test {
namespace {

// Tolerances on logits, by the measure of relative_error.
//   cpu f32:    the manifest's tol_rel, against the fixture
//   Vulkan f32: 2e-4 against the cpu backend, as README states; against the fixture both together
//   f16:        weights and activations rounded to 11 bits, sums and states f32: 2e-2 against the fixture of the same
//               weights in f32; the mixer multiplies three rounded activations (q, k, v), which is what dominates
//   bf16:       the same, rounded to 8 bits
constexpr double vulkan_f32_tolerance = 2e-4;
constexpr double f16_tolerance = 2e-2;
constexpr double bf16_tolerance = 8 * f16_tolerance;

struct GoldenCase {
  const char* model;
  const char* weights;
  const char* io;
  const char* logits;
  const char* loss;
  bool fast_order;
};

const GoldenCase cases[] = {
    {"h3-pure", "model.pt", "io.safetensors", "logits", "loss", false},
    {"h3-hybrid", "model.pt", "io.safetensors", "logits", "loss", false},
    {"h3-hybrid", "model_old_keys.pt", "io.safetensors", "logits", "loss", false},
    {"h3-hybrid", "model_old_lightning.pt", "io.safetensors", "logits", "loss", false},
    {"h3-hybrid", "model_fp16.pt", "io_fp16.safetensors", "logits_upcast", "loss_upcast", false},
    {"h3-hybrid-rotary", "model.pt", "io.safetensors", "logits", "loss", false},
    {"h3-headdim", "model.pt", "io.safetensors", "logits", "loss", false},
    {"h3-headdim", "model.pt", "io.safetensors", "fast_logits", "fast_loss", true},
};

class GoldenModel : public OnDevice {};

TEST_P(GoldenModel, LogitsAndLoss) {
  for (const GoldenCase& golden_case : cases) {
    // Each model both ways; what only tests how weights are read, once.
    std::vector<ConvAlgorithm> ways = {ConvAlgorithm::automatic};
    if (std::string(golden_case.weights) == "model.pt") ways = conv_ways(*device_);
    for (const ConvAlgorithm conv : ways) {
      SCOPED_TRACE(fmt::format("{} {} {} conv {}", golden_case.model, golden_case.weights, golden_case.logits,
                               static_cast<int>(conv)));
      Checkpoint checkpoint = golden_checkpoint(golden_case.model, golden_case.weights);
      checkpoint.config.ssm_use_fast_fttconv = golden_case.fast_order;
      const TensorFile inputs = golden_io(golden_case.model);
      const TensorFile io = golden_io(golden_case.model, golden_case.io);
      const HostTensor& input_ids = inputs.at("input_ids");
      const std::vector<std::int32_t> ids = ids_of(input_ids);
      EngineOptions options;
      options.conv = conv;
      options.max_sessions = 1;
      Engine engine(device_, checkpoint, options);
      const std::vector<float> logits = all_logits(engine, ids, input_ids.shape[0], input_ids.shape[1]);
      const double tolerance =
          manifest_tolerance(fmt::format("lm/{}/{}", golden_case.model, golden_case.io), golden_case.logits);
      EXPECT_LE(relative_error(logits, to_floats(io.at(golden_case.logits))),
                on_cpu() ? tolerance : tolerance + vulkan_f32_tolerance);
      NextTokenLoss loss(ids, input_ids.shape[0], input_ids.shape[1], checkpoint.config.padded_vocab_size());
      loss.add(0, logits);
      EXPECT_NEAR(loss.mean() / to_floats(io.at(golden_case.loss))[0], 1.0, on_cpu() ? 2e-5 : 1e-4);
    }
  }
}

TEST_P(GoldenModel, VulkanAgreesWithCpu) {
  if (on_cpu()) GTEST_SKIP() << "this is the cpu backend";
  for (const char* model : {"h3-pure", "h3-hybrid", "h3-hybrid-rotary", "h3-headdim"}) {
    SCOPED_TRACE(model);
    const TensorFile io = golden_io(model);
    const HostTensor& input_ids = io.at("input_ids");
    const std::vector<std::int32_t> ids = ids_of(input_ids);
    Engine here(device_, golden_checkpoint(model), {});
    Engine oracle(device("cpu"), golden_checkpoint(model), {});
    const std::vector<float> expected = all_logits(oracle, ids, input_ids.shape[0], input_ids.shape[1]);
    EXPECT_LE(relative_error(all_logits(here, ids, input_ids.shape[0], input_ids.shape[1]), expected),
              vulkan_f32_tolerance);
  }
}

TEST_P(GoldenModel, HalfPrecision) {
  for (const DType dtype : {DType::f16, DType::bf16}) {
    SCOPED_TRACE(dtype_name(dtype));
    EngineOptions options;
    options.dtype = dtype;
    if (!device_->supports(half_feature(dtype)).supported) {
      try {
        Engine engine(device_, golden_checkpoint("h3-pure"), options);
        ADD_FAILURE() << "it must be refused";
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), StatusCode::unsupported);
        EXPECT_NE(std::string(error.what()).find(dtype_name(dtype)), std::string::npos) << error.what();
      }
      continue;
    }
    for (const char* model : {"h3-pure", "h3-hybrid", "h3-hybrid-rotary", "h3-headdim"}) {
      SCOPED_TRACE(model);
      const TensorFile io = golden_io(model);
      const HostTensor& input_ids = io.at("input_ids");
      Engine engine(device_, golden_checkpoint(model), options);
      const std::vector<float> logits = all_logits(engine, ids_of(input_ids), input_ids.shape[0], input_ids.shape[1]);
      const double error = relative_error(logits, to_floats(io.at("logits")));
      RecordProperty(fmt::format("{}_{}", model, dtype_name(dtype)), fmt::format("{:.2e}", error));
      EXPECT_LE(error, dtype == DType::f16 ? f16_tolerance : bf16_tolerance);
      EXPECT_GT(error, 1e-6) << "this cannot have been rounded";
    }
  }
}

TEST_P(GoldenModel, LongSequence) {
  const TensorFile io = golden_io("h3-hybrid");
  const std::vector<std::int32_t> ids = ids_of(io.at("long_input_ids"));
  const auto length = static_cast<std::int64_t>(ids.size());
  for (const std::int64_t piece : {std::int64_t{0}, std::int64_t{200}}) {
    EngineOptions options;
    options.prefill_piece_tokens = piece;
    Engine engine(device_, golden_checkpoint("h3-hybrid"), options);
    const std::vector<float> logits = all_logits(engine, ids, 1, length);
    const double tolerance = manifest_tolerance("lm/h3-hybrid/io.safetensors", "long_logits_tail");
    const std::int64_t tail = 8 * engine.config().padded_vocab_size();
    EXPECT_LE(
        relative_error(std::span(logits).last(static_cast<std::size_t>(tail)), to_floats(io.at("long_logits_tail"))),
        on_cpu() ? tolerance : tolerance + vulkan_f32_tolerance);
    NextTokenLoss loss(ids, 1, length, engine.config().padded_vocab_size());
    loss.add(0, logits);
    EXPECT_NEAR(loss.mean() / to_floats(io.at("long_loss"))[0], 1.0, on_cpu() ? 2e-5 : 1e-4);
  }
}

TEST_P(GoldenModel, Activations) {
  for (const char* name : {"h3-hybrid", "h3-hybrid-rotary"}) {
    SCOPED_TRACE(name);
    const Checkpoint& checkpoint = golden_checkpoint(name);
    const TensorFile expected = golden_io(name, "activations.safetensors");
    const TensorFile io = golden_io(name);
    const HostTensor& input_ids = io.at("input_ids");
    const std::int64_t length = input_ids.shape[1];
    std::vector<std::int32_t> ids = ids_of(input_ids);
    ids.resize(static_cast<std::size_t>(length));  // batch row 0
    const std::int64_t width = checkpoint.config.n_embd;

    const H3Model model(device_, checkpoint, DType::f32, ConvAlgorithm::automatic, {});
    const ModelState state = model.allocate_state(1, length);
    const Tensor device_ids = device_->allocate_tensor(DType::i32, {length});
    device_->upload(device_ids, std::as_bytes(std::span(ids)));
    std::map<std::string, Tensor> taps;  // made by the first call, while preparing
    const H3Model::Tap tap = [&](Encoder& encoder, std::string_view point, std::int64_t layer, const Tensor& rows) {
      Tensor& copy = taps[fmt::format("{}{}", point, layer)];
      if (!copy) copy = device_->allocate_tensor(DType::f32, rows.shape);
      encoder.copy({rows, copy});
    };
    H3Model::Pass pass;
    pass.ids = device_ids;
    pass.slots = device_->allocate_tensor(DType::i32, {1});
    pass.length = length;
    pass.state = &state;
    pass.tap = &tap;
    device_->run([&](Encoder& encoder) { model.record(encoder, pass); });

    const auto values = [&](const std::string& key) {
      std::vector<float> host(static_cast<std::size_t>(length * width));
      device_->download(taps.at(key), std::as_writable_bytes(std::span(host)));
      return host;
    };
    const auto difference = [](std::vector<float> a, const std::vector<float>& b) {
      for (std::size_t i = 0; i < a.size(); ++i) a[i] -= b[i];
      return a;
    };
    const double tolerance = on_cpu() ? 5e-5 : 2e-4;  // single layers; some are differences of the residual stream
    const auto check = [&](const std::vector<float>& actual, const std::string& key) {
      EXPECT_LE(relative_error(actual, to_floats(expected.at(key))), tolerance) << key;
    };
    check(values("embed0"), "act.embed");
    std::vector<float> before = values("embed0");
    for (std::int64_t i = 0; i < checkpoint.config.n_layer; ++i) {
      const std::vector<float> mixed = values(fmt::format("mixer{}", i));
      const std::vector<float> after = values(fmt::format("mlp{}", i));
      check(difference(mixed, before), fmt::format("act.layer{}.mixer_out", i));
      check(mixed, fmt::format("act.layer{}.residual", i));
      check(difference(after, mixed), fmt::format("act.layer{}.mlp_out", i));
      before = after;
    }
    check(values(fmt::format("ln_f{}", checkpoint.config.n_layer)), "act.ln_f");
  }
}

TEST_P(GoldenModel, GreedyTexts) {
  for (const char* name : {"h3-pure", "h3-hybrid", "h3-hybrid-rotary", "h3-headdim"}) {
    const nlohmann::json texts =
        nlohmann::json::parse(std::ifstream(fmt::format("{}/lm/{}/generation.json", golden, name)));
    const TensorFile io = golden_io(name);
    const std::vector<float> scores = to_floats(io.at("gen_scores"));
    EngineOptions options;
    options.max_sessions = 2;
    Engine engine(device_, golden_checkpoint(name), options);
    const auto vocabulary = static_cast<std::size_t>(engine.config().padded_vocab_size());
    for (const char* run : {"unrestricted", "vocab_limited"}) {
      SCOPED_TRACE(fmt::format("{} {}", name, run));
      const bool unrestricted = std::string(run) == "unrestricted";
      SamplingOptions sampling;
      sampling.padded_vocabulary = unrestricted;
      std::vector<std::unique_ptr<Session>> sessions;
      std::vector<Session*> batch;
      for (const auto& prompt : texts.at("prompt_tokens")) {
        sessions.push_back(engine.create_session(sampling));
        sessions.back()->append(prompt.get<std::vector<std::int32_t>>());
        batch.push_back(sessions.back().get());
      }
      const auto& expected = texts.at(run).at("tokens");
      const std::size_t steps = expected.at(0).size();
      std::vector<float> drawn_from(2 * steps * vocabulary);
      for (std::size_t i = 0; i < steps; ++i) {
        const std::vector<std::int32_t> tokens = engine.step(batch);
        const std::vector<float> logits = engine.step_logits();
        for (std::size_t b = 0; b < batch.size(); ++b) {
          ASSERT_EQ(tokens[b], expected.at(b).at(i).get<std::int32_t>()) << "sequence " << b << " token " << i;
          std::copy_n(logits.begin() + static_cast<std::ptrdiff_t>(b * vocabulary), vocabulary,
                      drawn_from.begin() + static_cast<std::ptrdiff_t>((b * steps + i) * vocabulary));
        }
      }
      if (!unrestricted) continue;
      const double tolerance = manifest_tolerance(fmt::format("lm/{}/io.safetensors", name), "gen_scores");
      EXPECT_LE(relative_error(drawn_from, scores), on_cpu() ? tolerance : tolerance + vulkan_f32_tolerance);
    }
  }
}

RIVERHORSE_ON_EVERY_DEVICE(GoldenModel);

}  // namespace
}  // namespace riverhorse::test
