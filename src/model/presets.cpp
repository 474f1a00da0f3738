// Named sizes: those of the released models, and tiny ones for trying things out and for tests.
#include <array>

#include "model/config.h"

namespace riverhorse {
namespace {

constexpr std::array preset_names = {"125m", "355m",        "1.3b",        "2.7b",        "2.7b-rotary",
                                     "tiny", "tiny-hybrid", "tiny-rotary", "tiny-headdim"};

// The released sizes share everything but width, depth and attention: d_state 64, head_dim 1, GPT-2's vocabulary.
ModelConfig released(std::int64_t width, std::int64_t layers, std::vector<std::int64_t> attention,
                     std::int64_t heads) {
  ModelConfig config;
  config.n_embd = width;
  config.n_layer = layers;
  config.attn_layer_idx = std::move(attention);
  config.attn_n_head = heads;
  config.bos_token_id = 50256;
  config.eos_token_id = 50256;
  return config;
}

// Byte vocabulary (0 to 255, and 256 for end of text).
ModelConfig tiny(std::vector<std::int64_t> attention) {
  ModelConfig config;
  config.n_embd = 64;
  config.n_layer = 3;
  if (!attention.empty()) config.attn_n_head = 4;
  config.attn_layer_idx = std::move(attention);
  config.ssm_d_state = 16;
  config.vocab_size = 257;
  config.pad_vocab_size_multiple = 8;
  config.bos_token_id = 256;
  config.eos_token_id = 256;
  return config;
}

}  // namespace

std::optional<ModelConfig> model_preset(std::string_view name) {
  if (name == "125m") return released(768, 12, {6}, 12);
  if (name == "355m") return released(1024, 24, {8, 16}, 16);
  if (name == "1.3b") return released(2048, 24, {8, 16}, 16);
  if (name == "2.7b") return released(2560, 32, {8, 16, 24}, 20);
  if (name == "2.7b-rotary") {
    ModelConfig config = released(2560, 32, {10, 21}, 20);
    config.attn_rotary_dim = 64;
    return config;
  }
  if (name == "tiny") return tiny({});
  if (name == "tiny-hybrid") return tiny({1});
  if (name == "tiny-rotary") {
    ModelConfig config = tiny({1});
    config.attn_rotary_dim = 8;
    return config;
  }
  if (name == "tiny-headdim") {
    ModelConfig config = tiny({1});
    config.ssm_head_dim = 8;
    return config;
  }
  return std::nullopt;
}

std::vector<std::string> model_preset_names() { return {preset_names.begin(), preset_names.end()}; }

}  // namespace riverhorse
