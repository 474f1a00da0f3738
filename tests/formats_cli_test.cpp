// riverhorse convert and riverhorse info, run as a user runs them.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "bad_files/builders.h"
#include "bad_files/temporary_folder.h"
#include "model/checkpoint.h"
#include "model/initialization.h"

namespace riverhorse::test {
namespace {

const std::filesystem::path models = std::filesystem::path(RIVERHORSE_TEST_DATA) / "lm";

struct Outcome {
  int status = -1;
  std::string output;  // of stdout, or of both when asked for
};

Outcome run(const std::string& arguments, bool with_errors = false) {
  const std::string command =
      std::string("'") + RIVERHORSE_PROGRAM + "' " + arguments + (with_errors ? " 2>&1" : " 2>/dev/null");
  Outcome result;
  FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) return result;
  char buffer[4096];
  for (std::size_t count; (count = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) {
    result.output.append(buffer, count);
  }
  const int status = ::pclose(pipe);
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return result;
}

std::string quoted(const std::filesystem::path& path) { return "'" + path.string() + "'"; }

bool same_bytes(const HostTensor& a, const HostTensor& b) {
  return a.dtype == b.dtype && a.shape == b.shape && a.bytes.size() == b.bytes.size() &&
         std::memcmp(a.bytes.data(), b.bytes.data(), a.bytes.size()) == 0;
}

TEST(Convert, WritesTheSameModel) {
  const ScratchFolder scratch;
  const Checkpoint original = load_checkpoint(models / "h3-hybrid" / "model.pt", {});
  for (const char* name : {"model", "model_old_keys", "model_old_lightning"}) {
    const auto output = scratch.path() / "new folder" / name;
    const Outcome converted = run("convert --input " + quoted(models / "h3-hybrid" / (std::string(name) + ".pt")) +
                                  " --output " + quoted(output));
    ASSERT_EQ(converted.status, 0) << name;
    EXPECT_NE(converted.output.find("145728 parameters in 77 tensors"), std::string::npos) << converted.output;
    const Checkpoint copy = load_checkpoint(output, {});
    EXPECT_TRUE(copy.warnings.empty()) << copy.warnings.front();
    EXPECT_EQ(copy.content_hash, original.content_hash) << name;
    for (const auto& [tensor_name, tensor] : original.file.tensors) {
      EXPECT_TRUE(same_bytes(tensor, copy.file.at(tensor_name))) << name << " " << tensor_name;
    }
  }
}

TEST(Convert, ChangesTheTypeOfMatricesOnly) {
  const ScratchFolder scratch;
  const Checkpoint original = load_checkpoint(models / "h3-hybrid-rotary", {});
  for (const auto& [option, dtype] :
       {std::pair{"f32", DType::f32}, std::pair{"f16", DType::f16}, std::pair{"bf16", DType::bf16}}) {
    const auto output = scratch.path() / option;
    ASSERT_EQ(
        run("convert -i " + quoted(models / "h3-hybrid-rotary") + " -o " + quoted(output) + " --dtype " + option)
            .status,
        0);
    const Checkpoint copy = load_checkpoint(output, {});
    for (const ParameterSpec& parameter : parameter_table(copy.config)) {
      const HostTensor expected =
          convert_floats(original.file.at(parameter.name), parameter.matrix ? dtype : DType::f32, parameter.name);
      EXPECT_TRUE(same_bytes(copy.file.at(parameter.name), expected)) << option << " " << parameter.name;
    }
  }
}

TEST(Convert, QuantisesMatricesOnly) {
  const ScratchFolder scratch;
  const auto original = scratch.path() / "original";
  const std::string input = quoted(original);
  const Checkpoint random = random_checkpoint(model_preset("tiny-hybrid").value(), 1);
  ASSERT_EQ(random.config.n_embd % 32, 0);
  std::filesystem::create_directory(original);
  write_safetensors(original / "model.safetensors", random.file.tensors, {});
  std::ofstream(original / "config.json") << model_config_json(random.config);
  for (const auto& [option, dtype] : {std::pair{"q8", DType::q8}, std::pair{"q4", DType::q4}}) {
    const auto output = scratch.path() / option;
    ASSERT_EQ(run("convert -i " + input + " -o " + quoted(output) + " --weights " + option).status, 0);
    const Checkpoint copy = load_checkpoint(output, {});
    for (const ParameterSpec& parameter : parameter_table(copy.config)) {
      const HostTensor& plain = random.file.at(parameter.name);
      const HostTensor& stored = copy.file.at(parameter.name);
      const bool vocabulary = parameter.name.find("embeddings") != std::string::npos;
      const DType of_matrix = vocabulary ? DType::q8 : dtype;
      EXPECT_TRUE(same_bytes(stored, parameter.matrix ? quantise(plain, of_matrix, parameter.name) : plain))
          << option << " " << parameter.name;
    }
    const Outcome shown = run("info --model " + quoted(output));
    EXPECT_EQ(shown.status, 0);
    EXPECT_NE(shown.output.find(option), std::string::npos) << shown.output;

    // As it is, as plain numbers again, and not quantised twice.
    const auto again = scratch.path() / "again";
    ASSERT_EQ(run("convert -i " + quoted(output) + " -o " + quoted(again)).status, 0);
    EXPECT_EQ(load_checkpoint(again, {}).content_hash, copy.content_hash);
    ASSERT_EQ(run("convert -i " + quoted(output) + " -o " + quoted(again) + " --dtype f32").status, 0);
    const std::string name = "backbone.layers.0.mlp.fc1.weight";
    EXPECT_EQ(to_floats(load_checkpoint(again, {}).file.at(name)), to_floats(copy.file.at(name)));
    const Outcome twice = run("convert -i " + quoted(output) + " -o " + quoted(again) + " --weights q4", true);
    EXPECT_EQ(twice.status, 1);
    EXPECT_NE(twice.output.find("already; quantise the original"), std::string::npos) << twice.output;
  }
  const Outcome narrow =
      run("convert -i " + quoted(models / "h3-hybrid") + " -o " + quoted(scratch.path() / "narrow") + " --weights q8",
          true);
  EXPECT_EQ(narrow.status, 1);
  EXPECT_NE(narrow.output.find("multiples of 32"), std::string::npos) << narrow.output;
  EXPECT_FALSE(std::filesystem::exists(scratch.path() / "narrow"));
  EXPECT_EQ(run("convert -i x -o y --weights q8 --dtype f16").status, 2);
}

TEST(Convert, TakesTokenizerFilesAlong) {
  const ScratchFolder source, target;
  source.write("config.json", small_config);
  source.write("model.safetensors", safetensors_bytes(small_tensors()));
  source.write("vocab.json", "{\"a\": 0}");
  source.write("merges.txt", "#version: 0.2\n");
  const Outcome converted = run("convert -i " + quoted(source.path()) + " -o " + quoted(target.path()));
  ASSERT_EQ(converted.status, 0);
  std::string text;
  std::getline(std::ifstream(target.path() / "vocab.json"), text);
  EXPECT_EQ(text, "{\"a\": 0}");
  EXPECT_TRUE(std::filesystem::exists(target.path() / "merges.txt"));
  EXPECT_FALSE(std::filesystem::exists(target.path() / "tokenizer.json"));
  EXPECT_NE(converted.output.find("vocab.json"), std::string::npos) << converted.output;
}

TEST(Convert, LeavesNothingBehindWhenItFails) {
  const ScratchFolder scratch;
  const auto weights = scratch.write("model.pt", "no zip archive");
  scratch.write("config.json", small_config);
  const Outcome failed = run("convert -i " + quoted(weights) + " -o " + quoted(scratch.path() / "out"), true);
  EXPECT_EQ(failed.status, 1);
  EXPECT_NE(failed.output.find("model.pt: not a zip archive"), std::string::npos) << failed.output;
  EXPECT_FALSE(std::filesystem::exists(scratch.path() / "out"));
}

TEST(Convert, TakesAPresetForBareWeights) {
  const ScratchFolder scratch;
  const Outcome wrong = run(
      "convert -i " + quoted(models / "h3-pure" / "model.pt") + " --preset tiny -o " + quoted(scratch.path() / "out"),
      true);
  EXPECT_EQ(wrong.status, 1);
  EXPECT_NE(wrong.output.find("do not fit the given configuration"), std::string::npos) << wrong.output;
  EXPECT_EQ(run("convert -i x --preset 7b -o y").status, 2);
}

TEST(Info, ShowsAModel) {
  const Outcome shown = run("info --model " + quoted(models / "h3-hybrid"), true);
  EXPECT_EQ(shown.status, 0);
  for (const char* part : {"\"n_embd\": 48", "backbone.layers.0.mixer.q_proj.weight", "(48, 48)",
                           "145728 parameters in 77 tensors", "cpu f32", "vulkan f16", "model.pt"}) {
    EXPECT_NE(shown.output.find(part), std::string::npos) << part;
  }
}

TEST(Info, PrintsJson) {
  const Outcome shown = run("info --model " + quoted(models / "h3-hybrid") + " --check-finite --json");
  ASSERT_EQ(shown.status, 0);
  const nlohmann::json json = nlohmann::json::parse(shown.output);
  EXPECT_EQ(json.at("parameter_count"), 145728);
  EXPECT_EQ(json.at("parameters").size(), 77u);
  EXPECT_EQ(json.at("parameters")[0].at("dtype"), "f32");
  EXPECT_TRUE(json.at("problem").is_null());
  EXPECT_EQ(json.at("content_hash"), load_checkpoint(models / "h3-hybrid", {}).content_hash);
  ASSERT_EQ(json.at("memory").size(), 3u);
  std::int64_t matrix_elements = 0;
  for (const ParameterSpec& parameter : parameter_table(load_checkpoint(models / "h3-hybrid", {}).config)) {
    if (parameter.matrix) matrix_elements += parameter.shape[0] * parameter.shape[1];
  }
  for (const nlohmann::json& row : json.at("memory")) {
    EXPECT_GE(row.at("weights_bytes"), matrix_elements * (row.at("dtype") == "f16" ? 2 : 4)) << row;
    EXPECT_GE(row.at("total_bytes"), row.at("weights_bytes")) << row;
  }
}

TEST(Info, ShowsAPresetAlone) {
  const Outcome shown = run("info --preset 125m --json");
  ASSERT_EQ(shown.status, 0);
  EXPECT_EQ(nlohmann::json::parse(shown.output).at("parameter_count"), 126'387'456);
  EXPECT_EQ(run("info").status, 2) << "neither a model nor a preset";
}

TEST(Info, SaysWhatIsWrong) {
  const ScratchFolder scratch;
  scratch.write("config.json", small_config);
  auto tensors = small_tensors();
  tensors.erase("backbone.ln_f.bias");
  scratch.write("model.safetensors", safetensors_bytes(tensors));
  const Outcome shown = run("info --json --model " + quoted(scratch.path()));
  EXPECT_EQ(shown.status, 1);
  const nlohmann::json json = nlohmann::json::parse(shown.output);
  EXPECT_NE(json.at("problem").get<std::string>().find("1 missing: backbone.ln_f.bias"), std::string::npos);
  EXPECT_EQ(json.at("config").at("n_embd"), 8) << "the configuration is shown all the same";

  const Outcome text = run("info --model " + quoted(scratch.path()), true);
  EXPECT_EQ(text.status, 1);
  EXPECT_NE(text.output.find("1 missing: backbone.ln_f.bias"), std::string::npos) << text.output;
}

}  // namespace
}  // namespace riverhorse::test
