// What riverhorse train shows and does besides training: logs, event files, samples, a batch that fits.
#include <algorithm>
#include <cmath>

#include "train_cli_fixture.h"

namespace riverhorse {
namespace {

class TrainOptions : public TrainCli {};

TEST_F(TrainOptions, SamplesAreShownAndChangeNothing) {
  const std::string data = tokens_file("samples.safetensors", 20);
  const std::string with = temporary("with_samples"), without = temporary("without_samples");
  const std::string options =
      "--preset tiny-hybrid --set resid_pdrop=0.1 --steps 6 --sample-tokens 5 --prompt River ";
  const ChildResult sampled = train(options + "--sample-every 2 " + small(data, with));
  expect_success(sampled);
  const ChildResult plain = train(options + small(data, without));
  expect_success(plain);
  EXPECT_EQ(rows(with), rows(without));
  EXPECT_EQ(read_whole_file(with + "/step-00000006/model.safetensors"),
            read_whole_file(without + "/step-00000006/model.safetensors"));
  EXPECT_EQ(plain.err.find("sample of step"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(without + "/samples.jsonl"));
  std::ifstream log(with + "/samples.jsonl");
  std::int64_t step = 0;
  for (std::string line; std::getline(log, line);) {
    const auto row = nlohmann::json::parse(line);
    EXPECT_EQ(row["step"], step += 2);
    EXPECT_EQ(row["prompt"], "River");
    const std::string shown = "sample of step " + std::to_string(step) + ": " + row["text"].dump() + "\n";
    EXPECT_NE(sampled.err.find(shown), std::string::npos) << shown << " is not in " << sampled.err;
  }
  EXPECT_EQ(step, 6);

  // Going on from a step continues that log too; without a prompt a text begins with the end of one before it.
  expect_success(run({"train", "--resume", with, "--steps", "8", "--sample-every", "1", "--prompt", ""},
                     {{"OMP_NUM_THREADS", "1"}}));
  EXPECT_NE(read_whole_file(with + "/samples.jsonl").find("{\"step\":8,\"prompt\":\"\""), std::string::npos);
  const std::string samples = read_whole_file(with + "/samples.jsonl");
  EXPECT_EQ(std::count(samples.begin(), samples.end(), '\n'), 5);
  expect_failure(train("--preset tiny --set vocab_size=600 --sample-every 1 " + small(data, temporary("no_text"))), 2,
                 "--sample-every needs a tokenizer");
}

TEST_F(TrainOptions, TheDtypeIsTheDevices) {
  const std::string data = tokens_file("dtype.safetensors", 5);
  expect_failure(train("--preset tiny --steps 2 --dtype bf16 " + small(data, temporary("bf16_on_cpu"))), 1,
                 "cannot use dtype bf16, only f32");
  expect_failure(train("--preset tiny --steps 2 --dtype f64 " + small(data, temporary("f64"))), 2, "--dtype");
}

#ifdef EMULATED_CUDA_LIBRARY
// In 16 bits, on the emulated CUDA: other losses than in f32, but close to them; going on needs no --dtype again.
TEST_F(TrainOptions, TrainsInMixedPrecision) {
  const ChildEnvironment environment = {{"RIVERHORSE_CUDA_LIBRARY", EMULATED_CUDA_LIBRARY}, {"OMP_NUM_THREADS", "1"}};
  const std::string data = tokens_file("mixed.safetensors", 5);
  const auto train_in = [&](const std::string& dtype) {
    const std::string folder = temporary("mixed_" + dtype);
    const std::string options = "train --backend cuda --no-selftest --preset tiny --set n_layer=1 --steps 2 --dtype ";
    expect_success(run(words(options + dtype + " " + small(data, folder)), environment));
    return folder;
  };
  const double loss = rows(train_in("f32")).at(1)["loss"];
  for (const std::string dtype : {"f16", "bf16"}) {
    const std::string folder = train_in(dtype);
    const double rounded = rows(folder).at(1)["loss"];
    EXPECT_NE(rounded, loss) << dtype;
    EXPECT_NEAR(rounded, loss, 4e-3) << dtype;  // as of the recorded training (mixed_precision_test.cpp)
    expect_success(
        run({"train", "--backend", "cuda", "--no-selftest", "--resume", folder, "--steps", "3"}, environment));
    EXPECT_EQ(
        nlohmann::json::parse(read_whole_file(folder + "/step-00000003/trainer_state.json"))["options"]["dtype"],
        dtype);
  }
}

// forward --gradients in 16 bits, without the loss scale of f16, next to the original's. A number passes some hundred
// roundings on its way forward and back, of 2^-9 in bf16, which add up like their root: 5e-2 is allowed with a factor
// of two and a half, and an eighth of it in f16.
TEST_F(TrainOptions, GradientsInMixedPrecision) {
  const ChildEnvironment environment = {{"RIVERHORSE_CUDA_LIBRARY", EMULATED_CUDA_LIBRARY}, {"OMP_NUM_THREADS", "1"}};
  const std::string hybrid = golden_folder + "/lm/h3-hybrid/";
  const auto gradients_in = [&](const std::string& dtype) {
    const std::string output = temporary("gradients_" + dtype + ".safetensors");
    expect_success(run({"forward", "--model", hybrid + "model.pt", "--input", hybrid + "io.safetensors", "--output",
                        output, "--gradients", "--backend", "cuda", "--no-selftest", "--dtype", dtype},
                       environment));
    return read_safetensors(output);
  };
  const TensorFile golden = read_safetensors(hybrid + "grads.safetensors");
  double norm = 0;
  for (const auto& [name, gradient] : golden.tensors) {
    for (const float value : to_floats(gradient)) norm += static_cast<double>(value) * value;
  }
  for (const auto& [dtype, tolerance] : {std::pair<std::string, double>("f16", 6.25e-3), {"bf16", 5e-2}}) {
    const TensorFile file = gradients_in(dtype);
    double difference = 0;
    for (const auto& [name, expected] : golden.tensors) {
      const std::vector<float> values = to_floats(file.at(name)), wanted = to_floats(expected);
      ASSERT_EQ(values.size(), wanted.size()) << name;
      for (std::size_t i = 0; i < values.size(); ++i) difference += std::pow(double{values[i]} - wanted[i], 2);
    }
    const double relative = std::sqrt(difference / norm);
    std::printf("[  NOTE    ] %s: gradients within %.1e of the norm\n", dtype.c_str(), relative);
    EXPECT_LE(relative, tolerance) << dtype;
    EXPECT_GT(relative, 1e-5) << dtype << ": nothing was rounded";
  }
}
#endif

TEST_F(TrainOptions, LogsHaveEveryField) {
  const std::string data = tokens_file("fields.safetensors", 5), folder = temporary("fields");
  const ChildResult result = train("--preset tiny --steps 2 --peak-tflops 1 --tensorboard " + small(data, folder));
  expect_success(result);
  EXPECT_NE(result.err.find("  MFU "), std::string::npos) << result.err;
  std::ifstream jsonl(folder + "/train.jsonl"), csv(folder + "/train.csv");
  std::string line, header;
  std::getline(jsonl, line);
  std::getline(csv, header);
  std::string names;
  const auto row = nlohmann::ordered_json::parse(line);
  for (const auto& [name, value] : row.items()) names += (names.empty() ? "" : ",") + name;
  EXPECT_EQ(names, header);
  for (const char* name :
       {"step", "loss", "perplexity", "learning_rate", "tokens_per_second", "mfu", "memory_bytes"}) {
    EXPECT_GT(row[name].get<double>(), 0) << name;
  }
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder + "/tensorboard"), {}), 1);
  expect_success(train("--resume " + folder + " --steps 3"));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder + "/tensorboard"), {}), 2);
  expect_success(train("--resume " + folder + " --steps 4 --tensorboard=false"));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder + "/tensorboard"), {}), 2);
}

TEST_F(TrainOptions, ABatchThatDoesNotFitIsHalved) {
  const std::string data = tokens_file("batch.safetensors", 40);
  const auto start = [&](const std::string& folder, const std::string& more) {
    return train("--preset tiny --steps 2 --batch 32 --length 24 --data " + data + " --output " + temporary(folder) +
                 " " + more);
  };
  expect_success(start("whole_batch", ""));
  std::string line;
  std::ifstream log(temporary("whole_batch") + "/train.jsonl");
  std::getline(log, line);
  const auto bytes = nlohmann::json::parse(line)["memory_bytes"].get<std::uint64_t>();
  const std::string limit = "--memory-limit " + std::to_string(bytes * 3 / 4 >> 20) + " ";
  expect_failure(start("too_small", limit), 1, "the training of 32 sequences of 24 tokens at once needs");
  const ChildResult halved = start("halved_batch", limit + "--auto-batch");
  expect_success(halved);
  EXPECT_NE(halved.err.find("does not fit"), std::string::npos) << halved.err;
  EXPECT_NE(halved.out.find("\"batch\": 16,\n \"accumulation\": 2"), std::string::npos) << halved.out;
  const auto whole = rows(temporary("whole_batch")), parts = rows(temporary("halved_batch"));
  ASSERT_EQ(parts.size(), 2u);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_NEAR(parts[i]["loss"].get<double>(), whole[i]["loss"].get<double>(), 1e-4);
  }
  expect_failure(start("never", "--memory-limit 0"), 2, "--memory-limit");
}

// The same training, at every level: what is said to be kept shrinks. Going on may choose anew.
TEST_F(TrainOptions, StagesMayBeMadeAgain) {
  const std::string data = tokens_file("again.safetensors", 20);
  std::string kept_before;
  std::vector<std::string> models;
  for (const std::string level : {"none", "mixer", "block"}) {
    const std::string folder = temporary("again_" + level);
    const ChildResult result = train("--preset tiny-hybrid --set resid_pdrop=0.1 --steps 2 --recompute " + level +
                                     " " + small(data, folder));
    expect_success(result);
    EXPECT_NE(result.err.find("recompute " + level + "; "), std::string::npos) << result.err;
    EXPECT_NE(result.out.find("\"recompute\": \"" + level + "\""), std::string::npos) << result.out;
    const std::size_t kept = result.err.find("kept activations");
    ASSERT_NE(kept, std::string::npos) << result.err;
    const std::string line = result.err.substr(kept, result.err.find('\n', kept) - kept);
    EXPECT_NE(line, kept_before);
    kept_before = line;
    EXPECT_NE(result.err.find("  total "), std::string::npos) << result.err;
    models.push_back(read_whole_file(folder + "/step-00000002/model.safetensors"));
  }
  EXPECT_EQ(models[1], models[0]);
  EXPECT_EQ(models[2], models[0]);
  const ChildResult on = train("--resume " + temporary("again_none") + " --steps 3 --recompute block");
  expect_success(on);
  EXPECT_NE(on.err.find("recompute block; "), std::string::npos) << on.err;
  expect_failure(train("--preset tiny --steps 2 --logits 16 " + small(data, temporary("logits"))), 2,
                 "logits of 16 bits");
  expect_failure(train("--preset tiny --steps 2 --recompute all " + small(data, temporary("all"))), 2, "--recompute");
}

TEST_F(TrainOptions, DocumentsMayBeKeptApart) {
  std::string lines;
  for (int i = 0; i < 20; ++i) lines += "\"Horse " + std::to_string(i) + " swims.\"\n";
  const std::string data = write_file("apart/data.jsonl", lines), folder = temporary("apart/run");
  expect_success(train("--preset tiny --steps 1 --reset-state-at-documents " + small(data, folder)));
  // Two samples of one document each: 14 or 15 letters, of which all but the first are targets, and its end.
  const auto tokens = rows(folder)[0]["tokens"].get<int>();
  EXPECT_GE(tokens, 2 * 14);
  EXPECT_LE(tokens, 2 * 15);
}

}  // namespace
}  // namespace riverhorse
