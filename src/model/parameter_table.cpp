#include <fmt/core.h>

#include <utility>

#include "model/checkpoint.h"

namespace riverhorse {
namespace {

// Collects the parameters of one module after another, in the order of the original's state_dict.
class Table {
 public:
  void vector(const std::string& name, std::int64_t size) { entries_.push_back({name, {size}, false}); }
  void tensor(const std::string& name, std::vector<std::int64_t> shape) {
    entries_.push_back({name, std::move(shape), false});
  }
  void matrix(const std::string& name, std::int64_t rows, std::int64_t columns) {
    entries_.push_back({name, {rows, columns}, true});
  }
  void linear(const std::string& name, std::int64_t out, std::int64_t in, bool bias = true) {
    matrix(name + ".weight", out, in);
    if (bias) vector(name + ".bias", out);
  }
  void layer_norm(const std::string& name, std::int64_t width) {
    vector(name + ".weight", width);
    vector(name + ".bias", width);
  }
  std::vector<ParameterSpec> take() { return std::move(entries_); }

 private:
  std::vector<ParameterSpec> entries_;
};

void add_attention(Table& table, const std::string& mixer, const ModelConfig& config) {
  table.linear(mixer + "Wqkv", 3 * config.n_embd, config.n_embd, config.attn_bias);
  table.linear(mixer + "out_proj", config.n_embd, config.n_embd);
}

// Of H3, or with ssm_gating off of what is left of it, S4D.
void add_state_space(Table& table, const std::string& mixer, const ModelConfig& config) {
  const std::int64_t width = config.n_embd;           // D
  const std::int64_t heads = config.heads();          // H
  const std::int64_t states = config.ssm_d_state;     // N
  const std::int64_t modes = config.ssm_d_state / 2;  // n
  if (config.ssm_gating) table.vector(mixer + "ssm_k_D", width);
  table.vector(mixer + "D", heads);
  if (config.ssm_gating) {
    table.linear(mixer + "q_proj", width, width);
    table.linear(mixer + "k_proj", width, width);
  }
  table.linear(mixer + "v_proj", width, width);
  if (config.ssm_gating) {
    table.tensor(mixer + "ssm_k_kernel.kernel.B", {width, states});
    table.tensor(mixer + "ssm_k_kernel.kernel.C", {1, width, states});
  }
  table.tensor(mixer + "kernel.kernel.C", {1, heads, modes, 2});
  table.vector(mixer + "kernel.kernel.log_dt", heads);
  table.tensor(mixer + "kernel.kernel.B", {heads, modes, 2});
  table.tensor(mixer + "kernel.kernel.inv_A_real", {heads, modes});
  table.tensor(mixer + "kernel.kernel.A_imag", {heads, modes});
  table.linear(mixer + "output_linear", width, width);
}

}  // namespace

std::vector<ParameterSpec> parameter_table(const ModelConfig& config) {
  Table table;
  table.matrix("backbone.embeddings.word_embeddings.weight", config.padded_vocab_size(), config.n_embd);
  for (std::int64_t layer = 0; layer < config.n_layer; ++layer) {
    const std::string block = fmt::format("backbone.layers.{}.", layer);
    if (config.is_attention(layer)) {
      add_attention(table, block + "mixer.", config);
    } else {
      add_state_space(table, block + "mixer.", config);
    }
    table.layer_norm(block + "norm1", config.n_embd);
    table.linear(block + "mlp.fc1", config.inner_width(), config.n_embd);
    table.linear(block + "mlp.fc2", config.n_embd, config.inner_width());
    table.layer_norm(block + "norm2", config.n_embd);
  }
  table.layer_norm("backbone.ln_f", config.n_embd);
  if (!config.tie_word_embeddings) table.matrix("lm_head.weight", config.padded_vocab_size(), config.n_embd);
  return table.take();
}

std::int64_t parameter_count(const ModelConfig& config) {
  std::int64_t total = 0;
  for (const ParameterSpec& parameter : parameter_table(config)) {
    std::int64_t count = 1;
    for (const std::int64_t dimension : parameter.shape) count *= dimension;
    total += count;
  }
  return total;
}

}  // namespace riverhorse
