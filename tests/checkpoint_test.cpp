// Checkpoints: every way in which the same model can be stored gives the same tensors.
#include "model/checkpoint.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "bad_files/builders.h"
#include "bad_files/temporary_folder.h"
#include "base/error.h"
#include "base/hash.h"
#include "model/content_hash.h"

namespace riverhorse::test {
namespace {

const std::filesystem::path models = std::filesystem::path(RIVERHORSE_TEST_DATA) / "lm";
const std::vector<std::string> model_names = {"h3-pure", "h3-hybrid", "h3-hybrid-rotary", "h3-headdim"};

bool same_bytes(const HostTensor& a, const HostTensor& b) {
  return a.bytes.size() == b.bytes.size() && std::memcmp(a.bytes.data(), b.bytes.data(), a.bytes.size()) == 0;
}

void expect_same_tensors(const Checkpoint& a, const Checkpoint& b) {
  ASSERT_EQ(a.file.tensors.size(), b.file.tensors.size());
  for (const auto& [name, tensor] : a.file.tensors) {
    const HostTensor& other = b.file.at(name);
    EXPECT_EQ(tensor.dtype, other.dtype) << name;
    EXPECT_EQ(tensor.shape, other.shape) << name;
    EXPECT_TRUE(same_bytes(tensor, other)) << name;
  }
}

TEST(Checkpoint, LoadsEveryGoldenModel) {
  for (const std::string& name : model_names) {
    const Checkpoint checkpoint = load_checkpoint(models / name, {});
    std::set<std::string> expected, found;
    for (const ParameterSpec& parameter : parameter_table(checkpoint.config)) {
      expected.insert(parameter.name);
      EXPECT_EQ(checkpoint.file.at(parameter.name).shape, parameter.shape) << name << " " << parameter.name;
    }
    for (const auto& [tensor_name, tensor] : checkpoint.file.tensors) found.insert(tensor_name);
    EXPECT_EQ(found, expected) << name;
    EXPECT_TRUE(checkpoint.warnings.empty()) << name << ": " << checkpoint.warnings.front();
    EXPECT_EQ(checkpoint.folder, models / name);
    EXPECT_EQ(checkpoint.content_hash.size(), 16u);
  }
}

// A gradient exists for every parameter, so the manifest of the golden gradients is an independent list of names and
// shapes.
TEST(Checkpoint, TableAgreesWithTheGoldenGradients) {
  const std::filesystem::path manifest_path = std::filesystem::path(RIVERHORSE_TEST_DATA) / "manifest.json";
  const nlohmann::json manifest = nlohmann::json::parse(std::ifstream(manifest_path));
  for (const std::string& name : model_names) {
    std::map<std::string, std::vector<std::int64_t>> gradients;
    for (const nlohmann::json& entry : manifest.at("tensors")) {
      if (entry.at("file") == "lm/" + name + "/grads.safetensors") {
        gradients[entry.at("tensor").get<std::string>()] = entry.at("shape").get<std::vector<std::int64_t>>();
      }
    }
    EXPECT_FALSE(gradients.empty()) << name;
    for (const ParameterSpec& parameter : parameter_table(load_checkpoint(models / name, {}).config)) {
      EXPECT_EQ(gradients["grad." + parameter.name], parameter.shape) << name << " " << parameter.name;
      gradients.erase("grad." + parameter.name);
    }
    EXPECT_TRUE(gradients.empty()) << name << ": the table lacks " << gradients.begin()->first;
  }
}

TEST(Checkpoint, OldNamesAndLightningGiveTheSameModel) {
  const std::filesystem::path folder = models / "h3-hybrid";
  const Checkpoint today = load_checkpoint(folder / "model.pt", {});
  const Checkpoint old_names = load_checkpoint(folder / "model_old_keys.pt", {});
  const Checkpoint lightning = load_checkpoint(folder / "model_old_lightning.pt", {});
  expect_same_tensors(today, old_names);
  expect_same_tensors(today, lightning);
  EXPECT_EQ(today.content_hash, old_names.content_hash);
  EXPECT_EQ(today.content_hash, lightning.content_hash);
  ASSERT_EQ(old_names.warnings.size(), 1u);
  EXPECT_NE(old_names.warnings[0].find("older version"), std::string::npos) << old_names.warnings[0];
  bool names_ignored = false;
  for (const std::string& warning : lightning.warnings) {
    names_ignored = names_ignored || warning.find("train_metrics.num_tokens.count") != std::string::npos;
  }
  EXPECT_TRUE(names_ignored) << "the tensor that is not the model's is ignored in silence";
  EXPECT_EQ(lightning.file.metadata.at("global_step"), "12345");
}

// fp16 weights are the fp32 ones rounded; the SSM's own tensors stay fp32.
TEST(Checkpoint, HalfPrecisionModelIsTheRoundedOne) {
  const Checkpoint full = load_checkpoint(models / "h3-hybrid" / "model.pt", {});
  const Checkpoint half = load_checkpoint(models / "h3-hybrid" / "model_fp16.pt", {});
  std::size_t half_tensors = 0;
  for (const auto& [name, tensor] : full.file.tensors) {
    const HostTensor& other = half.file.at(name);
    ASSERT_EQ(other.shape, tensor.shape) << name;
    if (other.dtype == DType::f32) {
      EXPECT_TRUE(same_bytes(tensor, other)) << name;
      EXPECT_TRUE(name.find("kernel.kernel") != std::string::npos || name.ends_with("mixer.D") ||
                  name.ends_with("ssm_k_D"))
          << name;
      continue;
    }
    ++half_tensors;
    EXPECT_EQ(other.dtype, DType::f16) << name;
    EXPECT_TRUE(same_bytes(convert_floats(tensor, DType::f16, name), other)) << name;
  }
  EXPECT_EQ(half_tensors, 1u + 4 * 8 + 2 * 8 + 2 * 4 + 2) << "matrices, biases and layer norms";
  EXPECT_NE(full.content_hash, half.content_hash);
}

TEST(Checkpoint, AttentionBuffersAreNoParameters) {
  const TensorFile file = read_pytorch(models / "h3-hybrid-rotary" / "model.pt");
  EXPECT_TRUE(file.tensors.contains("backbone.layers.1.mixer.rotary_emb.inv_freq"));
  EXPECT_TRUE(file.tensors.contains("lm_head.weight"));
  const Checkpoint checkpoint = load_checkpoint(models / "h3-hybrid-rotary", {});
  EXPECT_FALSE(checkpoint.file.tensors.contains("backbone.layers.1.mixer.rotary_emb.inv_freq"));
  EXPECT_FALSE(checkpoint.file.tensors.contains("lm_head.weight"));
}

TEST(Checkpoint, SafetensorsRoundTripIsExact) {
  for (const std::string& name : model_names) {
    const Checkpoint original = load_checkpoint(models / name, {});
    const ScratchFolder folder;
    write_safetensors(folder.path() / "model.safetensors", original.file.tensors, {{"format", "pt"}});
    folder.write("config.json", model_config_json(original.config));
    const Checkpoint copy = load_checkpoint(folder.path(), {});
    expect_same_tensors(original, copy);
    EXPECT_EQ(original.content_hash, copy.content_hash) << name;
    EXPECT_TRUE(copy.warnings.empty()) << copy.warnings.front();
    EXPECT_EQ(copy.file.metadata.at("format"), "pt");
  }
}

TEST(Checkpoint, TheFirst125mMatchesTheReleasedKeys) {
  const nlohmann::json released = nlohmann::json::parse(std::ifstream(models / "released_125M_keys.json"));
  const ModelConfig config = *model_preset("125m");
  nlohmann::json keys = released.at("keys");
  EXPECT_EQ(keys.size(), 291u);
  for (const ParameterSpec& parameter : parameter_table(config)) {
    ASSERT_TRUE(keys.contains(parameter.name)) << parameter.name;
    EXPECT_EQ(keys[parameter.name]["shape"].get<std::vector<std::int64_t>>(), parameter.shape) << parameter.name;
    keys.erase(parameter.name);
  }
  EXPECT_EQ(keys.size(), 1u);
  EXPECT_TRUE(keys.contains("lm_head.weight")) << "tied: the only key that is no parameter of its own";
  EXPECT_EQ(parameter_count(config), released.at("n_parameters").get<std::int64_t>());
  EXPECT_EQ(parameter_count(config), 126'387'456);
}

TEST(Checkpoint, UntiedHeadIsAParameterOfItsOwn) {
  auto tensors = small_tensors();
  const ScratchFolder folder;
  folder.write("config.json", replaced(small_config, "{", "{\"tie_word_embeddings\": false, "));
  tensors["lm_head.weight"] = make_host_tensor(std::vector<float>(12 * 8, 0.5f), {12, 8});
  const Checkpoint untied = load_checkpoint(folder.write("model.safetensors", safetensors_bytes(tensors)), {});
  EXPECT_EQ(to_floats(untied.file.at("lm_head.weight")), std::vector<float>(12 * 8, 0.5f));
  EXPECT_EQ(parameter_table(untied.config).back().name, "lm_head.weight");
  EXPECT_TRUE(parameter_table(untied.config).back().matrix);

  // The same values as the embedding: still its own when the configuration says so, dropped when it says tied.
  tensors["lm_head.weight"] = tensors["backbone.embeddings.word_embeddings.weight"];
  folder.write("model.safetensors", safetensors_bytes(tensors));
  EXPECT_TRUE(load_checkpoint(folder.path(), {}).file.tensors.contains("lm_head.weight"));
  folder.write("config.json", small_config);
  EXPECT_FALSE(load_checkpoint(folder.path(), {}).file.tensors.contains("lm_head.weight"));
}

TEST(Checkpoint, FindsItsFiles) {
  const ScratchFolder folder;
  const auto message = [](const std::filesystem::path& path, const CheckpointOptions& options) {
    try {
      load_checkpoint(path, options);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), StatusCode::not_found) << error.what();
      return std::string(error.what());
    }
    return std::string("it loaded");
  };
  EXPECT_NE(message(folder.path() / "nowhere", {}).find("no such file or folder"), std::string::npos);
  EXPECT_NE(message(folder.path(), {}).find("neither model.safetensors nor model.pt"), std::string::npos);
  folder.write("model.safetensors", safetensors_bytes(small_tensors()));
  EXPECT_NE(message(folder.path(), {}).find("config.json"), std::string::npos);

  CheckpointOptions options;
  options.config_path = folder.write("elsewhere.json", small_config);
  EXPECT_EQ(load_checkpoint(folder.path(), options).config.n_embd, 8);
  std::vector<std::string> warnings;
  CheckpointOptions given;
  given.config = parse_model_config(small_config, "given", warnings);
  EXPECT_EQ(load_checkpoint(folder.path() / "model.safetensors", given).config.n_embd, 8);
}

TEST(Checkpoint, UnknownConfigurationFieldsAreWarnings) {
  const ScratchFolder folder;
  folder.write("config.json", replaced(small_config, "{", "{\"frobnicate\": 3, "));
  folder.write("model.safetensors", safetensors_bytes(small_tensors()));
  const Checkpoint checkpoint = load_checkpoint(folder.path(), {});
  ASSERT_EQ(checkpoint.warnings.size(), 1u);
  EXPECT_NE(checkpoint.warnings[0].find("\"frobnicate\""), std::string::npos) << checkpoint.warnings[0];
}

TEST(ContentHash, SeesEveryBit) {
  const auto hash = [](const std::vector<unsigned char>& bytes) {
    return hash_bytes(std::as_bytes(std::span(bytes)), 1);
  };
  std::set<std::uint64_t> seen;
  std::size_t made = 0;
  for (const std::size_t size : {0u, 1u, 7u, 8u, 9u, 31u, 32u, 33u, 100u}) {
    std::vector<unsigned char> bytes(size, 0);
    seen.insert(hash(bytes));
    ++made;
    for (std::size_t bit = 0; bit < 8 * size; ++bit) {
      bytes[bit / 8] ^= static_cast<unsigned char>(1u << (bit % 8));
      seen.insert(hash(bytes));
      ++made;
      bytes[bit / 8] ^= static_cast<unsigned char>(1u << (bit % 8));
    }
  }
  EXPECT_EQ(seen.size(), made);
}

TEST(ContentHash, SeesNamesShapesAndConfiguration) {
  TensorFile file;
  file.tensors["a"] = make_host_tensor(std::vector<float>{1, 2, 3, 4}, {2, 2});
  ModelConfig config;
  const std::string original = content_hash(config, file);
  TensorFile renamed;
  renamed.tensors["b"] = file.tensors["a"];
  EXPECT_NE(content_hash(config, renamed), original);
  TensorFile reshaped = file;
  reshaped.tensors["a"].shape = {4, 1};
  EXPECT_NE(content_hash(config, reshaped), original);
  config.attn_rotary_dim = 2;
  EXPECT_NE(content_hash(config, file), original);
}

TEST(ContentHash, RunsAtAGigabyteASecond) {
  const std::vector<std::byte> bytes(std::size_t{64} << 20, std::byte{7});
  const auto start = std::chrono::steady_clock::now();
  const std::uint64_t hash = hash_bytes(bytes, 0);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const double rate = static_cast<double>(bytes.size()) / seconds / 1e9;
  RecordProperty("gigabytes_per_second", std::to_string(rate));
  std::printf("hash %016llx at %.1f GB/s\n", static_cast<unsigned long long>(hash), rate);
  // A busy machine or a sanitizer may slow it; only something pathological is an error here.
  EXPECT_GT(rate, 0.02);
}

}  // namespace
}  // namespace riverhorse::test
