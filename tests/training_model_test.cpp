// The golden models in training: the gradients of every parameter, and the recorded learning curves, as the original
// computes them. On every device that trains.
#include <limits>

#include "base/log.h"
#include "model/initialization.h"
#include "trajectory.h"

namespace riverhorse::test {
namespace {

double l2(const HostTensor& tensor) {
  double sum = 0;
  for (const float value : to_floats(tensor)) sum += static_cast<double>(value) * value;
  return std::sqrt(sum);
}

class TrainingModelTest : public OnDevice {
 protected:
  void SetUp() override {
    OnDevice::SetUp();
    const Support support = device_->supports(Feature::training);
    if (!support.supported) GTEST_SKIP() << GetParam() << " does not train: " << support.reason;
  }
};

TEST_P(TrainingModelTest, GradientsOfTheGoldenModels) {
  for (const std::string name : {"h3-pure", "h3-hybrid", "h3-hybrid-rotary", "h3-headdim"}) {
    for (const ConvAlgorithm conv : conv_ways(*device_)) {
      SCOPED_TRACE(fmt::format("{} conv {}", name, static_cast<int>(conv)));
      const TensorFile io = golden_io(name);
      const HostTensor& input_ids = io.at("input_ids");
      const std::vector<std::int32_t> ids = ids_of(input_ids);
      TrainerCoreOptions options;
      options.micro_batch = {input_ids.shape[0], input_ids.shape[1]};
      options.conv = conv;
      TrainerCore trainer(device_, golden_checkpoint(name), options);
      const double loss = trainer.gradients(ids, next_token_targets(ids, options.micro_batch.length));
      EXPECT_NEAR(loss / to_floats(io.at("loss"))[0], 1.0, 2e-5);
      ParameterArena& arena = trainer.model().parameters();
      const TensorFile expected = golden_io(name, "grads.safetensors");
      const auto gradients = arena.download(arena.gradients());
      EXPECT_EQ(gradients.size(), expected.tensors.size());
      double worst = 0;
      for (const auto& [parameter, gradient] : gradients) {
        const std::string tensor = "grad." + parameter;
        const double error = relative_error(to_floats(gradient), to_floats(expected.at(tensor)));
        const double tolerance = manifest_tolerance("lm/" + name + "/grads.safetensors", tensor);
        EXPECT_LE(error, tolerance) << parameter;
        worst = std::max(worst, error / tolerance);
      }
      std::printf("[  NOTE    ] %s, conv %d: worst gradient at %.2f of its tolerance\n", name.c_str(),
                  static_cast<int>(conv), worst);
    }
  }
}

// Two halves of a batch as two micro-batches give the gradients of the whole.
TEST_P(TrainingModelTest, MicroBatchesAddUp) {
  const TensorFile io = golden_io("h3-hybrid");
  const HostTensor& input_ids = io.at("input_ids");
  const std::int64_t batch = input_ids.shape[0], length = input_ids.shape[1];
  ASSERT_EQ(batch % 2, 0);
  const std::vector<std::int32_t> ids = ids_of(input_ids);
  const std::vector<std::int32_t> targets = next_token_targets(ids, length);
  std::vector<StepResult> results;
  std::vector<std::map<std::string, HostTensor>> gradients;
  for (const std::int64_t micro_batch : {batch, batch / 2}) {
    TrainerCoreOptions options;
    options.micro_batch = {micro_batch, length};
    TrainerCore trainer(device_, golden_checkpoint("h3-hybrid"), options);
    results.push_back(trainer.step(ids, targets, 1.0));
    ParameterArena& arena = trainer.model().parameters();
    gradients.push_back(arena.download(arena.gradients()));
  }
  EXPECT_NEAR(results[0].loss, results[1].loss, 1e-6);
  EXPECT_NEAR(results[0].gradient_norm / results[1].gradient_norm, 1.0, 1e-5);
  for (const auto& [name, gradient] : gradients[0]) {
    // Sums in another order; 2e-5 is the smallest of the golden tolerances.
    EXPECT_LE(relative_error(to_floats(gradients[1].at(name)), to_floats(gradient)), 2e-5) << name;
  }
}

// Where a step has one micro-batch, gradients are written over whatever was there; from the first step of several on
// they are zeroed and added to. Both ways, tied and untied, give the same.
TEST_P(TrainingModelTest, GradientsAreWrittenOrAdded) {
  for (const bool tied : {true, false}) {
    SCOPED_TRACE(tied ? "tied" : "untied");
    ModelConfig config = golden_checkpoint("h3-hybrid").config;
    config.tie_word_embeddings = tied;
    const Checkpoint start = random_checkpoint(config, 5);
    TrainerCoreOptions options;
    options.micro_batch = {2, 13};
    TrainerCore written(device_, start, options);
    options.accumulates = true;
    TrainerCore added(device_, start, options);
    std::vector<std::int32_t> ids;
    for (std::int32_t i = 0; i < 2 * 2 * 13; ++i) ids.push_back(i * i % 97);
    const std::vector<std::int32_t> targets = next_token_targets(ids, options.micro_batch.length);
    const std::size_t half = ids.size() / 2;
    const auto expect_same = [&](const char* what) {
      const auto gradients = [](TrainerCore& core) {
        const ParameterArena& arena = core.model().parameters();
        return arena.download(arena.gradients());
      };
      const auto first = gradients(written), second = gradients(added);
      for (const auto& [name, gradient] : second) {
        EXPECT_LE(relative_error(to_floats(first.at(name)), to_floats(gradient)), 1e-6) << what << ", " << name;
      }
    };
    for (TrainerCore* core : {&written, &added}) {
      const ParameterArena& arena = core->model().parameters();
      auto poison = arena.download(arena.gradients());
      for (auto& [name, tensor] : poison) {
        const std::vector<float> values(static_cast<std::size_t>(tensor.count()), std::nanf(""));
        tensor = make_host_tensor(std::span<const float>(values), tensor.shape);
      }
      arena.upload(arena.gradients(), poison);
      core->gradients(std::span(ids).first(half), std::span(targets).first(half));
    }
    expect_same("one micro-batch");
    for (const std::size_t count : {ids.size(), half}) {
      const StepResult first = written.step(std::span(ids).first(count), std::span(targets).first(count), 1.0);
      const StepResult second = added.step(std::span(ids).first(count), std::span(targets).first(count), 1.0);
      EXPECT_FALSE(first.skipped);
      EXPECT_NEAR(first.loss, second.loss, 1e-6);
      expect_same(count == half ? "one again" : "two micro-batches");
    }
  }
}

void follow_trajectory(const std::shared_ptr<Device>& device, const std::string& file, OptimizerRecipe recipe,
                       bool compare_weights) {
  const Trajectory trajectory(file, recipe);
  TrainerCore trainer(device, trajectory.start, trajectory.options);
  double worst_loss = 0, worst_norm = 0;
  for (std::int64_t step = 0; step < trajectory.steps; ++step) {
    const StepResult result = trainer.step(trajectory.ids_of_step(step), trajectory.targets_of_step(step), 1.0);
    EXPECT_FALSE(result.skipped);
    const double loss = trajectory.loss(step), norm = trajectory.norm(step);
    EXPECT_NEAR(result.loss, loss, 2e-5) << "step " << step;
    EXPECT_NEAR(result.gradient_norm / norm, 1.0, 1e-4) << "step " << step;
    worst_loss = std::max(worst_loss, std::abs(result.loss - loss));
    worst_norm = std::max(worst_norm, std::abs(result.gradient_norm / norm - 1.0));
  }
  std::printf("[  NOTE    ] %s: losses within %.1e, gradient norms within %.1e\n", file.c_str(), worst_loss,
              worst_norm);

  const EvaluationResult after = trainer.evaluate(trajectory.ids_of_step(0), trajectory.targets_of_step(0));
  EXPECT_NEAR(after.loss_sum / static_cast<double>(after.scored),
              trajectory.expected.at("loss_on_batch0_after").get<double>(), 2e-5);

  ParameterArena& arena = trainer.model().parameters();
  for (const auto& [name, tensor] : arena.download(arena.values())) {
    const double norm = trajectory.expected.at("final_param_l2").at(name).get<double>();
    EXPECT_NEAR(l2(tensor) / norm, 1.0, 5e-4) << name;
    if (!compare_weights) continue;
    const std::vector<float> values = to_floats(tensor), expected = to_floats(trajectory.data.at("final." + name));
    if (name.ends_with("Wqkv.bias")) {
      // The keys' third has no gradient but rounding noise, which Adam turns into steps (golden README).
      const std::size_t width = values.size() / 3;
      for (std::size_t i = width; i < 2 * width; ++i) EXPECT_NEAR(values[i], expected[i], 3e-5) << name;
      continue;
    }
    EXPECT_LE(relative_error(values, expected), manifest_tolerance("train/data.safetensors", "final." + name))
        << name;
  }
}

TEST_P(TrainingModelTest, TrajectoryGrouped) {
  follow_trajectory(device_, "trajectory_A_grouped.json", OptimizerRecipe::grouped, true);
}

TEST_P(TrainingModelTest, TrajectorySafari) {
  follow_trajectory(device_, "trajectory_B_safari_default.json", OptimizerRecipe::safari, false);
}

// A step whose norm is above the limit changes nothing, and the next one goes on.
TEST_P(TrainingModelTest, OutlierStepsAreLeftOut) {
  const TensorFile io = golden_io("h3-pure");
  const HostTensor& input_ids = io.at("input_ids");
  const std::vector<std::int32_t> ids = ids_of(input_ids);
  TrainerCoreOptions options;
  options.micro_batch = {input_ids.shape[0], input_ids.shape[1]};
  options.optimizer.skip_above = 1e-6;
  TrainerCore trainer(device_, golden_checkpoint("h3-pure"), options);
  ParameterArena& arena = trainer.model().parameters();
  const auto before = arena.download(arena.values());
  const StepResult result = trainer.step(ids, next_token_targets(ids, options.micro_batch.length), 1.0);
  EXPECT_TRUE(result.skipped);
  for (const auto& [name, tensor] : arena.download(arena.values())) {
    EXPECT_EQ(to_floats(tensor), to_floats(before.at(name))) << name;
  }
}

// The log names the parameters, and where each goes bad first.
TEST_P(TrainingModelTest, GradientsThatAreNotFiniteAreNamed) {
  const TensorFile io = golden_io("h3-pure");
  const HostTensor& input_ids = io.at("input_ids");
  const std::vector<std::int32_t> ids = ids_of(input_ids);
  TrainerCoreOptions options;
  options.micro_batch = {input_ids.shape[0], input_ids.shape[1]};
  Checkpoint checkpoint = golden_checkpoint("h3-pure");
  const std::string bad = "backbone.layers.1.norm2.bias";
  HostTensor& bias = checkpoint.file.tensors.at(bad);
  std::vector<float> values = to_floats(bias);
  values[3] = std::numeric_limits<float>::infinity();
  bias = make_host_tensor(std::span<const float>(values), bias.shape);
  TrainerCore trainer(device_, checkpoint, options);
  std::string warnings;
  set_log_sink([&](LogLevel, std::string_view message) { warnings += std::string(message) + "\n"; });
  const std::vector<std::int32_t> targets = next_token_targets(ids, options.micro_batch.length);
  EXPECT_TRUE(trainer.step(ids, targets, 1.0).skipped);
  const std::string after_one = warnings;
  EXPECT_TRUE(trainer.step(ids, targets, 1.0).skipped);
  set_log_sink({});
  EXPECT_EQ(warnings, after_one) << "said once for steps in a row";
  EXPECT_NE(warnings.find("step 1: gradients that are not finite"), std::string::npos) << warnings;
  EXPECT_NE(warnings.find("parameters: backbone."), std::string::npos) << warnings;
  EXPECT_NE(warnings.find("[0] "), std::string::npos) << warnings;
}

TEST_P(TrainingModelTest, BadBatchesAreRefused) {
  TrainerCoreOptions options;
  options.micro_batch = {1, 4};
  TrainerCore trainer(device_, golden_checkpoint("h3-pure"), options);
  const auto refusal = [&](std::vector<std::int32_t> ids, std::vector<std::int32_t> targets) -> std::string {
    try {
      trainer.step(ids, targets, 1.0);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_NE(refusal({1, 2, 3}, {2, 3, -1}).find("3 ids"), std::string::npos);
  EXPECT_NE(refusal({1, 2, 3, 512}, {2, 3, 4, -1}).find("token 3 of 4 has id 512"), std::string::npos);
  EXPECT_NE(refusal({1, 2, 3, 4}, {2, 3, 512, -1}).find("target 2 of 4 is 512"), std::string::npos);
  EXPECT_NE(refusal({1, 2, 3, 4}, {-1, -1, -1, -1}).find("no token"), std::string::npos);
  EXPECT_EQ(refusal({1, 2, 3, 4}, {2, 3, 4, -1}), "");
}

RIVERHORSE_ON_EVERY_DEVICE(TrainingModelTest);

TEST(ParameterGroups, AsTheOriginalGroupsThem) {
  const nlohmann::json trajectory = nlohmann::json::parse(std::ifstream(golden + "/train/trajectory_A_grouped.json"));
  const ParameterGroup groups[] = {ParameterGroup::weights, ParameterGroup::vectors, ParameterGroup::dynamics};
  for (std::size_t i = 0; i < 3; ++i) {
    for (const auto& name : trajectory.at("param_groups").at(i).at("params")) {
      EXPECT_EQ(static_cast<int>(parameter_group(name)), static_cast<int>(groups[i])) << name;
    }
  }
}

}  // namespace
}  // namespace riverhorse::test
