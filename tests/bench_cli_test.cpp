// The benchmarks of long convolutions: rows of every shape, with errors, and what ran; rows of peers beside them.
#include <algorithm>

#include "cli_fixture.h"

namespace riverhorse {
namespace {

using Json = nlohmann::json;

class BenchCli : public ProgramTest {
 protected:
  static Json report(const std::string& command) {
    const ChildResult result = run(words("bench " + command + " --backend cpu --json"));
    expect_success(result);
    return result.json();
  }
  static std::vector<std::string> names(const Json& report) {
    std::vector<std::string> result;
    for (const Json& row : report["rows"]) result.push_back(row["name"]);
    return result;
  }
  static void expect_measured(const Json& row) {
    EXPECT_GT(row["device_ms"].get<double>(), 0) << row;
    EXPECT_GT(row["repetitions"].get<int>(), 0) << row;
    EXPECT_GT(row["percent_of_copy"].get<double>(), 0) << row;
    EXPECT_LT(row["relative_error"].get<double>(), 1e-5) << row;
    EXPECT_FALSE(row["relative_errors"].empty()) << row;
  }
  // A program in the place of Python, which does this.
  static std::string interpreter(const std::string& name, const std::string& body) {
    const std::string path = temporary(name);
    std::ofstream(path) << "#!/bin/sh\n" << body;
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
    return path;
  }
};

TEST_F(BenchCli, MixerMeasuresEveryPassOfAShape) {
  const Json json = report("mixer --tokens 100 --batch 3 --width 5 --state 8");
  EXPECT_EQ(json["benchmark"], "mixer");
  EXPECT_EQ(names(json), (std::vector<std::string>{"forward", "forward, states kept", "backward", "step"}));
  const double tensor = 3 * 100 * 5 * 4;
  const double floors[] = {4 * tensor, 4 * tensor, 7 * tensor, 11 * tensor};
  for (std::size_t i = 0; i < 4; ++i) {
    const Json& row = json["rows"][i];
    expect_measured(row);
    EXPECT_EQ(row["shape"], "3 x 100, D 5, N 8, auto");
    EXPECT_EQ(row["batch"], 3);
    EXPECT_EQ(row["length"], 100);
    EXPECT_EQ(row["width"], 5);
    EXPECT_EQ(row["state"], 8);
    EXPECT_EQ(row["conv"], "auto");
    EXPECT_EQ(row["ran"], "recurrence");
    EXPECT_EQ(row["bytes"], floors[i]);
    EXPECT_EQ(row["compared"], Json({{"batch", 2}, {"length", 100}, {"width", 4}, {"state", 8}}));
  }
  const Json& errors = json["rows"][3]["relative_errors"];
  for (const char* name : {"y", "d_qkv", "d_filter.log_a", "d_filter.gain", "d_filter.d"}) {
    EXPECT_TRUE(errors.contains(name)) << name << errors;
  }
  EXPECT_FALSE(errors.contains("entry_states")) << errors;  // the only one is zero
  EXPECT_TRUE(json["rows"][1]["relative_errors"].contains("entry_states")) << json["rows"][1];
  const ChildResult table =
      run(words("bench mixer --backend cpu --tokens 64 --width 2 --filter forward, --conv fft"));
  expect_success(table);
  EXPECT_NE(table.out.find("forward, states kept ("), std::string::npos) << table.out;
  EXPECT_NE(table.out.find("repetitions    error  ran"), std::string::npos) << table.out;
  EXPECT_EQ(table.out.find("backward ("), std::string::npos) << table.out;
}

TEST_F(BenchCli, MixerComparesTheWays) {
  const Json json = report("mixer --compare --tokens 100 --batch 1 --width 2 --filter backward --seconds 0.02");
  EXPECT_EQ(json["seconds"], 0.02);
  std::vector<std::string> rows;
  for (const Json& row : json["rows"]) {
    expect_measured(row);
    EXPECT_GT(row["copy_bytes_per_second"].get<double>(), 0) << "measured directly before";
    rows.push_back(row["conv"].get<std::string>() + " " + std::to_string(row["state"].get<int>()));
    EXPECT_EQ(row["ran"], row["conv"] == "fft" ? "fft" : "recurrence");  // the cpu has no chunked backward pass
  }
  EXPECT_EQ(rows,
            (std::vector<std::string>{"chunked 16", "fft 16", "chunked 64", "fft 64", "chunked 128", "fft 128"}));
  const Json states = report("mixer --state 4,6 --tokens 64 --width 2 --filter step --conv chunked");
  ASSERT_EQ(states["rows"].size(), 2u);
  EXPECT_EQ(states["rows"][1]["state"], 6);
  EXPECT_EQ(states["rows"][1]["ran"], "chunked + recurrence");
}

// By the way that a GPU takes in 16 bits: other numbers than the cpu's, so that there is an error to report.
TEST_F(BenchCli, MixerInSixteenBitsSaysWhichKernelRanOn_cuda) {
  if (std::getenv("RIVERHORSE_CUDA_LIBRARY") == nullptr) GTEST_SKIP() << "no CUDA backend is named";
  const ChildResult result = run(words(
      "bench mixer --backend cuda --no-selftest --compare --state 64,128 --tokens 100 --batch 1 --width 2 --json "
      "--filter forward --seconds 0.01"));
  expect_success(result);
  const Json report = result.json();
  std::vector<std::string> ran;
  for (const Json& row : report["rows"]) {
    EXPECT_EQ(row["dtype"], "bf16");
    EXPECT_GT(row["relative_errors"]["y"].get<double>(), 1e-4);
    EXPECT_LT(row["relative_errors"]["y"].get<double>(), 1.2e-2);
    if (row["name"] == "forward") ran.push_back(row["ran"]);
  }
  EXPECT_EQ(ran, (std::vector<std::string>{"chunked", "fft", "recurrence", "fft"}));  // 64 modes are too many
  const ChildResult convolution = run(
      words("bench fft_conv --backend cuda --no-selftest --tokens 64 --batch 8 --width 16 --json --filter forward"));
  expect_success(convolution);
  const Json row = convolution.json()["rows"][0];
  EXPECT_EQ(row["ran"], "direct");
  EXPECT_TRUE(row.contains("relative_error")) << "two of the sequences go the same way";
}

TEST_F(BenchCli, FftConvHasBothPasses) {
  const Json json = report("fft_conv --tokens 100 --batch 3 --width 5");
  EXPECT_EQ(names(json), (std::vector<std::string>{"forward", "backward"}));
  for (const Json& row : json["rows"]) expect_measured(row);
  EXPECT_EQ(json["rows"][0]["bytes"], 4 * (2 * 1500 + 500 + 5));
  EXPECT_FALSE(json["rows"][0].contains("state"));
  EXPECT_EQ(json["rows"][0]["shape"], "3 x 100, D 5");
}

TEST_F(BenchCli, ShapesThatMakeNoSenseAreRefused) {
  expect_failure(run(words("bench mixer --backend cpu --batch 3")), 2, "--tokens");
  expect_failure(run(words("bench mixer --backend cpu --state 7")), 2, "even");
  expect_failure(run(words("bench mixer --backend cpu --state 1000")), 2, "--state");
  expect_failure(run(words("bench fft_conv --state 16")), 2, "--state is not for bench fft_conv");
  expect_failure(run(words("bench decode --seconds 2")), 2, "--seconds");
  expect_failure(run(words("bench ops --compare")), 2, "--compare");
  expect_failure(run(words("bench mixer --compare --conv fft")), 2, "--conv");
  expect_failure(run(words("bench fft_conv --conv fft")), 2, "--conv is not for bench fft_conv");
  expect_failure(run(words("bench mixer --repetitions 3")), 2, "--repetitions");
  expect_failure(run(words("bench train --filter step")), 2, "--filter");
  expect_failure(run(words("bench ops --tokens 8")), 2, "--tokens");
  expect_failure(run(words("bench prefill --width 2")), 2, "--width");
  expect_failure(run(words("bench train --weights q8")), 2, "--weights is not for bench train");
  expect_failure(run(words("bench decode --weights q5")), 2, "--weights");
  expect_failure(run(words("bench ops --peers")), 2, "--peers");
  expect_failure(run(words("bench train --seconds 2 --repetitions 3")), 2, "--repetitions");
  expect_failure(run(words("bench mixer --backend cpu --filter nothing")), 2, "\"forward (");
}

TEST_F(BenchCli, PrefillReadsInPiecesWhatIsTooLongForOne) {
  const Json json = report("prefill --model " RIVERHORSE_SOURCE_DIR
                           "/tests/golden/lm/h3-pure --tokens 65600 --repetitions 1 --no-selftest");
  const Json& row = json["rows"][0];
  EXPECT_EQ(row["name"], "prefill");
  const double device_ms = row["device_ms"], wall_ms = row["wall_ms"];
  EXPECT_GT(device_ms, 0.8 * wall_ms) << "of all pieces: the last has 64 of 65,600 tokens";
  EXPECT_LE(device_ms, wall_ms);
}

TEST_F(BenchCli, RowsOfPeersStandBesideOurs) {
  const std::string log = temporary("arguments");
  const std::string python = interpreter("python", "echo \"$@\" > " + log + R"(
cat "$1" > )" + log + R"(.script
common='"dtype": "f32", "batch": 3, "length": 100, "width": 5'
skipped='"skipped": "no memory"'
measured='"ms": 2.5, "repetitions": 21, "bytes": 6000, "relative_error": 1.5e-3'
echo "{\"implementation\": \"Peer 1\", \"name\": \"forward\", \"operation\": \"gated\", $common, $measured}"
echo "{\"implementation\": \"Peer 2\", \"name\": \"forward\", \"operation\": \"plain\", $common, $skipped}"
)");
  const std::vector<std::string> command = words("bench fft_conv --backend cpu --tokens 100 --batch 3 --width 5");
  const ChildResult result = run(joined(command, {"--json", "--seconds", "0.01", "--peers", python}));
  expect_success(result);
  EXPECT_EQ(result.err, "");
  const Json rows = result.json()["rows"];
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_FALSE(rows[1].contains("implementation"));
  EXPECT_EQ(rows[2]["implementation"], "Peer 1");
  EXPECT_EQ(rows[2]["name"], "forward, gated");
  EXPECT_EQ(rows[2]["operation"], "gated");
  EXPECT_EQ(rows[2]["device_ms"], 2.5);
  EXPECT_EQ(rows[2]["relative_error"], 1.5e-3);
  EXPECT_GT(rows[2]["percent_of_copy"].get<double>(), 0);
  EXPECT_EQ(rows[3]["skipped"], "no memory");
  const std::string arguments = read_whole_file(log);
  EXPECT_NE(arguments.find("long_convolution.py --dtype f32 --seconds 0.01 --benchmark fft_conv --shapes 3x100x5"),
            std::string::npos)
      << arguments;
  EXPECT_EQ(read_whole_file(log + ".script"),
            read_whole_file(std::string(RIVERHORSE_SOURCE_DIR) + "/tests/peers/long_convolution.py"));
  EXPECT_FALSE(std::filesystem::exists(arguments.substr(0, arguments.find(' ')))) << "the script is left behind";
  const ChildResult table = run(joined(command, {"--peers", python}));
  EXPECT_NE(table.out.find("Peer 1: forward, gated (3 x 100, D 5)"), std::string::npos) << table.out;
}

TEST_F(BenchCli, WithoutPeersThereIsOneLineThatSaysWhy) {
  const std::string missing = interpreter("no_torch", R"(echo '{"skipped": "there is no PyTorch"}')");
  const std::string broken = interpreter("broken", "echo a; echo 'Segmentation fault' >&2; exit 139");
  const std::pair<std::string, std::string> cases[] = {{missing, "no rows of peers: there is no PyTorch"},
                                                       {broken, "Segmentation fault"},
                                                       {"/no/such/python", "/no/such/python: not found"}};
  for (const auto& [python, why] : cases) {
    const ChildResult result = run(
        joined(words("bench train --backend cpu --preset tiny-hybrid --tokens 16 --batch 1 --repetitions 1 --json"),
               {"--log-level", "warning", "--peers", python}));
    expect_success(result);
    EXPECT_EQ(result.json()["rows"].size(), 1u);
    EXPECT_NE(result.err.find(why), std::string::npos) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), python == broken ? 2 : 1) << result.err;
  }
}

TEST_F(BenchCli, TrainingGoesOnForSeconds) {
  const std::string python = interpreter("python_training", R"(echo "$@" >&2; test "$2$3$4$5$6$7$8$9" = \
"--dtypef32--seconds0.3--batch2--tokens16" && echo '{"implementation": "GPT", "name": "train", "dtype": "f32",
"batch": 2, "length": 16, "ms": 10, "repetitions": 3, "tokens": 32}' | tr -d '\n' && echo)");
  const ChildResult result =
      run(joined(words("bench train --backend cpu --preset tiny-hybrid --tokens 16 --batch 2 --seconds 0.3 --json"),
                 {"--peers", python}));
  expect_success(result);
  const Json rows = result.json()["rows"];
  ASSERT_EQ(rows.size(), 2u) << result.err;
  EXPECT_GE(rows[0]["repetitions"].get<int>(), 1);
  EXPECT_EQ(rows[1]["implementation"], "GPT");
  EXPECT_EQ(rows[1]["tokens_per_second_wall"], 3200);
}

TEST_F(BenchCli, FramesHaveABudgetEach) {
  if (backends().size() < 2) GTEST_SKIP() << "no Vulkan device";
  const ChildResult result = run(words(
      "bench frames --backend vulkan --no-selftest --preset tiny-hybrid --tokens 3 --prompt-tokens 40 --budgets "
      "300,1000000 --json"));
  expect_success(result);
  const Json rows = result.json()["rows"];
  ASSERT_EQ(rows.size(), 6u) << rows;
  for (std::size_t i = 0; i < 2; ++i) {
    const Json& row = rows[i];
    EXPECT_EQ(row["name"], "frames");
    EXPECT_EQ(row["budget_us"], i == 0 ? 300 : 1000000);
    EXPECT_EQ(row["tokens"], 3) << "all are drawn";
    const double frames = row["repetitions"];
    EXPECT_DOUBLE_EQ(row["tokens_per_second_60_frames"].get<double>(), 3 * 60 / frames);
    EXPECT_GT(row["longest_us"].get<double>(), 0);
    EXPECT_LE(row["p50_us"].get<double>(), row["p99_us"].get<double>());
    EXPECT_LE(row["p99_us"].get<double>(), row["p999_us"].get<double>());
    EXPECT_LE(row["p999_us"].get<double>(), row["longest_us"].get<double>());
  }
  EXPECT_GT(rows[0]["repetitions"].get<int>(), 3) << "tokens are cut";
  EXPECT_LE(rows[1]["repetitions"].get<int>(), 3) << "and are not";
  EXPECT_EQ(rows[0]["shape"], "tiny-hybrid, position 40, budget 300 us");
  const char* const names[] = {"clone", "rewind", "save", "load"};
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(rows[2 + i]["name"], names[i]);
    EXPECT_GT(rows[2 + i]["wall_ms"].get<double>(), 0);
    EXPECT_GT(rows[2 + i]["bytes"].get<double>(), 0);
  }
}

TEST_F(BenchCli, FramesNeedCommandBuffers) {
  const ChildResult result = run(words("bench frames --backend cpu --preset tiny-hybrid"));
  expect_failure(result, 1, "use the vulkan backend");
  const ChildResult others = run(words("bench ops --backend cpu --budgets 5"));
  expect_failure(others, 2, "--budgets is not for bench ops, but for frames");
  EXPECT_EQ(run(words("bench frames --backend vulkan --budgets 0")).status, 2);
}

}  // namespace
}  // namespace riverhorse
