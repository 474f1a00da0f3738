// The trainer on the cpu: it learns, and a training that stops and goes on is the one that did not stop.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>

#include "base/error.h"
#include "base/file.h"
#include "train/training_flops.h"
#include "trainer_fixture.h"

namespace riverhorse::test {
namespace {

std::shared_ptr<Device> cpu() {
  static const std::shared_ptr<Device> device = open_cpu_device(cpu_device_info(), {});
  return device;
}

TrainingCheckpoint fresh(const TrainerOptions& options) {
  TrainingCheckpoint start;
  start.model = tiny_model();
  start.state.options = options;
  return start;
}

// What the log says, without the clock.
std::vector<nlohmann::json> timeless_rows(const std::filesystem::path& run) {
  std::vector<nlohmann::json> rows = log_rows(run);
  for (nlohmann::json& row : rows) {
    for (const char* name : {"tokens_per_second", "seconds_left", "memory_bytes"}) row.erase(name);
  }
  return rows;
}

std::vector<std::byte> file_bytes(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

StopFunction after(const Trainer& trainer, std::int64_t step) {
  return [&trainer, step] { return trainer.state().step >= step; };
}

TEST(TrainerTest, GoingOnIsBitForBitTheSame) {
  const TemporaryFolder folder;
  const MemoryTokens data(tiny_text(8)), validation(tiny_text(2));  // 24 samples: the epoch ends within the run
  TrainerOptions options = tiny_options();
  options.validate_every = 3;
  TrainingCheckpoint start = fresh(options);
  start.model.config.resid_pdrop = start.model.config.embed_pdrop = start.model.config.attn_pdrop = 0.1;
  {
    Trainer whole(cpu(), start, data, &validation, folder / "whole");
    EXPECT_TRUE(whole.run({}, {}));
  }
  {
    Trainer first(cpu(), start, data, &validation, folder / "parts");
    EXPECT_FALSE(first.run(after(first, 5), {}));
    EXPECT_EQ(first.state().step, 5);
  }
  {
    // Killed after step 7, of which only the log is left: goes back to 5, and the log with it.
    TrainingLog log(folder / "parts", 5);
    StepReport lost;
    lost.step = 6;
    log.add(lost);
    lost.step = 7;
    log.add(lost);
  }
  {
    Trainer second(cpu(), load_newest_checkpoint(folder / "parts"), data, &validation, folder / "parts");
    EXPECT_EQ(second.state().step, 5);
    EXPECT_TRUE(second.run({}, {}));
  }
  EXPECT_EQ(timeless_rows(folder / "parts"), timeless_rows(folder / "whole"));
  EXPECT_EQ(log_rows(folder / "whole").size(), 12u);
  for (const char* file : {"model.safetensors", "optimizer.safetensors", "trainer_state.json", "config.json"}) {
    EXPECT_EQ(file_bytes(folder / "parts" / "step-00000012" / file),
              file_bytes(folder / "whole" / "step-00000012" / file))
        << file;
  }
}

// The order of the data comes from the seed, and from nothing else.
TEST(TrainerTest, TheSeedDecides) {
  const MemoryTokens data(tiny_text(8));
  std::vector<std::vector<nlohmann::json>> logs;
  const TemporaryFolder folder;
  for (const std::int64_t seed : {7, 7, 8}) {
    TrainerOptions options = tiny_options();
    options.steps = 2;
    options.seed = seed;
    Trainer trainer(cpu(), fresh(options), data, nullptr, folder / "run");
    trainer.run({}, {});
    logs.push_back(timeless_rows(folder / "run"));
    std::filesystem::remove_all(folder / "run");
  }
  EXPECT_EQ(logs[0], logs[1]);
  EXPECT_NE(logs[0], logs[2]);
}

TEST(TrainerTest, LossFallsOnATinyText) {
  const TemporaryFolder folder;
  const MemoryTokens data(tiny_text(20)), validation(tiny_text(3));
  TrainerOptions options = tiny_options();
  options.steps = 80;
  options.checkpoint_every = 40;
  Trainer trainer(cpu(), fresh(options), data, &validation, folder / "run");
  std::vector<StepReport> reports;
  EXPECT_TRUE(trainer.run({}, [&](const StepReport& report) { reports.push_back(report); }));
  ASSERT_EQ(reports.size(), 80u);
  EXPECT_NEAR(reports.front().loss, std::log(96), 0.2);
  EXPECT_LT(reports.back().loss, 1.5);
  EXPECT_EQ(reports.back().tokens, 80 * 4 * 16);
  EXPECT_GT(reports.back().tokens_per_second, 0);
  EXPECT_DOUBLE_EQ(reports[2].learning_rate, 5e-3);
  EXPECT_NEAR(reports.back().learning_rate, 5e-4, 1e-15);
  EXPECT_EQ(reports.back().seconds_left, 0);
  EXPECT_FALSE(reports[38].validation_loss);
  EXPECT_LT(*reports.back().validation_loss, *reports[39].validation_loss);
  EXPECT_EQ(trainer.state().best_step, 80);
  const std::string line = report_line(reports[39]);
  for (const char* part : {"step 40/80", "loss ", "ppl ", "lr ", "tokens/s", " left", "validation loss"}) {
    EXPECT_NE(line.find(part), std::string::npos) << line;
  }
}

// Every token but the first counts once, whatever the batch: of pieces of the same length, the same mean.
TEST(TrainerTest, ValidationIsTokenWeighted) {
  const TemporaryFolder folder;
  const MemoryTokens data(tiny_text(2));
  const std::vector<std::int32_t> text = tiny_text(2);  // 100 tokens: 6 pieces of 16, and 3 more targets
  const MemoryTokens validation(text);
  std::vector<double> losses;
  for (const std::int64_t batch : {1, 4, 7}) {
    TrainerOptions options = tiny_options();
    options.batch = batch;
    Trainer trainer(cpu(), fresh(options), data, &validation, folder / "run");
    losses.push_back(*trainer.validate());
  }
  TrainerCoreOptions core_options;
  core_options.micro_batch = {1, 16};
  TrainerCore core(cpu(), tiny_model(), core_options);
  double sum = 0;
  std::int64_t scored = 0;
  for (std::size_t begin = 0; begin + 1 < text.size(); begin += 16) {
    std::vector<std::int32_t> ids(16, 0), targets(16, -1);
    for (std::size_t i = 0; i < 16 && begin + i + 1 < text.size(); ++i) {
      ids[i] = text[begin + i];
      targets[i] = text[begin + i + 1];
    }
    const EvaluationResult result = core.evaluate(ids, targets);
    sum += result.loss_sum;
    scored += result.scored;
  }
  EXPECT_EQ(scored, 99);
  for (const double loss : losses) EXPECT_NEAR(loss, sum / 99, 1e-6);
  TrainerOptions options = tiny_options();
  options.validation_tokens = 16;
  Trainer trainer(cpu(), fresh(options), data, &validation, folder / "run");
  EXPECT_NE(*trainer.validate(), losses[0]);
  EXPECT_FALSE(Trainer(cpu(), fresh(options), data, nullptr, folder / "run").validate());
}

// Two documents, whose lines a sample may not mix.
class TwoDocuments : public MemoryTokens {
 public:
  TwoDocuments() : MemoryTokens(tiny_text(2)) {}
  std::span<const std::int64_t> document_ends() const override { return ends_; }

 private:
  std::vector<std::int64_t> ends_ = {37, 100};
};

TEST(TrainerTest, StateIsResetAtDocuments) {
  const TemporaryFolder folder;
  const TwoDocuments data;
  TrainerOptions options = tiny_options();
  options.reset_state_at_documents = true;
  options.steps = 2;
  Trainer trainer(cpu(), fresh(options), data, &data, folder / "run");
  // Each document by itself, cut into sequences of 16 that begin with an empty state.
  TrainerCoreOptions core_options;
  core_options.micro_batch = {1, 16};
  TrainerCore core(cpu(), tiny_model(), core_options);
  const std::vector<std::int32_t> text = tiny_text(2);
  double sum = 0;
  for (const auto& [begin, end] : {std::pair<std::size_t, std::size_t>{0, 37}, {37, 100}}) {
    for (std::size_t first = begin; first + 1 < end; first += 16) {
      std::vector<std::int32_t> ids(16, 0), targets(16, -1);
      for (std::size_t i = 0; i < 16 && first + i + 1 < end; ++i) {
        ids[i] = text[first + i];
        targets[i] = text[first + i + 1];
      }
      sum += core.evaluate(ids, targets).loss_sum;
    }
  }
  EXPECT_NEAR(*trainer.validate(), sum / 98, 1e-6);
  trainer.run({}, {});
  // 3 + 4 samples of 98 targets an epoch; the 8 samples of two steps are all of them, and one again.
  EXPECT_GT(trainer.state().tokens, 98);
  EXPECT_LE(trainer.state().tokens, 98 + 16);
  EXPECT_EQ(log_rows(folder / "run").back()["tokens"], trainer.state().tokens);
}

TEST(TrainerTest, MfuIsOfThePeakThatIsGiven) {
  const TemporaryFolder folder;
  const MemoryTokens data(tiny_text(4));
  TrainerOptions options = tiny_options();
  options.steps = 1;
  options.peak_tflops = 0.5;
  const double flops = training_flops_per_token(tiny_model().config, options.length);
  Trainer trainer(cpu(), fresh(options), data, nullptr, folder / "run");
  trainer.run({}, [&](const StepReport& report) {
    EXPECT_DOUBLE_EQ(report.mfu.value(), report.tokens_per_second * flops / 0.5e12);
    EXPECT_EQ(report.memory_bytes, cpu()->memory_usage().used_bytes);
    EXPECT_NE(report_line(report).find("  MFU "), std::string::npos) << report_line(report);
  });
  EXPECT_TRUE(log_rows(folder / "run")[0]["mfu"].is_number());
}

TEST(TrainerTest, AutoBatchTakesWhatFits) {
  const TemporaryFolder folder;
  const MemoryTokens data(tiny_text(8)), validation(tiny_text(2));
  TrainerOptions options = tiny_options();
  options.steps = 4;
  const auto with_batch = [&](std::int64_t batch, std::int64_t accumulation) {
    options.batch = batch;
    options.accumulation = accumulation;
    return fresh(options);
  };
  const auto limited = [](std::uint64_t bytes) -> std::shared_ptr<Device> {
    DeviceOptions device_options;
    device_options.memory_limit_bytes = bytes;
    return open_cpu_device(cpu_device_info(), device_options);
  };
  const std::shared_ptr<Device> large = limited(0);
  make_trainer(large, with_batch(8, 1), data, &validation, folder / "whole")->run({}, {});
  const std::shared_ptr<Device> small = limited(0);
  make_trainer(small, with_batch(2, 1), data, &validation, folder / "unused");
  const std::uint64_t limit = small->memory_usage().peak_used_bytes;
  ASSERT_LT(limit, large->memory_usage().peak_used_bytes);

  try {
    make_trainer(limited(limit), with_batch(8, 1), data, &validation, folder / "refused");
    ADD_FAILURE() << "there is not enough memory";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), StatusCode::out_of_memory);
  }
  options.auto_batch = true;
  const auto halved = make_trainer(limited(limit), with_batch(8, 1), data, &validation, folder / "halved");
  EXPECT_EQ(halved->state().options.batch, 2);
  EXPECT_EQ(halved->state().options.accumulation, 4);
  halved->run({}, {});
  const auto whole_rows = log_rows(folder / "whole"), halved_rows = log_rows(folder / "halved");
  ASSERT_EQ(halved_rows.size(), 4u);
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(halved_rows[i]["loss"].get<double>(), whole_rows[i]["loss"].get<double>(), 1e-4) << i;
  }
  EXPECT_NEAR(halved_rows[3]["validation_loss"].get<double>(), whole_rows[3]["validation_loss"].get<double>(), 1e-4);
  // An odd batch, and one that cannot be made smaller.
  EXPECT_EQ(make_trainer(limited(limit), with_batch(3, 2), data, nullptr, folder / "odd")->state().options.batch, 1);
  EXPECT_THROW(make_trainer(limited(1 << 10), with_batch(8, 1), data, nullptr, folder / "never"), Error);
}

TEST(TrainerTest, WrongDataIsRefused) {
  const TemporaryFolder folder;
  const MemoryTokens data(tiny_text(4)), other(tiny_text(5)), one({3});
  TrainerOptions options = tiny_options();
  options.steps = 1;
  const auto refusal = [&](const TrainingCheckpoint& start, const TokenSource& tokens,
                           const TokenSource* validation) -> std::string {
    try {
      Trainer(cpu(), start, tokens, validation, folder / "run").run({}, {});
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), StatusCode::invalid_argument);
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(refusal(fresh(options), data, nullptr), "");
  TrainingCheckpoint further = load_newest_checkpoint(folder / "run");
  further.state.options.steps = 2;
  EXPECT_NE(refusal(further, other, nullptr).find("the data has 250 tokens"), std::string::npos);
  EXPECT_EQ(refusal(further, data, nullptr), "");
  EXPECT_NE(refusal(fresh(options), one, nullptr).find("1 tokens"), std::string::npos);
  EXPECT_NE(refusal(fresh(options), data, &one).find("validation data has 1"), std::string::npos);
}

TEST(TrainerTest, AFolderInUseIsRefused) {
  const TemporaryFolder folder;
  const MemoryTokens data(tiny_text(4));
  TrainerOptions options = tiny_options();
  options.steps = 1;
  Trainer trainer(cpu(), fresh(options), data, nullptr, folder / "run");
  std::filesystem::create_directories(folder / "run");
  {
    const FolderLock lock(folder / "run");
    EXPECT_THROW(trainer.run({}, {}), Error);
    EXPECT_TRUE(list_checkpoints(folder / "run").empty());
  }
  EXPECT_TRUE(trainer.run({}, {}));
}

TEST(TrainerTest, SkippedStepsAreLogged) {
  const TemporaryFolder folder;
  const MemoryTokens data(tiny_text(4));
  TrainerOptions options = tiny_options();
  options.steps = 2;
  options.optimizer.skip_above = 1e-9;
  Trainer trainer(cpu(), fresh(options), data, nullptr, folder / "run");
  EXPECT_TRUE(trainer.run(
      {}, [](const StepReport& report) { EXPECT_NE(report_line(report).find("left out"), std::string::npos); }));
  for (const auto& row : log_rows(folder / "run")) EXPECT_EQ(row["skipped"], true);
}

}  // namespace
}  // namespace riverhorse::test
