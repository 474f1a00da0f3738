// Sessions of one engine whose work is recorded into a host's frames together: one budget, one command buffer, and
// one step for all that are due.
#pragma once

#include <memory>

#include "engine/engine.h"

namespace riverhorse {

class FrameGroup;  // frame_group.h

class FrameBatch {
 public:
  // Rows of a step that keep the bits that they have alone.
  static constexpr std::int64_t most_together = 8;

  // Records steps of 1 to `together` sequences, and measures them. Errors: unsupported; out_of_memory.
  FrameBatch(Engine& engine, std::int64_t together);
  ~FrameBatch();
  FrameBatch(const FrameBatch&) = delete;
  FrameBatch& operator=(const FrameBatch&) = delete;

  // From then on the work of the session, which is of this engine, is recorded here: a text that is read gets tokens,
  // and one that is drawn gets steps, in proportion to its priority. Again, for one that is in it: a new priority.
  // Errors: invalid_argument for a session of another batch, and while frames with its own work are in flight.
  void add(Session& session, double priority);
  // Ends what it was drawing with the token that was handed out last. Never waits: frames in flight go on, and the
  // next use of the session does what they leave undone. Errors: invalid_argument for a session that is not in it.
  void remove(Session& session);
  // Session::record_frame, for all of them.
  Session::FrameWork record(void* commands, double budget_us);

 private:
  std::shared_ptr<EngineCore> core_;
  std::shared_ptr<FrameGroup> group_;
};

}  // namespace riverhorse
