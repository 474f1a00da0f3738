// What a training on several ranks sends, by one rank whose others are not there.
#include <gtest/gtest.h>

#include <limits>

#include "base/log.h"
#include "counting_ranks.h"
#include "cpu/cpu_device.h"
#include "model/initialization.h"
#include "train/layout_plan.h"
#include "train/trainer_core.h"
#include "train/training_flops.h"

namespace riverhorse::test {
namespace {

Checkpoint tiny_model() { return random_checkpoint(*model_preset("tiny-hybrid"), 1); }

TEST(RanksTraffic, AStepSendsWhatIsSaid) {
  const Checkpoint model = tiny_model();
  const std::vector<std::int32_t> ids(24, 7);
  for (const Shard shard : {Shard::none, Shard::optimizer, Shard::gradients}) {
    for (const int size : {2, 3}) {
      SCOPED_TRACE(testing::Message() << size << " ranks, shard " << static_cast<int>(shard));
      // The tensors' alone are counted: the host's few numbers are apart.
      const auto host = std::make_shared<CountingRanks>(size), tensors = std::make_shared<CountingRanks>(size);
      TrainerCoreOptions options;
      options.micro_batch = {1, static_cast<std::int64_t>(ids.size())};
      options.ranks = {host, tensors};
      options.shard = shard;
      TrainerCore core(open_cpu_device(cpu_device_info(), {}), model, options);
      const double said = core.exchanged_bytes();
      EXPECT_GT(said, 0);
      core.step(ids, next_token_targets(ids, options.micro_batch.length), 1);
      const double norms = shard == Shard::gradients ? 4 * (size - 1) : 0;  // of the parts, to every rank
      EXPECT_DOUBLE_EQ(tensors->sent_bytes, said + norms);
      tensors->sent_bytes = 0;
      for (int i = 0; i < 2; ++i) core.exchange();
      EXPECT_DOUBLE_EQ(tensors->sent_bytes, 2 * said);
    }
  }
}

// Of the gradients a rank then has those outside of the layers' matrices, those of two layers, and its part of the
// sums.
TEST(RanksMemory, DividedGradientsTakeLess) {
  Checkpoint model = random_checkpoint(*model_preset("tiny-hybrid"), 1);
  model.config.n_layer = 6;
  model = random_checkpoint(model.config, 1);
  constexpr int size = 4;
  const std::vector<std::int32_t> ids(24, 7);
  std::uint64_t gradients[2] = {}, used[2] = {};
  std::int64_t count = 0, layer = 0, others = 0;
  for (const Shard shard : {Shard::optimizer, Shard::gradients}) {
    const std::shared_ptr<Device> device = open_cpu_device(cpu_device_info(), {});
    const auto ranks = std::make_shared<CountingRanks>(size, 1);
    TrainerCoreOptions options;
    options.micro_batch = {1, static_cast<std::int64_t>(ids.size())};
    options.ranks = {ranks, ranks};
    options.shard = shard;
    const bool divided = shard == Shard::gradients;
    const MemoryPlan plan = TrainerCore::estimate_memory(device, model.config, options);
    gradients[divided] = plan.bytes(MemoryCategory::gradients);
    TrainerCore core(device, model, options);
    core.step(ids, next_token_targets(ids, options.micro_batch.length), 1);
    used[divided] = device->memory_usage().used_bytes;
    EXPECT_NEAR(static_cast<double>(used[divided]), static_cast<double>(plan.total_bytes()),
                0.05 * static_cast<double>(plan.total_bytes()));
    const ParameterArena& arena = core.model().parameters();
    count = arena.values().count();
    layer = others = 0;
    for (std::int64_t i = 0; i < 6; ++i) layer = std::max(layer, arena.layer_gradients(i).tensor.count());
    for (const GradientPart& part : arena.other_gradients()) others += part.tensor.count();
  }
  EXPECT_EQ(gradients[0], 4 * static_cast<std::uint64_t>(count));
  const auto divided = static_cast<std::uint64_t>(others + 2 * layer + count / size);
  EXPECT_NEAR(static_cast<double>(gradients[1]), 4 * static_cast<double>(divided), 4096);
  EXPECT_EQ(used[0] - used[1], gradients[0] - gradients[1]);
  EXPECT_LT(2 * gradients[1], gradients[0] * 2 - gradients[0] / 2) << "a quarter and more is saved";
}

TEST(RanksMemory, DividedGradientsThatAreNotFiniteAreNamed) {
  Checkpoint model = tiny_model();
  HostTensor& bias = model.file.tensors.at("backbone.layers.0.norm2.bias");
  std::vector<float> values = to_floats(bias);
  values[3] = std::numeric_limits<float>::infinity();
  bias = make_host_tensor(std::span<const float>(values), bias.shape);
  const auto ranks = std::make_shared<CountingRanks>(2);
  const std::vector<std::int32_t> ids(24, 7);
  TrainerCoreOptions options;
  options.micro_batch = {1, static_cast<std::int64_t>(ids.size())};
  options.ranks = {ranks, ranks};
  options.shard = Shard::gradients;
  TrainerCore core(open_cpu_device(cpu_device_info(), {}), model, options);
  std::string log;
  set_log_sink([&](LogLevel, std::string_view message) { log += std::string(message) + "\n"; });
  EXPECT_TRUE(core.step(ids, next_token_targets(ids, options.micro_batch.length), 1).skipped);
  set_log_sink({});
  EXPECT_NE(log.find("step 1: gradients that are not finite"), std::string::npos) << log;
  EXPECT_NE(log.find("parameters: backbone."), std::string::npos) << log;
}

TEST(RanksTraffic, OneAloneSendsNothing) {
  TrainerCoreOptions options;
  options.micro_batch = {1, 16};
  TrainerCore core(open_cpu_device(cpu_device_info(), {}), tiny_model(), options);
  EXPECT_EQ(core.exchanged_bytes(), 0);
  core.exchange();
}

PlanOptions some_plan(int ranks) {
  PlanOptions options;
  options.config = *model_preset("tiny-hybrid");
  options.ranks = ranks;
  options.batch = {4, 24};
  return options;
}

// What a layout is said to take and to send is what a trainer of it takes on the cpu, but for scratch, and sends.
TEST(LayoutPlan, IsWhatATrainerTakesAndSends) {
  const std::vector<std::int32_t> ids(24, 7);
  const Checkpoint model = tiny_model();
  for (const int size : {1, 4}) {
    int compared = 0;
    for (const PlannedLayout& layout : plan_layouts(some_plan(size))) {
      if (layout.places > 1) continue;
      SCOPED_TRACE(testing::Message() << size << " ranks, shard " << static_cast<int>(layout.shard));
      const auto host = std::make_shared<CountingRanks>(size), tensors = std::make_shared<CountingRanks>(size);
      TrainerCoreOptions options;
      if (size > 1) options.ranks = {host, tensors};
      options.micro_batch = {4 / size, 24};
      options.recompute = layout.recompute;
      options.shard = layout.shard;
      const std::shared_ptr<Device> device = open_cpu_device(cpu_device_info(), {});
      const MemoryPlan plan = TrainerCore::estimate_memory(device, model.config, options);
      for (const MemoryCategory category : memory_categories) {
        if (category == MemoryCategory::scratch) continue;
        EXPECT_EQ(layout.memory.bytes(category), plan.bytes(category)) << memory_category_name(category);
      }
      TrainerCore core(device, model, options);
      std::vector<std::int32_t> all;
      for (int i = 0; i < 4 / size; ++i) all.insert(all.end(), ids.begin(), ids.end());
      core.step(all, next_token_targets(all, 24), 1);
      EXPECT_DOUBLE_EQ(layout.traffic.summed + layout.traffic.moved, tensors->sent_bytes);
      ++compared;
    }
    EXPECT_EQ(compared, size == 1 ? 3 : 9);
  }
}

TEST(LayoutPlan, OneRankTakesTheTimeThatWasMeasured) {
  PlanOptions options = some_plan(1);
  const double flops = 4 * 24 * training_flops_per_token(options.config, 24);
  options.measured = {12.5, flops};
  const std::vector<PlannedLayout> one = plan_layouts(options);
  ASSERT_EQ(one.size(), 3u);
  EXPECT_EQ(one[0].recompute, Recompute::none);
  EXPECT_DOUBLE_EQ(*one[0].step_ms, 12.5);
  EXPECT_GT(*one[1].step_ms, 12.5);
  // Of four, each has a quarter of it; what is slow to send shows.
  options.ranks = 4;
  options.bandwidth = 1e15;
  EXPECT_NEAR(*plan_layouts(options)[0].step_ms, 12.5 / 4, 1e-3);
  options.bandwidth = 1e6;
  for (const PlannedLayout& layout : plan_layouts(options)) {
    const double compute = 12.5 / 4, summed = layout.traffic.summed * 1e-3, moved = layout.traffic.moved * 1e-3;
    if (layout.recompute != Recompute::none) continue;
    EXPECT_NEAR(*layout.step_ms, compute + std::max(0.0, summed - compute * 2 / 3) + moved, 1e-6);
  }
}

}  // namespace
}  // namespace riverhorse::test
