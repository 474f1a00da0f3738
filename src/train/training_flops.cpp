#include "train/training_flops.h"

#include "model/checkpoint.h"

namespace riverhorse {

double training_flops_per_token(const ModelConfig& config, std::int64_t length) {
  const auto width = static_cast<double>(config.n_embd);
  double flops = 2 * static_cast<double>(config.padded_vocab_size()) * width;  // the head, tied or not
  for (const ParameterSpec& parameter : parameter_table(config)) {
    const bool in_layer = parameter.name.starts_with("backbone.layers.");
    if (!parameter.matrix || !in_layer) continue;
    flops += 2 * static_cast<double>(parameter.shape[0]) * static_cast<double>(parameter.shape[1]);
  }
  const auto attention_layers = static_cast<double>(config.attn_layer_idx.size());
  const auto h3_layers = static_cast<double>(config.n_layer) - attention_layers;
  flops += attention_layers * 2 * width * static_cast<double>(length + 1);
  flops += h3_layers * 6 * width * static_cast<double>(config.ssm_d_state * config.ssm_head_dim);
  return 3 * flops;
}

double recomputed_flops_per_token(const ModelConfig& config, Recompute recompute) {
  if (recompute == Recompute::none) return 0;
  const auto width = static_cast<double>(config.n_embd), inner = static_cast<double>(config.inner_width());
  double again = 4 * width * width;  // q, k, v and output projections
  if (recompute == Recompute::block) again += width * inner;
  return 2 * again * static_cast<double>(config.n_layer - 1);
}

}  // namespace riverhorse
