#include "model/training_model.h"

#include "base/error.h"
#include "model/upload.h"

namespace riverhorse {

namespace {

// Before anything is allocated.
std::shared_ptr<Device> training_device(std::shared_ptr<Device> device, const ModelConfig& config,
                                        const TrainingShape& shape, DType activations) {
  const Support support = device->supports(Feature::training);
  if (!support.supported) {
    fail(StatusCode::unsupported, "{} ({}) cannot train: {}", device->info().name, device->info().id(),
         support.reason);
  }
  device->require_activation(activations);
  if (config.ssm_pdrop != 0) {
    fail(StatusCode::unsupported, "ssm_pdrop is {}; the H3 layers know no dropout of their own", config.ssm_pdrop);
  }
  if (shape.batch < 1 || shape.length < 1) {
    fail(StatusCode::invalid_argument, "a micro-batch of {} sequences of {} tokens; both must be positive",
         shape.batch, shape.length);
  }
  constexpr std::int64_t most_rows = std::int64_t{1} << 31;  // no product of sizes overflows then
  if (shape.batch > most_rows / shape.length) {
    fail(StatusCode::invalid_argument, "a micro-batch of {} sequences of {} tokens; at most {} tokens are possible",
         shape.batch, shape.length, most_rows);
  }
  return device;
}

}  // namespace

TrainingModel::TrainingModel(std::shared_ptr<Device> device, const Checkpoint& checkpoint, TrainingShape shape,
                             DType activations, ConvAlgorithm conv)
    : device_(training_device(std::move(device), checkpoint.config, shape, activations)),
      config_(checkpoint.config),
      shape_(shape),
      act_(activations),
      conv_(conv),
      arena_(device_, checkpoint, activations) {
  const std::string embedding = "backbone.embeddings.word_embeddings.weight";
  embedding_ = arena_.operand(embedding);
  d_embedding_ = arena_.gradient(embedding);
  head_ = config_.tie_word_embeddings ? embedding_ : arena_.operand("lm_head.weight");
  d_head_ = config_.tie_word_embeddings ? d_embedding_ : arena_.gradient("lm_head.weight");
  norm_f_ = norm("backbone.ln_f");
  for (std::int64_t i = 0; i < config_.n_layer; ++i) layers_.push_back(make_layer(i));

  const std::int64_t rows = shape_.rows();
  const std::int64_t width = config_.n_embd;
  const auto floats = [&](Shape dimensions) { return device_->allocate_tensor(DType::f32, dimensions); };
  ids_ = device_->allocate_tensor(DType::i32, {rows}, MemoryUse::upload);
  targets_ = device_->allocate_tensor(DType::i32, {rows}, MemoryUse::upload);
  scale_ = device_->allocate_tensor(DType::f32, {1}, MemoryUse::upload);
  random_ = device_->allocate_tensor(DType::i32, {3}, MemoryUse::upload);
  loss_ = device_->allocate_tensor(DType::f32, {rows}, MemoryUse::readback);
  correct_ = device_->allocate_tensor(DType::i32, {rows}, MemoryUse::readback);
  embedded_ = floats({rows, width});
  residual_f_ = floats({rows, width});
  statistics_f_ = floats({rows, 2});
  d_residual_ = floats({rows, width});
  branch_ = activation({rows, width});
  x_f_ = activation({rows, width});
  d_branch_ = activation({rows, width});
  d_x_ = activation({rows, width});
  d_y_ = activation({rows, width});
  d_hidden_ = activation({rows, config_.inner_width()});
  d_qkv_ = activation({rows, 3 * width});
}

Tensor TrainingModel::activation(Shape shape) const { return device_->allocate_tensor(act_, shape); }

TrainingModel::Norm TrainingModel::norm(const std::string& prefix) const {
  return {{arena_.value(prefix + ".weight"), arena_.value(prefix + ".bias"),
           static_cast<float>(config_.layer_norm_epsilon)},
          arena_.gradient(prefix + ".weight"),
          arena_.gradient(prefix + ".bias")};
}

TrainingModel::Linear TrainingModel::linear(const std::vector<std::string>& prefixes) const {
  std::vector<std::string> weights, biases;
  for (const std::string& prefix : prefixes) {
    weights.push_back(prefix + ".weight");
    biases.push_back(prefix + ".bias");
  }
  Linear linear;
  linear.weight = arena_.joined_operand(weights);
  linear.d_weight = arena_.joined_gradient(weights);
  if (!arena_.has(biases.front())) return linear;
  linear.bias = arena_.joined_value(biases);
  linear.d_bias = arena_.joined_gradient(biases);
  return linear;
}

H3Parameters TrainingModel::ssm(const std::string& mixer, bool gradients) const {
  const auto find = [&](const std::string& name) {
    return gradients ? arena_.gradient(mixer + name) : arena_.value(mixer + name);
  };
  const std::int64_t modes = config_.ssm_d_state / 2;
  H3Parameters p;
  p.log_dt = find("kernel.kernel.log_dt");
  p.inv_a_real = find("kernel.kernel.inv_A_real");
  p.a_imag = find("kernel.kernel.A_imag");
  p.b = find("kernel.kernel.B");
  p.c = find("kernel.kernel.C").reshape({config_.heads(), modes, 2});
  p.d = find("D");
  p.discretization = config_.ssm_disc;
  if (!config_.ssm_gating) {
    set_identity_shift(*device_, config_, p);  // as gradients: where those go that nothing reads
    return p;
  }
  p.shift_b = find("ssm_k_kernel.kernel.B");
  p.shift_c = find("ssm_k_kernel.kernel.C").reshape({config_.n_embd, config_.ssm_d_state});
  p.shift_d = find("ssm_k_D");
  return p;
}

TrainingModel::Layer TrainingModel::make_layer(std::int64_t index) const {
  const std::int64_t rows = shape_.rows();
  const std::int64_t width = config_.n_embd;
  const std::int64_t inner = config_.inner_width();
  const std::string prefix = fmt::format("backbone.layers.{}.", index);
  const std::string mixer = prefix + "mixer.";
  const auto floats = [&](Shape dimensions) { return device_->allocate_tensor(DType::f32, dimensions); };
  Layer layer;
  layer.attention = config_.is_attention(index);
  layer.norm1 = norm(prefix + "norm1");
  layer.norm2 = norm(prefix + "norm2");
  layer.fc1 = linear({prefix + "mlp.fc1"});
  layer.fc2 = linear({prefix + "mlp.fc2"});
  layer.residual1 = floats({rows, width});
  layer.residual2 = floats({rows, width});
  layer.statistics1 = floats({rows, 2});
  layer.statistics2 = floats({rows, 2});
  layer.x1 = activation({rows, width});
  layer.x2 = activation({rows, width});
  layer.pre_activation = activation({rows, inner});
  layer.hidden = activation({rows, inner});
  if (layer.attention) {
    layer.qkv = linear({mixer + "Wqkv"});
    layer.out = linear({mixer + "out_proj"});
    layer.qkv_rows = activation({rows, 3 * width});
    layer.y = activation({rows, width});
    layer.log_sum_exp = floats({shape_.batch, config_.attn_n_head.value(), shape_.length});
    return layer;
  }
  const std::int64_t heads = config_.heads();
  const std::int64_t modes = config_.ssm_d_state / 2;
  layer.out = linear({mixer + "output_linear"});
  layer.qkv_rows = activation({3 * width, rows});
  if (config_.ssm_gating) {
    layer.qkv = linear({mixer + "q_proj", mixer + "k_proj", mixer + "v_proj"});
  } else {
    layer.qkv = linear({mixer + "v_proj"});
    upload_constant(*device_, 1.0f, layer.qkv_rows.slice(0, 2 * width));
  }
  layer.y = activation({width, rows});
  layer.ssm = ssm(mixer, false);
  layer.d_ssm = ssm(mixer, true);
  layer.filter = {floats({heads, modes, 4}),
                  floats({heads, modes, 2}),
                  floats({heads, modes, 2}),
                  floats({heads}),
                  floats({heads, modes, H3Filter::power_count, 2}),
                  floats({heads, H3Filter::chunk}),
                  floats({width, config_.ssm_d_state})};
  layer.d_filter = {floats({heads, modes, 2}), floats({heads, modes, 2}), floats({heads}),
                    floats({width, config_.ssm_d_state})};
  if (config_.ssm_head_dim == 1) {
    const std::int64_t superchunks = (shape_.length + H3Filter::superchunk - 1) / H3Filter::superchunk;
    layer.entry_states = floats({width, shape_.batch, superchunks, config_.ssm_d_state});
  }
  return layer;
}

// S4D is H3 with q = k = 1: these rows are written once, and only those of v are projected.
Tensor TrainingModel::projected(const Layer& layer, const Tensor& qkv_rows) const {
  if (layer.attention || config_.ssm_gating) return qkv_rows;
  return qkv_rows.slice(2 * config_.n_embd, config_.n_embd);
}

Dropout TrainingModel::dropout(double p, std::int64_t site, bool training) const {
  if (!training || p == 0) return {};
  return {static_cast<float>(p), static_cast<std::uint32_t>(site), random_};
}

// Site 3 i and 3 i + 1 before the norms of layer i, 3 i + 2 its attention; the last one before norm_f.
Dropout TrainingModel::residual_dropout(std::int64_t site, bool training) const {
  return dropout(site == 0 ? config_.embed_pdrop : config_.resid_pdrop, site, training);
}

void TrainingModel::record_forward(Encoder& encoder, bool training) const {
  encoder.embed({ids_, embedding_, embedded_});
  const Tensor* residual = &embedded_;
  for (std::int64_t i = 0; i < config_.n_layer; ++i) {
    const Layer& layer = layers_[static_cast<std::size_t>(i)];
    encoder.residual_norm({i == 0 ? Tensor{} : branch_, *residual, residual_dropout(3 * i, training),
                           layer.norm1.weights, layer.residual1, layer.x1, layer.statistics1});
    record_mixer(encoder, i, training);
    encoder.residual_norm({branch_, layer.residual1, residual_dropout(3 * i + 1, training), layer.norm2.weights,
                           layer.residual2, layer.x2, layer.statistics2});
    LinearArgs fc1;
    fc1.x = layer.x2;
    fc1.weight = layer.fc1.weight;
    fc1.bias = layer.fc1.bias;
    fc1.activation = Activation::gelu_tanh;
    fc1.y = layer.hidden;
    fc1.pre_activation = layer.pre_activation;
    encoder.linear(fc1);
    LinearArgs fc2;
    fc2.x = layer.hidden;
    fc2.weight = layer.fc2.weight;
    fc2.bias = layer.fc2.bias;
    fc2.y = branch_;
    encoder.linear(fc2);
    residual = &layer.residual2;
  }
  encoder.residual_norm({branch_, *residual, residual_dropout(3 * config_.n_layer, training), norm_f_.weights,
                         residual_f_, x_f_, statistics_f_});
}

void TrainingModel::record_mixer(Encoder& encoder, std::int64_t index, bool training) const {
  const Layer& layer = layers_[static_cast<std::size_t>(index)];
  const std::int64_t width = config_.n_embd;
  LinearArgs in;
  in.x = layer.x1;
  in.weight = layer.qkv.weight;
  in.bias = layer.qkv.bias;
  in.y = projected(layer, layer.qkv_rows);
  in.y_transposed = !layer.attention;
  encoder.linear(in);
  if (layer.attention) {
    const int heads = static_cast<int>(config_.attn_n_head.value());
    AttentionArgs attention;
    attention.qkv = layer.qkv_rows.reshape({shape_.batch, shape_.length, 3 * width});
    attention.heads = heads;
    attention.y = layer.y.reshape({shape_.batch, shape_.length, width});
    attention.log_sum_exp = layer.log_sum_exp;
    attention.dropout = dropout(config_.attn_pdrop, 3 * index + 2, training);
    if (config_.attn_rotary_dim > 0) {
      RotaryArgs rotary;
      rotary.qkv = attention.qkv;
      rotary.heads = heads;
      rotary.rotary_dim = static_cast<int>(config_.attn_rotary_dim);
      encoder.rotary(rotary);
    }
    encoder.attention(attention);
  } else {
    encoder.discretize({layer.ssm, layer.filter});
    H3MixerArgs mixer;
    mixer.qkv = layer.qkv_rows.reshape({3 * width, shape_.batch, shape_.length});
    mixer.filter = layer.filter;
    mixer.head_dim = static_cast<int>(config_.ssm_head_dim);
    mixer.head_order = config_.head_order();
    mixer.algorithm = conv_;
    mixer.y = layer.y.reshape({width, shape_.batch, shape_.length});
    if (training) mixer.entry_states = layer.entry_states;
    encoder.h3_mixer(mixer);
  }
  LinearArgs out;
  out.x = layer.y;
  out.x_transposed = !layer.attention;
  out.weight = layer.out.weight;
  out.bias = layer.out.bias;
  out.y = branch_;
  encoder.linear(out);
}

void TrainingModel::record_loss(Encoder& encoder, bool training) const {
  CrossEntropyArgs loss;
  loss.x = x_f_;
  loss.weight = head_;
  loss.targets = targets_;
  loss.loss = loss_;
  loss.correct = correct_;
  if (training) {
    loss.scale = scale_;
    loss.d_x = d_x_;
    loss.d_weight = d_head_;
  }
  encoder.cross_entropy(loss);
}

void TrainingModel::record_mixer_backward(Encoder& encoder, std::int64_t index) const {
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
  out.d_bias = layer.out.d_bias;
  encoder.linear_backward(out);
  if (layer.attention) {
    const int heads = static_cast<int>(config_.attn_n_head.value());
    const Shape wide = {shape_.batch, shape_.length, 3 * width};
    const Shape narrow = {shape_.batch, shape_.length, width};
    encoder.attention_backward({layer.qkv_rows.reshape(wide), heads, dropout(config_.attn_pdrop, 3 * index + 2, true),
                                layer.y.reshape(narrow), layer.log_sum_exp, d_y.reshape(narrow),
                                d_qkv.reshape(wide)});
    if (config_.attn_rotary_dim > 0) {
      RotaryArgs rotary;
      rotary.qkv = d_qkv.reshape(wide);
      rotary.heads = heads;
      rotary.rotary_dim = static_cast<int>(config_.attn_rotary_dim);
      rotary.inverse = true;
      encoder.rotary(rotary);
    }
  } else {
    const Shape wide = {3 * width, shape_.batch, shape_.length};
    const Shape narrow = {width, shape_.batch, shape_.length};
    encoder.h3_mixer_backward({layer.qkv_rows.reshape(wide), layer.filter, static_cast<int>(config_.ssm_head_dim),
                               config_.head_order(), conv_, d_y.reshape(narrow), d_qkv.reshape(wide), layer.d_filter,
                               layer.entry_states});
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
  encoder.linear_backward(in);
}

// d_x_ holds the gradient of the norm's output at each step, d_branch_ that of the branch before it.
void TrainingModel::record_backward(Encoder& encoder) const {
  const auto norm_backward = [&](const Norm& norm, const Tensor& residual_out, const Tensor& statistics,
                                 std::int64_t site) {
    encoder.residual_norm_backward({d_x_, residual_out, statistics, residual_dropout(site, true), norm.weights,
                                    d_residual_, site == 0 ? Tensor{} : d_branch_, norm.d_weight, norm.d_bias});
  };
  encoder.zero({d_residual_});
  norm_backward(norm_f_, residual_f_, statistics_f_, 3 * config_.n_layer);
  for (std::int64_t i = config_.n_layer - 1; i >= 0; --i) {
    const Layer& layer = layers_[static_cast<std::size_t>(i)];
    LinearBackwardArgs fc2;
    fc2.d_y = d_branch_;
    fc2.x = layer.hidden;
    fc2.weight = layer.fc2.weight;
    fc2.pre_activation = layer.pre_activation;
    fc2.d_x = d_hidden_;
    fc2.d_weight = layer.fc2.d_weight;
    fc2.d_bias = layer.fc2.d_bias;
    encoder.linear_backward(fc2);
    LinearBackwardArgs fc1;
    fc1.d_y = d_hidden_;
    fc1.x = layer.x2;
    fc1.weight = layer.fc1.weight;
    fc1.d_x = d_x_;
    fc1.d_weight = layer.fc1.d_weight;
    fc1.d_bias = layer.fc1.d_bias;
    encoder.linear_backward(fc1);
    norm_backward(layer.norm2, layer.residual2, layer.statistics2, 3 * i + 1);
    record_mixer_backward(encoder, i);
    norm_backward(layer.norm1, layer.residual1, layer.statistics1, 3 * i);
  }
  encoder.embed_backward({ids_, d_residual_, d_embedding_});
}

void TrainingModel::record_evaluation(Encoder& encoder) const {
  record_forward(encoder, false);
  record_loss(encoder, false);
}

void TrainingModel::record_gradients(Encoder& encoder) const {
  record_forward(encoder, true);
  record_loss(encoder, true);
  record_backward(encoder);
}

}  // namespace riverhorse
