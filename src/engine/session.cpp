// Session: one text in one slot. The device's state is always that of all tokens but the newest (engine_core.h).
#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/error.h"
#include "engine/engine_core.h"
#include "engine/session_impl.h"
#include "model/upload.h"

namespace riverhorse {

namespace {

// In generate(): how many steps are submitted ahead of the host where a step is shorter than `fast_step`, and how
// many tokens lie between two copies of the state, which an early end reads again from. Less than the ring holds.
constexpr std::int64_t steps_in_flight = 4;
constexpr std::chrono::microseconds fast_step{3000};
constexpr std::int64_t backup_interval = 48;
static_assert(backup_interval + steps_in_flight < EngineTensors::history_length);

void check_range(const char* field, double value, double low, double high, bool low_included = true) {
  const bool inside = low_included ? value >= low : value > low;
  if (std::isfinite(value) && inside && value <= high) return;
  fail(StatusCode::invalid_argument, "{} is {}; it must be {} {} and at most {}", field, value,
       low_included ? "at least" : "above", low, high);
}

}  // namespace

void check_sampling(const SamplingOptions& options, const ModelConfig& config) {
  check_range("temperature", options.temperature, 0, 100);
  check_range("top_p", options.top_p, 0, 1, false);
  check_range("min_p", options.min_p, 0, 1);
  check_range("repetition_penalty", options.repetition_penalty, 0, 100, false);
  check_range("presence_penalty", options.presence_penalty, -100, 100);
  check_range("frequency_penalty", options.frequency_penalty, -100, 100);
  const std::int64_t vocabulary = config.padded_vocab_size();
  if (options.top_k < 0 || options.top_k > vocabulary) {
    fail(StatusCode::invalid_argument, "top_k is {}; it must be 0 (all) to {}", options.top_k, vocabulary);
  }
  if (options.vocabulary_limit < 0 || options.vocabulary_limit > vocabulary) {
    fail(StatusCode::invalid_argument, "vocabulary_limit is {}; it must be 0 (none) to {}", options.vocabulary_limit,
         vocabulary);
  }
  for (const auto& [token, value] : options.logit_bias) {
    if (token < 0 || token >= vocabulary) {
      fail(StatusCode::invalid_argument, "logit_bias names token {}; the vocabulary is 0 to {}", token,
           vocabulary - 1);
    }
    check_range("logit_bias", value, -1000, 1000);
  }
}

Session::Session(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Session::~Session() = default;

std::int64_t Session::position() const { return static_cast<std::int64_t>(impl_->tokens.size()); }
const std::vector<std::int32_t>& Session::tokens() const { return impl_->tokens; }
const SamplingOptions& Session::sampling() const { return impl_->sampling; }

void Session::append(std::span<const std::int32_t> tokens, const ProgressFunction& progress,
                     const std::function<bool()>& cancelled) {
  settle();
  check_token_ids(tokens, impl_->core->vocabulary());
  if (tokens.empty()) return;
  std::vector<std::int32_t> all = impl_->tokens;
  all.insert(all.end(), tokens.begin(), tokens.end());
  impl_->read_up_to(all, progress, cancelled);
}

std::int32_t Session::step() {
  settle();
  EngineCore& core = *impl_->core;
  impl_->ready();
  const std::int64_t slots[] = {impl_->slot};
  core.bind(slots);
  core.set_token(0, impl_->tokens.back());
  core.wait(core.submit_step(impl_->kind()));
  impl_->take_drawn(core.drawn(impl_->slot, impl_->draws));
  return impl_->tokens.back();
}

std::int64_t Session::generate(std::int64_t max_tokens, const std::function<bool(std::int32_t token)>& on_token) {
  settle();
  if (max_tokens < 0) fail(StatusCode::invalid_argument, "max_tokens is {}; it must be at least 0", max_tokens);
  if (max_tokens == 0) return 0;
  EngineCore& core = *impl_->core;
  impl_->ready();
  std::int64_t produced = 0;
  std::int64_t depth = 1;  // until the first step has shown how long one takes
  while (produced < max_tokens) {
    // One stretch: from a copy of the state to the next, or to where the KV cache must grow.
    const std::int64_t stretch = std::min(backup_interval, max_tokens - produced);
    impl_->ready();
    core.reserve(impl_->state_position() + stretch);
    const std::int64_t slots[] = {impl_->slot};
    core.bind(slots);
    core.set_token(0, impl_->tokens.back());
    const std::int64_t backup_state = impl_->state_position();
    if (depth > 1) core.back_up(impl_->slot);
    const StepKind kind = impl_->kind();
    std::vector<std::uint64_t> tickets;
    std::int64_t consumed = 0;
    bool go_on = true;
    while (go_on && consumed < stretch) {
      while (static_cast<std::int64_t>(tickets.size()) < std::min(stretch, consumed + depth)) {
        tickets.push_back(core.submit_step(kind));
      }
      const auto begin = std::chrono::steady_clock::now();
      core.wait(tickets[static_cast<std::size_t>(consumed)]);
      const auto waited = std::chrono::steady_clock::now() - begin;
      impl_->take_drawn(core.drawn(impl_->slot, impl_->draws));
      ++consumed;
      ++produced;
      try {
        go_on = !on_token || on_token(impl_->tokens.back());
      } catch (...) {
        core.wait(tickets.back());
        if (static_cast<std::int64_t>(tickets.size()) > consumed) impl_->undo(backup_state, position());
        throw;
      }
      if (depth == 1 && produced == 2 && waited < fast_step && !core.traces()) {
        depth = steps_in_flight;  // the first token may have waited for its recording; the second tells
        break;                    // and a new stretch begins, with its copy of the state
      }
    }
    core.wait(tickets.back());
    if (static_cast<std::int64_t>(tickets.size()) > consumed) impl_->undo(backup_state, position());
    if (!go_on) break;
  }
  return produced;
}

std::vector<float> Session::logits() {
  settle();
  if (impl_->tokens.empty()) fail(StatusCode::invalid_argument, "logits: append at least one token first");
  impl_->core->reserve(impl_->state_position() + 1);
  return impl_->core->peek(impl_->slot, impl_->tokens.back());
}

void Session::set_sampling(const SamplingOptions& options) {
  settle();
  check_sampling(options, impl_->core->model().config());
  impl_->sampling = options;
  impl_->draws = 0;
  std::fill(impl_->draws_at.begin(), impl_->draws_at.end(), 0);
  impl_->sampler_stale = true;
  impl_->counts_stale = true;
}

std::unique_ptr<Session> Session::clone() {
  settle();
  auto copy = std::make_unique<Impl>(impl_->core);
  impl_->core->copy_slot(impl_->slot, copy->slot, impl_->state_position());
  copy->take(*impl_);
  copy->checkpoints = impl_->checkpoints;
  return std::unique_ptr<Session>(new Session(std::move(copy)));
}

// A snapshot but for the layers' state.
Session::Snapshot Session::Impl::describe() const {
  Snapshot snapshot;
  static_cast<Text&>(snapshot) = *this;
  snapshot.model_hash = core->model_hash();
  snapshot.cache_dtype = core->model().dtype();
  return snapshot;
}

std::shared_ptr<const Session::Snapshot> Session::snapshot() {
  settle();
  EngineCore& core = *impl_->core;
  auto snapshot = std::make_shared<Snapshot>(impl_->describe());
  const ModelState& state = core.state();
  const std::int64_t rows = snapshot->state_position();
  snapshot->layers.resize(state.h3.size());
  for (std::size_t i = 0; i < state.h3.size(); ++i) {
    Snapshot::Layer& layer = snapshot->layers[i];
    if (state.h3[i].shift) {
      const auto download = [&](const Tensor& pool, std::vector<float>& out) {
        const Tensor slice = pool.slice(impl_->slot, 1);
        out.resize(static_cast<std::size_t>(slice.count()));
        core.device().download(slice, std::as_writable_bytes(std::span(out)));
      };
      download(state.h3[i].shift, layer.shift);
      download(state.h3[i].modes, layer.modes);
    } else if (rows > 0) {
      const auto download = [&](const Tensor& cache, std::vector<std::byte>& out) {
        const Tensor flat = cache.reshape({cache.shape[0] * cache.shape[1], cache.shape[2]});
        const Tensor slice = flat.slice(impl_->slot * cache.shape[1], rows);
        out.resize(slice.size_bytes());
        core.device().download(slice, out);
      };
      download(state.caches[i].k, layer.k);
      download(state.caches[i].v, layer.v);
    }
  }
  return snapshot;
}

void Session::Impl::apply(const Snapshot& snapshot) {
  const std::int64_t rows = snapshot.state_position();
  core->reserve(rows + 1);
  const ModelState& state = core->state();
  for (std::size_t i = 0; i < state.h3.size(); ++i) {
    const Snapshot::Layer& layer = snapshot.layers[i];
    if (state.h3[i].shift) {
      core->device().upload(state.h3[i].shift.slice(slot, 1), std::as_bytes(std::span(layer.shift)));
      core->device().upload(state.h3[i].modes.slice(slot, 1), std::as_bytes(std::span(layer.modes)));
    } else if (rows > 0) {
      const auto upload = [&](const Tensor& cache, const std::vector<std::byte>& in) {
        const Tensor flat = cache.reshape({cache.shape[0] * cache.shape[1], cache.shape[2]});
        const Tensor slice = flat.slice(slot * cache.shape[1], rows);
        HostTensor source;
        source.dtype = snapshot.cache_dtype;
        source.shape = {slice.count()};
        source.bytes = in;
        upload_converted(core->device(), source, slice, fmt::format("KV cache of layer {}", i));
      };
      upload(state.caches[i].k, layer.k);
      upload(state.caches[i].v, layer.v);
    }
  }
  core->set_position(slot, rows);
  take(snapshot);
}

void Session::restore(const std::shared_ptr<const Snapshot>& snapshot) {
  settle();
  if (!snapshot) fail(StatusCode::invalid_argument, "restore: there is no snapshot");
  if (snapshot->model_hash != impl_->core->model_hash()) {
    fail(StatusCode::invalid_argument, "restore: the snapshot is of model {}, this is {}", snapshot->model_hash,
         impl_->core->model_hash());
  }
  impl_->apply(*snapshot);
  impl_->checkpoints.clear();
}

std::shared_ptr<const Session::Mark> Session::mark() {
  settle();
  auto mark = std::make_shared<Mark>(Mark{*impl_, impl_->core.get(), {}});
  if (!mark->tokens.empty()) mark->state = impl_->core->copy_state(impl_->slot);
  return mark;
}

std::int64_t Session::Impl::return_to(const Mark& mark) {
  const bool goes_on =
      tokens.size() >= mark.tokens.size() && std::equal(mark.tokens.begin(), mark.tokens.end(), tokens.begin());
  const auto beyond = [&](const auto& each) { return each->tokens.size() > mark.tokens.size(); };
  std::erase_if(checkpoints, [&](const auto& each) { return !goes_on || beyond(each); });
  std::int64_t read_again = 0;
  if (mark.tokens.empty()) {
    core->clear_slot(slot);
  } else if (goes_on) {
    core->set_state(slot, mark.state);
  } else {
    core->clear_slot(slot);
    tokens.clear();
    draws_at.clear();
    read_up_to(mark.tokens, {}, {});
    read_again = state_position();
  }
  take(mark);
  return read_again;
}

std::int64_t Session::return_to(const std::shared_ptr<const Mark>& mark) {
  settle();
  if (!mark || mark->core != impl_->core.get()) {
    fail(StatusCode::invalid_argument, "return_to: {}", mark ? "the mark is of another engine" : "there is no mark");
  }
  return impl_->return_to(*mark);
}

void Session::checkpoint() {
  if (!impl_->tokens.empty()) impl_->checkpoints.push_back(mark());
}

std::int64_t Session::rewind(std::int64_t new_position) {
  settle();
  if (new_position < 0 || new_position > position()) {
    fail(StatusCode::invalid_argument, "rewind: position {} is not in this text of {} tokens", new_position,
         position());
  }
  if (new_position == position()) return 0;
  const auto end = static_cast<std::size_t>(new_position);
  const std::vector<std::int32_t> tokens(impl_->tokens.begin(), impl_->tokens.begin() + new_position);
  const std::vector<std::uint32_t> draws_at(impl_->draws_at.begin(), impl_->draws_at.begin() + new_position);
  const SamplingOptions sampling = impl_->sampling;
  auto& kept = impl_->checkpoints;
  while (!kept.empty() && kept.back()->tokens.size() > end) kept.pop_back();
  std::int64_t start = 0;
  if (!kept.empty()) {
    impl_->return_to(*kept.back());
    start = position();
  } else {
    impl_->core->clear_slot(impl_->slot);
    impl_->tokens.clear();
    impl_->draws_at.clear();
  }
  if (end > impl_->tokens.size()) impl_->read_up_to(tokens, {}, {});
  impl_->draws_at = draws_at;
  impl_->draws = draws_at.empty() ? 0 : draws_at.back();
  impl_->sampling = sampling;
  impl_->sampler_stale = true;
  impl_->counts_stale = true;
  return new_position - start;
}

void Session::clear() {
  settle();
  impl_->core->clear_slot(impl_->slot);
  impl_->tokens.clear();
  impl_->draws_at.clear();
  impl_->checkpoints.clear();
  impl_->draws = 0;
  impl_->sampler_stale = true;
  impl_->counts_stale = true;
}

void Session::save(const std::filesystem::path& path) { write_session_file(path, *snapshot()); }

LoadReport Session::load(const std::filesystem::path& path) {
  settle();
  const Snapshot snapshot = read_session_file(path, impl_->core->model().config(), impl_->core->model_hash());
  impl_->apply(snapshot);
  impl_->checkpoints.clear();
  return {position()};
}

std::vector<std::byte> Session::save_bytes() { return session_bytes(*snapshot()); }

std::uint64_t Session::saved_size_bytes() const {
  return session_size_bytes(impl_->describe(), impl_->core->model().config());
}

LoadReport Session::load_bytes(std::span<const std::byte> bytes) {
  settle();
  const EngineCore& core = *impl_->core;
  impl_->apply(parse_session(bytes, "the bytes in memory", core.model().config(), core.model_hash()));
  impl_->checkpoints.clear();
  return {position()};
}

std::unique_ptr<Session> Engine::create_session(const SamplingOptions& sampling) {
  check_sampling(sampling, config());
  auto impl = std::make_unique<Session::Impl>(core_);
  impl->sampling = sampling;
  return std::unique_ptr<Session>(new Session(std::move(impl)));
}

std::vector<std::int32_t> Engine::step(std::span<Session* const> sessions) {
  if (sessions.empty()) return {};
  StepKind kind{static_cast<std::int64_t>(sessions.size()), false, false};
  std::vector<std::int64_t> slots;
  for (Session* session : sessions) {
    if (session == nullptr || session->impl_->core != core_) {
      fail(StatusCode::invalid_argument, "step: session {} is not of this engine", slots.size());
    }
    const Session::Impl& impl = *session->impl_;
    if (std::find(slots.begin(), slots.end(), impl.slot) != slots.end()) {
      fail(StatusCode::invalid_argument, "step: session {} is there twice", slots.size());
    }
    if (impl.tokens.empty()) fail(StatusCode::invalid_argument, "step: session {} has no tokens yet", slots.size());
    slots.push_back(impl.slot);
    kind.counts = kind.counts || impl.sampling.penalises();
    kind.bias = kind.bias || !impl.sampling.logit_bias.empty();
  }
  for (Session* session : sessions) {
    session->settle();
    session->impl_->ready();
  }
  core_->bind(slots);
  for (std::size_t i = 0; i < sessions.size(); ++i) {
    core_->set_token(static_cast<std::int64_t>(i), sessions[i]->impl_->tokens.back());
  }
  core_->wait(core_->submit_step(kind));
  std::vector<std::int32_t> drawn;
  for (Session* session : sessions) {
    Session::Impl& impl = *session->impl_;
    drawn.push_back(core_->drawn(impl.slot, impl.draws));
    impl.take_drawn(drawn.back());
  }
  return drawn;
}

}  // namespace riverhorse
