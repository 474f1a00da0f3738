// config.json: the original's field names, defaults, limits, and what is written back.
#include "model/config.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "model/checkpoint.h"

namespace riverhorse {
namespace {

const std::filesystem::path models = std::filesystem::path(RIVERHORSE_TEST_DATA) / "lm";

std::string read_whole(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

ModelConfig parse(const std::string& json, std::vector<std::string>* warnings_out = nullptr) {
  std::vector<std::string> warnings;
  const ModelConfig config = parse_model_config(json, "config.json", warnings);
  if (warnings_out != nullptr) *warnings_out = warnings;
  return config;
}

std::string with(const std::string& fields) {
  return R"({"n_embd": 48, "n_layer": 4, "vocab_size": 509)" + (fields.empty() ? "" : ", " + fields) + "}";
}

TEST(Config, ReadsTheGoldenConfigurations) {
  std::vector<std::string> warnings;
  const ModelConfig hybrid = parse(read_whole(models / "h3-hybrid" / "config.json"), &warnings);
  EXPECT_TRUE(warnings.empty()) << warnings.front();
  EXPECT_EQ(hybrid.n_embd, 48);
  EXPECT_EQ(hybrid.inner_width(), 192);
  EXPECT_EQ(hybrid.attn_layer_idx, (std::vector<std::int64_t>{1, 3}));
  EXPECT_EQ(hybrid.attn_n_head, 4);
  EXPECT_EQ(hybrid.attn_rotary_dim, 0);
  EXPECT_EQ(hybrid.ssm_d_state, 16);
  EXPECT_EQ(hybrid.padded_vocab_size(), 512);
  EXPECT_TRUE(hybrid.is_attention(3));
  EXPECT_FALSE(hybrid.is_attention(2));
  EXPECT_EQ(hybrid.bos_token_id, 0);
  EXPECT_TRUE(hybrid.tie_word_embeddings);

  const ModelConfig rotary = parse(read_whole(models / "h3-hybrid-rotary" / "config.json"));
  EXPECT_EQ(rotary.attn_rotary_dim, 16);
  EXPECT_EQ(rotary.inner_width(), 192);
  const ModelConfig headdim = parse(read_whole(models / "h3-headdim" / "config.json"));
  EXPECT_EQ(headdim.ssm_head_dim, 8);
  EXPECT_EQ(headdim.heads(), 4);
  EXPECT_EQ(headdim.head_order(), HeadOrder::dim_major);
}

TEST(Config, AbsentFieldsHaveTheOriginalsDefaults) {
  const ModelConfig config = parse(with(""));
  EXPECT_EQ(config.inner_width(), 192);
  EXPECT_TRUE(config.attn_layer_idx.empty());
  EXPECT_EQ(config.ssm_d_state, 64);
  EXPECT_EQ(config.ssm_head_dim, 1);
  EXPECT_EQ(config.ssm_disc, Discretization::bilinear);
  EXPECT_EQ(config.layer_norm_epsilon, 1e-5);
  EXPECT_FALSE(config.bos_token_id.has_value());
}

TEST(Config, NullMeansAbsent) {
  const ModelConfig config = parse(with(R"("n_inner": null, "attn_rotary_dim": null, "eos_token_id": null)"));
  EXPECT_FALSE(config.n_inner.has_value());
  EXPECT_EQ(config.attn_rotary_dim, 0);
  EXPECT_FALSE(config.eos_token_id.has_value());
}

TEST(Config, BothSpellingsOfTheFastConvolution) {
  EXPECT_EQ(parse(with(R"("ssm_use_fast_fttconv": true)")).head_order(), HeadOrder::head_major);
  EXPECT_EQ(parse(with(R"("ssm_use_fast_fftconv": true)")).head_order(), HeadOrder::head_major);
  EXPECT_EQ(parse(with(R"("ssm_use_fast_fftconv": false)")).head_order(), HeadOrder::dim_major);
  EXPECT_EQ(parse(with(R"("ssm_use_fast_fttconv": true, "ssm_use_fast_fftconv": true)")).head_order(),
            HeadOrder::head_major);
}

TEST(Config, UnknownFieldsWarnByName) {
  std::vector<std::string> warnings;
  parse(with(R"("learning_rate": 0.1, "n_head": 2, "model_type": "ssm")"), &warnings);
  ASSERT_EQ(warnings.size(), 2u);
  EXPECT_NE(warnings[0].find("config.json: unknown field \"learning_rate\""), std::string::npos) << warnings[0];
  EXPECT_NE(warnings[1].find("\"n_head\""), std::string::npos) << warnings[1];
}

TEST(Config, LimitsAreInclusive) {
  EXPECT_EQ(parse(R"({"n_embd": 65536, "n_layer": 1024, "vocab_size": 16777216})").n_embd, 65536);
  EXPECT_EQ(parse(R"({"n_embd": 1, "n_layer": 1, "vocab_size": 1, "ssm_d_state": 2})").padded_vocab_size(), 8);
  // The product of everything at its limit must not overflow.
  EXPECT_GT(parameter_count(parse(R"({"n_embd": 65536, "n_layer": 1024, "n_inner": 1048576, "vocab_size": 16777216,
                                      "ssm_d_state": 1024, "tie_word_embeddings": false})")),
            std::int64_t{1} << 40);
}

TEST(Config, AttentionLayersAreSorted) {
  EXPECT_EQ(parse(with(R"("attn_layer_idx": [3, 0], "attn_n_head": 4)")).attn_layer_idx,
            (std::vector<std::int64_t>{0, 3}));
}

TEST(Config, WritingAndReadingBackKeepsEverything) {
  ModelConfig config = parse(with(R"("n_inner": 100, "attn_layer_idx": [1, 2], "attn_n_head": 4, "attn_rotary_dim": 6,
    "attn_bias": false, "ssm_head_dim": 8, "ssm_d_state": 32, "ssm_measure": "diag-inv", "ssm_disc": "zoh",
    "ssm_use_fast_fttconv": true, "resid_pdrop": 0.1, "embed_pdrop": 0.2, "attn_pdrop": 0.3, "ssm_pdrop": 0.4,
    "layer_norm_epsilon": 1e-6, "initializer_range": 0.01, "pad_vocab_size_multiple": 16, "bos_token_id": 1,
    "eos_token_id": 2, "tie_word_embeddings": false)"));
  const std::string written = model_config_json(config);
  std::vector<std::string> warnings;
  const ModelConfig back = parse(written, &warnings);
  EXPECT_TRUE(warnings.empty()) << warnings.front();
  EXPECT_EQ(model_config_json(back), written);
  EXPECT_EQ(back.n_inner, 100);
  EXPECT_EQ(back.ssm_disc, Discretization::zoh);
  EXPECT_EQ(back.ssm_pdrop, 0.4);
  EXPECT_EQ(back.layer_norm_epsilon, 1e-6);
  EXPECT_FALSE(back.attn_bias);
  EXPECT_FALSE(back.tie_word_embeddings);
  EXPECT_EQ(back.eos_token_id, 2);
}

// A field of ours: what is H3 is written as the original writes it.
TEST(Config, GatingIsWrittenWhereItIsOff) {
  EXPECT_TRUE(parse(with("")).ssm_gating);
  EXPECT_EQ(model_config_json(parse(with(R"("ssm_gating": true)"))).find("ssm_gating"), std::string::npos);
  const std::string written = model_config_json(parse(with(R"("ssm_gating": false)")));
  EXPECT_FALSE(parse(written).ssm_gating);
  EXPECT_EQ(model_config_json(parse(written)), written);
  EXPECT_THROW(parse(with(R"("ssm_gating": 0)")), Error);
  EXPECT_THROW(parse(with(R"("ssm_gating": false, "ssm_head_dim": 8)")), Error);
}

// The fields of a golden configuration come back with the same values.
TEST(Config, WritesTheOriginalsFieldNames) {
  for (const char* name : {"h3-pure", "h3-hybrid", "h3-hybrid-rotary", "h3-headdim"}) {
    const std::string text = read_whole(models / name / "config.json");
    const nlohmann::json original = nlohmann::json::parse(text);
    const nlohmann::json written = nlohmann::json::parse(model_config_json(parse(text)));
    for (const auto& [field, value] : original.items()) {
      if (field.starts_with("fused_")) continue;  // choices of kernels, without effect here
      ASSERT_TRUE(written.contains(field)) << name << " " << field;
      EXPECT_EQ(written[field], value) << name << " " << field;
    }
  }
}

TEST(Presets, AreTheReleasedSizes) {
  struct Expected {
    const char* name;
    std::int64_t width, layers, heads;
    std::vector<std::int64_t> attention;
    double billions;  // what the name promises, with the embedding
  };
  const std::vector<Expected> released = {{"125m", 768, 12, 12, {6}, 0.126},
                                          {"355m", 1024, 24, 16, {8, 16}, 0.358},
                                          {"1.3b", 2048, 24, 16, {8, 16}, 1.33},
                                          {"2.7b", 2560, 32, 20, {8, 16, 24}, 2.67},
                                          {"2.7b-rotary", 2560, 32, 20, {10, 21}, 2.67}};
  for (const Expected& expected : released) {
    const auto config = model_preset(expected.name);
    ASSERT_TRUE(config.has_value()) << expected.name;
    EXPECT_EQ(config->n_embd, expected.width);
    EXPECT_EQ(config->n_layer, expected.layers);
    EXPECT_EQ(config->attn_n_head, expected.heads);
    EXPECT_EQ(config->attn_layer_idx, expected.attention);
    EXPECT_EQ(config->ssm_d_state, 64);
    EXPECT_EQ(config->padded_vocab_size(), 50264);
    EXPECT_NEAR(static_cast<double>(parameter_count(*config)) / 1e9, expected.billions, 0.03 * expected.billions)
        << expected.name;
  }
  EXPECT_EQ(model_preset("2.7b-rotary")->attn_rotary_dim, 64);
  EXPECT_EQ(model_preset("2.7b")->attn_rotary_dim, 0);
}

TEST(Presets, AreAllValid) {
  const std::vector<std::string> names = model_preset_names();
  EXPECT_EQ(names.size(), 9u);
  for (const std::string& name : names) {
    const auto config = model_preset(name);
    ASSERT_TRUE(config.has_value()) << name;
    const std::string written = model_config_json(*config);
    EXPECT_EQ(model_config_json(parse(written)), written) << name;
  }
  EXPECT_GT(model_preset("tiny-headdim")->ssm_head_dim, 1);
  EXPECT_GT(model_preset("tiny-rotary")->attn_rotary_dim, 0);
  EXPECT_TRUE(model_preset("tiny")->attn_layer_idx.empty());
  EXPECT_FALSE(model_preset("tiny-hybrid")->attn_layer_idx.empty());
  EXPECT_FALSE(model_preset("7b").has_value());
}

}  // namespace
}  // namespace riverhorse
