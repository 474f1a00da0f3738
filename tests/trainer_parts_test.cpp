// What a trainer is made of, without a device: the order of the data, the schedules, options, logs.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <numeric>
#include <set>

#include "base/error.h"
#include "trainer_fixture.h"

namespace riverhorse::test {
namespace {

std::vector<std::int32_t> counted(std::int64_t size) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(size));
  std::iota(tokens.begin(), tokens.end(), 0);
  return tokens;
}

TEST(Batches, APermutationOfEveryCount) {
  for (const std::uint64_t count : {1, 2, 3, 4, 5, 16, 17, 100, 1000, 4097}) {
    for (const std::uint64_t key : {0, 1, 99}) {
      std::set<std::uint64_t> seen;
      for (std::uint64_t i = 0; i < count; ++i) seen.insert(permuted(i, count, key));
      EXPECT_EQ(seen.size(), count) << "key " << key;
      EXPECT_LT(*seen.rbegin(), count);
    }
  }
  const std::uint64_t large = std::uint64_t{1} << 61;
  EXPECT_LT(permuted(large - 1, large, 5), large);
}

// Shuffled means: few stay in place, few keep their neighbour, and the first is not always the same.
TEST(Batches, ThePermutationShuffles) {
  constexpr std::uint64_t count = 1000;
  std::set<std::uint64_t> firsts;
  for (std::uint64_t key = 0; key < 20; ++key) {
    int fixed = 0, neighbours = 0;
    for (std::uint64_t i = 0; i < count; ++i) {
      fixed += permuted(i, count, key) == i;
      neighbours += i > 0 && permuted(i, count, key) == permuted(i - 1, count, key) + 1;
    }
    EXPECT_LT(fixed, 12) << "key " << key;  // 1 is expected of a random permutation
    EXPECT_LT(neighbours, 12) << "key " << key;
    firsts.insert(permuted(0, count, key));
  }
  EXPECT_GT(firsts.size(), 15u);
}

TEST(Batches, EverySampleOnceAnEpoch) {
  constexpr std::int64_t length = 7, size = 7 * 33 + 5;
  const MemoryTokens source(counted(size));
  const Batches batches(source, length, 3);
  EXPECT_EQ(batches.samples_per_epoch(), 33);
  std::set<std::vector<std::int64_t>> orders;
  for (std::int64_t epoch = 0; epoch < 4; ++epoch) {
    std::vector<std::int32_t> ids(7 * 33), targets(7 * 33);
    batches.read(epoch * 33, ids, targets);
    std::set<std::int32_t> scored(targets.begin(), targets.end());
    EXPECT_EQ(scored.size(), targets.size()) << "every token is a target at most once an epoch";
    EXPECT_EQ(*scored.rbegin() - *scored.begin(), 7 * 33 - 1) << "without gaps";
    std::vector<std::int64_t> order;
    for (std::int64_t i = 0; i < 33; ++i) {
      const std::int64_t first = batches.sample(epoch * 33 + i).begin;
      order.push_back(first);
      for (std::int64_t t = 0; t < length; ++t) {
        EXPECT_EQ(ids[static_cast<std::size_t>(i * length + t)], first + t);
        EXPECT_EQ(targets[static_cast<std::size_t>(i * length + t)], first + t + 1);
      }
    }
    orders.insert(order);
  }
  EXPECT_EQ(orders.size(), 4u) << "another order each epoch";
}

TEST(Batches, TheSeedDecidesAndAnyPositionCanBeRead) {
  const MemoryTokens source(counted(500));
  const Batches a(source, 8, 1), b(source, 8, 1), c(source, 8, 2);
  std::vector<std::int64_t> first, second, other;
  for (std::int64_t i = 0; i < 62; ++i) first.push_back(a.sample(i).begin);
  for (std::int64_t i = 61; i >= 0; --i) second.insert(second.begin(), b.sample(i).begin);
  for (std::int64_t i = 0; i < 62; ++i) other.push_back(c.sample(i).begin);
  EXPECT_EQ(first, second);
  EXPECT_NE(first, other);
  // Across the end of an epoch.
  std::vector<std::int32_t> ids(16), targets(16);
  a.read(61, ids, targets);
  EXPECT_EQ(ids[8], a.sample(62).begin);
}

TEST(Batches, TooLittleDataIsRefused) {
  const MemoryTokens source(counted(8));
  EXPECT_EQ(Batches(source, 7, 0).samples_per_epoch(), 1);
  try {
    const Batches batches(source, 8, 0);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("8 tokens; samples of length 8 need at least 9"), std::string::npos);
  }
}

TEST(Schedule, Values) {
  ScheduleOptions options;
  options.warmup_steps = 10;
  options.final_fraction = 0.1;
  options.decay_fraction = 0.2;
  const auto at = [&](ScheduleKind kind, std::int64_t step) {
    options.kind = kind;
    return schedule_factor(options, 110, step);
  };
  for (const ScheduleKind kind :
       {ScheduleKind::constant, ScheduleKind::linear, ScheduleKind::cosine, ScheduleKind::wsd}) {
    EXPECT_DOUBLE_EQ(at(kind, 1), 0.1);
    EXPECT_DOUBLE_EQ(at(kind, 5), 0.5);
    EXPECT_DOUBLE_EQ(at(kind, 10), 1.0);
    EXPECT_NEAR(at(kind, 110), kind == ScheduleKind::constant ? 1.0 : 0.1, 1e-15);
    EXPECT_DOUBLE_EQ(at(kind, 500), at(kind, 110));
  }
  EXPECT_DOUBLE_EQ(at(ScheduleKind::linear, 60), 0.55);
  EXPECT_DOUBLE_EQ(at(ScheduleKind::cosine, 60), 0.55);
  EXPECT_NEAR(at(ScheduleKind::cosine, 35), 0.1 + 0.9 * (0.5 + 0.5 * std::sqrt(0.5)), 1e-15);
  EXPECT_DOUBLE_EQ(at(ScheduleKind::wsd, 88), 1.0);
  EXPECT_NEAR(at(ScheduleKind::wsd, 99), 0.55, 1e-15);
  options = {ScheduleKind::linear, 0, 0.0, 0.2};
  EXPECT_DOUBLE_EQ(schedule_factor(options, 4, 1), 0.75);
  EXPECT_DOUBLE_EQ(schedule_factor(options, 4, 4), 0.0);
  options.warmup_steps = 8;  // longer than the training
  EXPECT_DOUBLE_EQ(schedule_factor(options, 4, 4), 0.5);
}

// Documents of 1, 2, 7, 1 and 12 tokens, counted upwards.
class Documents : public MemoryTokens {
 public:
  Documents() : MemoryTokens(counted(23)) {}
  std::span<const std::int64_t> document_ends() const override { return ends_; }

 private:
  std::vector<std::int64_t> ends_ = {1, 3, 10, 11, 23};
};

TEST(BatchesTest, NoSampleCrossesTheEndOfADocument) {
  const Documents source;
  const Batches batches(source, 4, 9, true);
  ASSERT_EQ(batches.samples_per_epoch(), 0 + 1 + 2 + 0 + 3);
  std::vector<std::int32_t> ids(6 * 4), targets(6 * 4);
  std::vector<std::vector<std::int32_t>> orders;
  for (const std::int64_t epoch : {0, 1}) {
    batches.read(epoch * 6, ids, targets);
    std::vector<std::int32_t> seen;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (targets[i] < 0) {
        EXPECT_EQ(ids[i], 0) << "padding";
        EXPECT_EQ(targets[i], -1);
        continue;
      }
      EXPECT_EQ(targets[i], ids[i] + 1);
      seen.push_back(targets[i]);
    }
    orders.push_back(seen);
    std::sort(seen.begin(), seen.end());
    // Every token is a target once, but for the first of each document.
    EXPECT_EQ(seen, (std::vector<std::int32_t>{2, 4, 5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22}));
  }
  EXPECT_NE(orders[0], orders[1]) << "shuffled anew each epoch";
  EXPECT_THROW(Batches(MemoryTokens({3}), 4, 9, true), Error);
}

TEST(TrainerOptionsJson, ThereAndBack) {
  TrainerOptions options = tiny_options();
  options.data = {"a file", "another"};
  options.tensorboard = true;
  options.optimizer.recipe = OptimizerRecipe::safari;
  options.optimizer.ssm_learning_rate = 1e-3;
  options.schedule.kind = ScheduleKind::wsd;
  options.conv = ConvAlgorithm::fft;
  options.seed = std::numeric_limits<std::int64_t>::max();
  const auto json = trainer_options_json(options);
  EXPECT_EQ(trainer_options_json(parse_trainer_options(nlohmann::json::parse(json.dump()), "x")), json);
  EXPECT_EQ(trainer_options_json(parse_trainer_options(nlohmann::json::object(), "x")),
            trainer_options_json(TrainerOptions()));
}

TEST(TrainerOptionsJson, WhatIsWrongIsNamed) {
  const auto refusal = [](const char* text) -> std::string {
    try {
      parse_trainer_options(nlohmann::json::parse(text), "here");
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), StatusCode::invalid_argument);
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(refusal(R"({"length": 0})"), "here: length is 0; it must be an integer from 1 to 16777216");
  EXPECT_NE(refusal(R"({"steps": 1.5})").find("steps is 1.5"), std::string::npos);
  EXPECT_NE(refusal(R"({"seed": 18446744073709551615})").find("seed is"), std::string::npos);
  EXPECT_NE(refusal(R"({"beta2": 1})").find("beta2 is 1"), std::string::npos);
  EXPECT_NE(refusal(R"({"ssm_learning_rate": "x"})").find("ssm_learning_rate is"), std::string::npos);
  EXPECT_NE(refusal(R"({"schedule": "stairs"})").find("constant, linear, cosine, wsd"), std::string::npos);
  EXPECT_NE(refusal(R"({"data": 3})").find("data is 3"), std::string::npos);
  EXPECT_NE(refusal(R"({"data": ["a", 3]})").find("must be a list of texts"), std::string::npos);
  EXPECT_NE(refusal(R"({"tensorboard": 1})").find("tensorboard is 1; it must be true or false"), std::string::npos);
}

StepReport row_of(std::int64_t step) {
  StepReport report;
  report.step = step;
  report.loss = 1.0 / 3;
  report.tokens = step * 10;
  report.memory_bytes = 4096;
  report.seconds_left = 1.5;
  if (step == 2) report.mfu = 0.25;
  if (step == 2) report.validation_loss = 0.5;
  return report;
}

TEST(TrainingLogFiles, RowsAreWrittenAndNotDoubled) {
  const TemporaryFolder folder;
  std::filesystem::create_directories(folder / "run");
  {
    TrainingLog log(folder / "run", 0);
    for (const int step : {1, 2, 3, 4}) log.add(row_of(step));
    log.sync();
  }
  std::ofstream(folder / "run/train.jsonl", std::ios::app) << "{\"step\":5,\"lo";  // cut short by a crash
  {
    TrainingLog log(folder / "run", 2);
    log.add(row_of(3));
  }
  const auto rows = log_rows(folder / "run");
  ASSERT_EQ(rows.size(), 3u);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(rows[i]["step"], i + 1);
  EXPECT_EQ(rows[0]["loss"].get<double>(), 1.0 / 3);
  EXPECT_EQ(rows[1]["validation_loss"], 0.5);
  EXPECT_EQ(rows[1]["mfu"], 0.25);
  EXPECT_EQ(rows[1]["memory_bytes"], 4096);
  EXPECT_EQ(rows[1]["seconds_left"], 1.5);
  EXPECT_TRUE(rows[2]["mfu"].is_null());
  EXPECT_TRUE(rows[2]["validation_loss"].is_null());
  std::ifstream csv(folder / "run/train.csv");
  std::vector<std::string> lines;
  for (std::string line; std::getline(csv, line);) lines.push_back(line);
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0],
            "step,loss,perplexity,learning_rate,gradient_norm,tokens_per_second,mfu,memory_bytes,seconds_left,tokens,"
            "skipped,validation_loss");
  EXPECT_EQ(lines[2], "2,0.3333333333333333,1.3956124250860895,0,0,0.0,0.25,4096,1.5,20,0,0.5");
  EXPECT_EQ(lines[3], "3,0.3333333333333333,1.3956124250860895,0,0,0.0,,4096,1.5,30,0,");
  { TrainingLog log(folder / "run", 0); }
  EXPECT_TRUE(log_rows(folder / "run").empty()) << "a new training starts a new log";
}

}  // namespace
}  // namespace riverhorse::test
