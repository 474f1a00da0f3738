// What a session is, for session.cpp and session_frames.cpp.
#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/error.h"
#include "engine/engine_core.h"
#include "engine/frame_group.h"

namespace riverhorse {

struct Session::Impl : Session::Text {
  explicit Impl(std::shared_ptr<EngineCore> engine) : core(std::move(engine)), slot(core->acquire_slot()) {}
  ~Impl() {
    if (frames != nullptr) {
      leave_frames();  // which may still work on the slot
    } else {
      core->release_slot(slot);
    }
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  std::shared_ptr<EngineCore> core;
  std::int64_t slot;
  bool sampler_stale = true;                             // the device's sampler row is not this session's
  bool counts_stale = true;                              // the device's counts are not those of `tokens`
  std::vector<std::shared_ptr<const Mark>> checkpoints;  // by rising position
  std::shared_ptr<FrameMember> frames;                   // null: not recorded into frames

  // Another text's; its state is the slot's.
  void take(const Text& text) {
    static_cast<Text&>(*this) = text;
    sampler_stale = true;
    counts_stale = true;
  }
  void add_token(std::int32_t token) {
    tokens.push_back(token);
    draws_at.push_back(draws);
  }

  // Reads `all` from the state's position up to, not including, its last token.
  void read_up_to(std::span<const std::int32_t> all, const ProgressFunction& progress,
                  const std::function<bool()>& cancelled) {
    const auto end = static_cast<std::int64_t>(all.size()) - 1;
    const std::int64_t start = state_position();
    core->reserve(end);
    counts_stale = true;
    if (tokens.empty()) add_token(all[0]);
    for (std::int64_t position = start; position < end;) {
      if (position > start && cancelled && cancelled()) {
        fail(StatusCode::cancelled, "stopped after reading {} of {} tokens", position - start, end - start);
      }
      const std::int64_t length = std::min(core->options().prefill_piece_tokens, end - position);
      core->read_piece(slot, all.subspan(static_cast<std::size_t>(position), static_cast<std::size_t>(length)));
      position += length;
      while (state_position() < position) add_token(all[tokens.size()]);
      if (progress) progress(static_cast<std::uint64_t>(position - start), static_cast<std::uint64_t>(end - start));
    }
  }

  // Everything on the device that the next step of this session needs.
  void ready() {
    if (tokens.empty()) {
      fail(StatusCode::invalid_argument, "there is nothing to continue: append at least one token first");
    }
    core->reserve(state_position() + 1);
    if (sampler_stale) core->upload_sampler(slot, sampling, draws);
    sampler_stale = false;
    if (sampling.penalises() && counts_stale) {
      core->upload_counts(slot, tokens);
      counts_stale = false;
    }
  }

  void take_drawn(std::int32_t token) {
    ++draws;
    add_token(token);
    if (!sampling.penalises()) counts_stale = true;
  }

  StepKind kind() const { return {1, sampling.penalises(), !sampling.logit_bias.empty()}; }

  // Undoes everything after the first `count` tokens; the spare state is that of `backup` tokens, at most `count`.
  // Reading the difference again one by one repeats the very operations that made it: the same bits.
  void undo(std::int64_t backup_state, std::int64_t count) {
    core->bring_back(slot);
    core->set_position(slot, backup_state);
    for (std::int64_t position = backup_state; position < count - 1; ++position) {
      core->read_piece(slot, std::span(tokens).subspan(static_cast<std::size_t>(position), 1));
    }
    sampler_stale = true;
    counts_stale = true;
  }

  void leave_frames();       // for good, with the slot
  void quit_frames();        // the state is that of `tokens` then; errors as settle()
  FrameMember& in_frames();  // alone, unless the session is in a batch
  bool is_in_batch() const { return frames != nullptr && frames->group->is_open && !frames->leaving; }
  Snapshot describe() const;
  void apply(const Snapshot& snapshot);
  std::int64_t return_to(const Mark& mark);  // tokens that were read again
};

}  // namespace riverhorse
