// The program at work: the golden models, the self test and the benchmarks, on every backend there is.
#include <cmath>
#include <cstring>

#include "cli_fixture.h"
#include "formats/tensor_file.h"

namespace riverhorse {
namespace {

const std::string hybrid = golden_folder + "/lm/h3-hybrid/";
const std::string pure = golden_folder + "/lm/h3-pure/";

std::string ids_text(const nlohmann::json& ids) {
  std::string text;
  for (const auto& id : ids) {
    if (!text.empty()) text += ',';
    text += std::to_string(id.get<int>());
  }
  return text;
}

class CliModel : public ProgramTest {
 protected:
  static nlohmann::json golden() { return nlohmann::json::parse(read_whole_file(hybrid + "generation.json")); }
  static std::string prompt_ids(int row = 0) { return ids_text(golden()["prompt_tokens"][row]); }

  // generate, printing ids
  static std::vector<std::string> generate_ids(const std::string& backend = "cpu") {
    return {"generate",   "--model",      hybrid + "model.pt", "--prompt-ids",
            prompt_ids(), "--output-ids", "--backend",         backend};
  }
  static std::vector<std::string> generate_text(const std::string& prompt) {
    return {"generate", "-m", pure + "model.pt", "--prompt", prompt, "--backend", "cpu"};
  }
  static std::string out_of(const std::vector<std::string>& arguments) {
    const ChildResult result = run(arguments);
    expect_success(result);
    return result.out;
  }
};

// --------------------------------------------------------------------------------------------------- generate

TEST_F(CliModel, GeneratesTheGoldenTokensOnEveryBackend) {
  for (const std::string& backend : backends()) {
    for (const int row : {0, 1}) {
      const ChildResult result = run({"generate", "--model", hybrid + "model.pt", "--prompt-ids", prompt_ids(row),
                                      "--greedy", "--max-tokens", "24", "--output-ids", "--ignore-end", "--backend",
                                      backend, "--device", backend + ":0"});
      expect_success(result);
      EXPECT_EQ(result.out, ids_text(golden()["vocab_limited"]["tokens"][row]) + "\n") << backend;
      EXPECT_NE(result.err.find("tokens/s"), std::string::npos) << result.err;
    }
  }
}

TEST_F(CliModel, GeneratesTheGoldenTokensInEveryWay) {
  const std::vector<std::string> ways = {"--conv fft --piece 5",
                                         "--conv chunked --dtype f32",
                                         "--conv auto --cache none",
                                         "--no-selftest --safe-shaders",
                                         "--tune off",
                                         "--padded-vocabulary"};
  for (const std::string& backend : backends()) {
    for (const std::string& way : ways) {
      const bool padded = way == "--padded-vocabulary";
      const ChildResult result = run(joined(
          {"generate", "--model", hybrid + "model_old_keys.pt", "--config", hybrid + "config.json", "--prompt-ids",
           prompt_ids(), "--greedy", "--max-tokens", "24", "--output-ids", "--ignore-end", "--backend", backend},
          words(way)));
      expect_success(result);
      EXPECT_EQ(result.out, ids_text(golden()[padded ? "unrestricted" : "vocab_limited"]["tokens"][0]) + "\n")
          << backend << " " << way;
    }
  }
}

TEST_F(CliModel, TunesWhenItIsTold) {
  if (backends().size() < 2) GTEST_SKIP() << "no Vulkan device";
  const std::string more = "--greedy --max-tokens 4 --no-selftest --piece 16 --tune on --cache " + temporary("tuned");
  const ChildResult first = run(joined(generate_ids("vulkan"), words(more)));
  expect_success(first);
  EXPECT_EQ(first.out, "288,373,373,373\n");
  EXPECT_NE(first.err.find("tiles on vulkan:"), std::string::npos) << first.err;
  const ChildResult second = run(joined(generate_ids("vulkan"), words(more)));
  expect_success(second);
  EXPECT_EQ(second.out, first.out);
  EXPECT_EQ(second.err.find("tiles on vulkan:"), std::string::npos) << second.err;
}

TEST_F(CliModel, RunsUnderTheValidationLayer) {
  if (backends().size() < 2) GTEST_SKIP() << "no Vulkan device";
  const ChildResult result = run(joined(generate_ids("vulkan"), words("--greedy --max-tokens 4 --validation")));
  if (result.status == 1 && result.err.find("VK_LAYER_KHRONOS_validation") != std::string::npos) {
    GTEST_SKIP() << result.err;
  }
  expect_success(result);
}

TEST_F(CliModel, HalfPrecisionStaysCloseToTheGoldenTokens) {
  if (backends().size() < 2) GTEST_SKIP() << "no Vulkan device";
  const ChildResult result = run(joined(generate_ids("vulkan"), words("--greedy --max-tokens 4 --dtype f16")));
  if (result.status == 1 && result.err.find("f16") != std::string::npos) GTEST_SKIP() << result.err;
  expect_success(result);
  EXPECT_EQ(result.out, "288,373,373,373\n");
}

TEST_F(CliModel, SamplingFlagsAreHeard) {
  const std::string sampled = "--max-tokens 12 --seed 5 --temperature 1.5";
  const std::string drawn = out_of(joined(generate_ids(), words(sampled)));
  EXPECT_EQ(out_of(joined(generate_ids(), words(sampled))), drawn) << "the same seed draws the same tokens";
  EXPECT_NE(out_of(joined(generate_ids(), words("--max-tokens 12 --seed 6 --temperature 1.5"))), drawn);
  const std::string greedy = out_of(joined(generate_ids(), words("--max-tokens 12 --greedy")));
  // Each of these leaves only the likeliest token.
  for (const char* only : {"--top-k 1", "--top-p 0.000001", "--min-p 1", "--temperature 0"}) {
    EXPECT_EQ(out_of(joined(generate_ids(), joined(words("--max-tokens 12 --seed 5"), words(only)))), greedy) << only;
  }
  // Each of these keeps the greedy text from repeating 373.
  for (const char* penalty :
       {"--repetition-penalty 5", "--presence-penalty 50", "--frequency-penalty 50", "--logit-bias 373=-500"}) {
    EXPECT_NE(out_of(joined(generate_ids(), joined(words("--max-tokens 12 --greedy"), words(penalty)))), greedy)
        << penalty;
  }
  expect_failure(run(joined(generate_ids(), words("--top-p 2"))), 2, "top_p");
  expect_failure(run(joined(generate_ids(), words("--logit-bias 5"))), 2, "--logit-bias");
  expect_failure(run(joined(generate_ids(), words("--greedy --temperature 1"))), 2, "--greedy");
}

TEST_F(CliModel, KeepsToAMemoryBudget) {
  const std::string greedy = out_of(joined(generate_ids(), words("--max-tokens 8 --greedy")));
  EXPECT_EQ(out_of(joined(generate_ids(), words("--max-tokens 8 --greedy --memory-budget 1.5GiB"))), greedy);
  const std::vector<std::string> forward = {"forward",
                                            "--model",
                                            hybrid + "model.pt",
                                            "--input",
                                            hybrid + "io.safetensors",
                                            "--output",
                                            temporary("budget.safetensors"),
                                            "--backend",
                                            "cpu"};
  for (const std::vector<std::string>& command :
       {generate_ids(), forward, words("bench decode --preset tiny-hybrid --backend cpu"),
        words("bench prefill --preset tiny-hybrid --backend cpu")}) {
    const ChildResult refused = run(joined(command, words("--memory-budget 100KB")));
    expect_failure(refused, 1, "memory budget of 0.1 MiB");
    EXPECT_NE(refused.err.find("weights"), std::string::npos) << refused.err;
  }
  for (const char* size : {"2GiBs", "-1MB", "much", "0", "1e99GB"}) {
    expect_failure(run(joined(generate_ids(), {"--memory-budget", size})), 2, "--memory-budget");
  }
  expect_failure(run(words("bench ops --backend cpu --memory-budget 1GB")), 2, "--memory-budget");
}

// Complete events, ordered; on a track none overlaps another but within it; operations within submissions.
void expect_trace(const std::string& path, const std::string& device, const std::vector<std::string>& submissions,
                  const std::vector<std::string>& operations) {
  const nlohmann::json trace = nlohmann::json::parse(read_whole_file(path));
  EXPECT_EQ(trace["otherData"]["device"], device);
  std::map<int, std::vector<nlohmann::json>> open;  // by track, outermost first
  std::map<std::string, int> seen;
  double before = 0;
  for (const nlohmann::json& event : trace["traceEvents"]) {
    if (event["ph"] == "M") continue;
    ASSERT_EQ(event["ph"], "X") << event;
    const double begin = event["ts"], length = event["dur"];
    EXPECT_GE(begin, before) << event;
    EXPECT_GE(length, 0) << event;
    before = begin;
    constexpr double rounding_us = 0.01;
    std::vector<nlohmann::json>& around = open[event["tid"].get<int>()];
    const auto end = [](const nlohmann::json& each) { return each["ts"].get<double>() + each["dur"].get<double>(); };
    while (!around.empty() && begin >= end(around.back()) - rounding_us) around.pop_back();
    if (!around.empty()) {
      EXPECT_LE(begin + length, end(around.back()) + rounding_us) << event << around.back();
    }
    const std::string category = event["cat"], name = event["name"];
    if (category == "operation") {
      ASSERT_EQ(around.size(), 1u) << event;
      EXPECT_EQ(around[0]["cat"], "submission") << event;
    }
    if (category == "submission") {
      EXPECT_GT(event["args"]["tokens"], 0) << event;
    }
    ++seen[category + " " + name.substr(0, name.find('.'))];  // some name the way too: "h3_mixer.chunked"
    around.push_back(event);
  }
  for (const std::string& name : submissions) EXPECT_GT(seen["submission " + name], 0) << device << " " << name;
  for (const std::string& name : operations) EXPECT_GT(seen["operation " + name], 0) << device << " " << name;
}

TEST_F(CliModel, TracesOperationsOnEveryBackend) {
  const std::string path = temporary("trace.json");
  const std::vector<std::string> step = {"embed", "linear", "h3_step", "attention_step", "sample", "advance"};
  for (const std::string& backend : backends()) {
    SCOPED_TRACE(backend);
    const ChildResult result =
        run(joined(generate_ids(backend), {"--greedy", "--max-tokens", "24", "--no-selftest", "--trace", path}));
    expect_success(result);
    EXPECT_EQ(result.out, ids_text(golden()["vocab_limited"]["tokens"][0]) + "\n");
    expect_trace(path, backend + ":0", {"prefill", "step"}, step);
    expect_trace(path, backend + ":0", {}, {"h3_mixer", "attention"});
  }
  expect_success(run({"forward", "--model", hybrid + "model.pt", "--input", hybrid + "io.safetensors", "--output",
                      temporary("traced.safetensors"), "--backend", "cpu", "--trace", path}));
  expect_trace(path, "cpu:0", {"forward"}, {"embed", "linear", "h3_mixer", "attention", "advance"});
  const ChildResult unwritable = run(joined(generate_ids(), words("--max-tokens 1 --trace /no/such/folder/t.json")));
  expect_failure(unwritable, 1, "/no/such/folder");
  EXPECT_EQ(unwritable.out, "") << "it is known before the work";
  expect_failure(run(words("bench ops --backend cpu --trace x.json")), 2, "--trace");
  expect_failure(run({"forward", "--model", hybrid + "model.pt", "--input", hybrid + "io.safetensors", "--output",
                      temporary("traced.safetensors"), "--gradients", "--trace", path}),
                 2, "--gradients");
}

TEST_F(CliModel, BenchmarksSessionsThatStepTogether) {
  const std::string path = temporary("sessions.json");
  const ChildResult result =
      run(words("bench sessions --preset tiny-hybrid --tokens 3 --prompt-tokens 24 --batch 6 "
                "--json --backend cpu --trace " +
                path));
  expect_success(result);
  const nlohmann::json rows = result.json()["rows"];
  ASSERT_EQ(rows.size(), 4u);
  const int counts[] = {1, 2, 4, 6};
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(rows[i]["name"], "sessions");
    EXPECT_EQ(rows[i]["tokens"], counts[i]);
    EXPECT_GT(rows[i]["wall_ms"].get<double>(), 0);
    EXPECT_GT(rows[i]["tokens_per_second_wall"].get<double>(), 0) << rows[i];
    EXPECT_GT(rows[i]["bytes"].get<double>(), i == 0 ? 0 : rows[i - 1]["bytes"].get<double>());
  }
  expect_trace(path, "cpu:0", {"step"}, {"embed", "linear", "h3_step", "attention_step", "sample", "advance"});
  for (const std::string what : {"decode --prompt-tokens 8", "prefill"}) {
    expect_success(run(words("bench " + what + " --preset tiny-hybrid --tokens 4 --backend cpu --trace " + path)));
    expect_trace(path, "cpu:0", {"step"}, {"linear", "h3_step"});
    EXPECT_EQ(read_whole_file(path).find("\"prefill\"") != std::string::npos, what == "prefill");
  }
}

TEST_F(CliModel, StreamsTextAndStops) {
  const std::vector<std::string> forced_a = joined(generate_text("hip"), words("--logit-bias 97=1000 --greedy"));
  EXPECT_EQ(out_of(joined(forced_a, {"--max-tokens", "5"})), "aaaaa\n");
  EXPECT_EQ(out_of(joined(forced_a, {"--max-tokens", "5", "--echo"})), "hipaaaaa\n");
  EXPECT_EQ(out_of(joined(forced_a, {"--max-tokens", "50", "--stop", "aaa"})), "\n");
  EXPECT_EQ(out_of(joined(forced_a, {"--max-tokens", "50", "--stop-id", "97"})), "\n");
  EXPECT_EQ(out_of(joined(forced_a, {"--max-tokens", "3", "--prompt", "hop"})), "aaa\naaa\n") << "two texts";
  // Token 256 ends a text of the byte tokenizer; as a prompt it is a token only when that is asked for.
  EXPECT_EQ(out_of(joined(generate_text("hip"), words("--logit-bias 256=1000 --greedy --max-tokens 50"))), "\n");
  EXPECT_NE(out_of(joined(generate_text("<|endoftext|>"), words("--special-tokens --greedy --max-tokens 8"))),
            out_of(joined(generate_text("<|endoftext|>"), words("--greedy --max-tokens 8"))));

  const std::string file = temporary("prompt.txt");
  std::ofstream(file) << "hip";
  EXPECT_EQ(
      out_of({"generate", "-m", pure + "model.pt", "--prompt-file", file, "--greedy", "-n", "8", "--backend", "cpu"}),
      out_of(joined(generate_text("hip"), words("--greedy --max-tokens 8"))));
}

TEST_F(CliModel, SavesAndLoadsSessions) {
  const std::string session = temporary("text.session");
  const std::string whole = out_of(joined(generate_ids(), words("--greedy --max-tokens 12")));
  const std::string first =
      out_of(joined(generate_ids(), {"--greedy", "--max-tokens", "6", "--session-save", session}));
  const ChildResult second = run({"generate", "--model", hybrid + "model.pt", "--output-ids", "--greedy",
                                  "--max-tokens", "6", "--backend", "cpu", "--session-load", session});
  expect_success(second);
  EXPECT_EQ(first.substr(0, first.size() - 1) + "," + second.out, whole);
  EXPECT_NE(second.err.find("22 tokens reused"), std::string::npos) << second.err;
}

TEST_F(CliModel, CtrlCEndsItCleanly) {
  const ChildResult result =
      run(joined(generate_text("hip"), words("--greedy --max-tokens 100000000 --logit-bias 97=1000")), {}, 20);
  EXPECT_EQ(result.status, 130) << result.err;
  EXPECT_EQ(result.out.substr(0, 5), "aaaaa");
  EXPECT_EQ(result.out.back(), '\n');
  EXPECT_NE(result.err.find("tokens/s"), std::string::npos) << "the figures come all the same: " << result.err;
}

// ---------------------------------------------------------------------------------------------------- forward

TEST_F(CliModel, ForwardGivesTheGoldenLogits) {
  const TensorFile golden_io = read_safetensors(hybrid + "io.safetensors");
  for (const std::string& backend : backends()) {
    const std::string output = temporary("out_" + backend + ".safetensors");
    expect_success(run({"forward", "--model", hybrid + "model.pt", "--input", hybrid + "io.safetensors", "--output",
                        output, "--backend", backend}));
    const TensorFile file = read_safetensors(output);
    const std::vector<float> logits = to_floats(file.at("logits"));
    const std::vector<float> expected = to_floats(golden_io.at("logits"));
    ASSERT_EQ(file.at("logits").shape, golden_io.at("logits").shape);
    float worst = 0, largest = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      worst = std::max(worst, std::abs(logits[i] - expected[i]));
      largest = std::max(largest, std::abs(expected[i]));
    }
    EXPECT_LE(worst / largest, 2e-4) << backend;
    EXPECT_NEAR(to_floats(file.at("loss"))[0], to_floats(golden_io.at("loss"))[0], 1e-4) << backend;
  }
}

// --------------------------------------------------------------------------------------- self test and bench

TEST_F(CliModel, SelfTestPassesOnEveryBackend) {
  for (const std::string& backend : backends()) {
    const ChildResult json = run({"selftest", "--backend", backend, "--seconds", "4", "--json"});
    expect_success(json);
    const nlohmann::json report = json.json();
    EXPECT_TRUE(report["passed"].get<bool>());
    EXPECT_GT(report["cases"].size(), 0u);
    for (const auto& result : report["cases"]) {
      EXPECT_NE(result["result"], "failed") << result;
      if (result["result"] != "passed") continue;
      EXPECT_LE(result["error"].get<double>(), result["tolerance"].get<double>()) << result;
    }
    const ChildResult table = run({"selftest", "--backend", backend, "--seconds", "0.5"});
    expect_success(table);
    EXPECT_NE(table.out.find("passed: "), std::string::npos) << table.out;
  }
}

TEST_F(CliModel, TheSelfTestRunsAtTheFirstUse) {
  if (backends().size() < 2) GTEST_SKIP() << "no Vulkan device";
  const std::string cache = temporary("first_use");
  const std::vector<std::string> use =
      joined(generate_ids("vulkan"), {"--greedy", "--max-tokens", "1", "--cache", cache});
  const ChildResult first = run(use);
  expect_success(first);
  EXPECT_NE(first.err.find("before its first use"), std::string::npos) << first.err;
  const ChildResult second = run(use);
  expect_success(second);
  EXPECT_EQ(second.err.find("before its first use"), std::string::npos) << second.err;
}

// A row has its figures, and each figure its ceiling.
void expect_row(const nlohmann::json& row, bool device_time) {
  EXPECT_TRUE(row["name"].is_string());
  EXPECT_TRUE(row["dtype"] == "f32" || row["dtype"] == "f16");
  EXPECT_GT(row["bytes"].get<double>(), 0) << row;
  EXPECT_GT(row["bytes_per_second"].get<double>(), 0) << row;
  EXPECT_GT(row["percent_of_copy"].get<double>(), 0) << row;
  if (!device_time) return;
  EXPECT_GT(row["device_ms"].get<double>(), 0) << row;
}

void expect_ceilings(const nlohmann::json& report) {
  EXPECT_EQ(report["schema"], "riverhorse-bench-1");
  EXPECT_GT(report["ceilings"]["copy_bytes_per_second"].get<double>(), 0);
  EXPECT_GE(report["ceilings"]["copy_tensor_bytes"].get<double>(), 1 << 20);
  EXPECT_GT(report["ceilings"]["gemm_f32_flops_per_second"].get<double>(), 0);
  EXPECT_TRUE(report["device"]["driver"].is_string());
}

TEST_F(CliModel, BenchOpsHasRowsWithCeilings) {
  const std::string file = temporary("bench.json");
  const ChildResult result =
      run({"bench", "ops", "--backend", "cpu", "--filter", "embed", "--json", "--output", file});
  expect_success(result);
  EXPECT_EQ(result.out, read_whole_file(file));
  const nlohmann::json report = result.json();
  expect_ceilings(report);
  ASSERT_GT(report["rows"].size(), 0u);
  int measured = 0;
  for (const auto& row : report["rows"]) {
    EXPECT_NE(row["name"].get<std::string>().find("embed"), std::string::npos);
    if (row.contains("skipped")) continue;
    expect_row(row, true);
    ++measured;
  }
  EXPECT_GT(measured, 0);
}

TEST_F(CliModel, BenchDecodeAndPrefillHaveRowsWithCeilings) {
  const ChildResult decode = run(words(
      "bench decode --backend cpu --preset tiny-hybrid --dtype f32 --tokens 4 --prompt-tokens 9 --batch 2 --json"));
  expect_success(decode);
  expect_ceilings(decode.json());
  ASSERT_EQ(decode.json()["rows"].size(), 1u);
  expect_row(decode.json()["rows"][0], false);
  EXPECT_GT(decode.json()["rows"][0]["tokens_per_second_wall"].get<double>(), 0);

  const ChildResult quantised = run(words(
      "bench decode --backend cpu --preset tiny-hybrid --weights q4 --tokens 4 --prompt-tokens 9 --batch 2 --json"));
  expect_success(quantised);
  const auto row = quantised.json()["rows"][0];
  EXPECT_NE(row["shape"].get<std::string>().find("tiny-hybrid q4"), std::string::npos) << row.dump();
  EXPECT_LT(row["bytes"].get<double>(), decode.json()["rows"][0]["bytes"].get<double>());

  const ChildResult prefill = run({"bench", "prefill", "--backend", "cpu", "--model", pure + "model.pt", "--tokens",
                                   "33", "--repetitions", "2", "--conv", "fft"});
  expect_success(prefill);
  EXPECT_NE(prefill.out.find("ceilings of this run: copy"), std::string::npos) << prefill.out;
  EXPECT_NE(prefill.out.find("33 tokens"), std::string::npos) << prefill.out;
}

TEST_F(CliModel, BenchTrainHasARowOfSteps) {
  const ChildResult train =
      run(words("bench train --backend cpu --preset tiny-hybrid --batch 2 --tokens 33 --repetitions 3 --recompute "
                "block --json"));
  expect_success(train);
  expect_ceilings(train.json());
  ASSERT_EQ(train.json()["rows"].size(), 1u);
  const auto row = train.json()["rows"][0];
  expect_row(row, false);
  EXPECT_EQ(row["repetitions"], 3);
  EXPECT_EQ(row["tokens"], 66);
  EXPECT_EQ(row["shape"], "tiny-hybrid, 2 x 33 tokens, recompute block");
  EXPECT_GT(row["memory_bytes"].get<std::uint64_t>(), 0u);
  EXPECT_GT(row["tokens_per_second_wall"].get<double>(), 0);
  expect_failure(run(words("bench train --backend cpu --preset tiny --batch 2 --tokens 33 --logits 16")), 2,
                 "logits of 16 bits");
  expect_failure(run(words("bench train --backend cpu --preset tiny --logits 8")), 2, "--logits");
  expect_failure(run(words("bench train --backend vulkan --preset tiny-hybrid --batch 2 --tokens 33")), 1,
                 "cannot train");
}

}  // namespace
}  // namespace riverhorse
