#include "engine/frame_group.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "engine/session_impl.h"

namespace riverhorse {

namespace {

// Draws that the host has not seen, of a member; fewer than the ring of drawn tokens holds.
constexpr std::int64_t most_unseen = 48;
static_assert(most_unseen < EngineTensors::history_length);
// Tokens between two copies of a member's state.
constexpr std::int64_t spare_interval = 16;
// Recordings of blocks that are kept.
constexpr std::size_t most_blocks = 16;
constexpr std::int64_t measured_block_tokens = 16;

template <typename T>
FrameWrite write(const Tensor& to, std::span<const T> values) {
  const std::span<const std::byte> bytes = std::as_bytes(values);
  return {to, {bytes.begin(), bytes.end()}};
}

FrameWrite write(const Tensor& to, std::int32_t value) { return write(to, std::span<const std::int32_t>(&value, 1)); }

// Runs each of some recordings once.
class Once final : public FrameSource {
 public:
  Once(std::shared_ptr<FrameRecording> recording, std::vector<FrameWrite> writes)
      : recording_(std::move(recording)), writes_(std::move(writes)) {}
  Next next() override { return {recording_.get(), 0}; }
  FrameRun begin() override { return {std::exchange(recording_, nullptr), std::move(writes_), {}, {}}; }

 private:
  std::shared_ptr<FrameRecording> recording_;
  std::vector<FrameWrite> writes_;
};

}  // namespace

bool FrameMember::draws() const {
  return live && !leaving && read_ends.empty() && to_draw > 0 && unseen < most_unseen;
}

FrameGroup::FrameGroup(EngineCore& core, const StepKind& most)
    : core_(core), frames_(core.frame_device()), most_(most), queue_(frames_.make_frame_queue()) {
  if (most_.counts) core_.require_counts();
  if (most_.bias) core_.require_bias();
  Device& device = core_.device();
  const std::int64_t slots = core_.options().max_sessions;
  const std::int64_t piece = core_.options().prefill_piece_tokens;
  require_available(device, core_.options(),
                    static_cast<std::uint64_t>(4 * (most_.batch * core_.vocabulary() + piece)),
                    "what is recorded into frames");
  tensors_ = core_.tensors().for_frames(
      [&](DType dtype, Shape shape, MemoryUse use) { return device.allocate_tensor(dtype, shape, use); },
      most_.batch);
  slot_tokens_ = device.allocate_tensor(DType::i32, {slots});
  record_steps();
}

FrameGroup::~FrameGroup() = default;

void FrameGroup::require_workspace(std::uint64_t bytes) {
  if (workspace_ != nullptr && workspace_->size_bytes() >= bytes) return;
  require_available(core_.device(), core_.options(), bytes, "scratch memory of frames");
  workspace_ = core_.device().allocate(std::max<std::uint64_t>(bytes, 1), MemoryUse::device);
}

void FrameGroup::record_steps() {
  Device& device = core_.device();
  capacity_ = core_.capacity();
  const auto step = [&](std::int64_t batch) {
    return [this, kind = StepKind{batch, most_.counts, most_.bias}](Encoder& encoder) {
      record_step(encoder, core_.model(), core_.state(), tensors_, kind);
    };
  };
  // Of blocks too, the shortest of which needs more than a step: what is recorded keeps the memory that it was given.
  require_workspace(count_frame_workspace(device, core_.model(), core_.state(), tensors_, most_,
                                          frame_block_tokens(core_.model(), core_.options(), capacity_, 1)));
  // Largest first by powers of two: each is measured, and those between take after the next larger. The first is cut
  // into pieces by what other work took on this device; once measured, again by what it takes itself.
  const std::shared_ptr<FrameRecording> first = frames_.record_for_frames(step(most_.batch), workspace_, nullptr);
  measure(first, most_.batch, 1);
  const FrameRecording* like = first.get();
  for (std::int64_t batch = most_.batch; batch >= 1; --batch) {
    steps_[batch] = frames_.record_for_frames(step(batch), workspace_, like);
    if (!std::has_single_bit(static_cast<std::uint64_t>(batch)) && batch != most_.batch) continue;
    measure(steps_[batch], batch, 1);
    like = steps_[batch].get();
  }
}

// Measured on slots that are then given back as they were, so that the first frame keeps its budget. A first run may
// wait for compilers; the second counts.
void FrameGroup::measure(const std::shared_ptr<FrameRecording>& recording, std::int64_t rows, std::int64_t tokens) {
  if (queue_->appends_in_flight() > 0 || queue_->is_part_done()) return;
  Device& device = core_.device();
  const ModelState& state = core_.state();
  const auto slots = static_cast<std::size_t>(core_.options().max_sessions);
  std::vector<std::int32_t> positions(slots);
  device.download(state.positions, std::as_writable_bytes(std::span(positions)));
  std::vector<std::int32_t> used;
  for (const std::int64_t slot : core_.quiet_slots()) {
    const bool room =
        !core_.model().has_attention() || positions[static_cast<std::size_t>(slot)] + tokens <= capacity_;
    if (room && static_cast<std::int64_t>(used.size()) < rows) used.push_back(static_cast<std::int32_t>(slot));
  }
  if (static_cast<std::int64_t>(used.size()) < rows) return;

  std::vector<std::int32_t> samplers(static_cast<std::size_t>(tensors_.sampler.count()));
  device.download(tensors_.sampler, std::as_writable_bytes(std::span(samplers)));
  const std::vector<H3State> kept = core_.model().allocate_h3_states(rows);
  const Tensor counts = most_.counts ? device.allocate_tensor(DType::i32, {rows, core_.vocabulary()}) : Tensor{};
  const auto copy_states = [&](bool back) {
    device.run([&](Encoder& encoder) {
      const auto copy = [&](const Tensor& pool, const Tensor& copies) {
        for (std::int64_t row = 0; row < rows; ++row) {
          const Tensor of_slot = pool.slice(used[static_cast<std::size_t>(row)], 1);
          const Tensor of_row = copies.slice(row, 1);
          encoder.copy(back ? CopyArgs{of_row, of_slot} : CopyArgs{of_slot, of_row});
        }
      };
      for (std::size_t i = 0; i < kept.size(); ++i) {
        if (!kept[i].shift) continue;
        copy(state.h3[i].shift, kept[i].shift);
        copy(state.h3[i].modes, kept[i].modes);
      }
      if (counts) copy(tensors_.counts, counts);
    });
  };
  copy_states(false);
  const std::vector<std::int32_t> zeros(static_cast<std::size_t>(std::max(rows, tokens)));
  for (int run = 0; run < 2; ++run) {
    recording->forget_times();
    std::vector<FrameWrite> writes = {
        write(tensors_.slots.slice(0, rows), std::span<const std::int32_t>(used)),
        write(tensors_.tokens.slice(0, rows), std::span(zeros).first(static_cast<std::size_t>(rows))),
        write(tensors_.piece_ids.slice(0, tokens), std::span(zeros).first(static_cast<std::size_t>(tokens)))};
    Once once(recording, std::move(writes));
    while (queue_->run_here(&once)) {
      while (queue_->poll()) {
      }
    }
    device.upload(state.positions, std::as_bytes(std::span(positions)));
  }
  copy_states(true);
  device.upload(tensors_.sampler, std::as_bytes(std::span(samplers)));
}

bool FrameGroup::in_progress() const {
  return queue_->appends_in_flight() > 0 || queue_->is_part_done() ||
         std::any_of(members_.begin(), members_.end(), [](const FrameMember* each) { return each->busy(); });
}

void FrameGroup::refresh() {
  if (capacity_ == core_.capacity()) return;
  for (auto& [batch, recording] : steps_) queue_->retire(std::move(recording));
  for (auto& [length, recording] : blocks_) queue_->retire(std::move(recording));
  steps_.clear();
  blocks_.clear();
  record_steps();
}

std::shared_ptr<FrameRecording> FrameGroup::block(std::int64_t length) {
  std::shared_ptr<FrameRecording>& recording = blocks_[length];
  if (recording == nullptr) {
    const FrameRecording* like = steps_[1].get();
    if (const auto measured = blocks_.find(measured_block_tokens); measured != blocks_.end() && measured->second) {
      like = measured->second.get();
    }
    recording = frames_.record_for_frames(
        [&](Encoder& encoder) { record_piece(encoder, core_.model(), core_.state(), tensors_, length); }, workspace_,
        like);
  }
  return recording;
}

// Everything that reading `length` tokens, and single ones, will need. The first time it also measures a short block,
// by which others are judged, and compiles what blocks of other lengths use.
void FrameGroup::prepare_blocks(std::int64_t length) {
  Device& device = core_.device();
  const auto record = [&](std::int64_t tokens) {
    return
        [this, tokens](Encoder& encoder) { record_piece(encoder, core_.model(), core_.state(), tensors_, tokens); };
  };
  const std::int64_t wanted = frame_block_tokens(core_.model(), core_.options(), capacity_, length);
  require_workspace(device.scratch_bytes(record(wanted)));
  if (!blocks_.empty()) return;
  for (std::int64_t tokens = 2; tokens <= wanted; tokens = 2 * tokens - 1) device.prepare(record(tokens), {});
  const std::int64_t sample = std::min(measured_block_tokens, wanted);
  measure(block(1), 1, 1);
  if (sample > 1) measure(block(sample), 1, sample);
}

void FrameGroup::forget_old_blocks() {
  if (blocks_.size() <= most_blocks) return;
  for (auto each = blocks_.begin(); each != blocks_.end();) {
    if (each->first == 1 || each->first == measured_block_tokens ||
        each->first == core_.options().prefill_piece_tokens) {
      ++each;
      continue;
    }
    queue_->retire(std::move(each->second));
    each = blocks_.erase(each);
  }
}

// ------------------------------------------------------------------------------------------------------- members

std::shared_ptr<FrameMember> FrameGroup::join(Session::Impl& session, double priority) {
  auto member = std::make_shared<FrameMember>();
  member->session = &session;
  member->slot = session.slot;
  member->priority = priority;
  member->frames_reported = reported_.executed;
  const std::uint64_t bytes = 2 * core_.model().h3_state_bytes();
  require_available(core_.device(), core_.options(), bytes, "copies of the state of a session in frames");
  for (FrameMember::Spare& spare : member->spares) spare.state = core_.model().allocate_h3_states(1);
  core_.set_position(session.slot, session.state_position());  // an upload, before which new memory is cleared
  for (const FrameMember* each : members_) member->turns_read = std::max(member->turns_read, each->turns_read);
  member->group = shared_from_this();
  members_.push_back(member.get());
  return member;
}

void FrameGroup::leave(FrameMember& member) {
  end(member);
  member.leaving = true;
}

void FrameGroup::remove(FrameMember& member) {
  std::erase(members_, &member);
  member.group.reset();  // the last thing: it may be the last that holds this group
}

void FrameGroup::close() {
  for (FrameMember* member : members_) leave(*member);
  is_open = false;
}

bool FrameGroup::works_on(std::int64_t slot) const {
  return std::any_of(members_.begin(), members_.end(), [&](const FrameMember* each) {
    return each->slot == slot && (each->open_runs > 0 || each->restore >= 0);
  });
}

// What is half done when nobody is left to record it is not gone on with.
bool FrameGroup::lets_go(const FrameMember& member) {
  drain();
  return member.open_runs == 0 || (is_abandoned() && queue_->appends_in_flight() == 0);
}

bool FrameGroup::is_released() { return queue_->is_released(); }

void FrameGroup::activate(FrameMember& member) {
  if (member.live) return;
  const Session::Impl& session = *member.session;
  member.live = true;
  member.state_position = member.single_until = session.state_position();
  member.read_ends.clear();
  member.restore = -1;
  member.token_stale = true;
  member.draws_stale = false;
  for (FrameMember::Spare& spare : member.spares) spare.position = -1;
}

void FrameGroup::end(FrameMember& member) {
  member.ahead = member.ahead || member.unseen > 0;
  if (member.unseen > 0) ++member.generation;
  member.unseen = 0;
  member.drawn.clear();
  member.to_draw = 0;
}

// The device is ahead of the text: from the newest copy at or before it, what was drawn since is read again.
void FrameGroup::return_to_text(FrameMember& member) {
  if (!member.ahead) return;
  Session::Impl& session = *member.session;
  const std::int64_t position = session.state_position();
  int newest = -1;
  for (int i = 0; i < 2; ++i) {
    FrameMember::Spare& spare = member.spares[static_cast<std::size_t>(i)];
    if (spare.position > position) spare.position = -1;
    if (spare.position < 0) continue;
    if (newest < 0 || spare.position > member.spares[static_cast<std::size_t>(newest)].position) newest = i;
  }
  if (newest < 0) fail(StatusCode::internal, "no copy of the state before position {}", position);
  member.restore = newest;
  member.state_position = member.spares[static_cast<std::size_t>(newest)].position;
  member.single_until = position;
  if (member.state_position < position) member.read_ends.push_back(position);
  member.ahead = false;
  member.token_stale = member.draws_stale = true;
  session.counts_stale = true;
}

void FrameGroup::enqueue(FrameMember& member, std::span<const std::int32_t> ids) {
  if (ids.empty()) return;
  drain();
  prepare_blocks(static_cast<std::int64_t>(ids.size()) + 1);
  activate(member);
  end(member);
  return_to_text(member);
  Session::Impl& session = *member.session;
  for (const std::int32_t id : ids) session.add_token(id);
  session.counts_stale = true;
  member.token_stale = true;
  const std::int64_t position = session.state_position();
  const std::int64_t before = member.read_ends.empty() ? member.state_position : member.read_ends.back();
  if (position == before) return;  // the first token of all
  member.read_ends.push_back(position);
  if (queue_->appends_in_flight() == 0) forget_old_blocks();
  const std::int64_t piece = core_.options().prefill_piece_tokens;
  if (position - before >= piece) block(piece);
  if ((position - before) % piece > 0) block((position - before) % piece);
}

void FrameGroup::start(FrameMember& member, std::int64_t max_tokens) {
  drain();
  prepare_blocks(1);
  activate(member);
  end(member);
  return_to_text(member);
  member.to_draw = max_tokens;
  member.credit = 1;
}

std::int64_t FrameGroup::tokens_to_read(const FrameMember& member) const {
  const std::int64_t end = member.read_ends.empty() ? member.state_position : member.read_ends.back();
  return end - member.state_position + member.open_tokens;
}

FrameGroup::Frames FrameGroup::frames() const {
  Frames frames = reported_;
  frames.in_flight = queue_->appends_in_flight();
  return frames;
}

// -------------------------------------------------------------------------------------------------- what runs next

std::int64_t FrameGroup::block_length(const FrameMember& member) const {
  if (member.state_position < member.single_until) return 1;
  return std::min(core_.options().prefill_piece_tokens, member.read_ends.front() - member.state_position);
}

FrameGroup::Choice FrameGroup::choose() const {
  Choice choice;
  double most_priority = 0;
  for (FrameMember* member : members_) {
    if (member->reads()) {
      if (choice.reader == nullptr || member->turns_read < choice.reader->turns_read) choice.reader = member;
    } else if (member->draws()) {
      most_priority = std::max(most_priority, member->priority);
      choice.due.push_back(member);
    }
  }
  if (choice.reader != nullptr && (choice.due.empty() || !block_was_last_)) {
    choice.due.clear();
    return choice;
  }
  choice.reader = nullptr;
  const auto earned = [&](const FrameMember* member) { return member->credit + member->priority / most_priority; };
  std::erase_if(choice.due, [&](const FrameMember* member) { return earned(member) < 1 - 1e-9; });
  std::stable_sort(choice.due.begin(), choice.due.end(),
                   [&](const FrameMember* a, const FrameMember* b) { return earned(a) > earned(b); });
  if (static_cast<std::int64_t>(choice.due.size()) > most_.batch) {
    choice.due.resize(static_cast<std::size_t>(most_.batch));
  }
  return choice;
}

int FrameGroup::spare_to_write(const FrameMember& member) const {
  const std::int64_t first = member.spares[0].position;
  const std::int64_t second = member.spares[1].position;
  const std::int64_t newest = std::max(first, second);
  if (newest < 0) return 0;
  const bool seen = newest <= member.session->state_position();
  if (!seen || member.state_position - newest < spare_interval) return -1;
  return first < second ? 0 : 1;
}

FrameSource::Next FrameGroup::next() {
  const Choice choice = choose();
  const std::uint64_t state_bytes = core_.model().h3_state_bytes();
  if (choice.reader != nullptr) {
    return {block(block_length(*choice.reader)).get(), choice.reader->restore >= 0 ? state_bytes : 0};
  }
  if (choice.due.empty()) return {};
  std::uint64_t bytes = 0;
  for (const FrameMember* member : choice.due) {
    if (member->restore >= 0) bytes += state_bytes;
    if (spare_to_write(*member) >= 0) bytes += state_bytes;
  }
  return {steps_.at(static_cast<std::int64_t>(choice.due.size())).get(), bytes};
}

FrameRun FrameGroup::begin() {
  const Choice choice = choose();
  block_was_last_ = choice.reader != nullptr;
  return block_was_last_ ? begin_block(*choice.reader) : begin_step(choice.due);
}

std::vector<FrameCopy> FrameGroup::state_copies(const FrameMember& member, const FrameMember::Spare& spare,
                                                bool back) const {
  std::vector<FrameCopy> copies;
  const auto add = [&](const Tensor& pool, const Tensor& copy) {
    const Tensor of_slot = pool.slice(member.slot, 1);
    copies.push_back(back ? FrameCopy{copy, of_slot} : FrameCopy{of_slot, copy});
  };
  for (std::size_t i = 0; i < spare.state.size(); ++i) {
    if (!spare.state[i].shift) continue;
    add(core_.state().h3[i].shift, spare.state[i].shift);
    add(core_.state().h3[i].modes, spare.state[i].modes);
  }
  return copies;
}

void FrameGroup::restore_state(FrameMember& member, FrameRun& run) {
  if (member.restore < 0) return;
  const FrameMember::Spare& spare = member.spares[static_cast<std::size_t>(std::exchange(member.restore, -1))];
  for (FrameCopy& copy : state_copies(member, spare, true)) run.copies_before.push_back(std::move(copy));
  run.writes.push_back(
      write(core_.state().positions.slice(member.slot, 1), static_cast<std::int32_t>(spare.position)));
}

void FrameGroup::back_up(FrameMember& member, FrameRun& run) {
  const int index = spare_to_write(member);
  if (index < 0) return;
  FrameMember::Spare& spare = member.spares[static_cast<std::size_t>(index)];
  spare.position = member.state_position;
  for (FrameCopy& copy : state_copies(member, spare, false)) run.copies_before.push_back(std::move(copy));
}

void FrameGroup::write_sampler(FrameMember& member, FrameRun& run) {
  Session::Impl& session = *member.session;
  if (session.sampler_stale || member.draws_stale) {
    const SamplerRow row = core_.sampler_row(session.sampling, session.draws);
    run.writes.push_back(write(core_.tensors().sampler.slice(member.slot, 1), std::span<const SamplerRow>(&row, 1)));
  }
  if (session.sampler_stale && core_.tensors().bias) {
    const std::vector<float> bias = core_.bias_row(session.sampling);
    run.writes.push_back(write(core_.tensors().bias.slice(member.slot, 1), std::span<const float>(bias)));
  }
  if (session.sampling.penalises() && session.counts_stale) {
    const std::vector<std::int32_t> counts = core_.counts_row(session.tokens);
    run.writes.push_back(write(core_.tensors().counts.slice(member.slot, 1), std::span<const std::int32_t>(counts)));
    session.counts_stale = false;
  }
  session.sampler_stale = member.draws_stale = false;
}

FrameRun FrameGroup::begin_block(FrameMember& member) {
  const std::int64_t length = block_length(member);
  FrameRun run;
  run.recording = block(length);
  restore_state(member, run);
  run.writes.push_back(write(tensors_.slots.slice(0, 1), static_cast<std::int32_t>(member.slot)));
  run.writes.push_back(
      write(tensors_.piece_ids.slice(0, length),
            std::span<const std::int32_t>(member.session->tokens)
                .subspan(static_cast<std::size_t>(member.state_position), static_cast<std::size_t>(length))));
  member.state_position += length;
  while (!member.read_ends.empty() && member.read_ends.front() <= member.state_position) member.read_ends.pop_front();
  member.turns_read += static_cast<double>(length) / member.priority;
  member.open_tokens += length;
  ++member.open_runs;
  runs_.push_back({{}, member.shared_from_this(), length});
  return run;
}

FrameRun FrameGroup::begin_step(const std::vector<FrameMember*>& due) {
  double most_priority = 0;
  for (const FrameMember* member : members_) {
    if (member->draws()) most_priority = std::max(most_priority, member->priority);
  }
  for (FrameMember* member : members_) {
    if (member->draws()) member->credit = std::min(2.0, member->credit + member->priority / most_priority);
  }
  FrameRun run;
  run.recording = steps_.at(static_cast<std::int64_t>(due.size()));
  Run begun;
  std::vector<std::int32_t> slots;
  for (std::size_t i = 0; i < due.size(); ++i) {
    FrameMember& member = *due[i];
    member.credit -= 1;
    restore_state(member, run);
    back_up(member, run);
    write_sampler(member, run);
    slots.push_back(static_cast<std::int32_t>(member.slot));
    const Tensor of_slot = slot_tokens_.slice(member.slot, 1);
    const Tensor of_row = tensors_.tokens.slice(static_cast<std::int64_t>(i), 1);
    if (member.token_stale) run.writes.push_back(write(of_slot, member.session->tokens.back()));
    member.token_stale = false;
    run.copies_before.push_back({of_slot, of_row});
    run.copies_after.push_back({of_row, of_slot});
    begun.rows.push_back({member.shared_from_this(), member.generation,
                          member.session->draws + static_cast<std::uint32_t>(member.unseen)});
    --member.to_draw;
    ++member.unseen;
    ++member.state_position;
    ++member.open_runs;
  }
  run.writes.push_back(
      write(tensors_.slots.slice(0, static_cast<std::int64_t>(due.size())), std::span<const std::int32_t>(slots)));
  runs_.push_back(std::move(begun));
  return run;
}

// --------------------------------------------------------------------------------------------------------- frames

FrameQueue::Appended FrameGroup::record(void* commands, double budget_us) {
  drain();
  return queue_->append(commands, budget_us, this);
}

void FrameGroup::drain() {
  while (const std::optional<FrameQueue::Executed> frame = queue_->poll()) {
    ++reported_.executed;
    reported_.measured_us = frame->measured_us;
    reported_.expected_us = frame->expected_us;
    for (std::int64_t i = 0; i < frame->runs_finished; ++i) {
      const Run run = std::move(runs_.front());
      runs_.pop_front();
      if (run.reader != nullptr) {
        --run.reader->open_runs;
        run.reader->open_tokens -= run.tokens;
      }
      for (const Run::Row& row : run.rows) {
        FrameMember& member = *row.member;
        --member.open_runs;
        if (row.generation == member.generation) member.drawn.push_back(core_.drawn(member.slot, row.draw));
      }
    }
  }
}

bool FrameGroup::take(FrameMember& member) {
  if (member.drawn.empty()) return false;
  --member.unseen;
  member.session->take_drawn(member.drawn.front());
  member.drawn.pop_front();
  return true;
}

void FrameGroup::settle(FrameMember& member) {
  if (!member.live) return;
  drain();
  if (member.open_runs > 0 && queue_->appends_in_flight() > 0) {
    fail(StatusCode::invalid_argument,
         "{} command buffers with this session's work have not been executed: submit them, and call again when they "
         "are done",
         queue_->appends_in_flight());
  }
  while (member.open_runs > 0 && queue_->run_here(nullptr)) drain();
  while (take(member)) {
  }
  end(member);
  return_to_text(member);
  Session::Impl& session = *member.session;
  if (member.restore >= 0) {
    const FrameMember::Spare& spare = member.spares[static_cast<std::size_t>(std::exchange(member.restore, -1))];
    const std::vector<FrameCopy> copies = state_copies(member, spare, true);
    core_.device().run([&](Encoder& encoder) {
      for (const FrameCopy& copy : copies) encoder.copy({copy.from, copy.to});
    });
    core_.set_position(member.slot, spare.position);
  }
  while (!member.read_ends.empty()) {
    const std::int64_t length = block_length(member);
    core_.read_piece(member.slot,
                     std::span(session.tokens)
                         .subspan(static_cast<std::size_t>(member.state_position), static_cast<std::size_t>(length)));
    member.state_position += length;
    while (!member.read_ends.empty() && member.read_ends.front() <= member.state_position)
      member.read_ends.pop_front();
  }
  session.sampler_stale = session.sampler_stale || member.draws_stale;
  member.live = false;
}

}  // namespace riverhorse
