// Activation recomputation, and the memory that a training is said to take, on every device that trains.
#include "base/log.h"
#include "engine_fixture.h"
#include "model/initialization.h"
#include "train/trainer_core.h"

namespace riverhorse::test {
namespace {

constexpr std::array levels = {Recompute::none, Recompute::mixer, Recompute::block};

// Small, with every dropout, and attention between H3 layers: what the layers share is written by both kinds.
ModelConfig small_config() {
  ModelConfig config;
  config.n_embd = 8;
  config.n_layer = 3;
  config.attn_layer_idx = {1};
  config.attn_n_head = 2;
  config.ssm_d_state = 8;
  config.vocab_size = 24;
  config.resid_pdrop = config.embed_pdrop = config.attn_pdrop = 0.2;
  config.initializer_range = 0.3;  // large enough that every layer matters
  return config;
}

std::map<std::string, ModelConfig> configurations() {
  std::map<std::string, ModelConfig> all;
  all["hybrid"] = small_config();
  all["rotary, attention last"] = small_config();
  all["rotary, attention last"].attn_layer_idx = {0, 2};
  all["rotary, attention last"].attn_rotary_dim = 4;
  all["head_dim"] = small_config();
  all["head_dim"].ssm_head_dim = 2;
  all["S4D"] = small_config();
  all["S4D"].ssm_gating = false;
  all["32 modes"] = small_config();  // the tensor cores' mixer
  all["32 modes"].ssm_d_state = 64;
  return all;
}

std::vector<std::int32_t> some_ids(std::int64_t count) {
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < count; ++i) ids.push_back(static_cast<std::int32_t>((i * i + 3 * i + i / 7) % 24));
  return ids;
}

struct Trained {
  double loss = 0, norm = 0, evaluation = 0;
  std::map<std::string, HostTensor> gradients, parameters;
};

class RecomputeTest : public OnDevice {
 protected:
  void SetUp() override {
    OnDevice::SetUp();
    const Support support = device_->supports(Feature::training);
    if (!support.supported) GTEST_SKIP() << GetParam() << " does not train: " << support.reason;
    if (device_->supports(Feature::bf16).supported) dtypes_.push_back(DType::bf16);
  }

  // A step.
  Trained train(const Checkpoint& start, const TrainerCoreOptions& options, std::int64_t micro_batches) {
    TrainerCore core(device_, start, options);
    const std::vector<std::int32_t> ids = some_ids(micro_batches * options.micro_batch.rows());
    const std::vector<std::int32_t> targets = next_token_targets(ids, options.micro_batch.length);
    const StepResult result = core.step(ids, targets, 1.0);
    const ParameterArena& arena = core.model().parameters();
    return {result.loss, result.gradient_norm, core.evaluate(ids, targets).loss_sum,
            arena.download(arena.gradients()), arena.download(arena.values())};
  }

  void expect_same_at_every_level(const ModelConfig& config, TrainerCoreOptions options, std::int64_t micro_batches) {
    const Checkpoint start = random_checkpoint(config, 5);
    options.recompute = Recompute::none;
    const Trained kept = train(start, options, micro_batches);
    for (const Recompute level : {Recompute::mixer, Recompute::block}) {
      SCOPED_TRACE(recompute_name(level));
      options.recompute = level;
      const Trained again = train(start, options, micro_batches);
      EXPECT_EQ(again.loss, kept.loss);
      EXPECT_EQ(again.norm, kept.norm);
      EXPECT_EQ(again.evaluation, kept.evaluation);
      for (const auto& [name, gradient] : kept.gradients) {
        EXPECT_EQ(to_floats(again.gradients.at(name)), to_floats(gradient)) << name;
        EXPECT_EQ(to_floats(again.parameters.at(name)), to_floats(kept.parameters.at(name))) << name;
      }
    }
  }

  std::vector<DType> dtypes_ = {DType::f32};
};

TEST_P(RecomputeTest, GradientsAreTheSameBitForBit) {
  for (const auto& [name, config] : configurations()) {
    const bool first = name == "hybrid";  // in every dtype and way
    for (const DType dtype : first ? dtypes_ : std::vector{dtypes_.back()}) {
      for (const ConvAlgorithm conv : first ? conv_ways(*device_) : std::vector{ConvAlgorithm::automatic}) {
        SCOPED_TRACE(fmt::format("{}, {}, conv {}", name, dtype_name(dtype), static_cast<int>(conv)));
        TrainerCoreOptions options;
        options.micro_batch = {2, 11};
        options.dtype = dtype;
        options.conv = conv;
        expect_same_at_every_level(config, options, 2);
      }
    }
  }
}

// The states that the backward pass starts from are made again too: L of more than one superchunk.
TEST_P(RecomputeTest, EntryStatesAreMadeAgain) {
  ModelConfig config = small_config();
  config.n_layer = 2;
  config.attn_layer_idx = {};
  config.ssm_d_state = 64;
  TrainerCoreOptions options;
  options.micro_batch = {1, H3Filter::superchunk + 6};
  options.dtype = dtypes_.back();
  expect_same_at_every_level(config, options, 1);
}

// What is said before the start is what is allocated, and every level takes less than the one before.
TEST_P(RecomputeTest, MemoryIsEstimated) {
  for (const auto& [name, config] : configurations()) {
    const Checkpoint start = random_checkpoint(config, 5);
    for (const DType dtype : dtypes_) {
      std::uint64_t before = ~std::uint64_t{0};
      for (const Recompute level : levels) {
        SCOPED_TRACE(fmt::format("{}, {}, {}", name, dtype_name(dtype), recompute_name(level)));
        TrainerCoreOptions options;
        options.micro_batch = {2, 37};
        options.dtype = dtype;
        options.recompute = level;
        options.evaluation = true;
        const MemoryPlan plan = TrainerCore::estimate_memory(device_, config, options);
        const std::uint64_t used = device_->memory_usage().used_bytes;
        const TrainerCore core(device_, start, options);
        const std::uint64_t taken = device_->memory_usage().used_bytes - used;
        // A recording without scratch memory has a byte of it.
        EXPECT_NEAR(static_cast<double>(plan.total_bytes()), static_cast<double>(taken), 4);
        EXPECT_LT(plan.total_bytes(), before);
        before = plan.total_bytes();
        const std::int64_t residual_bytes = 4 * options.micro_batch.rows() * config.n_embd * config.n_layer;
        if (level == Recompute::block) {
          EXPECT_EQ(plan.bytes(MemoryCategory::activations), static_cast<std::uint64_t>(residual_bytes));
        }
      }
    }
  }
}

// 1.3b with texts of 8192 tokens on a card of 80 GB, which has 79.1 GiB of it free: 75 GB leave a margin.
TEST_P(RecomputeTest, ALargeModelFitsOneCard) {
  TrainerCoreOptions options;
  options.micro_batch = {1, 8192};
  options.dtype = dtypes_.back();
  const ModelConfig config = *model_preset("1.3b");
  for (const Recompute level : levels) {
    options.recompute = level;
    const MemoryPlan plan = TrainerCore::estimate_memory(device_, config, options);
    std::printf("[  NOTE    ] 1.3b, %s, recompute %s%s\n", std::string(dtype_name(options.dtype)).c_str(),
                std::string(recompute_name(level)).c_str(), plan.table().c_str());
    if (level == Recompute::block) {
      EXPECT_LT(static_cast<double>(plan.total_bytes()), 75e9);
      EXPECT_EQ(plan.bytes(MemoryCategory::activations), 24u * 8192 * 2048 * 4);
    }
  }
}

RIVERHORSE_ON_EVERY_DEVICE(RecomputeTest);

TEST(TrainingMemoryTest, WhatDoesNotFitIsRefusedBeforeTheStart) {
  DeviceOptions few;
  few.memory_limit_bytes = 1 << 20;
  const std::shared_ptr<Device> device = open_cpu_device(cpu_device_info(), few);
  const Checkpoint start = random_checkpoint(small_config(), 5);
  TrainerCoreOptions options;
  options.micro_batch = {4, 256};
  std::string log;
  set_log_sink([&](LogLevel, std::string_view message) { log += message; });
  std::string error;
  try {
    TrainerCore core(device, start, options);
  } catch (const Error& refusal) {
    EXPECT_EQ(refusal.code(), StatusCode::out_of_memory);
    error = refusal.what();
  }
  set_log_sink({});
  for (const char* part : {"4 sequences of 256 tokens", "MiB, and cpu:0 has 1.0 MiB free", "--recompute block (it"}) {
    EXPECT_NE(error.find(part), std::string::npos) << part << " is not in: " << error;
  }
  for (const MemoryCategory category : memory_categories) {
    EXPECT_NE(log.find(memory_category_name(category)), std::string::npos) << log;
  }
  EXPECT_EQ(device->counters().allocations, 0u);
}

}  // namespace
}  // namespace riverhorse::test
