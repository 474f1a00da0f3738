// Training in f16 and bf16, on every device that trains in them: it follows the recorded f32 training, what products
// read are the rounded parameters, and the loss scale of f16 finds its size and survives a stop.
#include <cmath>

#include "trainer_fixture.h"
#include "trajectory.h"

namespace riverhorse::test {
namespace {

std::string failure_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

class MixedPrecision : public OnDevice {
 protected:
  void SetUp() override {
    OnDevice::SetUp();
    for (const DType dtype : {DType::f16, DType::bf16}) {
      if (device_->supports(half_feature(dtype)).supported) dtypes_.push_back(dtype);
    }
  }

  bool trains() const { return device_->supports(Feature::training).supported && !dtypes_.empty(); }

  TrainingCheckpoint fresh(DType dtype, std::int64_t steps) const {
    TrainingCheckpoint start;
    start.model = tiny_model();
    start.state.options = tiny_options();
    start.state.options.dtype = dtype;
    start.state.options.steps = steps;
    return start;
  }

  std::vector<DType> dtypes_;
};

// The operands, element by element in the arena's order, against the parameters rounded on the host.
void expect_rounded(Device& device, const ParameterArena& arena) {
  const Tensor& operands = arena.operands();
  std::vector<float> values(static_cast<std::size_t>(operands.count()));
  std::vector<std::uint16_t> halves(values.size());
  device.download(arena.values(), std::as_writable_bytes(std::span(values)));
  device.download(operands, std::as_writable_bytes(std::span(halves)));
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < values.size(); ++i) wrong += halves[i] != float_to_half(values[i], operands.dtype);
  EXPECT_EQ(wrong, 0u) << "of " << values.size();
}

// What is rounded to bf16 is off by at most 2^-9 = 2e-3 of itself, in any direction. The logits of this model are of
// the order of one, and a loss is the mean over many tokens: twice a single rounding is allowed, 4e-3, and of
// gradients, products of rounded numbers through three layers, five times. f16 has three bits more: an eighth of
// each. Rounded logits add one rounding of numbers of the order of one to a loss, which is within the same.
void follow_trajectory(const std::shared_ptr<Device>& device, DType dtype, LogitBits logits) {
  const std::string name =
      fmt::format("{}{}", dtype_name(dtype), logits == LogitBits::half ? ", its logits too" : "");
  SCOPED_TRACE(name);
  Trajectory trajectory("trajectory_A_grouped.json", OptimizerRecipe::grouped);
  trajectory.options.dtype = dtype;
  trajectory.options.logits = logits;
  TrainerCore trainer(device, trajectory.start, trajectory.options);
  const double loss_tolerance = dtype == DType::bf16 ? 4e-3 : 5e-4;
  const double norm_tolerance = dtype == DType::bf16 ? 1e-2 : 1.25e-3;
  double worst_loss = 0, worst_norm = 0;
  for (std::int64_t step = 0; step < trajectory.steps; ++step) {
    const StepResult result = trainer.step(trajectory.ids_of_step(step), trajectory.targets_of_step(step), 1.0);
    EXPECT_FALSE(result.skipped);
    EXPECT_EQ(result.loss_scale, dtype == DType::f16 ? 65536 : 1);
    worst_loss = std::max(worst_loss, std::abs(result.loss - trajectory.loss(step)));
    worst_norm = std::max(worst_norm, std::abs(result.gradient_norm / trajectory.norm(step) - 1.0));
  }
  std::printf("[  NOTE    ] %s: losses within %.1e, gradient norms within %.1e\n", name.c_str(), worst_loss,
              worst_norm);
  EXPECT_LE(worst_loss, loss_tolerance);
  EXPECT_LE(worst_norm, norm_tolerance);
  EXPECT_GT(worst_loss, 2e-5) << "what f32 keeps: nothing was rounded";
  expect_rounded(*device, trainer.model().parameters());
  const EvaluationResult after = trainer.evaluate(trajectory.ids_of_step(0), trajectory.targets_of_step(0));
  EXPECT_NEAR(after.loss_sum / static_cast<double>(after.scored),
              trajectory.expected.at("loss_on_batch0_after").get<double>(), loss_tolerance);
}

TEST_P(MixedPrecision, FollowsTheTrajectory) {
  if (!trains()) GTEST_SKIP() << GetParam() << " does not train so";
  for (const DType dtype : dtypes_) {
    for (const LogitBits logits : {LogitBits::full, LogitBits::half}) follow_trajectory(device_, dtype, logits);
  }
}

// A scale that is far too large is halved, a step at a time which changes nothing, until the gradients are finite.
TEST_P(MixedPrecision, TheLossScaleComesDown) {
  if (!trains()) GTEST_SKIP() << GetParam() << " does not train so";
  for (const DType dtype : dtypes_) {
    SCOPED_TRACE(dtype_name(dtype));
    Trajectory trajectory("trajectory_A_grouped.json", OptimizerRecipe::grouped);
    trajectory.options.dtype = dtype;
    TrainerCore trainer(device_, trajectory.start, trajectory.options);
    trainer.resume_at(0, 0, {.value = LossScale::largest, .good_steps = 7});
    const ParameterArena& arena = trainer.model().parameters();
    const auto before = arena.download(arena.values());
    double scale = LossScale::largest;
    StepResult result;
    int halved = 0;
    for (; halved < 20; ++halved) {
      result = trainer.step(trajectory.ids_of_step(0), trajectory.targets_of_step(0), 1.0);
      EXPECT_NEAR(result.loss, trajectory.loss(0), 4e-3);
      if (!result.skipped) break;
      EXPECT_EQ(result.loss_scale, scale);
      scale /= 2;
      EXPECT_EQ(trainer.loss_scale().value, scale);
      EXPECT_EQ(trainer.loss_scale().good_steps, 0);
      for (const auto& [name, tensor] : arena.download(arena.values())) {
        EXPECT_EQ(to_floats(tensor), to_floats(before.at(name))) << name;
      }
    }
    EXPECT_NEAR(result.gradient_norm / trajectory.norm(0), 1.0, 1e-2) << "the norm is without the scale";
    if (dtype == DType::f16) {
      EXPECT_GT(halved, 0);
      EXPECT_EQ(trainer.loss_scale().good_steps, 1);
    } else {
      EXPECT_EQ(halved, 0);
      EXPECT_EQ(result.loss_scale, 1);
      EXPECT_EQ(trainer.loss_scale().good_steps, 7) << "bf16 reaches as far as f32 and leaves the scale alone";
    }
    expect_rounded(*device_, arena);
  }
}

// Stopped while the scale still comes down, and gone on with: the same bits as without the stop.
TEST_P(MixedPrecision, GoingOnIsBitForBitTheSame) {
  if (!trains()) GTEST_SKIP() << GetParam() << " does not train so";
  const TemporaryFolder folder;
  const MemoryTokens data(tiny_text(8));
  for (const DType dtype : dtypes_) {
    SCOPED_TRACE(dtype_name(dtype));
    const std::string name(dtype_name(dtype));
    const auto whole_run = folder / (name + "_whole"), run = folder / (name + "_parts");
    TrainingCheckpoint start = fresh(dtype, 6);
    start.state.loss_scale.value = LossScale::largest;
    Trainer whole(device_, start, data, nullptr, whole_run);
    EXPECT_TRUE(whole.run({}, {}));
    {
      Trainer first(device_, start, data, nullptr, run);
      EXPECT_FALSE(first.run([&first] { return first.state().step == 2; }, {}));
    }
    Trainer second(device_, load_newest_checkpoint(run), data, nullptr, run);
    EXPECT_EQ(second.state().loss_scale.value, LossScale::largest / (dtype == DType::f16 ? 4 : 1));
    EXPECT_TRUE(second.run({}, {}));
    EXPECT_EQ(second.core().loss_scale().value, whole.core().loss_scale().value);
    const auto losses = [](const std::filesystem::path& path) {
      std::vector<nlohmann::json> rows = log_rows(path), result;
      for (const nlohmann::json& row : rows) result.push_back({row.at("loss"), row.at("gradient_norm")});
      return result;
    };
    EXPECT_EQ(losses(run), losses(whole_run));
    const auto one = read_safetensors(run / "step-00000006/model.safetensors").tensors;
    const auto other = read_safetensors(whole_run / "step-00000006/model.safetensors").tensors;
    for (const auto& [parameter, tensor] : other) {
      EXPECT_EQ(tensor.dtype, DType::f32) << parameter;
      EXPECT_EQ(to_floats(one.at(parameter)), to_floats(tensor)) << parameter;
    }
  }
}

TEST_P(MixedPrecision, OtherDevicesSayWhatTheyHave) {
  for (const DType dtype : {DType::f16, DType::bf16}) {
    if (device_->supports(half_feature(dtype)).supported) continue;
    const std::string message = failure_of([&] { device_->require_activation(dtype); });
    EXPECT_NE(message.find(fmt::format("cannot use dtype {}, only f32", dtype_name(dtype))), std::string::npos)
        << message;
    if (!device_->supports(Feature::training).supported) continue;
    TrainerCoreOptions options;
    options.dtype = dtype;
    EXPECT_EQ(failure_of([&] { TrainerCore(device_, tiny_model(), options); }), message);
  }
  if (device_->supports(Feature::training).supported) {
    TrainerCoreOptions options;
    options.logits = LogitBits::half;
    const std::string message = failure_of([&] { TrainerCore(device_, tiny_model(), options); });
    EXPECT_EQ(message, "logits of 16 bits belong to a training in f16 or bf16; the dtype is f32");
  }
  EXPECT_NE(failure_of([&] { device_->require_activation(DType::i32); }).find("dtype is i32"), std::string::npos);
}

// A matrix beyond what f16 holds is named; what no product reads may be as large as it likes.
TEST_P(MixedPrecision, ParametersMustFit) {
  if (!trains() || dtypes_.front() != DType::f16) GTEST_SKIP() << GetParam() << " does not train so";
  TrainerCoreOptions options;
  options.dtype = DType::f16;
  const auto with_large = [&](const std::string& name) {
    Checkpoint checkpoint = tiny_model();
    HostTensor& tensor = checkpoint.file.tensors.at(name);
    tensor = make_host_tensor(std::vector<float>(static_cast<std::size_t>(tensor.count()), 7e4f), tensor.shape);
    return failure_of([&] { TrainerCore(device_, checkpoint, options); });
  };
  EXPECT_NE(with_large("backbone.layers.0.mlp.fc1.weight").find("is 70000, too large for f16"), std::string::npos);
  EXPECT_EQ(with_large("backbone.layers.0.mlp.fc1.bias"), "");
}

RIVERHORSE_ON_EVERY_DEVICE(MixedPrecision);

TEST(LossScaleTest, GrowsAndShrinksWithinLimits) {
  LossScale scale;
  EXPECT_EQ(scale.value, 65536);
  for (int i = 0; i < 1999; ++i) scale.update(true);
  EXPECT_EQ(scale.value, 65536);
  scale.update(true);
  EXPECT_EQ(scale.value, 131072);
  EXPECT_EQ(scale.good_steps, 0);
  for (int i = 0; i < 1999; ++i) scale.update(true);
  scale.update(false);  // counts anew from here
  EXPECT_EQ(scale.value, 65536);
  for (int i = 0; i < 1999; ++i) scale.update(true);
  EXPECT_EQ(scale.value, 65536);
  for (int i = 0; i < 30; ++i) scale.update(false);
  EXPECT_EQ(scale.value, LossScale::smallest);
  for (int i = 0; i < 30 * 2000; ++i) scale.update(true);
  EXPECT_EQ(scale.value, LossScale::largest);
}

}  // namespace
}  // namespace riverhorse::test
