// riverhorse train from end to end with the tiny presets, and forward --gradients.
#include <algorithm>
#include <cmath>

#include "train_cli_fixture.h"

namespace riverhorse {
namespace {

TEST_F(TrainCli, FromNothingToAModelThatGenerates) {
  const std::string data = tokens_file("train.safetensors", 30), validation = tokens_file("held.safetensors", 2);
  const std::string folder = temporary("end_to_end");
  const ChildResult result = train(
      "--preset tiny-hybrid --set resid_pdrop=0.01 --steps 30 --checkpoint-every 10 "
      "--keep 1 --warmup 3 --schedule wsd --validate-every 5 --validation-data " +
      validation + " " + small(data, folder));
  expect_success(result);
  for (const char* part : {"\"n_embd\": 64", "\"resid_pdrop\": 0.01", "\"learning_rate\": 0.005", " parameters; ",
                           "48 tokens a step", " MB on cpu:0", "done: "}) {
    EXPECT_NE(result.out.find(part), std::string::npos) << part << " is not in " << result.out;
  }
  for (const char* part : {"step 30/30", "loss ", "tokens/s", " MB  ", " left", "validation loss"}) {
    EXPECT_NE(result.err.find(part), std::string::npos) << result.err;
  }
  EXPECT_EQ(result.err.find("MFU"), std::string::npos) << "nobody said what the peak is: " << result.err;
  const auto log = rows(folder);
  ASSERT_EQ(log.size(), 30u);
  EXPECT_LT(log.back()["loss"].get<double>(), log.front()["loss"].get<double>() - 1);
  EXPECT_TRUE(log[4]["validation_loss"].is_number());
  const std::string model = folder + "/step-00000030";
  EXPECT_FALSE(std::filesystem::exists(folder + "/step-00000010"));
  expect_success(run({"info", "--model", model}));
  expect_success(run({"generate", "--model", model, "--prompt", "A river", "--max-tokens", "4", "--backend", "cpu"}));

  // From its weights: the first loss is where that training ended, not where a new model begins.
  const std::string next = temporary("from_weights");
  expect_success(train("--from " + model + " --steps 1 --set resid_pdrop=0 " + small(data, next)));
  EXPECT_LT(rows(next)[0]["loss"].get<double>(), log.front()["loss"].get<double>() - 1);
  EXPECT_EQ(rows(next)[0]["step"], 1);
}

TEST_F(TrainCli, CtrlCSavesAndResumeGoesOnExactly) {
  const std::string data = tokens_file("resume.safetensors", 20);
  const std::string whole = temporary("whole"), parts = temporary("parts");
  const std::string options = "--preset tiny --set embed_pdrop=0.1 --steps 60 --accumulation 2 ";
  expect_success(train(options + small(data, whole)));
  const ChildResult stopped = train(options + small(data, parts), 1);  // once the plan is printed
  expect_success(stopped);
  EXPECT_NE(stopped.out.find("stopped after step "), std::string::npos) << stopped.out;
  EXPECT_NE(stopped.out.find("--resume " + parts), std::string::npos) << stopped.out;
  EXPECT_LT(rows(parts).size(), 60u);
  const ChildResult resumed = train("--resume " + parts);
  expect_success(resumed);
  EXPECT_NE(resumed.out.find("done: " + parts + "/step-00000060"), std::string::npos) << resumed.out;
  EXPECT_EQ(rows(parts), rows(whole));
  EXPECT_EQ(read_whole_file(parts + "/step-00000060/model.safetensors"),
            read_whole_file(whole + "/step-00000060/model.safetensors"));
  const ChildResult nothing = train("--resume " + parts);
  expect_success(nothing);
  EXPECT_NE(nothing.out.find("all 60 steps are done"), std::string::npos) << nothing.out;
  expect_success(train("--resume " + parts + " --steps 61"));
  EXPECT_EQ(rows(parts).size(), 61u);
}

// Killed again and again, and gone on with each time, until it is done: the log is that of one uninterrupted run.
TEST_F(TrainCli, KilledAnywhereItGoesOnExactly) {
  const std::string data = tokens_file("killed.safetensors", 20);
  const std::string whole = temporary("never_killed"), parts = temporary("killed");
  const std::string options = "--preset tiny --steps 40 --checkpoint-every 2 --keep 1 ";
  expect_success(train(options + small(data, whole)));
  int kills = 0;
  // Each time it gets a little longer, so that a slow machine comes to the end too.
  for (int milliseconds = 20; !std::filesystem::exists(parts + "/step-00000040"); milliseconds += 27) {
    ASSERT_LT(kills, 400);
    // With all steps of a shorter training done, --resume does nothing, and says whether there is a checkpoint.
    const bool begun = train("--resume " + parts + " --steps 1").status == 0;
    const std::string command = begun ? "--resume " + parts : options + small(data, parts);
    const std::string killer = "OMP_NUM_THREADS=1 timeout -s KILL " + std::to_string(milliseconds * 1e-3) + " " +
                               RIVERHORSE_PROGRAM + " train --backend cpu " + command + " >/dev/null 2>&1";
    kills += std::system(killer.c_str()) != 0;
  }
  EXPECT_GT(kills, 0);
  std::printf("[  NOTE    ] %d kills\n", kills);
  EXPECT_EQ(rows(parts), rows(whole));
  EXPECT_EQ(read_whole_file(parts + "/step-00000040/optimizer.safetensors"),
            read_whole_file(whole + "/step-00000040/optimizer.safetensors"));
}

// Every flag with a value that is not the default, as the checkpoint then has it; and again after --resume.
TEST_F(TrainCli, EveryFlagArrives) {
  const std::string data = tokens_file("flags.safetensors", 3), folder = temporary("flags");
  const std::vector<std::pair<std::string, nlohmann::json>> flags = {{"--data", {data}},
                                                                     {"--validation-data", {data}},
                                                                     {"--column", "body"},
                                                                     {"--field", "body"},
                                                                     {"--validation-percent", 0.0},
                                                                     {"--steps", 2},
                                                                     {"--batch", 1},
                                                                     {"--accumulation", 2},
                                                                     {"--length", 9},
                                                                     {"--recipe", "safari"},
                                                                     {"--learning-rate", 0.002},
                                                                     {"--ssm-learning-rate", 0.003},
                                                                     {"--beta1", 0.8},
                                                                     {"--beta2", 0.97},
                                                                     {"--epsilon", 1e-6},
                                                                     {"--weight-decay", 0.05},
                                                                     {"--clip", 0.5},
                                                                     {"--skip-above", 1e6},
                                                                     {"--schedule", "linear"},
                                                                     {"--warmup", 1},
                                                                     {"--final-fraction", 0.25},
                                                                     {"--decay-fraction", 0.5},
                                                                     {"--validate-every", 1},
                                                                     {"--validation-tokens", 20},
                                                                     {"--checkpoint-every", 1},
                                                                     {"--keep", 2},
                                                                     {"--sharded-save", true},
                                                                     {"--reset-state-at-documents", true},
                                                                     {"--auto-batch", true},
                                                                     {"--tensorboard", true},
                                                                     {"--shard", "optimizer"},
                                                                     {"--reduce-dtype", "bf16"},
                                                                     {"--sequence-parallel", 1},  // one rank's
                                                                     {"--peak-tflops", 0.5},
                                                                     {"--sample-every", 2},
                                                                     {"--sample-tokens", 3},
                                                                     {"--prompt", "ab"},
                                                                     {"--seed", 5},
                                                                     {"--dtype", "f32"},  // all that the cpu has
                                                                     {"--logits", "32"},
                                                                     {"--conv", "fft"},
                                                                     {"--recompute", "mixer"}};
  std::string command = "--config " + golden_folder + "/lm/h3-pure/config.json --output " + folder;
  for (const auto& [flag, value] : flags) {
    const nlohmann::json& one = value.is_array() ? value[0] : value;
    command += " " + flag;
    if (one.is_boolean()) continue;
    command += ' ';
    command += one.is_string() ? one.get<std::string>() : one.dump();
  }
  const auto expect_options = [&](const std::string& checkpoint, int steps) {
    const auto state = nlohmann::json::parse(read_whole_file(folder + "/" + checkpoint + "/trainer_state.json"));
    EXPECT_EQ(state["options"].size(), flags.size()) << "an option without a flag in this test";
    for (const auto& [flag, value] : flags) {
      std::string name = flag.substr(2);
      std::replace(name.begin(), name.end(), '-', '_');
      EXPECT_EQ(state["options"][name], name == "steps" ? nlohmann::json(steps) : value) << name;
    }
    EXPECT_TRUE(state["riverhorse"].is_string());
    EXPECT_EQ(state["samples"], 2 * state["step"].get<int>());
    EXPECT_EQ(state["micro_batches"], 2 * state["step"].get<int>());
    EXPECT_TRUE(state["best_loss"].is_number());
  };
  expect_success(train(command));
  expect_options("step-00000001", 2);
  expect_options("step-00000002", 2);
  expect_success(train("--resume " + folder + " --steps 3"));
  expect_options("step-00000003", 3);
  const auto log = rows(folder);
  ASSERT_EQ(log.size(), 3u);
  EXPECT_DOUBLE_EQ(log[0]["learning_rate"].get<double>(), 0.002);
  EXPECT_NEAR(log[1]["learning_rate"].get<double>(), 0.0005, 1e-12);
  EXPECT_EQ(log[2]["tokens"], 3 * 18);
}

TEST_F(TrainCli, TokenizerFilesAreCopied) {
  const std::string tokenizer = temporary("tokenizer"), folder = temporary("with_tokenizer");
  const std::string text = write_file("tokenizer/text.txt", "river horse, river horse, river horse");
  expect_success(run({"tokenize", "--input", text, "--train-bpe", "260", "--output", tokenizer + "/unused.tokens"}));
  const std::string tokenizer_json = read_whole_file(tokenizer + "/tokenizer.json");
  const std::string data = tokens_file("copied.safetensors", 3);
  expect_success(
      train("--preset tiny --set vocab_size=260 --steps 1 --tokenizer " + tokenizer + " " + small(data, folder)));
  EXPECT_EQ(read_whole_file(folder + "/step-00000001/tokenizer.json"), tokenizer_json);
  std::filesystem::remove_all(tokenizer);
  expect_success(train("--resume " + folder + " --steps 2 --keep 1"));
  EXPECT_EQ(read_whole_file(folder + "/step-00000002/tokenizer.json"), tokenizer_json);
  EXPECT_FALSE(std::filesystem::exists(folder + "/step-00000001"));
}

TEST_F(TrainCli, BadUsageIsStatus2) {
  const std::string data = tokens_file("usage.safetensors", 3);
  const std::string output = temporary("never_made");
  const std::string good = "--preset tiny --data " + data + " --output " + output + " ";
  expect_failure(train("--data " + data + " --output " + output), 2, "--preset, --config, --from");
  expect_failure(train(good + "--config x.json"), 2, "--preset, --config, --from");
  expect_failure(train(good + "--resume x"), 2, "--preset, --config, --from");
  expect_failure(train("--preset tiny --data " + data), 2, "--output");
  expect_failure(train("--preset tiny --output " + output), 2, "--data");
  expect_failure(train("--preset 9b --data x --output y"), 2, "9b");
  expect_failure(train(good + "--set width=3"), 2, "n_embd");
  expect_failure(train(good + "--set n_embd"), 2, "key=value");
  expect_failure(train(good + "--set n_layer=0"), 2, "n_layer");
  expect_failure(train(good + "--steps 0"), 2, "steps is 0; it must be an integer from 1");
  expect_failure(train(good + "--steps some"), 2, "--steps");
  expect_failure(train(good + "--beta2 1.5"), 2, "beta2 is 1.5");
  expect_failure(train(good + "--schedule stairs"), 2, "stairs");
  expect_failure(train(good + "--length 1000"), 2, "at least 1001");
  expect_failure(train("--resume x --output y"), 2, "--resume");
  expect_failure(train("--resume x --length 5"), 2, "--length");
  expect_failure(train("--resume x --seed 5"), 2, "--seed");
  expect_failure(train("--resume x --reset-state-at-documents"), 2, "--reset-state-at-documents");
  EXPECT_FALSE(std::filesystem::exists(output));

  expect_success(train(good + "--length 8 --steps 1"));
  expect_failure(train(good + "--length 8 --steps 1"), 2, "--resume " + output);
}

TEST_F(TrainCli, FailuresAreStatus1) {
  const std::string output = temporary("failed"), data = tokens_file("odd.safetensors", 3, 400);
  const std::string good = " --output " + output + " --length 8 ";
  expect_failure(train("--preset tiny --data /no/such/file" + good), 1, "/no/such/file");
  expect_failure(train("--preset tiny --data " + data + good), 1, "has id 400; the model's vocabulary is 0 to 263");
  expect_failure(train("--config /no/such/config --data " + data + good), 1, "/no/such/config");
  expect_failure(train("--from /no/such/model --data " + data + good), 1, "/no/such/model");
  expect_failure(train("--resume /no/such/run"), 1, "/no/such/run");
  expect_failure(train("--preset tiny --tokenizer /no/such --data " + data + good), 1, "/no/such");
}

// ------------------------------------------------------------------------------------------ forward --gradients

TEST_F(TrainCli, ForwardGivesTheGoldenGradients) {
  const std::string hybrid = golden_folder + "/lm/h3-hybrid/";
  const std::string output = temporary("gradients.safetensors");
  const std::vector<std::string> forward = {
      "forward",  "--model", hybrid + "model.pt", "--input",   hybrid + "io.safetensors",
      "--output", output,    "--gradients",       "--backend", "cpu"};
  expect_success(run(forward));
  const TensorFile file = read_safetensors(output), golden = read_safetensors(hybrid + "grads.safetensors");
  EXPECT_EQ(file.tensors.size(), golden.tensors.size() + 2) << "and logits and loss";
  EXPECT_NEAR(to_floats(file.at("loss"))[0], to_floats(read_safetensors(hybrid + "io.safetensors").at("loss"))[0],
              1e-4);
  for (const auto& [name, expected] : golden.tensors) {
    const HostTensor& gradient = file.at(name);
    ASSERT_EQ(gradient.shape, expected.shape) << name;
    const std::vector<float> values = to_floats(gradient), wanted = to_floats(expected);
    float worst = 0, largest = 1e-6f;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      worst = std::max(worst, std::abs(values[i] - wanted[i]));
      largest = std::max(largest, std::abs(wanted[i]));
    }
    EXPECT_LE(worst / largest, 1e-3) << name;
  }
  expect_failure(run(joined(forward, {"--dtype", "f16"})), 1, "cannot use dtype f16, only f32");
}

TEST_F(TrainCli, DevicesThatCannotTrainSaySo) {
  const std::string output = temporary("untrained"), data = tokens_file("untrained.safetensors", 3);
  const std::string hybrid = golden_folder + "/lm/h3-hybrid/";
  for (const std::string& backend : backends()) {
    if (backend == "cpu") continue;
    expect_failure(run(joined({"train", "--preset", "tiny", "--backend", backend}, words(small(data, output)))), 1,
                   "cannot train");
    expect_failure(run({"forward", "--model", hybrid + "model.pt", "--input", hybrid + "io.safetensors", "--output",
                        output, "--gradients", "--backend", backend}),
                   1, "cannot train");
    EXPECT_FALSE(std::filesystem::exists(output));
  }
}

}  // namespace
}  // namespace riverhorse
