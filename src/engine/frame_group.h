// Sessions whose work is recorded into the frames of a host (backend/frame_recording.h), together and within one
// budget: blocks of text that they read, and steps that draw a token for all that are due.
//
// What runs is decided when a frame has time for it, from what each member wants then. Which sequences a step is of
// lies in device memory and is written by the frame itself, so that one recording a batch size serves any members.
// The token that is drawn is the next step's input on the device; steps follow each other without the host. What was
// drawn is read from the history once a frame has been executed, and handed out when the member is polled.
//
// So the device may be ahead of an end that the host decides later. Copies of the state are made on the way, two a
// member in turn, such that one of them is always at or before what the host has seen. What follows an end begins
// with the copy back and reads the tokens behind it again one by one, which repeats the very operations that drew
// them: all in frames, without a wait.
//
// Turns. A block and a step alternate where both are wanted. Whose block it is: the reader's with the fewest tokens
// read, divided by its priority. A step is of all members that are due: with each step a member earns its priority
// divided by the largest, and is due when it has earned one; where more are due than a step takes, those go first
// that have earned most.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "backend/frame_recording.h"
#include "engine/engine_core.h"

namespace riverhorse {

class FrameGroup;

// One session in a group.
struct FrameMember : std::enable_shared_from_this<FrameMember> {
  Session::Impl* session = nullptr;   // null: gone
  std::shared_ptr<FrameGroup> group;  // null: left
  std::int64_t slot = 0;
  double priority = 1;
  bool leaving = false;  // nothing more is done for it

  // Positions are those of the text (Session::Impl::tokens), as they will be when all that was begun is done. Not
  // live: the session was used in another way since, and its state is that of its text.
  bool live = false;
  std::int64_t state_position = 0;
  std::deque<std::int64_t> read_ends;  // positions at which appended texts end: a block goes no further
  std::int64_t single_until = 0;       // tokens up to here were drawn, and are read again one by one
  int restore = -1;                    // the spare to begin with
  bool token_stale = false;            // the device does not have the newest token
  bool draws_stale = false;            // nor the number of draws

  std::int64_t to_draw = 0;
  std::int64_t unseen = 0;         // draws that were begun and not handed out
  std::uint64_t generation = 0;    // of draws: those of earlier ones are not wanted
  bool ahead = false;              // the device's state is not that of the text
  std::deque<std::int32_t> drawn;  // executed, and not handed out

  std::int64_t open_runs = 0;    // begun, and not seen to be executed
  std::int64_t open_tokens = 0;  // of blocks of those
  double credit = 1;
  double turns_read = 0;
  std::int64_t frames_reported = 0;

  struct Spare {
    std::vector<H3State> state;  // of one slot
    std::int64_t position = -1;  // of the state in it; -1: none
  };
  std::array<Spare, 2> spares;

  bool reads() const { return live && !leaving && !read_ends.empty(); }
  bool draws() const;
  bool busy() const { return reads() || (live && (to_draw > 0 || unseen > 0)); }
};

class FrameGroup final : public std::enable_shared_from_this<FrameGroup>, private FrameSource {
 public:
  // Records steps of up to `most.batch` sequences, and measures them. Errors: unsupported, out_of_memory.
  FrameGroup(EngineCore& core, const StepKind& most);
  ~FrameGroup() override;

  // The session's state must be that of its text.
  std::shared_ptr<FrameMember> join(Session::Impl& session, double priority);
  // Nothing more is done for it; it is a member until it is settled and removed.
  void leave(FrameMember& member);
  void remove(FrameMember& member);
  // Nobody joins any more, and all leave.
  void close();

  const StepKind& kind() const { return most_; }
  // Whether a cache that grew would change under what is recorded.
  bool in_progress() const;
  // After the KV cache grew: records again.
  void refresh();
  bool works_on(std::int64_t slot) const;
  // No frame in flight works on the member's slot, and none will.
  bool lets_go(const FrameMember& member);
  bool is_abandoned() const { return members_.empty() && !is_open; }
  bool is_released();

  // What the session reads next, after all before. What it was drawing ends with what was handed out.
  void enqueue(FrameMember& member, std::span<const std::int32_t> ids);
  // Draws from then on.
  void start(FrameMember& member, std::int64_t max_tokens);
  FrameQueue::Appended record(void* commands, double budget_us);
  // Takes note of executed frames; never waits.
  void drain();
  // Hands out a token to the session's text; false: there is none yet.
  bool take(FrameMember& member);
  // Ends what the session was drawing with what was handed out.
  void end(FrameMember& member);
  // Makes the session's state that of its text, by waiting; keeps what was drawn. Errors: invalid_argument while
  // frames with its work are in flight.
  void settle(FrameMember& member);
  std::int64_t tokens_to_read(const FrameMember& member) const;

  struct Frames {
    std::int64_t executed = 0;
    std::int64_t in_flight = 0;
    double expected_us = 0;  // of the newest that was executed
    double measured_us = 0;
  };
  Frames frames() const;

  bool is_open = false;  // somebody holds it to let members join

 private:
  struct Run {
    struct Row {
      std::shared_ptr<FrameMember> member;
      std::uint64_t generation;
      std::uint32_t draw;
    };
    std::vector<Row> rows;                // of a step
    std::shared_ptr<FrameMember> reader;  // of a block
    std::int64_t tokens = 0;              // of the block
  };
  struct Choice {
    FrameMember* reader = nullptr;
    std::vector<FrameMember*> due;
  };

  Next next() override;
  FrameRun begin() override;
  FrameRun begin_block(FrameMember& member);
  FrameRun begin_step(const std::vector<FrameMember*>& due);
  Choice choose() const;
  std::int64_t block_length(const FrameMember& member) const;
  void restore_state(FrameMember& member, FrameRun& run);
  void write_sampler(FrameMember& member, FrameRun& run);
  void back_up(FrameMember& member, FrameRun& run);
  int spare_to_write(const FrameMember& member) const;  // -1: none now
  void activate(FrameMember& member);
  void return_to_text(FrameMember& member);
  std::vector<FrameCopy> state_copies(const FrameMember& member, const FrameMember::Spare& spare, bool back) const;

  void require_workspace(std::uint64_t bytes);
  void record_steps();
  std::shared_ptr<FrameRecording> block(std::int64_t length);
  void prepare_blocks(std::int64_t length);
  void forget_old_blocks();
  void measure(const std::shared_ptr<FrameRecording>& recording, std::int64_t rows, std::int64_t tokens);

  EngineCore& core_;
  FrameDevice& frames_;
  StepKind most_;
  std::int64_t capacity_ = 0;  // of the KV cache that was recorded
  EngineTensors tensors_;      // as the engine's, but for slots, tokens, logits and ids
  Tensor slot_tokens_;         // (S) i32: the newest token of each slot
  std::shared_ptr<Buffer> workspace_;
  std::unique_ptr<FrameQueue> queue_;
  std::map<std::int64_t, std::shared_ptr<FrameRecording>> steps_;   // by batch
  std::map<std::int64_t, std::shared_ptr<FrameRecording>> blocks_;  // by length
  std::vector<FrameMember*> members_;
  std::deque<Run> runs_;  // begun
  bool block_was_last_ = false;
  Frames reported_;
};

}  // namespace riverhorse
