// A session's side of the host's frames (frame_group.h).
#include <algorithm>
#include <utility>

#include "engine/session_impl.h"

namespace riverhorse {

FrameDevice& EngineCore::frame_device() const {
  auto* const frames = dynamic_cast<FrameDevice*>(device_.get());
  if (frames == nullptr) {
    fail(StatusCode::unsupported, "{} ({}) cannot be recorded into command buffers: use the vulkan backend",
         device_->info().name, device_->info().id());
  }
  return *frames;
}

void EngineCore::add_frames(const std::shared_ptr<FrameGroup>& group) {
  std::erase_if(frame_groups_, [](const std::weak_ptr<FrameGroup>& each) { return each.expired(); });
  frame_groups_.push_back(group);
}

// Their recordings write to the caches as they are.
void EngineCore::require_no_frames(std::int64_t tokens) const {
  for (const std::weak_ptr<FrameGroup>& each : frame_groups_) {
    const std::shared_ptr<FrameGroup> group = each.lock();
    if (group == nullptr || !group->in_progress()) continue;
    fail(StatusCode::invalid_argument,
         "the attention cache has room for {} tokens and must grow to {}, which it cannot while steps "
         "of a session are recorded into frames: load the model with context_tokens large enough",
         capacity_, tokens);
  }
}

void EngineCore::retire(std::shared_ptr<FrameMember> member, std::shared_ptr<FrameGroup> group) {
  retired_.push_back({std::move(member), std::move(group)});
  collect_retired();
}

void EngineCore::collect_retired() {
  std::erase_if(retired_, [&](Retired& each) {
    if (each.member != nullptr) {
      if (!each.group->lets_go(*each.member)) return false;
      release_slot(each.member->slot);
      each.member.reset();
    }
    return !each.group->is_abandoned() || each.group->is_released();
  });
}

std::vector<std::int64_t> EngineCore::quiet_slots() const {
  std::vector<std::int64_t> slots;
  for (const bool used : {false, true}) {
    for (std::size_t i = 0; i < slot_used_.size(); ++i) {
      const auto slot = static_cast<std::int64_t>(i);
      const bool retired = std::any_of(retired_.begin(), retired_.end(), [&](const Retired& each) {
        return each.member != nullptr && each.member->slot == slot;
      });
      const bool worked_on = std::any_of(frame_groups_.begin(), frame_groups_.end(), [&](const auto& each) {
        const std::shared_ptr<FrameGroup> group = each.lock();
        return group != nullptr && group->works_on(slot);
      });
      if (slot_used_[i] == used && !retired && !worked_on) slots.push_back(slot);
    }
  }
  return slots;
}

// The group may belong to others; the slot is given back when none of its frames works on it any more.
void Session::Impl::leave_frames() {
  const std::shared_ptr<FrameMember> member = std::exchange(frames, nullptr);
  std::shared_ptr<FrameGroup> group = member->group;
  group->leave(*member);
  group->remove(*member);
  member->session = nullptr;
  core->retire(member, std::move(group));
}

void Session::Impl::quit_frames() {
  if (frames == nullptr) return;
  frames->group->settle(*frames);
  const std::shared_ptr<FrameGroup> group = frames->group;
  group->remove(*frames);
  frames.reset();
  core->retire(nullptr, group);
}

FrameMember& Session::Impl::in_frames() {
  if (frames != nullptr && !is_in_batch() && (frames->leaving || frames->group->kind() != kind())) quit_frames();
  if (frames == nullptr) {
    const auto group = std::make_shared<FrameGroup>(*core, kind());
    core->add_frames(group);
    frames = group->join(*this, 1);
  }
  frames->group->refresh();
  return *frames;
}

void Session::enqueue_frames(std::span<const std::int32_t> tokens) {
  check_token_ids(tokens, impl_->core->vocabulary());
  impl_->core->reserve(position() + static_cast<std::int64_t>(tokens.size()));
  FrameMember& member = impl_->in_frames();
  member.group->enqueue(member, tokens);
}

void Session::start_frames(std::int64_t max_tokens) {
  if (max_tokens < 1) fail(StatusCode::invalid_argument, "max_tokens is {}; it must be at least 1", max_tokens);
  if (impl_->tokens.empty()) {
    fail(StatusCode::invalid_argument, "there is nothing to continue: append at least one token first");
  }
  impl_->core->reserve(impl_->state_position() + max_tokens);
  FrameMember& member = impl_->in_frames();
  member.group->start(member, max_tokens);
}

Session::FrameWork Session::record_frame(void* commands, double budget_us) {
  if (impl_->is_in_batch()) fail(StatusCode::invalid_argument, "the session is in a batch: record that");
  if (impl_->frames == nullptr || impl_->frames->leaving) return {};
  const FrameQueue::Appended done = impl_->frames->group->record(commands, budget_us);
  return {done.expected_us, done.pieces};
}

Session::FrameReport Session::poll_frames(const std::function<bool(std::int32_t token)>& on_token) {
  FrameReport report;
  if (impl_->frames == nullptr) return report;
  FrameMember& member = *impl_->frames;
  FrameGroup& group = *member.group;
  group.drain();
  while (group.take(member)) {
    if (on_token && !on_token(impl_->tokens.back())) group.end(member);
  }
  const FrameGroup::Frames frames = group.frames();
  report.frames = frames.executed - std::exchange(member.frames_reported, frames.executed);
  report.frames_in_flight = frames.in_flight;
  report.tokens_to_read = group.tokens_to_read(member);
  report.running = !member.leaving && (member.to_draw > 0 || member.unseen > 0 || report.tokens_to_read > 0);
  if (report.frames == 0) return report;
  report.expected_us = frames.expected_us;
  report.measured_us = frames.measured_us;
  return report;
}

// Ends what is recorded, so that the state is that of `tokens`, as all other functions expect it.
void Session::settle() {
  if (impl_->frames == nullptr) return;
  if (impl_->frames->leaving) {
    impl_->quit_frames();
  } else {
    impl_->frames->group->settle(*impl_->frames);
  }
}

}  // namespace riverhorse
