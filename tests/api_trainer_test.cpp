// Training through the C API: what a step does and says, going on from a checkpoint, and what is refused.
#include <riverhorse/training.h>

#include <cmath>
#include <functional>
#include <limits>
#include <thread>
#include <utility>

#include "api_fixture.h"

namespace api_test {
namespace {

constexpr const char* config = R"({"n_embd": 16, "n_layer": 2, "attn_layer_idx": [1], "attn_n_head": 2,
                                   "vocab_size": 12, "pad_vocab_size_multiple": 8, "ssm_d_state": 8})";
const std::vector<std::int32_t> two_sequences = {1, 5, 2, 6, 3, 7, 4, 1, 2, 2, 5, 5, 1, 1, 3, 3};

riverhorse_trainer_options trainer_options() {
  riverhorse_trainer_options options{};
  options.struct_size = sizeof options;
  options.config_json = config;
  options.batch = 2;
  options.length = 8;
  options.learning_rate = 0.01;
  return options;
}

class ApiTrainer : public testing::Test {
 protected:
  void SetUp() override {
    riverhorse_device_options options{};
    options.struct_size = sizeof options;
    options.backend = "cpu";
    options.cache_folder = "none";
    ASSERT_OK(riverhorse_device_open(&options, &device_));
    std::filesystem::remove_all(run_);
  }
  void TearDown() override {
    for (riverhorse_trainer* trainer : trainers_) riverhorse_trainer_free(trainer);
    riverhorse_device_free(device_);
    std::filesystem::remove_all(run_);
  }

  riverhorse_trainer* create(const riverhorse_trainer_options& options = trainer_options()) {
    riverhorse_trainer* trainer = nullptr;
    EXPECT_OK(riverhorse_trainer_create(device_, &options, &trainer));
    trainers_.push_back(trainer);
    return trainer;
  }

  riverhorse_trainer* resume(const std::string& folder) {
    riverhorse_trainer* trainer = nullptr;
    EXPECT_OK(riverhorse_trainer_resume(device_, folder.c_str(), &trainer));
    trainers_.push_back(trainer);
    return trainer;
  }

  static riverhorse_step_result step(riverhorse_trainer* trainer,
                                     const std::vector<std::int32_t>& ids = two_sequences) {
    riverhorse_step_result result{};
    result.struct_size = sizeof result;
    EXPECT_OK(riverhorse_trainer_step(trainer, ids.data(), nullptr, ids.size() / 8, &result));
    return result;
  }

  static riverhorse_evaluation evaluate(riverhorse_trainer* trainer, const std::vector<std::int32_t>& ids,
                                        const std::int32_t* targets = nullptr) {
    riverhorse_evaluation result{};
    result.struct_size = sizeof result;
    EXPECT_OK(riverhorse_trainer_evaluate(trainer, ids.data(), targets, ids.size() / 8, &result));
    return result;
  }

  static riverhorse_trainer_info info(const riverhorse_trainer* trainer) {
    riverhorse_trainer_info info{};
    info.struct_size = sizeof info;
    EXPECT_OK(riverhorse_trainer_get_info(trainer, &info));
    return info;
  }

  riverhorse_device* device_ = nullptr;
  std::vector<riverhorse_trainer*> trainers_;
  const std::string run_ = temporary_path("training");
};

TEST_F(ApiTrainer, SaysWhatItIs) {
  const riverhorse_trainer_info about = info(create());
  EXPECT_EQ(about.batch, 2);
  EXPECT_EQ(about.length, 8);
  EXPECT_EQ(about.step, 0);
  EXPECT_EQ(about.vocab_size, 12);
  EXPECT_EQ(about.padded_vocab_size, 16);
  EXPECT_GT(about.parameter_count, 1000);
  EXPECT_EQ(about.dtype, RIVERHORSE_DTYPE_F32);
  EXPECT_STREQ(about.device_id, "cpu:0");
}

// Mixed precision itself is tested where it is, below this interface: no device here is sure to have it.
TEST_F(ApiTrainer, TheDtypeIsTheDevices) {
  riverhorse_trainer_options options = trainer_options();
  riverhorse_trainer* trainer = nullptr;
  for (const riverhorse_dtype dtype : {RIVERHORSE_DTYPE_F16, RIVERHORSE_DTYPE_BF16}) {
    options.dtype = dtype;
    EXPECT_FAILS(riverhorse_trainer_create(device_, &options, &trainer), RIVERHORSE_UNSUPPORTED, "only f32");
  }
  options.dtype = RIVERHORSE_DTYPE_F32;
  EXPECT_EQ(step(create(options)).loss_scale, 1);
}

TEST_F(ApiTrainer, TrainsOnTheDeviceThatIsTakenWhenNoneIsAskedFor) {
  riverhorse_device* device = nullptr;
  ASSERT_OK(riverhorse_device_open(nullptr, &device));
  riverhorse_trainer* trainer = nullptr;
  const riverhorse_trainer_options options = trainer_options();
  EXPECT_OK(riverhorse_trainer_create(device, &options, &trainer));
  riverhorse_device_free(device);
  EXPECT_EQ(step(trainer).step, 1);
  riverhorse_trainer_free(trainer);
}

TEST_F(ApiTrainer, ScoresWhatHasATarget) {
  riverhorse_trainer* trainer = create();
  std::vector<std::int32_t> targets(16, -1);
  targets[7] = 9;
  riverhorse_step_result result{};
  result.struct_size = sizeof result;
  for (int i = 0; i < 30; ++i) {
    ASSERT_OK(riverhorse_trainer_step(trainer, two_sequences.data(), targets.data(), 2, &result));
    EXPECT_EQ(result.scored, 1);
  }
  const riverhorse_evaluation learnt = evaluate(trainer, two_sequences, targets.data());
  EXPECT_EQ(learnt.correct, 1);
  EXPECT_LT(learnt.loss_sum, 0.5);
  targets[7] = 8;
  EXPECT_EQ(evaluate(trainer, two_sequences, targets.data()).correct, 0);
}

// Any number of sequences: more than a micro-batch, or such that the last one is not full.
TEST_F(ApiTrainer, TakesAnyNumberOfSequences) {
  std::vector<std::int32_t> five;
  for (int i = 0; i < 40; ++i) five.push_back((3 * i + i / 8) % 12);
  riverhorse_trainer_options whole = trainer_options();
  whole.batch = 5;
  riverhorse_trainer* in_one = create(whole);
  riverhorse_trainer* in_pieces = create();
  const riverhorse_evaluation a = evaluate(in_one, five), b = evaluate(in_pieces, five);
  EXPECT_EQ(a.scored, 35);
  EXPECT_EQ(b.scored, 35);
  EXPECT_EQ(a.correct, b.correct);
  EXPECT_NEAR(a.loss_sum, b.loss_sum, 1e-4);
  const riverhorse_step_result c = step(in_one, five), d = step(in_pieces, five);
  EXPECT_NEAR(c.loss, d.loss, 1e-5);
  EXPECT_NEAR(c.gradient_norm / d.gradient_norm, 1.0, 1e-4);
  EXPECT_EQ(info(in_pieces).sequences, 5);
}

TEST_F(ApiTrainer, FollowsItsSchedule) {
  riverhorse_trainer_options options = trainer_options();
  options.schedule = RIVERHORSE_SCHEDULE_LINEAR;
  options.warmup_steps = 2;
  options.schedule_steps = 4;
  options.final_fraction = -1;
  riverhorse_trainer* trainer = create(options);
  for (const double rate : {0.005, 0.01, 0.005, 0.0}) EXPECT_NEAR(step(trainer).learning_rate, rate, 1e-12);
}

TEST_F(ApiTrainer, HoldsTheRateUntilTheLastPart) {
  riverhorse_trainer_options options = trainer_options();
  options.schedule = RIVERHORSE_SCHEDULE_WSD;
  options.schedule_steps = 4;
  options.decay_fraction = 0.5;
  options.final_fraction = -1;
  riverhorse_trainer* trainer = create(options);
  for (const double rate : {0.01, 0.01, 0.005, 0.0}) EXPECT_NEAR(step(trainer).learning_rate, rate, 1e-12);
}

TEST_F(ApiTrainer, EverySettingOfTheOptimizerCounts) {
  using Options = riverhorse_trainer_options;
  const auto loss_after_two_steps = [&](const Options& options) {
    riverhorse_trainer* trainer = create(options);
    step(trainer);
    step(trainer);
    return evaluate(trainer, two_sequences).loss_sum;
  };
  const double usual = loss_after_two_steps(trainer_options());
  const std::pair<double Options::*, double> settings[] = {
      {&Options::beta1, 0.5},        {&Options::beta2, 0.5},         {&Options::epsilon, 0.01},
      {&Options::weight_decay, 5.0}, {&Options::weight_decay, -1.0}, {&Options::clip_norm, 1e-8},
      {&Options::clip_norm, -1.0},   {&Options::learning_rate, 0.1}, {&Options::ssm_learning_rate, 0.1}};
  int index = 0;
  for (const auto& [setting, value] : settings) {
    Options options = trainer_options();
    options.*setting = value;
    EXPECT_NE(loss_after_two_steps(options), usual) << "setting " << index;
    ++index;
  }
}

TEST_F(ApiTrainer, LeavesOutlierStepsOut) {
  riverhorse_trainer_options options = trainer_options();
  options.skip_above = 1e-6;
  riverhorse_trainer* trainer = create(options);
  const riverhorse_step_result first = step(trainer), second = step(trainer);
  EXPECT_EQ(first.skipped, 1);
  EXPECT_EQ(first.loss, second.loss);
}

TEST_F(ApiTrainer, GoesOnExactly) {
  riverhorse_trainer* trainer = create();
  for (int i = 0; i < 3; ++i) step(trainer);
  ASSERT_OK(riverhorse_trainer_save(trainer, run_.c_str()));
  riverhorse_trainer* by_run = resume(run_);
  riverhorse_trainer* by_checkpoint = resume(run_ + "/step-00000003");
  EXPECT_EQ(info(by_run).step, 3);
  EXPECT_EQ(info(by_run).sequences, 6);
  for (int i = 0; i < 3; ++i) {
    const riverhorse_step_result expected = step(trainer);
    for (riverhorse_trainer* other : {by_run, by_checkpoint}) {
      const riverhorse_step_result result = step(other);
      EXPECT_EQ(result.loss, expected.loss);
      EXPECT_EQ(result.gradient_norm, expected.gradient_norm);
      EXPECT_EQ(result.step, expected.step);
    }
  }
}

TEST_F(ApiTrainer, KeepsTheNewestCheckpoints) {
  riverhorse_trainer_options options = trainer_options();
  options.keep_checkpoints = 1;
  riverhorse_trainer* trainer = create(options);
  step(trainer);
  ASSERT_OK(riverhorse_trainer_save(trainer, run_.c_str()));
  step(trainer);
  ASSERT_OK(riverhorse_trainer_save(trainer, run_.c_str()));
  EXPECT_FALSE(std::filesystem::exists(run_ + "/step-00000001"));
  EXPECT_TRUE(std::filesystem::exists(run_ + "/step-00000002/model.safetensors"));
}

// A checkpoint is a model: the logits of a session are those that the trainer's evaluation saw.
TEST_F(ApiTrainer, SavesAModelToGenerateWith) {
  riverhorse_trainer* trainer = create();
  for (int i = 0; i < 100; ++i) step(trainer);
  ASSERT_OK(riverhorse_trainer_save(trainer, run_.c_str()));
  riverhorse_model_options options = cpu_options();
  riverhorse_model* model = nullptr;
  ASSERT_OK(riverhorse_model_load((run_ + "/step-00000100").c_str(), &options, &model));
  riverhorse_session* session = nullptr;
  ASSERT_OK(riverhorse_session_create(model, nullptr, &session));
  ASSERT_OK(riverhorse_session_append(session, two_sequences.data(), 3, nullptr, nullptr));
  for (std::size_t i = 3; i < 8; ++i) {
    std::int32_t token = -1;
    EXPECT_OK(riverhorse_session_step(session, &token));
    EXPECT_EQ(token, two_sequences[i]);
  }
  riverhorse_session_free(session);
  riverhorse_model_free(model);

  riverhorse_trainer_options again = trainer_options();
  const std::string path = run_ + "/step-00000100";
  again.config_json = nullptr;
  again.model_path = path.c_str();
  EXPECT_EQ(evaluate(create(again), two_sequences).correct, evaluate(trainer, two_sequences).correct);
}

TEST_F(ApiTrainer, SeedsDecide) {
  riverhorse_trainer_options options = trainer_options();
  const double loss = step(create(options)).loss;
  EXPECT_EQ(step(create(options)).loss, loss);
  options.seed = 1;
  EXPECT_NE(step(create(options)).loss, loss);
}

TEST_F(ApiTrainer, ThreadsTakeTurns) {
  riverhorse_trainer* first = create();
  riverhorse_trainer* second = create();
  const auto train = [](riverhorse_trainer* trainer) {
    for (int i = 0; i < 20; ++i) step(trainer);
  };
  std::thread other(train, second);
  train(first);
  other.join();
  EXPECT_EQ(step(first).loss, step(second).loss);
}

// What is made again instead of kept changes no bit of a step.
TEST_F(ApiTrainer, RecomputesToTheSameBits) {
  for (const riverhorse_recompute level : {RIVERHORSE_RECOMPUTE_MIXER, RIVERHORSE_RECOMPUTE_BLOCK}) {
    riverhorse_trainer_options options = trainer_options();
    options.recompute = level;
    riverhorse_trainer* kept = create();
    riverhorse_trainer* again = create(options);
    for (int i = 0; i < 3; ++i) {
      const riverhorse_step_result first = step(kept), second = step(again);
      EXPECT_EQ(first.loss, second.loss);
      EXPECT_EQ(first.gradient_norm, second.gradient_norm);
    }
  }
}

TEST_F(ApiTrainer, RefusesBadOptions) {
  const auto refused = [&](const char* part, const std::function<void(riverhorse_trainer_options&)>& change) {
    riverhorse_trainer_options options = trainer_options();
    change(options);
    riverhorse_trainer* trainer = nullptr;
    EXPECT_FAILS(riverhorse_trainer_create(device_, &options, &trainer), RIVERHORSE_INVALID_ARGUMENT, part);
    EXPECT_EQ(trainer, nullptr);
  };
  using Options = riverhorse_trainer_options;
  refused("struct_size", [](Options& options) { options.struct_size = 8; });
  refused("exactly one", [](Options& options) { options.preset = "tiny"; });
  refused("exactly one", [](Options& options) { options.config_json = nullptr; });
  refused("tiny-hybrid", [](Options& options) {
    options.config_json = nullptr;
    options.preset = "huge";
  });
  refused("config_json", [](Options& options) { options.config_json = "{"; });
  refused("n_layer", [](Options& options) { options.config_json = R"({"n_embd": 16, "vocab_size": 8})"; });
  refused("batch", [](Options& options) { options.batch = -1; });
  refused("tokens are possible", [](Options& options) { options.batch = options.length = 1 << 24; });
  refused("length", [](Options& options) { options.length = std::int64_t{1} << 62; });
  refused("learning_rate", [](Options& options) { options.learning_rate = 11; });
  refused("ssm_learning_rate", [](Options& options) { options.ssm_learning_rate = -1; });
  refused("learning_rate", [](Options& options) { options.learning_rate = std::nan(""); });
  refused("beta1", [](Options& options) { options.beta1 = 1; });
  refused("recipe", [](Options& options) { options.recipe = static_cast<riverhorse_recipe>(2); });
  refused("schedule", [](Options& options) { options.schedule = static_cast<riverhorse_schedule>(-1); });
  refused("schedule_steps", [](Options& options) { options.schedule = RIVERHORSE_SCHEDULE_COSINE; });
  refused("conv", [](Options& options) { options.conv = static_cast<riverhorse_conv>(7); });
  refused("recompute", [](Options& options) { options.recompute = static_cast<riverhorse_recompute>(3); });
  refused("logits", [](Options& options) { options.logits = static_cast<riverhorse_logits>(2); });
  refused("logits of 16 bits", [](Options& options) { options.logits = RIVERHORSE_LOGITS_16_BITS; });
  refused("dtype", [](Options& options) { options.dtype = static_cast<riverhorse_dtype>(9); });
  refused("seed", [](Options& options) { options.seed = std::numeric_limits<std::uint64_t>::max(); });

  riverhorse_trainer* trainer = nullptr;
  EXPECT_FAILS(riverhorse_trainer_create(device_, nullptr, &trainer), RIVERHORSE_INVALID_ARGUMENT, "options");
  riverhorse_trainer_options options = trainer_options();
  EXPECT_FAILS(riverhorse_trainer_create(nullptr, &options, &trainer), RIVERHORSE_INVALID_ARGUMENT, "device");
  EXPECT_FAILS(riverhorse_trainer_create(device_, &options, nullptr), RIVERHORSE_INVALID_ARGUMENT, "trainer");
  options.config_json = nullptr;
  options.model_path = "/no/such/model";
  EXPECT_FAILS(riverhorse_trainer_create(device_, &options, &trainer), RIVERHORSE_NOT_FOUND, "/no/such/model");
}

TEST_F(ApiTrainer, RefusesBadBatches) {
  riverhorse_trainer* trainer = create();
  const double loss = step(create()).loss;
  const auto refused = [&](const char* part, std::vector<std::int32_t> ids, const std::int32_t* targets,
                           std::size_t sequences) {
    riverhorse_evaluation evaluation{};
    evaluation.struct_size = sizeof evaluation;
    EXPECT_FAILS(riverhorse_trainer_step(trainer, ids.data(), targets, sequences, nullptr),
                 RIVERHORSE_INVALID_ARGUMENT, part);
    EXPECT_FAILS(riverhorse_trainer_evaluate(trainer, ids.data(), targets, sequences, &evaluation),
                 RIVERHORSE_INVALID_ARGUMENT, part);
  };
  const std::vector<std::int32_t> ignored(16, -1), beyond(16, 16);
  refused("sequences is 0", two_sequences, nullptr, 0);
  refused("sequences is", two_sequences, nullptr, std::numeric_limits<std::size_t>::max());
  refused("no token", two_sequences, ignored.data(), 2);
  refused("target 0", two_sequences, beyond.data(), 2);
  refused("id 16", beyond, nullptr, 2);
  refused("id -1", ignored, nullptr, 2);
  EXPECT_FAILS(riverhorse_trainer_step(trainer, nullptr, nullptr, 2, nullptr), RIVERHORSE_INVALID_ARGUMENT, "ids");
  EXPECT_FAILS(riverhorse_trainer_evaluate(trainer, two_sequences.data(), nullptr, 2, nullptr),
               RIVERHORSE_INVALID_ARGUMENT, "result");
  riverhorse_step_result unset{};
  EXPECT_FAILS(riverhorse_trainer_step(trainer, two_sequences.data(), nullptr, 2, &unset),
               RIVERHORSE_INVALID_ARGUMENT, "struct_size");
  EXPECT_EQ(info(trainer).step, 0);
  EXPECT_EQ(step(trainer).loss, loss) << "what was refused changed something";
}

TEST_F(ApiTrainer, RefusesBadFoldersAndDevices) {
  riverhorse_trainer* trainer = nullptr;
  std::filesystem::create_directories(run_);
  EXPECT_FAILS(riverhorse_trainer_resume(device_, run_.c_str(), &trainer), RIVERHORSE_NOT_FOUND, run_);
  EXPECT_FAILS(riverhorse_trainer_resume(device_, nullptr, &trainer), RIVERHORSE_INVALID_ARGUMENT, "folder");
  EXPECT_FAILS(riverhorse_trainer_save(create(), "/proc/nowhere"), RIVERHORSE_IO_ERROR, "/proc/nowhere");
  EXPECT_FAILS(riverhorse_trainer_save(nullptr, run_.c_str()), RIVERHORSE_INVALID_ARGUMENT, "trainer");
  EXPECT_FAILS(riverhorse_trainer_get_info(nullptr, nullptr), RIVERHORSE_INVALID_ARGUMENT, "trainer");

  riverhorse_device_options options{};
  options.struct_size = sizeof options;
  options.backend = "abacus";
  riverhorse_device* device = nullptr;
  EXPECT_NE(riverhorse_device_open(&options, &device), RIVERHORSE_OK);
  EXPECT_FAILS(riverhorse_device_open(&options, nullptr), RIVERHORSE_INVALID_ARGUMENT, "device");
  EXPECT_EQ(device, nullptr);
  riverhorse_device_free(nullptr);
}

}  // namespace
}  // namespace api_test
