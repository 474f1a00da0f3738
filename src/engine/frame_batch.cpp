#include "engine/frame_batch.h"

#include <algorithm>
#include <cmath>

#include "engine/session_impl.h"

namespace riverhorse {

FrameBatch::FrameBatch(Engine& engine, std::int64_t together) : core_(engine.core_) {
  if (together < 1 || together > most_together) {
    fail(StatusCode::invalid_argument, "{} sessions together in a step; it must be 1 to {}", together, most_together);
  }
  // Whatever options its members draw with.
  group_ =
      std::make_shared<FrameGroup>(*core_, StepKind{std::min(together, core_->options().max_sessions), true, true});
  group_->is_open = true;
  core_->add_frames(group_);
}

FrameBatch::~FrameBatch() {
  group_->close();
  core_->retire(nullptr, std::move(group_));
}

void FrameBatch::add(Session& session, double priority) {
  if (!std::isfinite(priority) || priority <= 0) {
    fail(StatusCode::invalid_argument, "the priority is {}: it must be above 0", priority);
  }
  Session::Impl& member = *session.impl_;
  if (member.core != core_) fail(StatusCode::invalid_argument, "the session is of another model than the batch");
  if (member.is_in_batch()) {
    if (member.frames->group != group_) {
      fail(StatusCode::invalid_argument, "the session is in another batch: remove it there first");
    }
    member.frames->priority = priority;
    return;
  }
  member.quit_frames();
  member.sampler_stale = member.counts_stale = true;  // steps of a batch read rows that its own may not have needed
  member.frames = group_->join(member, priority);
}

void FrameBatch::remove(Session& session) {
  const std::shared_ptr<FrameMember>& member = session.impl_->frames;
  if (!session.impl_->is_in_batch() || member->group != group_) {
    fail(StatusCode::invalid_argument, "the session is not in this batch");
  }
  group_->leave(*member);
}

Session::FrameWork FrameBatch::record(void* commands, double budget_us) {
  const FrameQueue::Appended done = group_->record(commands, budget_us);
  return {done.expected_us, done.pieces};
}

}  // namespace riverhorse
