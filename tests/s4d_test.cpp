// Pure S4D, the H3 layers with ssm_gating off: y = conv(K, v) + D v. On every device.
#include "engine_fixture.h"
#include "model/initialization.h"
#include "train/trainer_core.h"

namespace riverhorse::test {
namespace {

constexpr std::uint64_t seed = 20241122;
constexpr TrainingShape batch = {2, 37};

ModelConfig small_config(bool gating) {
  ModelConfig config;
  config.n_embd = 12;
  config.n_layer = 2;
  config.ssm_d_state = 8;
  config.ssm_gating = gating;
  config.vocab_size = 24;
  config.initializer_range = 0.3;  // large enough that every layer matters
  return config;
}

std::vector<std::int32_t> some_ids(std::int64_t count) {
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < count; ++i) ids.push_back(static_cast<std::int32_t>((i * i + 3 * i + i / 7) % 24));
  return ids;
}

void fill(HostTensor& tensor, float value) {
  tensor = make_host_tensor(std::vector<float>(static_cast<std::size_t>(tensor.count()), value), tensor.shape);
}

// The S4D model as an H3 model whose q and k are always 1 and whose shift SSM changes nothing.
Checkpoint as_h3(const Checkpoint& s4d) {
  Checkpoint h3 = random_checkpoint(small_config(true), seed);
  for (auto& [name, tensor] : h3.file.tensors) {
    const auto found = s4d.file.tensors.find(name);
    if (found != s4d.file.tensors.end()) {
      tensor = found->second;
    } else {
      fill(tensor, name.ends_with("_proj.bias") || name.ends_with("ssm_k_D") ? 1.0f : 0.0f);
    }
  }
  return h3;
}

class S4D : public OnDevice {
 protected:
  std::map<std::string, HostTensor> gradients(const Checkpoint& checkpoint, ConvAlgorithm conv, double& loss) {
    TrainerCoreOptions options;
    options.micro_batch = batch;
    options.conv = conv;
    TrainerCore core(device_, checkpoint, options);
    const std::vector<std::int32_t> ids = some_ids(batch.rows());
    for (int i = 0; i < 2; ++i) loss = core.gradients(ids, next_token_targets(ids, batch.length));  // twice: the same
    const ParameterArena& arena = core.model().parameters();
    return arena.download(arena.gradients());
  }

  void skip_unless_it_trains() {
    const Support support = device_->supports(Feature::training);
    if (!support.supported) GTEST_SKIP() << GetParam() << " does not train: " << support.reason;
  }
};

TEST(S4DParameters, AreThoseOfH3WithoutItsGates) {
  std::int64_t dropped = 0;
  for (const ParameterSpec& parameter : parameter_table(small_config(true))) {
    for (const char* part : {"q_proj", "k_proj", "ssm_k"}) {
      if (parameter.name.find(part) != std::string::npos) ++dropped;
    }
  }
  const std::vector<ParameterSpec> table = parameter_table(small_config(false));
  EXPECT_EQ(dropped, 2 * 7);
  EXPECT_EQ(table.size() + static_cast<std::size_t>(dropped), parameter_table(small_config(true)).size());
  const Checkpoint checkpoint = random_checkpoint(small_config(false), seed);
  EXPECT_EQ(checkpoint.file.tensors.size(), table.size());
}

TEST_P(S4D, WholeEqualsPiecesEqualsTokens) {
  for (const ConvAlgorithm conv : conv_ways(*device_)) {
    EngineOptions options;
    options.conv = conv;
    options.max_sessions = 1;
    Engine engine(device_, random_checkpoint(small_config(false), seed), options);
    const std::vector<std::int32_t> ids = some_ids(150);
    std::vector<float> whole;
    for (const std::size_t piece : {150, 64, 7, 1}) {
      const auto session = engine.create_session();
      for (std::size_t begin = 0; begin < ids.size(); begin += piece) {
        session->append(std::span(ids).subspan(begin, std::min(piece, ids.size() - begin)));
      }
      if (whole.empty()) whole = session->logits();
      EXPECT_LE(relative_error(session->logits(), whole), 1e-4) << "pieces of " << piece;
    }
  }
}

TEST_P(S4D, EqualsH3WithConstantGates) {
  const Checkpoint s4d = random_checkpoint(small_config(false), seed);
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    if (dtype != DType::f32 && !device_->supports(half_feature(dtype)).supported) continue;
    EngineOptions options;
    options.dtype = dtype;
    Engine ours(device_, s4d, options), theirs(device_, as_h3(s4d), options);
    const std::vector<std::int32_t> ids = some_ids(100);
    EXPECT_EQ(all_logits(ours, ids, 1, 100), all_logits(theirs, ids, 1, 100));
  }
}

TEST_P(S4D, GradientsEqualThoseOfH3) {
  skip_unless_it_trains();
  if (IsSkipped()) return;
  const Checkpoint s4d = random_checkpoint(small_config(false), seed);
  for (const ConvAlgorithm conv : conv_ways(*device_)) {
    double loss = 0, expected_loss = 0;
    const auto ours = gradients(s4d, conv, loss);
    const auto theirs = gradients(as_h3(s4d), conv, expected_loss);
    EXPECT_NEAR(loss, expected_loss, 1e-6);
    EXPECT_EQ(ours.size(), parameter_table(s4d.config).size());
    for (const auto& [name, gradient] : ours) {
      // The gradient of the layer's input sums over the projections in another order.
      EXPECT_LE(relative_error(to_floats(gradient), to_floats(theirs.at(name))), 1e-5) << name;
      double largest = 0;
      for (const float value : to_floats(gradient)) largest = std::max(largest, std::abs(static_cast<double>(value)));
      EXPECT_GT(largest, 0) << name;
    }
  }
}

// d loss along a direction of one parameter, by central differences of the loss.
TEST_P(S4D, GradientsAreThoseOfTheLoss) {
  skip_unless_it_trains();
  if (IsSkipped()) return;
  const Checkpoint checkpoint = random_checkpoint(small_config(false), seed);
  double loss = 0;
  const auto gradient = gradients(checkpoint, ConvAlgorithm::chunked, loss);
  const std::string mixer = "backbone.layers.0.mixer.";
  for (const char* part : {"v_proj.weight", "v_proj.bias", "D", "kernel.kernel.C", "kernel.kernel.log_dt",
                           "kernel.kernel.A_imag", "output_linear.weight"}) {
    const std::string name = mixer + part;
    const std::vector<float> values = to_floats(checkpoint.file.at(name));
    const std::vector<float> slope = to_floats(gradient.at(name));
    double square = 0;
    for (const float value : slope) square += static_cast<double>(value) * value;
    const double step = 1e-2 / std::sqrt(square);  // along the gradient, where the loss changes most
    double losses[2];
    for (const int side : {0, 1}) {
      std::vector<float> moved = values;
      const double sign = side == 0 ? -1 : 1;
      for (std::size_t i = 0; i < moved.size(); ++i) moved[i] += static_cast<float>(sign * step * slope[i]);
      Checkpoint other = checkpoint;
      other.file.tensors.at(name) = make_host_tensor(moved, checkpoint.file.at(name).shape);
      gradients(other, ConvAlgorithm::chunked, losses[side]);
    }
    EXPECT_NEAR((losses[1] - losses[0]) / (2 * step) / square, 1.0, 1e-2) << name;
  }
}

TEST_P(S4D, TrainsAndKeepsItsConstants) {
  skip_unless_it_trains();
  if (IsSkipped()) return;
  const Checkpoint start = random_checkpoint(small_config(false), seed);
  TrainerCoreOptions options;
  options.micro_batch = batch;
  options.optimizer.learning_rate = 5e-3;
  TrainerCore core(device_, start, options);
  const std::vector<std::int32_t> ids = some_ids(batch.rows());
  const std::vector<std::int32_t> targets = next_token_targets(ids, batch.length);
  const double before = core.step(ids, targets, 1.0).loss;
  for (int i = 0; i < 30; ++i) core.step(ids, targets, 1.0);
  const EvaluationResult after = core.evaluate(ids, targets);
  EXPECT_LT(after.loss_sum / static_cast<double>(after.scored), 0.8 * before);

  // What was trained is what inference computes: the same loss from the engine's logits.
  Checkpoint trained = start;
  const ParameterArena& arena = core.model().parameters();
  trained.file.tensors = arena.download(arena.values());
  Engine engine(device_, trained, {});
  const std::vector<float> logits = all_logits(engine, ids, batch.batch, batch.length);
  const auto vocabulary = static_cast<std::size_t>(engine.config().padded_vocab_size());
  double loss_sum = 0;
  for (std::size_t row = 0; row < ids.size(); ++row) {
    if (targets[row] < 0) continue;
    double total = 0;
    for (std::size_t i = 0; i < vocabulary; ++i) total += std::exp(logits[row * vocabulary + i]);
    loss_sum += std::log(total) - logits[row * vocabulary + static_cast<std::size_t>(targets[row])];
  }
  EXPECT_NEAR(loss_sum / after.loss_sum, 1.0, 1e-5);
}

RIVERHORSE_ON_EVERY_DEVICE(S4D);

}  // namespace
}  // namespace riverhorse::test
