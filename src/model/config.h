// The configuration of an H3 language model, with the field names and defaults of the original's SSMSeqConfig.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "backend/ops.h"

namespace riverhorse {

struct ModelConfig {
  std::int64_t n_embd = 768;  // D
  std::int64_t n_layer = 12;
  std::optional<std::int64_t> n_inner;       // width of the MLP; empty: 4 n_embd
  std::vector<std::int64_t> attn_layer_idx;  // layers whose mixer is attention
  std::optional<std::int64_t> attn_n_head;   // required when attn_layer_idx is not empty
  std::int64_t attn_rotary_dim = 0;          // 0: no rotary embedding
  bool attn_bias = true;                     // Wqkv has a bias (out_proj always has one)
  std::int64_t ssm_head_dim = 1;             // d; H = n_embd / d
  std::int64_t ssm_d_state = 64;             // N
  std::string ssm_mode = "diag";
  std::string ssm_measure = "diag-lin";
  Discretization ssm_disc = Discretization::bilinear;
  // false: pure S4D instead of H3, y = conv(K, v) + D v; the layers have no q, no k and no shift SSM. A field of
  // ours, which config.json has only where it is false; needs ssm_head_dim 1.
  bool ssm_gating = true;
  bool ssm_use_fast_fttconv = false;  // the original's spelling; chooses HeadOrder for ssm_head_dim > 1
  double resid_pdrop = 0.0;
  double embed_pdrop = 0.0;
  double attn_pdrop = 0.0;
  double ssm_pdrop = 0.0;
  double layer_norm_epsilon = 1e-5;
  double initializer_range = 0.02;
  std::int64_t vocab_size = 50257;
  std::int64_t pad_vocab_size_multiple = 8;
  std::optional<std::int64_t> bos_token_id;
  std::optional<std::int64_t> eos_token_id;
  bool tie_word_embeddings = true;

  std::int64_t inner_width() const { return n_inner.value_or(4 * n_embd); }
  std::int64_t padded_vocab_size() const;
  std::int64_t heads() const { return n_embd / ssm_head_dim; }  // H of the H3 layers
  bool is_attention(std::int64_t layer) const;
  HeadOrder head_order() const { return ssm_use_fast_fttconv ? HeadOrder::head_major : HeadOrder::dim_major; }
};

// Parses and validates. `origin` names the source in errors (bad_file: field, value, limit). Unknown fields are
// appended to `warnings` by name.
ModelConfig parse_model_config(std::string_view json, const std::string& origin, std::vector<std::string>& warnings);
std::string model_config_json(const ModelConfig& config);

// "125m", "355m", "1.3b", "2.7b", "2.7b-rotary", "tiny", "tiny-hybrid"; empty optional when the name is unknown.
std::optional<ModelConfig> model_preset(std::string_view name);
std::vector<std::string> model_preset_names();

}  // namespace riverhorse
