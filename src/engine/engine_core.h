// What an engine and its sessions share: the model, the slot pool in device memory, and the recordings.
//
// One token of decoding is one replayed recording: embed(tokens) ... logits, sample -> tokens, history, positions
// + 1. `tokens` is its input and its output, so that submissions can follow each other without the host in between;
// the host finds what was drawn in the ring `history`, at [slot, draw number mod ring]. Everything that differs from
// one token to the next (token, position, random counter, counts of seen tokens) lives in device memory; what differs
// from one batch to the next (its slots) too. So there is one recording for a batch size, and a step is: write the
// tokens if they are not there already, submit, wait, read.
//
// Per session the device holds the state after all tokens but the newest, which the next step reads.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "backend/frame_recording.h"
#include "engine/engine.h"
#include "engine/engine_memory.h"
#include "model/h3_model.h"

namespace riverhorse {

class FrameGroup;  // frame_group.h
struct FrameMember;

class EngineCore {
 public:
  EngineCore(std::shared_ptr<Device> device, const Checkpoint& checkpoint, const EngineOptions& options);

  Device& device() { return *device_; }
  const H3Model& model() const { return *model_; }
  const EngineOptions& options() const { return options_; }
  const std::string& model_hash() const { return model_hash_; }
  std::int64_t vocabulary() const { return model_->vocabulary(); }

  // Slots. A slot that was acquired is empty: zero state, position 0. Errors: out_of_memory when all are in use.
  std::int64_t acquire_slot();
  void release_slot(std::int64_t slot);
  void clear_slot(std::int64_t slot);
  void set_position(std::int64_t slot, std::int64_t position);
  // The SSM state of a slot, to and from the one spare copy on the device. Not the KV cache, where what lies behind
  // the position does no harm.
  void back_up(std::int64_t slot);
  void bring_back(std::int64_t slot);
  // The same and the position, to and from copies of their own, which stay on the device. Errors: out_of_memory.
  struct StateCopy {
    std::vector<H3State> h3;
    Tensor position;
  };
  StateCopy copy_state(std::int64_t slot);
  void set_state(std::int64_t slot, const StateCopy& copy);
  void copy_slot(std::int64_t from, std::int64_t to, std::int64_t position);  // everything but the sampler

  // Makes room in the KV caches for `tokens` in each slot, by doubling. Errors: out_of_memory, unsupported.
  void reserve(std::int64_t tokens);

  // The sampler of a slot. `counts`: of all tokens in the vocabulary.
  void upload_sampler(std::int64_t slot, const SamplingOptions& options, std::uint32_t draws);
  void upload_counts(std::int64_t slot, std::span<const std::int32_t> tokens);
  SamplerRow sampler_row(const SamplingOptions& options, std::uint32_t draws) const;
  std::vector<float> bias_row(const SamplingOptions& options) const;                 // (V)
  std::vector<std::int32_t> counts_row(std::span<const std::int32_t> tokens) const;  // (V)
  void require_counts();  // makes them where they are not; errors: out_of_memory
  void require_bias();
  const EngineTensors& tensors() const { return tensors_; }

  // Reads one piece, at most prefill_piece_tokens, into a slot; returns when it is done.
  void read_piece(std::int64_t slot, std::span<const std::int32_t> ids);
  // The logits after reading `token` at the slot's position, leaving the slot as it was.
  std::vector<float> peek(std::int64_t slot, std::int32_t token);

  // Steps.
  void bind(std::span<const std::int64_t> slots);  // these are the next step's sequences, in order
  void set_token(std::int64_t row, std::int32_t token);
  std::int32_t drawn(std::int64_t slot, std::uint32_t draw_index);  // from the ring, by draw number
  std::uint64_t submit_step(const StepKind& kind);
  void wait(std::uint64_t ticket);
  std::vector<float> last_step_logits();
  void prepare(const StepKind& kind, bool prefill);
  void prepare_sessions();

  void set_trace(std::shared_ptr<Trace> trace);
  bool traces() const { return trace_ != nullptr; }

  // Work for the host's frames: what is recorded writes to the caches as they are. Errors of the check: unsupported
  // for a device that cannot.
  FrameDevice& frame_device() const;
  void add_frames(const std::shared_ptr<FrameGroup>& group);
  // Keeps a group, and a slot that its frames in flight still work on, until they are done. `member` may be null.
  void retire(std::shared_ptr<FrameMember> member, std::shared_ptr<FrameGroup> group);
  // Slots that no frame works on, free ones first.
  std::vector<std::int64_t> quiet_slots() const;
  std::int64_t capacity() const { return capacity_; }

  void forward(std::span<const std::int32_t> ids, std::int64_t batch, std::int64_t length,
               const std::function<void(std::int64_t, std::span<const float>)>& consume);

  Engine::Timing last_timing() const;

  ModelState& state() { return state_; }

 private:
  struct PrefillRecording {
    std::int64_t length = 0;
    std::uint64_t last_use = 0;
    std::shared_ptr<Recording> recording;
  };

  struct Retired {
    std::shared_ptr<FrameMember> member;  // null: its slot was released
    std::shared_ptr<FrameGroup> group;
  };

  void tune();  // Device::tune for what this engine will record
  void collect_retired();
  void require_no_frames(std::int64_t tokens) const;
  std::shared_ptr<Recording> record(const RecordFunction& function);
  std::shared_ptr<Recording> prefill_recording(std::int64_t length);
  std::shared_ptr<Recording> step_recording(const StepKind& kind);
  // Of one sequence, or `sequences` of so many tokens each; `name` is for the trace.
  void submit_and_wait(const std::shared_ptr<Recording>& recording, const char* name, std::int64_t sequences,
                       std::int64_t tokens);
  const std::shared_ptr<Recording>& clear_recording(std::int64_t slot);
  void forget_recordings();
  void check_id(std::int32_t id) const;

  std::shared_ptr<Device> device_;
  EngineOptions options_;
  std::string model_hash_;
  std::unique_ptr<H3Model> model_;

  ModelState state_;            // of max_sessions slots
  std::int64_t capacity_ = 1;   // tokens that every KV cache holds
  std::vector<H3State> spare_;  // two slots: the backup, and zeros
  std::vector<bool> slot_used_;

  EngineTensors tensors_;
  std::shared_ptr<Buffer> workspace_;  // of all recordings, which run one after another
  std::vector<std::int32_t> bound_slots_;

  std::vector<PrefillRecording> prefill_recordings_;
  std::map<StepKind, std::shared_ptr<Recording>> step_recordings_;
  std::map<std::int64_t, std::shared_ptr<Recording>> clear_recordings_;       // by slot
  std::map<std::int64_t, std::shared_ptr<Recording>> back_up_recordings_;     // by slot
  std::map<std::int64_t, std::shared_ptr<Recording>> bring_back_recordings_;  // by slot
  std::shared_ptr<Recording> peek_recording_;
  std::vector<Retired> retired_;
  std::vector<std::weak_ptr<FrameGroup>> frame_groups_;
  std::uint64_t use_counter_ = 0;
  std::shared_ptr<Recording> last_recording_;
  std::int64_t last_tokens_ = 0;
  std::shared_ptr<Trace> trace_;
  double step_submitted_ms_ = -1;  // of the step that the trace still lacks; below 0: none
  std::int64_t logits_rows_ = 0;   // of logits_ that the last step wrote; 0: none, or a peek came after
};

inline constexpr std::int64_t largest_piece_tokens = 2048;
inline constexpr std::int64_t smallest_piece_tokens = 64;
// The token count of a prefill piece when the caller does not say.
std::int64_t choose_piece_tokens(const ModelConfig& config, const DeviceInfo& device, DType dtype);
// Roughly, on any device.
std::uint64_t workspace_bytes(const ModelConfig& config, DType dtype, std::int64_t piece_tokens);

// A token, an id of the padded vocabulary. Errors: invalid_argument.
void check_token_ids(std::span<const std::int32_t> ids, std::int64_t vocabulary);

// A text in progress, but for its state.
struct Session::Text {
  std::vector<std::int32_t> tokens;
  std::vector<std::uint32_t> draws_at;  // for each token, how many had been drawn when it was the newest
  std::uint32_t draws = 0;
  SamplingOptions sampling;

  std::int64_t state_position() const { return tokens.empty() ? 0 : static_cast<std::int64_t>(tokens.size()) - 1; }
};

// A host copy of a text with its state.
struct Session::Snapshot : Text {
  struct Layer {
    std::vector<float> shift, modes;  // of an H3 layer: (D, N), (D d, n, 2)
    std::vector<std::byte> k, v;      // of an attention layer: (state_position, D) in `cache_dtype`
  };
  std::string model_hash;
  DType cache_dtype = DType::f32;
  std::vector<Layer> layers;
};

// A place in a text to return to: the SSM state, on the device. The rows of the KV cache are still in the slot as
// long as the text begins with `tokens`; where it does not, it is read again.
struct Session::Mark : Text {
  const EngineCore* core = nullptr;
  EngineCore::StateCopy state;  // none of an empty text
};

// The one file of a session. read_: errors as Session::load, before anything is changed.
void write_session_file(const std::filesystem::path& path, const Session::Snapshot& snapshot);
Session::Snapshot read_session_file(const std::filesystem::path& path, const ModelConfig& config,
                                    const std::string& model_hash);
// The same in memory; `origin` names the bytes in errors.
std::vector<std::byte> session_bytes(const Session::Snapshot& snapshot);
std::uint64_t session_size_bytes(const Session::Snapshot& stateless, const ModelConfig& config);  // no layers needed
Session::Snapshot parse_session(std::span<const std::byte> bytes, const std::string& origin,
                                const ModelConfig& config, const std::string& model_hash);

}  // namespace riverhorse
