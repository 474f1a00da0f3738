// A session whose steps are recorded into the host's frames (backend/frame_recording.h).
//
// Each such session has a recording of one step of its own, with its own workspace, token and logits, because a token
// may be half done in one frame while another session's goes on in the same. The token that is drawn is the next
// run's input on the device, so runs follow each other without the host; what was drawn is read from the history once
// the frame has been executed. What lies behind an end that the host saw late is undone when the session is used
// next.
#include <algorithm>
#include <utility>

#include "engine/session_impl.h"

namespace riverhorse {

namespace {

// Runs that the host has not seen the tokens of; less than the ring holds.
constexpr std::int64_t most_unseen = 48;
static_assert(most_unseen < EngineTensors::history_length);

}  // namespace

bool FrameStep::idle() {
  while (recording->poll()) {
  }
  return recording->appends_in_flight() == 0;
}

std::shared_ptr<FrameStep> EngineCore::make_frame_step(std::int64_t slot, const StepKind& kind) {
  auto* const frames = dynamic_cast<FrameDevice*>(device_.get());
  if (frames == nullptr) {
    fail(StatusCode::unsupported, "{} ({}) cannot be recorded into command buffers: use the vulkan backend",
         device_->info().name, device_->info().id());
  }
  auto step = std::make_shared<FrameStep>();
  step->kind = kind;
  step->capacity = capacity_;
  const auto number = static_cast<std::int32_t>(slot);
  EngineTensors tensors = tensors_;
  tensors.slots = device_->allocate_tensor(DType::i32, {1});
  device_->upload(tensors.slots, std::as_bytes(std::span(&number, 1)));
  tensors.tokens = step->token = device_->allocate_tensor(DType::i32, {1}, MemoryUse::upload);
  tensors.logits = device_->allocate_tensor(DType::f32, {1, vocabulary()});
  step->recording =
      frames->record_for_frames([&](Encoder& encoder) { record_step(encoder, *model_, state_, tensors, kind); });
  std::erase_if(frame_steps_, [](const std::weak_ptr<FrameStep>& each) { return each.expired(); });
  frame_steps_.push_back(step);
  return step;
}

// Their recordings write to the caches as they are.
void EngineCore::require_no_frames(std::int64_t tokens) const {
  for (const std::weak_ptr<FrameStep>& each : frame_steps_) {
    const std::shared_ptr<FrameStep> step = each.lock();
    if (step == nullptr || !step->in_progress()) continue;
    fail(StatusCode::invalid_argument,
         "the attention cache has room for {} tokens and must grow to {}, which it cannot while steps "
         "of a session are recorded into frames: load the model with context_tokens large enough",
         capacity_, tokens);
  }
}

void EngineCore::retire(std::int64_t slot, std::shared_ptr<FrameStep> step) {
  retired_.push_back({slot, std::move(step)});
  collect_retired();
}

void EngineCore::collect_retired() {
  std::erase_if(retired_, [&](Retired& each) {
    if (!each.step->idle()) return false;
    if (each.slot >= 0) release_slot(std::exchange(each.slot, -1));
    return each.step->recording->is_released();
  });
}

void Session::start_frames(std::int64_t max_tokens) {
  if (max_tokens < 1) fail(StatusCode::invalid_argument, "max_tokens is {}; it must be at least 1", max_tokens);
  settle();
  Impl& impl = *impl_;
  impl.ready();
  EngineCore& core = *impl.core;
  core.reserve(impl.state_position() + max_tokens);
  std::shared_ptr<FrameStep>& step = impl.frames;
  if (step == nullptr || step->kind != impl.kind() || step->capacity != core.capacity()) {
    step = core.make_frame_step(impl.slot, impl.kind());
    // Measured, so that the first frame keeps its budget; then all is as it was.
    core.device().mapped_as<std::int32_t>(step->token)[0] = impl.tokens.back();
    core.back_up(impl.slot);
    for (int run = 0; run < 2; ++run) {
      step->recording->forget_times();
      step->recording->run_here(1);
      step->idle();
    }
    core.bring_back(impl.slot);
    core.set_position(impl.slot, impl.state_position());
    impl.sampler_stale = impl.counts_stale = true;
    impl.ready();
  }
  core.device().mapped_as<std::int32_t>(step->token)[0] = impl.tokens.back();
  step->to_begin = max_tokens;
  step->unseen = step->unwanted = 0;
}

Session::FrameWork Session::record_frame(void* commands, double budget_us) {
  FrameStep* const step = impl_->frames.get();
  if (step == nullptr) return {};
  const std::int64_t most = std::max<std::int64_t>(0, std::min(step->to_begin, most_unseen - step->unseen));
  const FrameRecording::Appended done = step->recording->append(commands, budget_us, most);
  step->to_begin -= done.runs_begun;
  step->unseen += done.runs_begun;
  return {done.expected_us, done.pieces, done.runs_finished};
}

Session::FrameReport Session::poll_frames(const std::function<bool(std::int32_t token)>& on_token) {
  FrameReport report;
  FrameStep* const step = impl_->frames.get();
  if (step == nullptr) return report;
  while (const std::optional<FrameRecording::Executed> frame = step->recording->poll()) {
    ++report.frames;
    report.measured_us = frame->measured_us;
    report.expected_us = frame->expected_us;
    for (std::int64_t i = 0; i < frame->runs_finished; ++i) {
      --step->unseen;
      if (step->unwanted > 0) continue;
      impl_->take_drawn(impl_->core->drawn(impl_->slot, impl_->draws));
      if (on_token && !on_token(impl_->tokens.back())) {
        step->to_begin = 0;
        step->unwanted = step->unseen;
      }
    }
  }
  report.running = step->to_begin > 0 || step->unseen > step->unwanted;
  report.frames_in_flight = step->recording->appends_in_flight();
  return report;
}

// Ends what is recorded, so that the state is that of `tokens`, as all other functions expect it.
void Session::settle() {
  FrameStep* const step = impl_->frames.get();
  if (step == nullptr || (step->to_begin == 0 && step->unseen == 0 && step->unwanted == 0)) return;
  poll_frames({});
  if (step->recording->appends_in_flight() > 0) {
    fail(StatusCode::invalid_argument,
         "{} command buffers with this session's work have not been executed: submit them, and call again when they "
         "are done",
         step->recording->appends_in_flight());
  }
  step->to_begin = 0;
  const bool undo = step->unwanted > 0;
  if (step->recording->is_part_done()) step->recording->run_here(0);
  poll_frames({});
  step->unseen = step->unwanted = 0;
  if (!undo) return;
  // The device is ahead of `tokens`; rewinding goes through an earlier state.
  const std::vector<std::int32_t> kept = impl_->tokens;
  impl_->add_token(kept.back());
  rewind(static_cast<std::int64_t>(kept.size()));
}

}  // namespace riverhorse
