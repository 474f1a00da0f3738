// riverhorse plan: layouts that fit, their times from a measured row, and what it refuses.
#include "cli_fixture.h"

namespace riverhorse {
namespace {

class PlanCli : public ProgramTest {
 protected:
  static std::string rows_file() {
    const std::string path = temporary("rows.json");
    const nlohmann::json row = {{"name", "train"}, {"dtype", "bf16"}, {"shape", "125m, 32 x 1024 tokens"},
                                {"wall_ms", 58.5}, {"flops", 2.5e13}, {"tokens", 32768}};
    nlohmann::json slow = row, quiet = row;
    slow["shape"] = "125m, 32 x 1024 tokens, recompute block";
    slow["wall_ms"] = 1000;
    quiet["dtype"] = "f32";
    quiet["wall_ms"] = 2000;
    std::ofstream(path) << nlohmann::json{{"schema", "riverhorse-bench-1"}, {"rows", {slow, quiet, row}}};
    return path;
  }
};

TEST_F(PlanCli, FindsWhatFitsAndHowLongItTakes) {
  const std::string rows = rows_file();
  const ChildResult one =
      run(words("plan --preset 125m --gpus 1 --batch 32 --memory 80GiB --dtype bf16 --json --rows " + rows));
  expect_success(one);
  const nlohmann::json alone = one.json();
  EXPECT_EQ(alone["row"], "125m, 32 x 1024 tokens");
  ASSERT_EQ(alone["layouts"].size(), 3u);
  EXPECT_EQ(alone["layouts"][0]["recompute"], "none");
  EXPECT_EQ(alone["layouts"][0]["sent_bytes"], 0);
  const double ms = alone["layouts"][0]["step_ms"].get<double>();
  EXPECT_GT(ms, 50);  // the flops of the row are rounded here
  EXPECT_LT(ms, 70);

  const std::string large = "plan --preset 2.7b --gpus 64 --memory 80GiB --dtype bf16 --length 2048";
  const ChildResult table = run(words(large + " --bandwidth 50GB --rows " + rows));
  expect_success(table);
  EXPECT_NE(table.out.find("--shard gradients --sequence-parallel 1 --recompute none"), std::string::npos)
      << table.out;
  EXPECT_EQ(run(words(large)).out.find("64 GPUs of 80.0 GiB"), std::string("2.7b, ").size());
}

// Of steps on an H100, by the row of each model the steps of all three; and the memory that they took.
TEST_F(PlanCli, AgreesWithWhatOneGpuMeasured) {
  struct Measured {
    std::string preset, batch, recompute, file;
    nlohmann::json row;
  };
  std::vector<Measured> all = {
      {"125m", "32", "none", "", {}}, {"355m", "32", "none", "", {}}, {"1.3b", "8", "mixer", "", {}}};
  std::string files;
  for (Measured& each : all) {
    each.file = RIVERHORSE_SOURCE_DIR "/tests/benchmarks/results/h100/cuda_train_" + each.preset + "_bf16.json";
    each.row = nlohmann::json::parse(read_whole_file(each.file))["rows"][0];
    files += " " + each.file;
  }
  for (const Measured& each : all) {
    const auto plan = [&](const std::string& rows) {
      const ChildResult result = run(words("plan --gpus 1 --memory 80GB --dtype bf16 --logits 16 --json --preset " +
                                           each.preset + " --batch " + each.batch + " --rows " + rows));
      expect_success(result);
      return result.json();
    };
    const auto layout_of = [&](const nlohmann::json& report) {
      for (const nlohmann::json& layout : report["layouts"]) {
        if (layout["recompute"] == each.recompute) return layout;
      }
      return nlohmann::json();
    };
    const double ms = each.row["wall_ms"].get<double>();
    for (const Measured& other : all) {
      SCOPED_TRACE(each.preset + " by the row of " + other.preset);
      EXPECT_NEAR(layout_of(plan(other.file))["step_ms"].get<double>() / ms, 1, 0.1);
    }
    const nlohmann::json report = plan(files), layout = layout_of(report);
    EXPECT_EQ(report["row"], each.row["shape"]) << "its own";
    EXPECT_NEAR(layout["step_ms"].get<double>(), ms, 1e-3 * ms);
    EXPECT_NEAR(layout["memory_bytes"].get<double>() / each.row["memory_bytes"].get<double>(), 1, 0.001);
  }
}

TEST_F(PlanCli, RefusesWhatItCannotPlan) {
  const std::string rows = rows_file(), few = "plan --preset 2.7b --gpus 4 --dtype bf16 ";
  expect_failure(run(words(few + "--memory 10GiB")), 1, "fits none of 10.00 GiB: at least");
  expect_failure(run(words(few + "--memory 10")), 1, "--gpus, a smaller --batch or --length");
  expect_failure(run(words(few + "--memory lots")), 2, "lots is no size");
  expect_failure(run(words(few)), 2, "--memory");
  expect_failure(run(words(few + "--memory 80GiB --rows " + rows)), 2, "needs --bandwidth");
  expect_failure(run(words(few + "--memory 80GiB --bandwidth 1GB --logits 16 --rows " + rows)), 2,
                 "no row of training");
  expect_failure(run(words(few + "--memory 80GiB --bandwidth 1GB --rows " RIVERHORSE_SOURCE_DIR "/LICENSE")), 1,
                 "/LICENSE: ");
  for (const char* rows_of_others :
       {R"({"schema": 7})", R"({"schema": "riverhorse-bench-1"})", R"({"schema": "riverhorse-bench-1", "rows": 5})",
        R"({"schema": "riverhorse-bench-1", "rows": [{"name": 3}]})"}) {
    const std::string path = temporary("other_rows.json");
    std::ofstream(path) << rows_of_others;
    expect_failure(run(words(few + "--memory 80GiB --bandwidth 1GB --rows " + path)), 1,
                   "other_rows.json: this is not what riverhorse bench train --json writes");
  }
  expect_failure(run(words(few + "--memory 80GiB --batch 6 --length 1023")), 2, "do not divide among 4 GPUs");
}

}  // namespace
}  // namespace riverhorse
