#include "model/h3_model.h"

#include <algorithm>

#include "base/error.h"
#include "base/quantised.h"
#include "model/upload.h"

namespace riverhorse {

namespace {

constexpr const char* embedding_name = "backbone.embeddings.word_embeddings.weight";
constexpr const char* head_name = "lm_head.weight";

// Enough of a tensor to record with, where nothing is recorded.
Tensor tensor_without_memory(DType dtype, const Shape& shape) {
  Tensor tensor{nullptr, 0, dtype, shape};
  tensor.buffer = std::make_shared<Buffer>(tensor.size_bytes());
  return tensor;
}

// Whether the out projection and the MLP are one operation: of one token, where no one looks at what lies between.
bool joins_mlp(const H3Model::Pass& pass) { return pass.length == 1 && pass.tap == nullptr; }

std::string layer_name(std::int64_t layer) { return fmt::format("backbone.layers.{}.", layer); }

}  // namespace

DType MatrixTypes::of(const std::string& name) const {
  if (quantised) return name == embedding_name || name == head_name ? DType::q8 : *quantised;
  const DType stored = file == nullptr ? dtype : file->at(name).dtype;
  return is_quantised(stored) ? stored : dtype;
}

ModelMemory model_memory(const ModelConfig& config, const MatrixTypes& types) {
  const std::int64_t width = config.n_embd;
  const std::int64_t inner = config.inner_width();
  const std::int64_t heads = config.heads();
  const std::int64_t modes = config.ssm_d_state / 2;
  const std::int64_t vocabulary = config.padded_vocab_size();
  const std::int64_t element = dtype_size_bytes(types.dtype);
  ModelMemory memory;
  std::int64_t largest_matrix = 0;
  std::int64_t dequantised = 0;
  const auto matrix_bytes = [&](const std::string& name, std::int64_t rows, std::int64_t columns) {
    const DType type = types.of(name);
    if (is_quantised(type)) dequantised = std::max(dequantised, rows * columns * element);
    largest_matrix = std::max(largest_matrix, rows * row_size_bytes(type, columns));
    return rows * row_size_bytes(type, columns);
  };
  std::int64_t weights = 2 * width * 4;
  std::int64_t filters = 0;
  std::int64_t state = 0;
  std::int64_t cache = 0;
  for (std::int64_t layer = 0; layer < config.n_layer; ++layer) {
    const std::string prefix = layer_name(layer);
    const std::string mixer = prefix + "mixer.";
    const bool attention = config.is_attention(layer);
    weights += matrix_bytes(mixer + (attention ? "Wqkv.weight" : "v_proj.weight"), 3 * width, width);
    weights += matrix_bytes(mixer + (attention ? "out_proj.weight" : "output_linear.weight"), width, width);
    weights += matrix_bytes(prefix + "mlp.fc1.weight", inner, width);
    weights += matrix_bytes(prefix + "mlp.fc2.weight", width, inner);
    weights += (3 * width + width + 4 * width + inner + width) * 4;
    if (attention) {
      cache += 2 * width * element;
      continue;
    }
    filters += 4 * (heads * modes * (4 + 2 + 2 + 2 * H3Filter::power_count) + heads + heads * H3Filter::chunk +
                    width * config.ssm_d_state);
    state += 4 * (width * config.ssm_d_state + width * config.ssm_head_dim * modes * 2);
  }
  const std::int64_t matrix = largest_matrix;
  std::int64_t embedding = matrix_bytes(embedding_name, vocabulary, width);
  weights += embedding;
  if (!config.tie_word_embeddings) {
    const std::int64_t head = matrix_bytes(head_name, vocabulary, width);
    weights += head;
    embedding = std::max(embedding, head);
  }
  memory.dequantised_bytes = static_cast<std::uint64_t>(dequantised);
  memory.weights_bytes = static_cast<std::uint64_t>(weights);
  memory.filters_bytes = static_cast<std::uint64_t>(filters);
  memory.state_bytes_per_slot = static_cast<std::uint64_t>(state);
  memory.cache_bytes_per_token = static_cast<std::uint64_t>(cache);
  memory.largest_tensor_bytes = static_cast<std::uint64_t>(std::max(embedding, matrix));
  memory.largest_tensor = embedding >= matrix ? "the embedding" : "a weight matrix";
  return memory;
}

// Uploads one tensor after another, lets go of its pages in the file, and reports progress. Without a device it makes
// tensors without memory.
class H3Model::Loader {
 public:
  Loader(Device& device, const Checkpoint& checkpoint, DType dtype, const ProgressFunction& progress)
      : device_(&device), file_(&checkpoint.file), types_{dtype, file_}, progress_(progress) {
    for (const ParameterSpec& spec : parameter_table(checkpoint.config)) {
      total_bytes_ += file_->at(spec.name).bytes.size();
    }
  }
  explicit Loader(const MatrixTypes& types) : types_(types) {}

  Tensor matrix(const std::string& name, std::int64_t rows, std::int64_t columns) {
    return joined({name}, types_.of(name), {rows, columns});
  }
  Tensor vector(const std::string& name, std::int64_t length) { return joined({name}, DType::f32, {length}); }
  Tensor floats(const std::string& name, Shape shape) { return joined({name}, DType::f32, shape); }

  // Several tensors one after another along the first dimension.
  Tensor joined(const std::vector<std::string>& names, DType dtype, Shape shape) {
    Tensor whole = allocate(dtype, shape);
    write(names, whole);
    return whole;
  }

  void write(const std::vector<std::string>& names, const Tensor& whole) {
    if (device_ == nullptr) return;
    const auto parts = static_cast<std::int64_t>(names.size());
    const std::int64_t rows = whole.shape[0] / parts;
    for (std::int64_t i = 0; i < parts; ++i) {
      const std::string& name = names[static_cast<std::size_t>(i)];
      const HostTensor& source = file_->at(name);
      if (source.count() != whole.count() / parts) {
        fail(StatusCode::bad_file, "{}: {} has {} elements, not the {} of the configuration", file_->path.string(),
             name, source.count(), whole.count() / parts);
      }
      if (is_quantised(whole.dtype) != is_quantised(source.dtype) ||
          (is_quantised(whole.dtype) && source.dtype != whole.dtype)) {
        fail(StatusCode::bad_file, "{}: {} is {}, and what is used as one matrix with it {}; quantise all or none",
             file_->path.string(), name, dtype_name(source.dtype), dtype_name(whole.dtype));
      }
      upload_converted(*device_, source, whole.slice(i * rows, rows), name);
      file_->drop_pages(source);
      done_bytes_ += source.bytes.size();
      if (progress_) progress_(std::min(done_bytes_, total_bytes_), total_bytes_);
    }
  }

  // Weights and biases of q, k and v. S4D is H3 with q = k = 1, which a weight of 0 and a bias of 1 give exactly.
  void projections(const std::string& mixer, const ModelConfig& config, Layer& layer) {
    const std::int64_t width = config.n_embd;
    const DType dtype = types_.of(mixer + "v_proj.weight");
    if (config.ssm_gating) {
      layer.qkv_weight = joined({mixer + "q_proj.weight", mixer + "k_proj.weight", mixer + "v_proj.weight"}, dtype,
                                {3 * width, width});
      layer.qkv_bias =
          joined({mixer + "q_proj.bias", mixer + "k_proj.bias", mixer + "v_proj.bias"}, DType::f32, {3 * width});
      return;
    }
    layer.qkv_weight = allocate(dtype, {3 * width, width});  // zero-filled: zeros, also of blocks
    layer.qkv_bias = allocate(DType::f32, {3 * width});
    write({mixer + "v_proj.weight"}, layer.qkv_weight.slice(2 * width, width));
    write({mixer + "v_proj.bias"}, layer.qkv_bias.slice(2 * width, width));
    if (device_ != nullptr) upload_constant(*device_, 1.0f, layer.qkv_bias.slice(0, 2 * width));
  }

  NormWeights norm(const std::string& prefix, const ModelConfig& config) {
    return {vector(prefix + ".weight", config.n_embd), vector(prefix + ".bias", config.n_embd),
            static_cast<float>(config.layer_norm_epsilon)};
  }

  H3Filter filter(const std::string& prefix, const ModelConfig& config) {
    const std::int64_t heads = config.heads();
    const std::int64_t width = config.n_embd;
    const std::int64_t modes = config.ssm_d_state / 2;
    H3Filter filter;
    filter.a = allocate(DType::f32, {heads, modes, 4});
    filter.b = allocate(DType::f32, {heads, modes, 2});
    filter.c = allocate(DType::f32, {heads, modes, 2});
    filter.d = allocate(DType::f32, {heads});
    filter.powers = allocate(DType::f32, {heads, modes, H3Filter::power_count, 2});
    filter.toeplitz = allocate(DType::f32, {heads, H3Filter::chunk});
    filter.shift_taps = allocate(DType::f32, {width, config.ssm_d_state});
    if (device_ == nullptr) return filter;
    const std::int64_t rows = file_->at(prefix + "kernel.kernel.inv_A_real").shape.at(0);  // H, or fewer
    H3Parameters raw;
    raw.log_dt = vector(prefix + "kernel.kernel.log_dt", heads);
    raw.inv_a_real = floats(prefix + "kernel.kernel.inv_A_real", {rows, modes});
    raw.a_imag = floats(prefix + "kernel.kernel.A_imag", {rows, modes});
    raw.b = floats(prefix + "kernel.kernel.B", {rows, modes, 2});
    raw.c = floats(prefix + "kernel.kernel.C", {heads, modes, 2});
    raw.d = vector(prefix + "D", heads);
    if (config.ssm_gating) {
      raw.shift_b = floats(prefix + "ssm_k_kernel.kernel.B", {width, config.ssm_d_state});
      raw.shift_c = floats(prefix + "ssm_k_kernel.kernel.C", {width, config.ssm_d_state});
      raw.shift_d = vector(prefix + "ssm_k_D", width);
    } else {
      set_identity_shift(*device_, config, raw);
    }
    raw.discretization = config.ssm_disc;
    device_->run([&](Encoder& encoder) { encoder.discretize({raw, filter}); });
    return filter;  // the raw parameters are not needed again
  }

 private:
  Tensor allocate(DType dtype, const Shape& shape) {
    return device_ == nullptr ? tensor_without_memory(dtype, shape) : device_->allocate_tensor(dtype, shape);
  }

  Device* device_ = nullptr;
  const TensorFile* file_ = nullptr;
  MatrixTypes types_;
  ProgressFunction progress_;
  std::uint64_t done_bytes_ = 0;
  std::uint64_t total_bytes_ = 0;
};

H3Model::H3Model(std::shared_ptr<Device> device, const Checkpoint& checkpoint, DType dtype, ConvAlgorithm conv,
                 const ProgressFunction& progress)
    : device_(std::move(device)), config_(checkpoint.config), dtype_(dtype), conv_(conv) {
  Loader load(*device_, checkpoint, dtype, progress);
  load_layers(load);
}

H3Model::H3Model(const ModelConfig& config, const MatrixTypes& types, ConvAlgorithm conv)
    : config_(config), dtype_(types.dtype), conv_(conv) {
  Loader shapes(types);
  load_layers(shapes);
}

void H3Model::load_layers(Loader& load) {
  const std::int64_t width = config_.n_embd;
  const std::int64_t inner = config_.inner_width();
  const std::int64_t rows = config_.padded_vocab_size();
  embedding_ = load.matrix(embedding_name, rows, width);
  head_ = config_.tie_word_embeddings ? embedding_ : load.matrix(head_name, rows, width);
  for (std::int64_t i = 0; i < config_.n_layer; ++i) {
    const std::string prefix = layer_name(i);
    const std::string mixer = prefix + "mixer.";
    Layer layer;
    layer.attention = config_.is_attention(i);
    layer.norm1 = load.norm(prefix + "norm1", config_);
    if (layer.attention) {
      layer.qkv_weight = load.matrix(mixer + "Wqkv.weight", 3 * width, width);
      if (config_.attn_bias) layer.qkv_bias = load.vector(mixer + "Wqkv.bias", 3 * width);
      layer.out_weight = load.matrix(mixer + "out_proj.weight", width, width);
      layer.out_bias = load.vector(mixer + "out_proj.bias", width);
    } else {
      load.projections(mixer, config_, layer);
      layer.filter = load.filter(mixer, config_);
      layer.out_weight = load.matrix(mixer + "output_linear.weight", width, width);
      layer.out_bias = load.vector(mixer + "output_linear.bias", width);
    }
    layer.norm2 = load.norm(prefix + "norm2", config_);
    layer.fc1_weight = load.matrix(prefix + "mlp.fc1.weight", inner, width);
    layer.fc1_bias = load.vector(prefix + "mlp.fc1.bias", inner);
    layer.fc2_weight = load.matrix(prefix + "mlp.fc2.weight", width, inner);
    layer.fc2_bias = load.vector(prefix + "mlp.fc2.bias", width);
    layers_.push_back(std::move(layer));
  }
  norm_f_ = load.norm("backbone.ln_f", config_);
}

Tensor H3Model::allocate(DType dtype, const Shape& shape, bool memory) const {
  return memory ? device_->allocate_tensor(dtype, shape) : tensor_without_memory(dtype, shape);
}

AttentionCache H3Model::allocate_cache(std::int64_t slots, std::int64_t capacity, bool memory) const {
  const Shape shape = {slots, capacity, config_.n_embd};
  return {allocate(dtype_, shape, memory), allocate(dtype_, shape, memory)};
}

std::vector<H3State> H3Model::allocate_h3_states(std::int64_t slots, bool memory) const {
  const std::int64_t width = config_.n_embd;
  std::vector<H3State> states(layers_.size());
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (layers_[i].attention) continue;
    states[i].shift = allocate(DType::f32, {slots, width, config_.ssm_d_state}, memory);
    states[i].modes = allocate(DType::f32, {slots, width * config_.ssm_head_dim, config_.ssm_d_state / 2, 2}, memory);
  }
  return states;
}

std::uint64_t H3Model::h3_state_bytes() const {
  const std::int64_t layers = config_.n_layer - static_cast<std::int64_t>(config_.attn_layer_idx.size());
  return static_cast<std::uint64_t>(4 * layers * config_.n_embd * config_.ssm_d_state * (1 + config_.ssm_head_dim));
}

ModelState H3Model::allocate_state(std::int64_t slots, std::int64_t capacity, bool memory) const {
  ModelState state;
  state.positions = allocate(DType::i32, {slots}, memory);
  state.h3 = allocate_h3_states(slots, memory);
  state.caches.resize(layers_.size());
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (layers_[i].attention) state.caches[i] = allocate_cache(slots, capacity, memory);
  }
  return state;
}

void H3Model::record_mixer(Encoder& encoder, const Pass& pass, std::int64_t index, const Tensor& residual) const {
  const Layer& layer = layers_[static_cast<std::size_t>(index)];
  const ModelState& state = *pass.state;
  const std::int64_t width = config_.n_embd;
  const std::int64_t rows = pass.batch * pass.length;
  const bool parallel_h3 = !layer.attention && pass.length > 1;
  ScratchScope scope(encoder);

  LinearArgs in;
  if (layer.attention || parallel_h3) {
    in.x = residual;
    in.norm = layer.norm1;
    in.weight = layer.qkv_weight;
    in.bias = layer.qkv_bias;
    in.y_transposed = parallel_h3;
    in.normed = dtype_;
    in.y = encoder.scratch(dtype_, parallel_h3 ? Shape{3 * width, rows} : Shape{rows, 3 * width});
    encoder.linear(in);
  }

  const auto rest_of = [&](const Tensor& mixed) {
    return OutMlpArgs{mixed,          residual,         layer.out_weight,
                      layer.out_bias, layer.norm2,      layer.fc1_weight,
                      layer.fc1_bias, layer.fc2_weight, layer.fc2_bias};
  };
  const Tensor y = encoder.scratch(dtype_, parallel_h3 ? Shape{width, rows} : Shape{rows, width});
  if (layer.attention) {
    const int heads = static_cast<int>(config_.attn_n_head.value());
    const Tensor qkv = in.y.reshape({pass.batch, pass.length, 3 * width});
    if (config_.attn_rotary_dim > 0) {
      encoder.rotary({qkv, heads, static_cast<int>(config_.attn_rotary_dim), pass.slots, state.positions});
    }
    const AttentionArgs attention = {qkv,
                                     heads,
                                     pass.slots,
                                     state.positions,
                                     state.caches[static_cast<std::size_t>(index)],
                                     y.reshape({pass.batch, pass.length, width})};
    if (pass.length == 1) {
      encoder.attention_step(attention);
    } else {
      encoder.attention(attention);
    }
  } else if (parallel_h3) {
    H3MixerArgs mixer;
    mixer.qkv = in.y.reshape({3 * width, pass.batch, pass.length});
    mixer.filter = layer.filter;
    mixer.head_dim = static_cast<int>(config_.ssm_head_dim);
    mixer.head_order = config_.head_order();
    mixer.algorithm = conv_;
    mixer.slots = pass.slots;
    mixer.positions = state.positions;
    mixer.state = state.h3[static_cast<std::size_t>(index)];
    mixer.y = y.reshape({width, pass.batch, pass.length});
    encoder.h3_mixer(mixer);
  } else {
    H3StepArgs step;
    step.projection = H3Projection{residual, layer.norm1, layer.qkv_weight, layer.qkv_bias};
    step.filter = layer.filter;
    step.head_dim = static_cast<int>(config_.ssm_head_dim);
    step.head_order = config_.head_order();
    step.slots = pass.slots;
    step.positions = state.positions;
    step.state = state.h3[static_cast<std::size_t>(index)];
    step.y = y;
    if (joins_mlp(pass)) {
      encoder.h3_block({step, rest_of(y)});
      return;
    }
    encoder.h3_step(step);
  }

  if (joins_mlp(pass)) {
    encoder.out_mlp(rest_of(y));
    return;
  }
  LinearArgs out;
  out.x = y;
  out.x_transposed = parallel_h3;
  out.weight = layer.out_weight;
  out.bias = layer.out_bias;
  out.accumulate = true;
  out.y = residual;
  encoder.linear(out);
}

void H3Model::record_mlp(Encoder& encoder, const Layer& layer, const Tensor& residual) const {
  ScratchScope scope(encoder);
  LinearArgs fc1;
  fc1.x = residual;
  fc1.norm = layer.norm2;
  fc1.normed = dtype_;
  fc1.weight = layer.fc1_weight;
  fc1.bias = layer.fc1_bias;
  fc1.activation = Activation::gelu_tanh;
  fc1.y = encoder.scratch(dtype_, {residual.shape[0], config_.inner_width()});
  encoder.linear(fc1);
  LinearArgs fc2;
  fc2.x = fc1.y;
  fc2.weight = layer.fc2_weight;
  fc2.bias = layer.fc2_bias;
  fc2.accumulate = true;
  fc2.y = residual;
  encoder.linear(fc2);
}

void H3Model::record_logits(Encoder& encoder, const Pass& pass, const Tensor& residual) const {
  ScratchScope scope(encoder);
  LinearArgs head;
  head.x = residual;
  if (pass.logits.shape[0] != residual.shape[0]) {
    // The last row of each sequence, copied to where an operation's tensor may begin.
    head.x = encoder.scratch(DType::f32, {pass.batch, config_.n_embd});
    for (std::int64_t b = 0; b < pass.batch; ++b) {
      encoder.copy({residual.slice((b + 1) * pass.length - 1, 1), head.x.slice(b, 1)});
    }
  }
  head.norm = norm_f_;
  head.normed = dtype_;
  head.weight = head_;
  head.y = pass.logits;
  encoder.linear(head);
}

void H3Model::record(Encoder& encoder, const Pass& pass) const {
  const std::int64_t rows = pass.batch * pass.length;
  if (pass.logits && pass.logits.shape[0] != rows && pass.logits.shape[0] != pass.batch) {
    fail(StatusCode::internal, "logits of {} rows for {} sequences of {} tokens", pass.logits.shape[0], pass.batch,
         pass.length);
  }
  ScratchScope scope(encoder);
  const Tensor residual = encoder.scratch(DType::f32, {rows, config_.n_embd});
  const auto tap = [&](std::string_view point, std::int64_t layer, const Tensor& tensor) {
    if (pass.tap != nullptr) (*pass.tap)(encoder, point, layer, tensor);
  };
  encoder.embed({pass.ids, embedding_, residual});
  tap("embed", 0, residual);
  for (std::int64_t i = 0; i < config_.n_layer; ++i) {
    record_mixer(encoder, pass, i, residual);
    if (joins_mlp(pass)) continue;
    tap("mixer", i, residual);
    record_mlp(encoder, layers_[static_cast<std::size_t>(i)], residual);
    tap("mlp", i, residual);
  }
  if (pass.tap != nullptr) {
    ScratchScope tap_scope(encoder);
    const Tensor normed = encoder.scratch(dtype_, residual.shape);
    encoder.add_layer_norm({{}, residual, norm_f_, normed});
    tap("ln_f", config_.n_layer, normed);
  }
  if (pass.logits) record_logits(encoder, pass, residual);
  if (pass.advance) {
    encoder.advance({pass.slots, pass.state->positions, static_cast<std::int32_t>(pass.length)});
  }
}

}  // namespace riverhorse
