// Engine: what it costs, whether it fits, and the public face of EngineCore.
#include "engine/engine.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/error.h"
#include "engine/conv_choice.h"
#include "engine/engine_core.h"

namespace riverhorse {

namespace {

constexpr std::uint64_t workspace_limit_bytes = std::uint64_t{256} << 20;

void check_options(const EngineOptions& options) {
  const auto refuse = [](const char* field, std::int64_t value, const char* limit) {
    fail(StatusCode::invalid_argument, "{} is {}; it must be {}", field, value, limit);
  };
  if (options.max_sessions < 1 || options.max_sessions > 65536) {
    refuse("max_sessions", options.max_sessions, "from 1 to 65536");
  }
  if (options.context_tokens < 1 || options.context_tokens > (std::int64_t{1} << 30)) {
    refuse("context_tokens", options.context_tokens, "from 1 to 2^30");
  }
  if (options.prefill_piece_tokens < 0 || options.prefill_piece_tokens > most_prefill_piece_tokens) {
    refuse("prefill_piece_tokens", options.prefill_piece_tokens,
           fmt::format("from 0 (automatic) to {}", most_prefill_piece_tokens).c_str());
  }
  if (options.frame_sessions < 0 || options.frame_sessions > options.max_sessions) {
    refuse("frame_sessions", options.frame_sessions,
           fmt::format("from 0 to max_sessions, which is {}", options.max_sessions).c_str());
  }
}

void check_support(const Device& device, const Checkpoint& checkpoint, const EngineOptions& options) {
  device.require_activation(options.dtype);
  const auto& tensors = checkpoint.file.tensors;
  const bool quantised =
      std::any_of(tensors.begin(), tensors.end(), [](const auto& entry) { return is_quantised(entry.second.dtype); });
  if (const Support products = device.supports(Feature::quantised_weights); quantised && !products.supported) {
    fail(StatusCode::unsupported, "{}: {} ({}) cannot use its quantised weights: {}", checkpoint.file.path.string(),
         device.info().name, device.info().id(), products.reason);
  }
  const Feature conv = options.conv == ConvAlgorithm::fft ? Feature::conv_fft : Feature::conv_chunked;
  const Support support = device.supports(conv);
  if (!support.supported && options.conv != ConvAlgorithm::automatic) {
    fail(StatusCode::unsupported, "{} ({}) cannot use conv {}: {}", device.info().name, device.info().id(),
         options.conv == ConvAlgorithm::fft ? "fft" : "chunked", support.reason);
  }
}

}  // namespace

void check_loadable(const Device& device, const Checkpoint& checkpoint, const EngineOptions& options) {
  check_options(options);
  check_support(device, checkpoint, options);
}

// Where no device counts it: residual stream, the widest pair of activations, and what the mixer takes at worst: by
// FFT, transforms of zero-padded rows (k, w and the filter) of twice the length, in fp32.
std::uint64_t workspace_bytes(const ModelConfig& config, DType dtype, std::int64_t piece_tokens) {
  const std::int64_t width = config.n_embd;
  const std::int64_t pairs = width * config.ssm_head_dim;
  const std::int64_t activation = std::max(4 * width, config.inner_width()) * dtype_size_bytes(dtype);
  const std::int64_t mixer = 3 * pairs * 2 * 4;
  const std::int64_t logits = config.padded_vocab_size() * 4;
  return static_cast<std::uint64_t>(piece_tokens * (width * 4 + activation + mixer) + logits);
}

// A power of two, by rough figures of what each kind of device does in a fraction of a second.
std::int64_t choose_piece_tokens(const ModelConfig& config, const DeviceInfo& device, DType dtype) {
  double flops = 3e12;
  switch (device.type) {
    case DeviceType::cpu: flops = 4e10; break;
    case DeviceType::software: flops = 4e9; break;
    case DeviceType::integrated_gpu: flops = 5e11; break;
    default: break;
  }
  const double flops_per_token = 2.0 * static_cast<double>(parameter_count(config));
  std::int64_t piece = largest_piece_tokens;
  while (piece > smallest_piece_tokens && (static_cast<double>(piece) * flops_per_token > flops ||
                                           workspace_bytes(config, dtype, piece) > workspace_limit_bytes)) {
    piece /= 2;
  }
  return piece;
}

EngineCore::EngineCore(std::shared_ptr<Device> device, const Checkpoint& checkpoint, const EngineOptions& options)
    : device_(std::move(device)), options_(options), model_hash_(checkpoint.content_hash) {
  check_loadable(*device_, checkpoint, options_);
  if (options_.prefill_piece_tokens == 0) {
    options_.prefill_piece_tokens = choose_piece_tokens(checkpoint.config, device_->info(), options_.dtype);
  }
  check_memory(*device_, checkpoint, options_);
  if (options_.conv == ConvAlgorithm::automatic && options_.cache_folder) {
    options_.conv = choose_conv(*device_, checkpoint.config, options_.dtype, options_.prefill_piece_tokens,
                                *options_.cache_folder);
    if (options_.conv != ConvAlgorithm::automatic) check_memory(*device_, checkpoint, options_);
  }
  model_ = std::make_unique<H3Model>(device_, checkpoint, options_.dtype, options_.conv, options_.progress);
  options_.progress = {};

  workspace_ =
      device_->allocate(std::max<std::uint64_t>(count_workspace(*device_, *model_, options_), 1), MemoryUse::device);
  const std::int64_t slots = options_.max_sessions;
  capacity_ = options_.context_tokens;
  state_ = model_->allocate_state(slots, capacity_);
  spare_ = model_->allocate_h3_states(2);
  slot_used_.resize(static_cast<std::size_t>(slots));
  const auto allocate = [&](DType dtype, Shape shape, MemoryUse use) {
    return device_->allocate_tensor(dtype, shape, use);
  };
  tensors_ = EngineTensors::make(allocate, slots, model_->vocabulary(), options_.prefill_piece_tokens);
  tune();
}

// Pieces and steps of powers of two, the most rows first; down to 16, below which no backend tiles its products.
void EngineCore::tune() {
  constexpr std::int64_t least = 16;
  // They run on slots that nobody has yet, each time from the start; a slot is emptied when it is taken.
  const Tensor zeros = device_->allocate_tensor(DType::i32, {options_.max_sessions});
  std::vector<RecordFunction> functions;
  const std::int64_t longest =
      model_->has_attention() ? std::min(options_.prefill_piece_tokens, capacity_) : options_.prefill_piece_tokens;
  for (auto rows = static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(longest))); rows >= least;
       rows /= 2) {
    functions.emplace_back([this, zeros, rows](Encoder& encoder) {
      encoder.copy({zeros, state_.positions});
      record_piece(encoder, *model_, state_, tensors_, rows);
    });
  }
  const auto most = static_cast<std::uint64_t>(options_.max_sessions);
  for (auto batch = static_cast<std::int64_t>(std::bit_floor(most)); batch >= least; batch /= 2) {
    functions.emplace_back([this, zeros, batch](Encoder& encoder) {
      encoder.copy({zeros, state_.positions});
      record_step(encoder, *model_, state_, tensors_, {batch, false, false});
    });
  }
  device_->tune(functions, workspace_);
}

Engine::Engine(std::shared_ptr<Device> device, const Checkpoint& checkpoint, const EngineOptions& options)
    : core_(std::make_shared<EngineCore>(std::move(device), checkpoint, options)) {}

Engine::~Engine() = default;

Device& Engine::device() { return core_->device(); }
const ModelConfig& Engine::config() const { return core_->model().config(); }
const EngineOptions& Engine::options() const { return core_->options(); }
const std::string& Engine::model_hash() const { return core_->model_hash(); }

std::vector<float> Engine::step_logits() { return core_->last_step_logits(); }

void Engine::prepare(std::int64_t batch, bool prefill) {
  if (batch < 1 || batch > options().max_sessions) {
    fail(StatusCode::invalid_argument, "a batch of {}; this engine has {} sessions", batch, options().max_sessions);
  }
  core_->prepare({batch, false, false}, prefill);
}

void Engine::forward(std::span<const std::int32_t> ids, std::int64_t batch, std::int64_t length,
                     const std::function<void(std::int64_t first_row, std::span<const float> logits)>& consume) {
  core_->forward(ids, batch, length, consume);
}

void Engine::prepare_sessions() { core_->prepare_sessions(); }

void Engine::set_trace(std::shared_ptr<Trace> trace) { core_->set_trace(std::move(trace)); }

Engine::Timing Engine::last_timing() const { return core_->last_timing(); }

}  // namespace riverhorse
