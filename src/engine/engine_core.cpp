#include "engine/engine_core.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "base/log.h"
#include "engine/trace.h"

namespace riverhorse {

namespace {

// Prefill lengths other than the full piece whose recordings are kept. Each keeps its workspace.
constexpr std::size_t kept_prefill_recordings = 8;

constexpr std::uint64_t forward_logits_bytes = std::uint64_t{64} << 20;

// One slot of a pool of SSM states onto a slot of another.
void copy_states(Encoder& encoder, const std::vector<H3State>& from, std::int64_t from_slot,
                 const std::vector<H3State>& to, std::int64_t to_slot) {
  for (std::size_t i = 0; i < from.size(); ++i) {
    if (!from[i].shift) continue;
    encoder.copy({from[i].shift.slice(from_slot, 1), to[i].shift.slice(to_slot, 1)});
    encoder.copy({from[i].modes.slice(from_slot, 1), to[i].modes.slice(to_slot, 1)});
  }
}

}  // namespace

void check_token_ids(std::span<const std::int32_t> ids, std::int64_t vocabulary) {
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocabulary) {
      fail(StatusCode::invalid_argument, "token {} of {} has id {}; the vocabulary is 0 to {}", i, ids.size(), ids[i],
           vocabulary - 1);
    }
  }
}

std::shared_ptr<Recording> EngineCore::record(const RecordFunction& function) {
  RecordOptions options;
  options.timestamps = device_->supports(Feature::timestamps).supported;
  options.op_timestamps = traces();
  options.workspace = workspace_;
  return device_->record(function, options);
}

void EngineCore::forget_recordings() {
  prefill_recordings_.clear();
  step_recordings_.clear();
  peek_recording_.reset();
  last_recording_.reset();
}

std::int64_t EngineCore::acquire_slot() {
  collect_retired();
  for (std::size_t i = 0; i < slot_used_.size(); ++i) {
    if (slot_used_[i]) continue;
    clear_slot(static_cast<std::int64_t>(i));
    slot_used_[i] = true;
    return static_cast<std::int64_t>(i);
  }
  fail(StatusCode::out_of_memory, "all {} sessions of this engine are in use; free one, or raise max_sessions",
       slot_used_.size());
}

void EngineCore::release_slot(std::int64_t slot) { slot_used_[static_cast<std::size_t>(slot)] = false; }

const std::shared_ptr<Recording>& EngineCore::clear_recording(std::int64_t slot) {
  std::shared_ptr<Recording>& recording = clear_recordings_[slot];
  if (recording) return recording;
  recording = device_->record([&](Encoder& encoder) { copy_states(encoder, spare_, 1, state_.h3, slot); },
                              {.workspace = workspace_});
  return recording;
}

void EngineCore::clear_slot(std::int64_t slot) {
  device_->wait(device_->submit(*clear_recording(slot)));
  set_position(slot, 0);
}

void EngineCore::set_position(std::int64_t slot, std::int64_t position) {
  const auto value = static_cast<std::int32_t>(position);
  device_->upload(state_.positions.slice(slot, 1), std::as_bytes(std::span(&value, 1)));
}

void EngineCore::back_up(std::int64_t slot) {
  std::shared_ptr<Recording>& recording = back_up_recordings_[slot];
  if (!recording) {
    recording = device_->record([&](Encoder& encoder) { copy_states(encoder, state_.h3, slot, spare_, 0); }, {});
  }
  device_->submit(*recording);
}

void EngineCore::bring_back(std::int64_t slot) {
  std::shared_ptr<Recording>& recording = bring_back_recordings_[slot];
  if (!recording) {
    recording = device_->record([&](Encoder& encoder) { copy_states(encoder, spare_, 0, state_.h3, slot); }, {});
  }
  device_->wait(device_->submit(*recording));
}

EngineCore::StateCopy EngineCore::copy_state(std::int64_t slot) {
  require_available(*device_, options_, model_->h3_state_bytes(), "a copy of a session's state");
  StateCopy copy{model_->allocate_h3_states(1), device_->allocate_tensor(DType::i32, {1})};
  device_->run([&](Encoder& encoder) {
    copy_states(encoder, state_.h3, slot, copy.h3, 0);
    encoder.copy({state_.positions.slice(slot, 1), copy.position});
  });
  return copy;
}

void EngineCore::set_state(std::int64_t slot, const StateCopy& copy) {
  device_->run([&](Encoder& encoder) {
    copy_states(encoder, copy.h3, 0, state_.h3, slot);
    encoder.copy({copy.position, state_.positions.slice(slot, 1)});
  });
}

void EngineCore::copy_slot(std::int64_t from, std::int64_t to, std::int64_t position) {
  device_->run([&](Encoder& encoder) {
    copy_states(encoder, state_.h3, from, state_.h3, to);
    encoder.copy({state_.positions.slice(from, 1), state_.positions.slice(to, 1)});
    if (position == 0) return;
    for (const AttentionCache& of_layer : state_.caches) {
      if (!of_layer.k) continue;
      for (const Tensor& cache : {of_layer.k, of_layer.v}) {
        const std::int64_t rows = cache.shape[1];
        const Tensor flat = cache.reshape({cache.shape[0] * rows, cache.shape[2]});
        encoder.copy({flat.slice(from * rows, position), flat.slice(to * rows, position)});
      }
    }
  });
}

void EngineCore::reserve(std::int64_t tokens) {
  if (!model_->has_attention() || tokens <= capacity_) return;
  if (tokens > std::numeric_limits<std::int32_t>::max() / 2) {
    fail(StatusCode::unsupported, "a text of {} tokens; positions are 32-bit", tokens);
  }
  require_no_frames(tokens);
  std::int64_t capacity = capacity_;
  while (capacity < tokens) capacity *= 2;
  const auto slots = static_cast<std::int64_t>(slot_used_.size());
  const std::int64_t width = model_->config().n_embd;
  const auto cache_bytes = static_cast<std::uint64_t>(slots * capacity * width * dtype_size_bytes(model_->dtype()));
  if (cache_bytes > device_->max_tensor_bytes()) {
    fail(StatusCode::unsupported,
         "a KV cache for {} sessions of {} tokens takes {:.1f} MiB a layer, and {} allows {:.1f} MiB for one buffer; "
         "lower max_sessions",
         slots, capacity, static_cast<double>(cache_bytes) / 0x1p20, device_->info().name,
         static_cast<double>(device_->max_tensor_bytes()) / 0x1p20);
  }
  const auto old_bytes = static_cast<std::uint64_t>(slots * capacity_ * width * dtype_size_bytes(model_->dtype()));
  const std::uint64_t layers = model_->config().attn_layer_idx.size();
  require_available(*device_, options_, layers * 2 * (cache_bytes - old_bytes) + 2 * old_bytes,
                    fmt::format("a KV cache for {} sessions of {} tokens", slots, capacity));
  // Layer by layer, so that the old and the new cache of only one layer exist at the same time. A layer that cannot
  // grow leaves earlier ones larger than capacity_ says, which does no harm.
  forget_recordings();
  for (AttentionCache& cache : state_.caches) {
    if (!cache.k || cache.k.shape[1] >= capacity) continue;
    const AttentionCache grown = model_->allocate_cache(slots, capacity);
    const std::int64_t old_rows = cache.k.shape[1];
    device_->run([&](Encoder& encoder) {
      for (std::int64_t slot = 0; slot < slots; ++slot) {
        const auto copy = [&](const Tensor& in, const Tensor& out) {
          encoder.copy({in.slice(slot, 1), out.reshape({slots * capacity, width}).slice(slot * capacity, old_rows)});
        };
        copy(cache.k, grown.k);
        copy(cache.v, grown.v);
      }
    });
    cache = grown;
  }
  capacity_ = capacity;
}

SamplerRow EngineCore::sampler_row(const SamplingOptions& options, std::uint32_t draws) const {
  SamplerRow row;
  row.temperature = static_cast<float>(options.temperature);
  row.top_k = static_cast<std::int32_t>(options.top_k);
  row.top_p = static_cast<float>(options.top_p);
  row.min_p = static_cast<float>(options.min_p);
  row.repetition_penalty = static_cast<float>(options.repetition_penalty);
  row.presence_penalty = static_cast<float>(options.presence_penalty);
  row.frequency_penalty = static_cast<float>(options.frequency_penalty);
  std::int64_t limit = options.padded_vocabulary ? vocabulary() : model_->config().vocab_size;
  if (options.vocabulary_limit > 0) limit = std::min(limit, options.vocabulary_limit);
  row.vocab_limit = static_cast<std::int32_t>(limit);
  row.seed_low = static_cast<std::uint32_t>(options.seed);
  row.seed_high = static_cast<std::uint32_t>(options.seed >> 32);
  row.draws = draws;
  return row;
}

std::vector<float> EngineCore::bias_row(const SamplingOptions& options) const {
  std::vector<float> bias(static_cast<std::size_t>(vocabulary()));
  for (const auto& [token, value] : options.logit_bias) bias[static_cast<std::size_t>(token)] = value;
  return bias;
}

std::vector<std::int32_t> EngineCore::counts_row(std::span<const std::int32_t> tokens) const {
  std::vector<std::int32_t> counts(static_cast<std::size_t>(vocabulary()));
  for (const std::int32_t token : tokens) ++counts[static_cast<std::size_t>(token)];
  return counts;
}

void EngineCore::require_bias() {
  if (tensors_.bias) return;
  const auto slots = static_cast<std::int64_t>(slot_used_.size());
  require_available(*device_, options_, static_cast<std::uint64_t>(4 * slots * vocabulary()), "the logit bias");
  tensors_.bias = device_->allocate_tensor(DType::f32, {slots, vocabulary()});
}

void EngineCore::require_counts() {
  if (tensors_.counts) return;
  const auto slots = static_cast<std::int64_t>(slot_used_.size());
  require_available(*device_, options_, static_cast<std::uint64_t>(4 * slots * vocabulary()), "counting tokens");
  tensors_.counts = device_->allocate_tensor(DType::i32, {slots, vocabulary()});
}

void EngineCore::upload_sampler(std::int64_t slot, const SamplingOptions& options, std::uint32_t draws) {
  const SamplerRow row = sampler_row(options, draws);
  device_->upload(tensors_.sampler.slice(slot, 1), std::as_bytes(std::span(&row, 1)));
  if (!options.logit_bias.empty()) require_bias();
  if (!tensors_.bias) return;  // a row of zeros when only others have a bias
  const std::vector<float> bias = bias_row(options);
  device_->upload(tensors_.bias.slice(slot, 1), std::as_bytes(std::span(bias)));
}

void EngineCore::upload_counts(std::int64_t slot, std::span<const std::int32_t> tokens) {
  require_counts();
  const std::vector<std::int32_t> counts = counts_row(tokens);
  device_->upload(tensors_.counts.slice(slot, 1), std::as_bytes(std::span(counts)));
}

void EngineCore::bind(std::span<const std::int64_t> slots) {
  const bool same =
      slots.size() <= bound_slots_.size() && std::equal(slots.begin(), slots.end(), bound_slots_.begin());
  if (same) return;
  bound_slots_.assign(slots.begin(), slots.end());
  device_->upload(tensors_.slots.slice(0, static_cast<std::int64_t>(slots.size())),
                  std::as_bytes(std::span(bound_slots_)));
}

std::shared_ptr<Recording> EngineCore::prefill_recording(std::int64_t length) {
  ++use_counter_;
  for (PrefillRecording& entry : prefill_recordings_) {
    if (entry.length != length) continue;
    entry.last_use = use_counter_;
    return entry.recording;
  }
  if (prefill_recordings_.size() > kept_prefill_recordings) {
    const auto oldest = std::min_element(prefill_recordings_.begin(), prefill_recordings_.end(),
                                         [&](const PrefillRecording& a, const PrefillRecording& b) {
                                           const auto age = [&](const PrefillRecording& entry) {
                                             const bool whole = entry.length == options_.prefill_piece_tokens;
                                             return whole ? use_counter_ : entry.last_use;
                                           };
                                           return age(a) < age(b);
                                         });
    prefill_recordings_.erase(oldest);
  }
  auto recording = record([&](Encoder& encoder) { record_piece(encoder, *model_, state_, tensors_, length); });
  prefill_recordings_.push_back({length, use_counter_, recording});
  return recording;
}

void EngineCore::submit_and_wait(const std::shared_ptr<Recording>& recording, const char* name,
                                 std::int64_t sequences, std::int64_t tokens) {
  const double submitted_ms = trace_ ? trace_->now_ms() : 0;
  device_->wait(device_->submit(*recording));
  if (trace_) {
    trace_->add_submission(name, sequences, tokens, submitted_ms, trace_->now_ms(), recording->timings());
  }
}

void EngineCore::read_piece(std::int64_t slot, std::span<const std::int32_t> ids) {
  const auto length = static_cast<std::int64_t>(ids.size());
  const std::int64_t slots[] = {slot};
  bind(slots);
  const std::shared_ptr<Recording> recording = prefill_recording(length);
  std::copy(ids.begin(), ids.end(), device_->mapped_as<std::int32_t>(tensors_.piece_ids).begin());
  submit_and_wait(recording, "prefill", 1, length);
  last_recording_ = recording;
  last_tokens_ = length;
}

std::vector<float> EngineCore::peek(std::int64_t slot, std::int32_t token) {
  const std::int64_t slots[] = {slot};
  bind(slots);
  if (!peek_recording_) {
    H3Model::Pass pass;
    pass.ids = tensors_.piece_ids.slice(0, 1);
    pass.slots = tensors_.slots.slice(0, 1);
    pass.state = &state_;
    pass.logits = tensors_.logits.slice(0, 1);
    pass.advance = false;
    peek_recording_ = record([&](Encoder& encoder) { model_->record(encoder, pass); });
  }
  device_->mapped_as<std::int32_t>(tensors_.piece_ids)[0] = token;
  back_up(slot);
  device_->submit(*peek_recording_);
  bring_back(slot);
  logits_rows_ = 0;
  std::vector<float> values(static_cast<std::size_t>(vocabulary()));
  device_->download(tensors_.logits.slice(0, 1), std::as_writable_bytes(std::span(values)));
  return values;
}

std::shared_ptr<Recording> EngineCore::step_recording(const StepKind& kind) {
  std::shared_ptr<Recording>& recording = step_recordings_[kind];
  if (recording) return recording;
  recording = record([&](Encoder& encoder) { record_step(encoder, *model_, state_, tensors_, kind); });
  return recording;
}

void EngineCore::set_token(std::int64_t row, std::int32_t token) {
  device_->mapped_as<std::int32_t>(tensors_.tokens)[static_cast<std::size_t>(row)] = token;
}

std::int32_t EngineCore::drawn(std::int64_t slot, std::uint32_t draw_index) {
  const std::int64_t index =
      slot * EngineTensors::history_length + static_cast<std::int64_t>(draw_index % EngineTensors::history_length);
  return device_->mapped_as<std::int32_t>(tensors_.history)[static_cast<std::size_t>(index)];
}

std::uint64_t EngineCore::submit_step(const StepKind& kind) {
  const std::shared_ptr<Recording> recording = step_recording(kind);
  if (trace_) step_submitted_ms_ = trace_->now_ms();
  const std::uint64_t ticket = device_->submit(*recording);
  last_recording_ = recording;
  last_tokens_ = kind.batch;
  logits_rows_ = kind.batch;
  return ticket;
}

void EngineCore::wait(std::uint64_t ticket) {
  device_->wait(ticket);
  if (!trace_ || step_submitted_ms_ < 0) return;
  trace_->add_submission("step", last_tokens_, 1, step_submitted_ms_, trace_->now_ms(), last_recording_->timings());
  step_submitted_ms_ = -1;
}

std::vector<float> EngineCore::last_step_logits() {
  if (logits_rows_ == 0) fail(StatusCode::invalid_argument, "step logits: the last call was not a step");
  std::vector<float> values(static_cast<std::size_t>(logits_rows_ * vocabulary()));
  device_->download(tensors_.logits.slice(0, logits_rows_), std::as_writable_bytes(std::span(values)));
  return values;
}

void EngineCore::prepare(const StepKind& kind, bool prefill) {
  step_recording(kind);
  if (!prefill) return;
  // A piece longer than the KV cache can never be read before the cache has grown, which makes a new recording.
  const std::int64_t longest = model_->has_attention() ? capacity_ : options_.prefill_piece_tokens;
  prefill_recording(std::min(options_.prefill_piece_tokens, longest));
}

void EngineCore::prepare_sessions() {
  const auto slots = static_cast<std::int64_t>(slot_used_.size());
  for (std::int64_t slot = 0; slot < slots; ++slot) clear_recording(slot);
  for (std::int64_t batch = 1; batch <= slots; ++batch) step_recording({batch, false, false});
}

// Recordings so far do not time their operations, or would go on doing so.
void EngineCore::set_trace(std::shared_ptr<Trace> trace) {
  trace_ = std::move(trace);
  forget_recordings();
}

Engine::Timing EngineCore::last_timing() const {
  Engine::Timing timing;
  timing.tokens = last_tokens_;
  const bool clock = device_->supports(Feature::timestamps).supported;
  if (last_recording_ && clock) timing.device_ms = last_recording_->total_time_ms();
  return timing;
}

// A group of whole sequences at a time where their logits fit a bounded buffer, else one sequence in pieces.
void EngineCore::forward(std::span<const std::int32_t> ids, std::int64_t batch, std::int64_t length,
                         const std::function<void(std::int64_t, std::span<const float>)>& consume) {
  if (batch < 1 || length < 1 || static_cast<std::int64_t>(ids.size()) != batch * length) {
    fail(StatusCode::invalid_argument, "{} ids for {} sequences of {} tokens", ids.size(), batch, length);
  }
  check_token_ids(ids, vocabulary());
  const std::uint64_t row_bytes = static_cast<std::uint64_t>(vocabulary()) * sizeof(float);
  const std::uint64_t logits_bytes = std::min(forward_logits_bytes, device_->max_tensor_bytes());
  std::int64_t rows = std::max<std::int64_t>(1, static_cast<std::int64_t>(logits_bytes / row_bytes));
  rows = std::min(rows, options_.prefill_piece_tokens);
  ForwardPieces pieces = forward_pieces(rows, batch, length);
  const auto needed = [&] { return count_forward(*device_, *model_, pieces, length); };
  while (rows > 1 && needed() > available_bytes(*device_, options_))
    pieces = forward_pieces(rows /= 2, batch, length);
  require_available(*device_, options_, needed(), fmt::format("reading sequences of {} tokens", length));
  const std::int64_t group = pieces.group;
  const std::int64_t piece = pieces.piece;

  // One slot more than the group: it stays empty, and is copied over the others before each group.
  const ModelState state = model_->allocate_state(group + 1, length);
  const Tensor device_slots = device_->allocate_tensor(DType::i32, {group});
  const Tensor device_ids = device_->allocate_tensor(DType::i32, {group * piece}, MemoryUse::upload);
  const Tensor logits = device_->allocate_tensor(DType::f32, {group * piece, vocabulary()});
  std::vector<std::int32_t> slot_numbers(static_cast<std::size_t>(group));
  for (std::size_t i = 0; i < slot_numbers.size(); ++i) slot_numbers[i] = static_cast<std::int32_t>(i);
  device_->upload(device_slots, std::as_bytes(std::span(slot_numbers)));
  const std::vector<std::int32_t> zeros(static_cast<std::size_t>(group + 1));

  std::map<std::pair<std::int64_t, std::int64_t>, std::shared_ptr<Recording>> recordings;
  std::vector<float> values;
  for (std::int64_t first = 0; first < batch; first += group) {
    const std::int64_t sequences = std::min(group, batch - first);
    if (first > 0) {
      device_->upload(state.positions, std::as_bytes(std::span(zeros)));
      device_->run([&](Encoder& encoder) {
        for (const H3State& h3 : state.h3) {
          if (!h3.shift) continue;
          for (std::int64_t slot = 0; slot < sequences; ++slot) {
            encoder.copy({h3.shift.slice(group, 1), h3.shift.slice(slot, 1)});
            encoder.copy({h3.modes.slice(group, 1), h3.modes.slice(slot, 1)});
          }
        }
      });
    }
    for (std::int64_t begin = 0; begin < length; begin += piece) {
      const std::int64_t tokens = std::min(piece, length - begin);
      std::shared_ptr<Recording>& recording = recordings[{sequences, tokens}];
      H3Model::Pass pass;
      pass.ids = device_ids.slice(0, sequences * tokens);
      pass.slots = device_slots.slice(0, sequences);
      pass.batch = sequences;
      pass.length = tokens;
      pass.state = &state;
      pass.logits = logits.slice(0, sequences * tokens);
      if (!recording) recording = record([&](Encoder& encoder) { model_->record(encoder, pass); });
      const std::span<std::int32_t> piece_ids = device_->mapped_as<std::int32_t>(device_ids);
      for (std::int64_t b = 0; b < sequences; ++b) {
        const auto source =
            ids.subspan(static_cast<std::size_t>((first + b) * length + begin), static_cast<std::size_t>(tokens));
        std::copy(source.begin(), source.end(), piece_ids.begin() + static_cast<std::ptrdiff_t>(b * tokens));
      }
      submit_and_wait(recording, "forward", sequences, tokens);
      values.resize(static_cast<std::size_t>(sequences * tokens * vocabulary()));
      device_->download(pass.logits, std::as_writable_bytes(std::span(values)));
      consume(first * length + begin, values);
    }
  }
}

}  // namespace riverhorse
