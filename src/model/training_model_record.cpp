// The forward and the backward pass of the model in training, as recordings.
#include <algorithm>

#include "model/training_model.h"

namespace riverhorse {

// S4D is H3 with q = k = 1: these rows are written once, and only those of v are projected.
Tensor TrainingModel::projected(const Layer& layer, const Tensor& qkv_rows) const {
  if (layer.attention || config_.ssm_gating) return qkv_rows;
  return qkv_rows.slice(2 * config_.n_embd, config_.n_embd);
}

Dropout TrainingModel::dropout(double p, std::int64_t site, std::int64_t elements, bool training) const {
  if (!training || p == 0) return {};
  // Of ranks that share a sequence each draws for its part of the tokens, or of the heads.
  const std::int64_t first = (first_sequence_ * sequence_.places + sequence_.place) * elements;
  return {static_cast<float>(p), static_cast<std::uint32_t>(site), device_random_, first};
}

// Site 3 i and 3 i + 1 before the norms of layer i, 3 i + 2 its attention; the last one before norm_f.
Dropout TrainingModel::residual_dropout(std::int64_t site, bool training) const {
  return dropout(site == 0 ? config_.embed_pdrop : config_.resid_pdrop, site, shape_.length * config_.n_embd,
                 training);
}

Dropout TrainingModel::attention_dropout(std::int64_t index, bool training) const {
  const std::int64_t length = sequence_.places * shape_.length;
  const std::int64_t elements = config_.attn_n_head.value() / sequence_.places * length * length;
  return dropout(config_.attn_pdrop, 3 * index + 2, elements, training);
}

void TrainingModel::record_forward(Encoder& encoder, bool training) const {
  encoder.copy({ids_, device_ids_});
  encoder.copy({random_, device_random_});
  encoder.embed({device_ids_, embedding_, embedded_});
  const Tensor* residual = &embedded_;
  for (std::int64_t i = 0; i < config_.n_layer; ++i) {
    const Layer& layer = layers_[static_cast<std::size_t>(i)];
    record_mixer_sublayer(encoder, i, *residual, training ? Pass::training : Pass::evaluation);
    record_hidden(encoder, layer);
    LinearArgs fc2;
    fc2.x = layer.hidden;
    fc2.weight = layer.fc2.weight;
    fc2.bias = layer.fc2.bias;
    fc2.rounded_bias = layer.fc2.rounded_bias;
    fc2.y = branch_;
    encoder.linear(fc2);
    residual = &layer.residual2;
  }
  encoder.residual_norm({branch_, *residual, residual_dropout(3 * config_.n_layer, training), norm_f_.weights,
                         residual_f_, x_f_, statistics_f_});
}

void TrainingModel::record_mixer_sublayer(Encoder& encoder, std::int64_t index, const Tensor& residual,
                                          Pass pass) const {
  const Layer& layer = layers_[static_cast<std::size_t>(index)];
  const bool training = pass != Pass::evaluation;
  if (pass == Pass::again) {
    // The norm alone: r1 is copied to where r2 is written soon.
    encoder.residual_norm(
        {Tensor{}, layer.residual1, Dropout{}, layer.norm1.weights, layer.residual2, layer.x1, layer.statistics1});
  } else {
    encoder.residual_norm({index == 0 ? Tensor{} : branch_, residual, residual_dropout(3 * index, training),
                           layer.norm1.weights, layer.residual1, layer.x1, layer.statistics1});
  }
  record_mixer(encoder, index, pass);
  encoder.residual_norm({branch_, layer.residual1, residual_dropout(3 * index + 1, training), layer.norm2.weights,
                         layer.residual2, layer.x2, layer.statistics2});
}

void TrainingModel::record_hidden(Encoder& encoder, const Layer& layer) const {
  LinearArgs fc1;
  fc1.x = layer.x2;
  fc1.weight = layer.fc1.weight;
  fc1.bias = layer.fc1.bias;
  fc1.rounded_bias = layer.fc1.rounded_bias;
  fc1.activation = Activation::gelu_tanh;
  fc1.y = layer.hidden;
  fc1.pre_activation = layer.pre_activation;
  encoder.linear(fc1);
}

void TrainingModel::record_mixer(Encoder& encoder, std::int64_t index, Pass pass) const {
  const bool training = pass != Pass::evaluation;
  const Layer& layer = layers_[static_cast<std::size_t>(index)];
  const std::int64_t width = config_.n_embd;
  LinearArgs in;
  in.x = layer.x1;
  in.weight = layer.qkv.weight;
  in.bias = layer.qkv.bias;
  in.rounded_bias = layer.qkv.rounded_bias;
  in.y = projected(layer, layer.qkv_rows);
  in.y_transposed = !layer.attention;
  encoder.linear(in);
  if (layer.attention) {
    record_attention(encoder, index, training);
  } else {
    if (pass != Pass::again) encoder.discretize({layer.ssm, layer.filter});
    H3MixerArgs mixer;
    mixer.qkv = layer.qkv_rows.reshape({3 * width, shape_.batch, shape_.length});
    mixer.filter = layer.filter;
    mixer.head_dim = static_cast<int>(config_.ssm_head_dim);
    mixer.head_order = config_.head_order();
    mixer.algorithm = conv_;
    mixer.y = layer.y.reshape({width, shape_.batch, shape_.length});
    if (sequence_.shared()) {
      receive_state(encoder, layer, pass);
      mixer.slots = slots_;
      mixer.positions = positions_;
      mixer.state = state_of(carried_);
    } else if (training) {
      mixer.entry_states = layer.entry_states;
    }
    encoder.h3_mixer(mixer);
    if (sequence_.shared()) send_state(encoder, pass);
  }
  LinearArgs out;
  out.x = layer.y;
  out.x_transposed = !layer.attention;
  out.weight = layer.out.weight;
  out.bias = layer.out.bias;
  out.rounded_bias = layer.out.rounded_bias;
  out.y = branch_;
  encoder.linear(out);
}

void TrainingModel::record_attention(Encoder& encoder, std::int64_t index, bool training) const {
  const Layer& layer = layers_[static_cast<std::size_t>(index)];
  const std::int64_t width = config_.n_embd;
  AttentionArgs attention;
  attention.qkv = layer.qkv_rows.reshape({shape_.batch, shape_.length, 3 * width});
  attention.heads = static_cast<int>(config_.attn_n_head.value() / sequence_.places);
  attention.y = layer.y.reshape({shape_.batch, shape_.length, width});
  attention.log_sum_exp = layer.log_sum_exp;
  attention.dropout = attention_dropout(index, training);
  record_rotary(encoder, attention.qkv, false);
  if (!sequence_.shared()) return encoder.attention(attention);
  record_to_heads(encoder, layer.qkv_rows, 3, layer.heads_qkv);
  attention.qkv = layer.heads_qkv;
  attention.y = layer.heads_y;
  encoder.attention(attention);
  record_from_heads(encoder, layer.heads_y, 1, layer.y);
}

void TrainingModel::record_attention_backward(Encoder& encoder, std::int64_t index, const Tensor& d_y,
                                              const Tensor& d_qkv) const {
  const Layer& layer = layers_[static_cast<std::size_t>(index)];
  const Shape wide = {shape_.batch, shape_.length, 3 * config_.n_embd};
  const Shape narrow = {shape_.batch, shape_.length, config_.n_embd};
  AttentionBackwardArgs attention{layer.qkv_rows.reshape(wide),
                                  static_cast<int>(config_.attn_n_head.value() / sequence_.places),
                                  attention_dropout(index, true),
                                  layer.y.reshape(narrow),
                                  layer.log_sum_exp,
                                  d_y.reshape(narrow),
                                  d_qkv.reshape(wide)};
  if (sequence_.shared()) {
    record_to_heads(encoder, d_y, 1, d_heads_y_);
    attention.qkv = layer.heads_qkv;
    attention.y = layer.heads_y;
    attention.d_y = d_heads_y_;
    attention.d_qkv = d_heads_qkv_;
  }
  encoder.attention_backward(attention);
  if (sequence_.shared()) record_from_heads(encoder, d_heads_qkv_, 3, d_qkv);
  record_rotary(encoder, d_qkv.reshape(wide), true);
}

void TrainingModel::record_rotary(Encoder& encoder, const Tensor& qkv, bool inverse) const {
  if (config_.attn_rotary_dim == 0) return;
  RotaryArgs rotary;
  rotary.qkv = qkv;
  rotary.heads = static_cast<int>(config_.attn_n_head.value());
  rotary.rotary_dim = static_cast<int>(config_.attn_rotary_dim);
  rotary.slots = slots_;  // empty where sequences are not shared
  rotary.positions = positions_;
  rotary.inverse = inverse;
  encoder.rotary(rotary);
}

void TrainingModel::record_loss(Encoder& encoder, std::optional<Gradients> gradients) const {
  CrossEntropyArgs loss;
  loss.x = x_f_;
  loss.weight = head_;
  loss.targets = targets_;
  loss.loss = loss_;
  loss.correct = correct_;
  if (gradients) {
    loss.scale = scale_;
    loss.d_x = d_x_;
    loss.d_weight = d_head_;
    loss.overwrite = *gradients == Gradients::written;
    loss.logits = logits_;
  }
  encoder.cross_entropy(loss);
}

void TrainingModel::record_again(Encoder& encoder, std::int64_t index) const {
  if (recompute_ == Recompute::none || index == config_.n_layer - 1) return;
  const Layer& layer = layers_[static_cast<std::size_t>(index)];
  record_mixer_sublayer(encoder, index, layer.residual1, Pass::again);
  if (recompute_ == Recompute::block) record_hidden(encoder, layer);
}

void TrainingModel::record_mixer_backward(Encoder& encoder, std::int64_t index, Gradients gradients) const {
  const Layer& layer = layers_[static_cast<std::size_t>(index)];
  const std::int64_t width = config_.n_embd;
  const Tensor d_y = d_y_.reshape(layer.y.shape);
  const Tensor d_qkv = d_qkv_.reshape(layer.qkv_rows.shape);
  LinearBackwardArgs out;
  out.d_y = d_branch_;
  out.x = layer.y;
  out.x_transposed = !layer.attention;
  out.weight = layer.out.weight;
  out.d_x = d_y;
  out.d_weight = layer.out.d_weight;
  out.overwrite = gradients == Gradients::written;
  encoder.linear_backward(out);
  if (layer.attention) {
    record_attention_backward(encoder, index, d_y, d_qkv);
  } else {
    H3MixerBackwardArgs mixer;
    mixer.qkv = layer.qkv_rows.reshape({3 * width, shape_.batch, shape_.length});
    mixer.filter = layer.filter;
    mixer.head_dim = static_cast<int>(config_.ssm_head_dim);
    mixer.head_order = config_.head_order();
    mixer.algorithm = conv_;
    mixer.d_y = d_y.reshape({width, shape_.batch, shape_.length});
    mixer.d_qkv = d_qkv.reshape(mixer.qkv.shape);
    mixer.d_filter = layer.d_filter;
    mixer.entry_states = layer.entry_states;
    if (sequence_.shared()) {
      receive_state_gradient(encoder);
      mixer.slots = slots_;
      mixer.positions = positions_;
      mixer.state = state_of(layer.entry);
      mixer.d_state = state_of(d_carried_);
    }
    encoder.h3_mixer_backward(mixer);
    if (sequence_.shared()) send_state_gradient(encoder);
    encoder.discretize_backward({layer.ssm, layer.filter, layer.d_filter, layer.d_ssm});
  }
  LinearBackwardArgs in;
  in.d_y = projected(layer, d_qkv);
  in.y_transposed = !layer.attention;
  in.x = layer.x1;
  in.weight = layer.qkv.weight;
  in.d_x = d_x_;
  in.d_weight = layer.qkv.d_weight;
  in.d_bias = layer.qkv.d_bias;
  in.overwrite = gradients == Gradients::written;
  encoder.linear_backward(in);
}

// d_x_ holds the gradient of the norm's output at each step, d_branch_ that of the branch before it, which ends with
// a projection: the gradient of its bias, the sum over rows of d_branch_, is made where that is written.
void TrainingModel::record_backward(Encoder& encoder, Gradients gradients, const PartDone& done) const {
  const auto norm_backward = [&](const Norm& norm, const Tensor& residual_out, const Tensor& statistics,
                                 std::int64_t site, const Linear& projection) {
    encoder.residual_norm_backward({d_x_, residual_out, statistics, residual_dropout(site, true), norm.weights,
                                    d_residual_, site == 0 ? Tensor{} : d_branch_, norm.d_weight, norm.d_bias,
                                    projection.d_bias, site == 3 * config_.n_layer});
  };
  norm_backward(norm_f_, residual_f_, statistics_f_, 3 * config_.n_layer, layers_.back().fc2);
  for (std::int64_t i = config_.n_layer - 1; i >= 0; --i) {
    const Layer& layer = layers_[static_cast<std::size_t>(i)];
    record_again(encoder, i);
    for (const Tensor& rest : arena_.between_layer_gradients(i)) encoder.zero({rest});
    LinearBackwardArgs fc2;
    fc2.d_y = d_branch_;
    fc2.x = layer.hidden;
    fc2.weight = layer.fc2.weight;
    fc2.pre_activation = layer.pre_activation;
    fc2.d_x = d_hidden_;
    fc2.d_weight = layer.fc2.d_weight;
    fc2.overwrite = gradients == Gradients::written;
    encoder.linear_backward(fc2);
    LinearBackwardArgs fc1;
    fc1.d_y = d_hidden_;
    fc1.x = layer.x2;
    fc1.weight = layer.fc1.weight;
    fc1.d_x = d_x_;
    fc1.d_weight = layer.fc1.d_weight;
    fc1.d_bias = layer.fc1.d_bias;
    fc1.overwrite = gradients == Gradients::written;
    encoder.linear_backward(fc1);
    norm_backward(layer.norm2, layer.residual2, layer.statistics2, 3 * i + 1, layer.out);
    record_mixer_backward(encoder, i, gradients);
    norm_backward(layer.norm1, layer.residual1, layer.statistics1, 3 * i,
                  i == 0 ? Linear() : layers_[static_cast<std::size_t>(i - 1)].fc2);
    if (done) done(arena_.layer_gradients(i));
  }
  encoder.embed_backward({device_ids_, d_residual_, d_embedding_});
  if (!done) return;
  for (const GradientPart& part : arena_.other_gradients()) done(part);
}

void TrainingModel::record_evaluation(Encoder& encoder) const {
  record_forward(encoder, false);
  record_loss(encoder, {});
}

// A matrix has its gradient from one product, which writes it; but for the embedding's, which has it from embed too:
// the classifier's product writes it first where it is the same matrix.
void TrainingModel::record_gradients(Encoder& encoder, Gradients gradients, const PartDone& done) const {
  if (gradients == Gradients::written) {
    for (const Tensor& sums : arena_.gradients_without_matrices()) encoder.zero({sums});
    if (!config_.tie_word_embeddings) encoder.zero({d_embedding_});
  }
  record_forward(encoder, true);
  record_loss(encoder, gradients);
  record_backward(encoder, gradients, done);
}

}  // namespace riverhorse
