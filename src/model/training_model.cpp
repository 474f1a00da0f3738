#include "model/training_model.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "model/upload.h"

namespace riverhorse {

namespace {

void check_sequence(const ModelConfig& config, const TrainingModelOptions& options) {
  const std::int64_t places = options.sequence.places, batch = options.shape.batch;
  if (places == 1) return;
  if (options.conv == ConvAlgorithm::fft) {
    fail(StatusCode::invalid_argument,
         "ranks that share sequences hand on the state, which the convolution by fft has no gradient of (--conv)");
  }
  const std::int64_t heads = config.attn_layer_idx.empty() ? 0 : config.attn_n_head.value();
  if (heads % places != 0) {
    fail(
        StatusCode::invalid_argument,
        "the {} heads of the attention layers do not divide among the {} ranks of a sequence; choose a divisor of {}",
        heads, places, heads);
  }
  // What dropout draws for a rank is a run of numbers only then.
  const bool drops = config.embed_pdrop > 0 || config.resid_pdrop > 0 || config.attn_pdrop > 0;
  if (drops && batch > 1) {
    fail(StatusCode::invalid_argument,
         "dropout, and {} sequences at once on ranks that share them: choose a batch of one sequence for each such "
         "group, and more accumulation",
         batch);
  }
  constexpr std::int64_t most_positions = (std::int64_t{1} << 31) - 1;
  if (options.shape.length > most_positions / places) {
    fail(StatusCode::invalid_argument, "a sequence of {} parts of {} tokens; at most {} tokens are possible", places,
         options.shape.length, most_positions);
  }
}

// Before anything is allocated.
const TrainingMemory& checked(const TrainingMemory& memory, const ModelConfig& config,
                              const TrainingModelOptions& options) {
  const Device& device = *memory.device();
  const TrainingShape& shape = options.shape;
  const Support support = device.supports(Feature::training);
  if (!support.supported) {
    fail(StatusCode::unsupported, "{} ({}) cannot train: {}", device.info().name, device.info().id(), support.reason);
  }
  device.require_activation(options.activations);
  if (options.logits == LogitBits::half && !is_half(options.activations)) {
    fail(StatusCode::invalid_argument, "logits of 16 bits belong to a training in f16 or bf16; the dtype is {}",
         dtype_name(options.activations));
  }
  if (config.ssm_pdrop != 0) {
    fail(StatusCode::unsupported, "ssm_pdrop is {}; the H3 layers know no dropout of their own", config.ssm_pdrop);
  }
  if (shape.batch < 1 || shape.length < 1) {
    fail(StatusCode::invalid_argument, "a micro-batch of {} sequences of {} tokens; both must be positive",
         shape.batch, shape.length);
  }
  constexpr std::int64_t most_rows = (std::int64_t{1} << 31) - 1;  // as the mixer's; no product of sizes overflows
  if (shape.batch > most_rows / shape.length) {
    fail(StatusCode::invalid_argument, "a micro-batch of {} sequences of {} tokens; at most {} tokens are possible",
         shape.batch, shape.length, most_rows);
  }
  check_sequence(config, options);
  return memory;
}

}  // namespace

TrainingModel::TrainingModel(const TrainingMemory& memory, const ModelConfig& config,
                             const TrainingModelOptions& options)
    : memory_(checked(memory, config, options)),
      config_(config),
      shape_(options.shape),
      act_(options.activations),
      conv_(options.conv),
      recompute_(options.recompute),
      logits_(options.logits == LogitBits::half ? act_ : DType::f32),
      first_sequence_(options.first_sequence),
      sequence_(options.sequence),
      arena_(memory_, config_, act_, options.parts, options.gradient_windows) {
  const std::string embedding = "backbone.embeddings.word_embeddings.weight";
  embedding_ = arena_.operand(embedding);
  d_embedding_ = arena_.gradient(embedding);
  head_ = config_.tie_word_embeddings ? embedding_ : arena_.operand("lm_head.weight");
  d_head_ = config_.tie_word_embeddings ? d_embedding_ : arena_.gradient("lm_head.weight");
  norm_f_ = norm("backbone.ln_f");
  allocate_shared();
  if (sequence_.shared()) allocate_sequence();
  for (std::int64_t i = 0; i < config_.n_layer; ++i) layers_.push_back(make_layer(i));
}

void TrainingModel::allocate_shared() {
  const std::int64_t rows = shape_.rows();
  const std::int64_t width = config_.n_embd;
  const auto batch = [&](DType dtype, Shape shape, MemoryUse use) {
    return memory_.allocate(MemoryCategory::batch, dtype, shape, use);
  };
  ids_ = batch(DType::i32, {rows}, MemoryUse::upload);
  targets_ = batch(DType::i32, {rows}, MemoryUse::upload);
  scale_ = batch(DType::f32, {1}, MemoryUse::upload);
  random_ = batch(DType::i32, {3}, MemoryUse::upload);
  device_ids_ = batch(DType::i32, {rows}, MemoryUse::device);
  device_random_ = batch(DType::i32, {3}, MemoryUse::device);
  loss_ = batch(DType::f32, {rows}, MemoryUse::readback);
  correct_ = batch(DType::i32, {rows}, MemoryUse::readback);

  const auto working = [&](DType dtype, Shape shape) {
    return memory_.allocate(MemoryCategory::working, dtype, shape);
  };
  embedded_ = working(DType::f32, {rows, width});
  residual_f_ = working(DType::f32, {rows, width});
  statistics_f_ = working(DType::f32, {rows, 2});
  d_residual_ = working(DType::f32, {rows, width});
  branch_ = working(act_, {rows, width});
  x_f_ = working(act_, {rows, width});
  d_branch_ = working(act_, {rows, width});
  d_x_ = working(act_, {rows, width});
  d_y_ = working(act_, {rows, width});
  d_hidden_ = working(act_, {rows, config_.inner_width()});
  d_qkv_ = working(act_, {rows, 3 * width});
  if (config_.ssm_gating) return;
  for (H3Parameters* shift : {&identity_shift_, &d_identity_shift_}) {
    shift->shift_b = working(DType::f32, {width, config_.ssm_d_state});
    shift->shift_c = working(DType::f32, {width, config_.ssm_d_state});
    shift->shift_d = working(DType::f32, {width});
  }
}

void TrainingModel::load(const Checkpoint& checkpoint) const {
  arena_.load(checkpoint.file.tensors);
  if (sequence_.shared()) {
    std::vector<std::int32_t> slots(static_cast<std::size_t>(shape_.batch)), positions(slots);
    std::iota(slots.begin(), slots.end(), 0);
    std::fill(positions.begin(), positions.end(), static_cast<std::int32_t>(sequence_.place * shape_.length));
    device().upload(slots_, std::as_bytes(std::span(slots)));
    device().upload(positions_, std::as_bytes(std::span(positions)));
  }
  if (config_.ssm_gating) return;
  upload_constant(device(), 1.0f, identity_shift_.shift_d);
  for (const Layer& layer : layers_) {
    if (!layer.attention) upload_constant(device(), 1.0f, layer.qkv_rows.slice(0, 2 * config_.n_embd));
  }
}

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
  if (arena_.operands()) linear.rounded_bias = arena_.joined_operand(biases);
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
    const H3Parameters& shift = gradients ? d_identity_shift_ : identity_shift_;
    p.shift_b = shift.shift_b;
    p.shift_c = shift.shift_c;
    p.shift_d = shift.shift_d;
    return p;
  }
  p.shift_b = find("ssm_k_kernel.kernel.B");
  p.shift_c = find("ssm_k_kernel.kernel.C").reshape({config_.n_embd, config_.ssm_d_state});
  p.shift_d = find("ssm_k_D");
  return p;
}

Tensor TrainingModel::stage(Recompute remade_at, const std::string& name, DType dtype, Shape shape) {
  if (recompute_ < remade_at) return memory_.allocate(MemoryCategory::activations, dtype, shape);
  Tensor& shared = shared_stages_[name];
  if (!shared) shared = memory_.allocate(MemoryCategory::working, dtype, shape);
  return shared.reshape(shape);
}

void TrainingModel::add_stages(Layer& layer) {
  const std::int64_t rows = shape_.rows();
  const std::int64_t width = config_.n_embd;
  const std::int64_t inner = config_.inner_width();
  const Shape wide = layer.attention ? Shape{rows, 3 * width} : Shape{3 * width, rows};
  const Shape narrow = layer.attention ? Shape{rows, width} : Shape{width, rows};
  layer.residual1 = memory_.allocate(MemoryCategory::activations, DType::f32, {rows, width});
  layer.residual2 = stage(Recompute::mixer, "residual2", DType::f32, {rows, width});
  layer.statistics1 = stage(Recompute::mixer, "statistics1", DType::f32, {rows, 2});
  layer.statistics2 = stage(Recompute::mixer, "statistics2", DType::f32, {rows, 2});
  layer.x1 = stage(Recompute::mixer, "x1", act_, {rows, width});
  layer.x2 = stage(Recompute::mixer, "x2", act_, {rows, width});
  // S4D keeps its q and k there from the start.
  const bool apart = layer.attention && !config_.ssm_gating;
  layer.qkv_rows = stage(Recompute::mixer, apart ? "qkv_rows of attention" : "qkv_rows", act_, wide);
  layer.y = stage(Recompute::mixer, "y", act_, narrow);
  layer.pre_activation = stage(Recompute::block, "pre_activation", act_, {rows, inner});
  layer.hidden = stage(Recompute::block, "hidden", act_, {rows, inner});
  if (sequence_.shared()) return add_sequence_stages(layer);
  if (layer.attention) {
    layer.log_sum_exp = stage(Recompute::mixer, "log_sum_exp", DType::f32,
                              {shape_.batch, config_.attn_n_head.value(), shape_.length});
  } else if (config_.ssm_head_dim == 1 && shape_.length > H3Filter::superchunk) {  // a single one begins with zeros
    const std::int64_t superchunks = (shape_.length + H3Filter::superchunk - 1) / H3Filter::superchunk;
    layer.entry_states =
        stage(Recompute::mixer, "entry_states", DType::f32, {width, shape_.batch, superchunks, config_.ssm_d_state});
  }
}

void TrainingModel::add_filter(Layer& layer) const {
  const std::int64_t width = config_.n_embd;
  const std::int64_t heads = config_.heads();
  const std::int64_t modes = config_.ssm_d_state / 2;
  const auto floats = [&](Shape shape) { return memory_.allocate(MemoryCategory::filters, DType::f32, shape); };
  layer.filter = {floats({heads, modes, 4}),
                  floats({heads, modes, 2}),
                  floats({heads, modes, 2}),
                  floats({heads}),
                  floats({heads, modes, H3Filter::power_count, 2}),
                  floats({heads, H3Filter::chunk}),
                  floats({width, config_.ssm_d_state})};
  layer.d_filter = {floats({heads, modes, 2}), floats({heads, modes, 2}), floats({heads}),
                    floats({width, config_.ssm_d_state})};
}

TrainingModel::Layer TrainingModel::make_layer(std::int64_t index) {
  const std::string prefix = fmt::format("backbone.layers.{}.", index);
  const std::string mixer = prefix + "mixer.";
  Layer layer;
  layer.attention = config_.is_attention(index);
  layer.norm1 = norm(prefix + "norm1");
  layer.norm2 = norm(prefix + "norm2");
  layer.fc1 = linear({prefix + "mlp.fc1"});
  layer.fc2 = linear({prefix + "mlp.fc2"});
  add_stages(layer);
  if (layer.attention) {
    layer.qkv = linear({mixer + "Wqkv"});
    layer.out = linear({mixer + "out_proj"});
    return layer;
  }
  layer.qkv = config_.ssm_gating ? linear({mixer + "q_proj", mixer + "k_proj", mixer + "v_proj"})
                                 : linear({mixer + "v_proj"});
  layer.out = linear({mixer + "output_linear"});
  layer.ssm = ssm(mixer, false);
  layer.d_ssm = ssm(mixer, true);
  add_filter(layer);
  return layer;
}

}  // namespace riverhorse
