// What a training on several ranks sends, by one rank whose others are not there.
#include <gtest/gtest.h>

#include "counting_ranks.h"
#include "cpu/cpu_device.h"
#include "model/initialization.h"
#include "train/trainer_core.h"

namespace riverhorse::test {
namespace {

Checkpoint tiny_model() { return random_checkpoint(*model_preset("tiny-hybrid"), 1); }

TEST(RanksTraffic, AStepSendsWhatIsSaid) {
  const Checkpoint model = tiny_model();
  const std::vector<std::int32_t> ids(24, 7);
  for (const Shard shard : {Shard::none, Shard::optimizer}) {
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
      EXPECT_DOUBLE_EQ(tensors->sent_bytes, said);
      tensors->sent_bytes = 0;
      for (int i = 0; i < 2; ++i) core.exchange();
      EXPECT_DOUBLE_EQ(tensors->sent_bytes, 2 * said);
    }
  }
}

TEST(RanksTraffic, OneAloneSendsNothing) {
  TrainerCoreOptions options;
  options.micro_batch = {1, 16};
  TrainerCore core(open_cpu_device(cpu_device_info(), {}), tiny_model(), options);
  EXPECT_EQ(core.exchanged_bytes(), 0);
  core.exchange();
}

}  // namespace
}  // namespace riverhorse::test
