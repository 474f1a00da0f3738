// The numbers come from recording on the device what the engine will record, with tensors that have no memory: what
// an operation's scratch takes is known to the operation alone, and differs by device, dtype and shape.
#include "engine/engine_memory.h"

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "base/quantised.h"
#include "engine/engine_core.h"

namespace riverhorse {

namespace {

constexpr std::int64_t short_context_tokens = 256;
constexpr std::int64_t short_frame_text_tokens = 256;

std::string mebibytes(std::uint64_t bytes) { return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / 0x1p20); }

Tensor without_memory(DType dtype, Shape shape, MemoryUse) {
  Tensor tensor{nullptr, 0, dtype, shape};
  tensor.buffer = std::make_shared<Buffer>(tensor.size_bytes());
  return tensor;
}

std::uint64_t bytes_of(const ModelState& state) {
  std::uint64_t bytes = state.positions.size_bytes();
  const auto add = [&](const Tensor& tensor) { bytes += tensor ? tensor.size_bytes() : 0; };
  for (const H3State& h3 : state.h3) add(h3.shift), add(h3.modes);
  for (const AttentionCache& cache : state.caches) add(cache.k), add(cache.v);
  return bytes;
}

// Transforms on Vulkan work in plans, which take memory of their own once they are made: those are estimated.
bool counts_scratch(const Device& device, const EngineOptions& options) {
  return device.info().backend != BackendKind::vulkan || options.conv != ConvAlgorithm::fft;
}

struct Change {
  EngineOptions options;
  MatrixTypes types;
  std::string what;
};

// The largest value from `least` to below `most` for which `fits` holds, which it then does for all smaller ones; 0:
// for none.
std::int64_t largest_that(std::int64_t least, std::int64_t most, const std::function<bool(std::int64_t)>& fits) {
  if (least >= most || !fits(least)) return 0;
  while (least + 1 < most) {
    const std::int64_t middle = least + (most - least) / 2;
    (fits(middle) ? least : most) = middle;
  }
  return least;
}

// What would fit, each change by itself, or if none is enough several at once; beginning with "; ".
std::string advice(Device& device, const ModelConfig& config, const EngineOptions& options, const MatrixTypes& types,
                   std::uint64_t available) {
  const auto needs = [&](const Change& change) {
    return estimate_memory(config, change.options, change.types, device).total_bytes();
  };
  std::string text;
  const auto offer = [&](const Change& change) {
    const std::uint64_t total = needs(change);
    if (total <= available) text += fmt::format("; {} would take {}", change.what, mebibytes(total));
    return total <= available;
  };
  const Change now{options, types, ""};
  Change least = now;
  for (const DType dtype : {DType::f16, DType::bf16}) {
    if (options.dtype != DType::f32 || !device.supports(half_feature(dtype)).supported) continue;
    Change half = now;
    half.options.dtype = half.types.dtype = dtype;
    half.what = fmt::format("dtype {}", dtype_name(dtype));
    offer(half);
    least.options.dtype = least.types.dtype = dtype;
    break;
  }
  const bool whole_blocks = config.n_embd % quantised_block == 0 && config.inner_width() % quantised_block == 0;
  const std::uint64_t weights = model_memory(config, types).weights_bytes;
  for (const DType dtype : {DType::q8, DType::q4}) {
    if (!whole_blocks || !device.supports(Feature::quantised_weights).supported) continue;
    Change quantised = now;
    quantised.types.quantised = dtype;
    if (model_memory(config, quantised.types).weights_bytes >= weights) continue;
    quantised.what = fmt::format("weights of convert --weights {}", dtype_name(dtype));
    offer(quantised);
    least.types.quantised = dtype;
  }
  const auto with_sessions = [&](std::int64_t sessions) {
    Change fewer = now;
    fewer.options.max_sessions = sessions;
    fewer.options.frame_sessions = std::min(options.frame_sessions, sessions);
    fewer.what = fmt::format("{} session{}", sessions, sessions == 1 ? "" : "s");
    return fewer;
  };
  const std::int64_t sessions = largest_that(
      1, options.max_sessions, [&](std::int64_t count) { return needs(with_sessions(count)) <= available; });
  if (sessions > 0) offer(with_sessions(sessions));
  const auto with_frames = [&](std::int64_t frames) {
    Change fewer = now;
    fewer.options.frame_sessions = frames;
    fewer.what = fmt::format("{} session{} in frames", frames, frames == 1 ? "" : "s");
    return fewer;
  };
  const std::int64_t frames = largest_that(
      1, options.frame_sessions, [&](std::int64_t count) { return needs(with_frames(count)) <= available; });
  if (frames > 0) offer(with_frames(frames));
  const auto with_context = [&](std::int64_t tokens) {
    Change shorter = now;
    shorter.options.context_tokens = tokens;
    shorter.what = fmt::format("a context of {} tokens", tokens);
    return shorter;
  };
  const std::int64_t context = largest_that(
      1, options.context_tokens, [&](std::int64_t tokens) { return needs(with_context(tokens)) <= available; });
  if (context > 0 && !config.attn_layer_idx.empty()) offer(with_context(context));
  Change pieces = now;
  pieces.options.prefill_piece_tokens = smallest_piece_tokens;
  pieces.what = fmt::format("pieces of {} tokens", smallest_piece_tokens);
  if (options.prefill_piece_tokens > smallest_piece_tokens) offer(pieces);
  if (!text.empty()) return text;

  std::string what = "one session";
  least.options.max_sessions = 1;
  least.options.frame_sessions = std::min<std::int64_t>(options.frame_sessions, 1);
  least.options.prefill_piece_tokens = std::min(options.prefill_piece_tokens, smallest_piece_tokens);
  if (!config.attn_layer_idx.empty()) {
    least.options.context_tokens = std::min(options.context_tokens, short_context_tokens);
    what += fmt::format(" of {} tokens", least.options.context_tokens);
  }
  what += fmt::format(" in pieces of {}", least.options.prefill_piece_tokens);
  Change one = least;
  one.options.dtype = options.dtype;
  one.types = types;
  one.what = what;
  if (!offer(one)) {
    least.what = what;
    if (least.options.dtype != options.dtype)
      least.what += fmt::format(", dtype {}", dtype_name(least.options.dtype));
    if (least.types.quantised) least.what += fmt::format(", weights {}", dtype_name(*least.types.quantised));
    offer(least);
  }
  return text.empty() ? "; a smaller model or another device is needed" : text;
}

}  // namespace

EngineTensors EngineTensors::make(const Allocate& allocate, std::int64_t slots, std::int64_t vocabulary,
                                  std::int64_t piece_tokens) {
  EngineTensors tensors;
  tensors.sampler = allocate(DType::i32, {slots, sizeof(SamplerRow) / 4}, MemoryUse::device);
  tensors.history = allocate(DType::i32, {slots, history_length}, MemoryUse::readback);
  tensors.slots = allocate(DType::i32, {slots}, MemoryUse::device);
  tensors.tokens = allocate(DType::i32, {slots}, MemoryUse::upload);
  tensors.logits = allocate(DType::f32, {slots, vocabulary}, MemoryUse::device);
  tensors.piece_ids = allocate(DType::i32, {piece_tokens}, MemoryUse::upload);
  return tensors;
}

EngineTensors EngineTensors::for_frames(const Allocate& allocate, std::int64_t batch) const {
  EngineTensors tensors = *this;
  tensors.slots = allocate(DType::i32, {batch}, MemoryUse::device);
  tensors.tokens = allocate(DType::i32, {batch}, MemoryUse::device);
  tensors.logits = allocate(DType::f32, {batch, logits.shape[1]}, MemoryUse::device);
  tensors.piece_ids = allocate(DType::i32, {piece_ids.count()}, MemoryUse::device);
  return tensors;
}

namespace {

EngineTensors all_tensors(const H3Model& model, const EngineOptions& options) {
  const std::int64_t slots = options.max_sessions;
  EngineTensors tensors =
      EngineTensors::make(without_memory, slots, model.vocabulary(), options.prefill_piece_tokens);
  tensors.counts = without_memory(DType::i32, {slots, model.vocabulary()}, MemoryUse::device);
  tensors.bias = without_memory(DType::f32, {slots, model.vocabulary()}, MemoryUse::device);
  return tensors;
}

// Of options.frame_sessions, what each has for itself; `workspace` is the scratch memory of one. While a session's
// steps are measured there is one copy of its state more.
std::uint64_t frames_bytes(const EngineOptions& options, std::uint64_t state, std::uint64_t vocabulary,
                           std::uint64_t workspace) {
  if (options.frame_sessions == 0) return 0;
  const auto frames = static_cast<std::uint64_t>(options.frame_sessions);
  const auto ids = static_cast<std::uint64_t>(2 + options.max_sessions + options.prefill_piece_tokens);
  return frames * (4 * (vocabulary + ids) + workspace + 2 * state) + state;
}

}  // namespace

void record_step(Encoder& encoder, const H3Model& model, const ModelState& state, const EngineTensors& tensors,
                 const StepKind& kind) {
  H3Model::Pass pass;
  pass.ids = tensors.tokens.slice(0, kind.batch);
  pass.slots = tensors.slots.slice(0, kind.batch);
  pass.batch = kind.batch;
  pass.state = &state;
  pass.logits = tensors.logits.slice(0, kind.batch);
  SampleArgs sample;
  sample.logits = pass.logits;
  sample.slots = pass.slots;
  sample.sampler = tensors.sampler;
  if (kind.counts) sample.counts = tensors.counts;
  if (kind.bias) sample.bias = tensors.bias;
  sample.tokens = pass.ids;
  sample.history = tensors.history;
  model.record(encoder, pass);
  encoder.sample(sample);
}

void record_piece(Encoder& encoder, const H3Model& model, const ModelState& state, const EngineTensors& tensors,
                  std::int64_t length) {
  H3Model::Pass pass;
  pass.ids = tensors.piece_ids.slice(0, length);
  pass.slots = tensors.slots.slice(0, 1);
  pass.length = length;
  pass.state = &state;
  model.record(encoder, pass);
}

std::uint64_t count_workspace(Device& device, const H3Model& model, const EngineOptions& options) {
  const std::int64_t slots = options.max_sessions;
  const ModelState state = model.allocate_state(slots, options.context_tokens, false);
  const EngineTensors tensors = all_tensors(model, options);
  std::uint64_t most = 0;
  const auto count = [&](const RecordFunction& function) { most = std::max(most, device.scratch_bytes(function)); };
  // Products take few rows and many in different ways.
  for (std::int64_t batch = 1;; batch = std::min(2 * batch, slots)) {
    count([&](Encoder& encoder) { record_step(encoder, model, state, tensors, {batch, true, true}); });
    if (batch == slots) break;
  }
  const std::int64_t capacity = model.has_attention() ? options.context_tokens : options.prefill_piece_tokens;
  count([&](Encoder& encoder) {
    record_piece(encoder, model, state, tensors, std::min(options.prefill_piece_tokens, capacity));
  });
  return most;
}

std::int64_t frame_block_tokens(const H3Model& model, const EngineOptions& options, std::int64_t capacity,
                                std::int64_t length) {
  const std::int64_t piece = options.prefill_piece_tokens;
  const std::int64_t longest = model.has_attention() ? std::min(piece, capacity) : piece;
  return std::min(longest, std::max(short_frame_text_tokens, std::min(length, piece)));
}

std::uint64_t count_frame_workspace(Device& device, const H3Model& model, const ModelState& state,
                                    const EngineTensors& tensors, const StepKind& most, std::int64_t block_tokens) {
  std::uint64_t bytes =
      device.scratch_bytes([&](Encoder& encoder) { record_piece(encoder, model, state, tensors, block_tokens); });
  for (std::int64_t batch = 1; batch <= most.batch; ++batch) {
    const StepKind kind{batch, most.counts, most.bias};
    bytes = std::max(
        bytes, device.scratch_bytes([&](Encoder& encoder) { record_step(encoder, model, state, tensors, kind); }));
  }
  return bytes;
}

ForwardPieces forward_pieces(std::int64_t rows, std::int64_t batch, std::int64_t length) {
  if (rows > 64) rows -= rows % 64;  // whole chunks of the mixer
  return {std::clamp<std::int64_t>(rows / length, 1, batch), std::min(rows, length)};
}

std::uint64_t count_forward(Device& device, const H3Model& model, const ForwardPieces& pieces, std::int64_t length) {
  const std::int64_t rows = pieces.group * pieces.piece;
  const ModelState state = model.allocate_state(pieces.group + 1, length, false);
  H3Model::Pass pass;
  pass.ids = without_memory(DType::i32, {rows}, MemoryUse::upload);
  pass.slots = without_memory(DType::i32, {pieces.group}, MemoryUse::device);
  pass.batch = pieces.group;
  pass.length = pieces.piece;
  pass.state = &state;
  pass.logits = without_memory(DType::f32, {rows, model.vocabulary()}, MemoryUse::device);
  const std::uint64_t scratch = device.scratch_bytes([&](Encoder& encoder) { model.record(encoder, pass); });
  return bytes_of(state) + pass.ids.size_bytes() + pass.slots.size_bytes() + pass.logits.size_bytes() + scratch;
}

MemoryEstimate estimate_memory(const ModelConfig& config, const EngineOptions& options, const MatrixTypes& types) {
  const ModelMemory memory = model_memory(config, types);
  const auto slots = static_cast<std::uint64_t>(options.max_sessions);
  const auto vocabulary = static_cast<std::uint64_t>(config.padded_vocab_size());
  const std::int64_t piece = options.prefill_piece_tokens > 0 ? options.prefill_piece_tokens : largest_piece_tokens;
  MemoryEstimate estimate;
  estimate.weights_bytes = memory.weights_bytes;
  estimate.filters_bytes = memory.filters_bytes;
  estimate.state_bytes =
      memory.state_bytes_per_slot * (slots + 2) +
      slots * (sizeof(SamplerRow) + 4 * (EngineTensors::history_length + static_cast<std::int64_t>(vocabulary) + 3)) +
      static_cast<std::uint64_t>(4 * piece);
  estimate.cache_bytes = memory.cache_bytes_per_token * slots * static_cast<std::uint64_t>(options.context_tokens);
  estimate.workspace_bytes = workspace_bytes(config, options.dtype, piece) + memory.dequantised_bytes;
  const std::int64_t block = std::min(piece, short_frame_text_tokens);
  estimate.frames_bytes = frames_bytes(options, memory.state_bytes_per_slot, vocabulary,
                                       workspace_bytes(config, options.dtype, block) + memory.dequantised_bytes);
  return estimate;
}

MemoryEstimate estimate_memory(const ModelConfig& config, const EngineOptions& given, const MatrixTypes& types,
                               Device& device) {
  EngineOptions options = given;
  if (options.prefill_piece_tokens == 0) {
    options.prefill_piece_tokens = choose_piece_tokens(config, device.info(), options.dtype);
  }
  MemoryEstimate estimate = estimate_memory(config, options, types);
  estimate.staging_bytes = device.staging_bytes();
  if (counts_scratch(device, options)) {
    const H3Model model(config, types, options.conv);
    estimate.workspace_bytes = count_workspace(device, model, options);
    if (options.forward_tokens > 0) {
      const ForwardPieces least = forward_pieces(smallest_piece_tokens, 1, options.forward_tokens);
      estimate.workspace_bytes += count_forward(device, model, least, options.forward_tokens);
    }
    if (options.frame_sessions > 0) {
      const ModelState state = model.allocate_state(options.max_sessions, options.context_tokens, false);
      const std::uint64_t workspace =
          count_frame_workspace(device, model, state, all_tensors(model, options).for_frames(without_memory, 1),
                                {1, true, true}, frame_block_tokens(model, options, options.context_tokens, 1));
      estimate.frames_bytes =
          frames_bytes(options, model.h3_state_bytes(), static_cast<std::uint64_t>(model.vocabulary()), workspace);
    }
  }
  return estimate;
}

std::string MemoryEstimate::text() const {
  return fmt::format("weights {}, filters {}, states {}, KV cache {}, workspace {}{}{}, {} in all",
                     mebibytes(weights_bytes), mebibytes(filters_bytes), mebibytes(state_bytes),
                     mebibytes(cache_bytes), mebibytes(workspace_bytes),
                     staging_bytes > 0 ? fmt::format(", staging {}", mebibytes(staging_bytes)) : "",
                     frames_bytes > 0 ? fmt::format(", sessions in frames {}", mebibytes(frames_bytes)) : "",
                     mebibytes(total_bytes()));
}

std::uint64_t available_bytes(const Device& device, const EngineOptions& options) {
  const std::uint64_t free = device.memory_free_bytes();
  if (options.memory_budget_bytes == 0) return free;
  const std::uint64_t used = device.memory_usage().used_bytes;
  return std::min(free, options.memory_budget_bytes - std::min(options.memory_budget_bytes, used));
}

namespace {

std::string available_text(const Device& device, const EngineOptions& options, std::uint64_t available) {
  if (options.memory_budget_bytes == 0) return fmt::format("{} are free", mebibytes(available));
  return fmt::format("{} are free within the memory budget of {}, of which {} are in use", mebibytes(available),
                     mebibytes(options.memory_budget_bytes), mebibytes(device.memory_usage().used_bytes));
}

}  // namespace

void require_available(const Device& device, const EngineOptions& options, std::uint64_t bytes,
                       std::string_view what) {
  const std::uint64_t available = available_bytes(device, options);
  if (bytes <= available) return;
  fail(StatusCode::out_of_memory, "{} takes {} on {} ({}), and {}", what, mebibytes(bytes), device.info().name,
       device.info().id(), available_text(device, options, available));
}

void check_memory(Device& device, const Checkpoint& checkpoint, const EngineOptions& options) {
  const ModelConfig& config = checkpoint.config;
  const MatrixTypes types{options.dtype, &checkpoint.file};
  const std::uint64_t largest = device.max_tensor_bytes();
  const ModelMemory memory = model_memory(config, types);
  if (memory.largest_tensor_bytes > largest) {
    fail(StatusCode::unsupported, "{} takes {} as {}, and {} allows {} for one buffer; {}", memory.largest_tensor,
         mebibytes(memory.largest_tensor_bytes), dtype_name(options.dtype), device.info().name, mebibytes(largest),
         options.dtype == DType::f32 && memory.largest_tensor_bytes / 2 <= largest
             ? "use dtype f16, or the cpu backend"
             : "use the cpu backend");
  }
  const std::uint64_t available = available_bytes(device, options);
  const MemoryEstimate estimate = estimate_memory(config, options, types, device);
  if (estimate.total_bytes() <= available) return;
  fail(StatusCode::out_of_memory, "the model does not fit {} ({}): it needs {}; {}{}", device.info().name,
       device.info().id(), estimate.text(), available_text(device, options, available),
       advice(device, config, options, types, available));
}

}  // namespace riverhorse
