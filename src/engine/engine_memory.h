// What an engine needs on its device, counted by the code that then records, and whether it fits.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

#include "engine/engine.h"
#include "model/h3_model.h"

namespace riverhorse {

// What the recordings of an engine of S slots use beside the model and its states.
struct EngineTensors {
  static constexpr std::int64_t history_length = 64;

  Tensor sampler;    // (S, 16) i32: SamplerRow
  Tensor history;    // (S, history_length) i32, readable by the host
  Tensor counts;     // (S, V) i32, made when the first session has penalties
  Tensor bias;       // (S, V) f32, made when the first session has a logit bias
  Tensor slots;      // (S) i32: those of the bound batch
  Tensor tokens;     // (S) i32, writable by the host; what is drawn is read from the history
  Tensor logits;     // (S, V) f32 of the last step
  Tensor piece_ids;  // (prefill piece) i32

  using Allocate = std::function<Tensor(DType dtype, Shape shape, MemoryUse use)>;
  // All but counts and bias.
  static EngineTensors make(const Allocate& allocate, std::int64_t slots, std::int64_t vocabulary,
                            std::int64_t piece_tokens);
  // These, with slots, tokens, logits and ids of its own: for steps of `batch` and blocks that frames run.
  EngineTensors for_frames(const Allocate& allocate, std::int64_t batch) const;
};

struct StepKind {
  std::int64_t batch = 1;
  bool counts = false;
  bool bias = false;
  auto operator<=>(const StepKind&) const = default;
};

void record_step(Encoder& encoder, const H3Model& model, const ModelState& state, const EngineTensors& tensors,
                 const StepKind& kind);
void record_piece(Encoder& encoder, const H3Model& model, const ModelState& state, const EngineTensors& tensors,
                  std::int64_t length);

// What is shared by all steps and pieces: the scratch memory of the one that needs most.
std::uint64_t count_workspace(Device& device, const H3Model& model, const EngineOptions& options);

// Of a text of `length` tokens that is read in frames, the longest block that scratch memory is there for; `capacity`
// is that of the KV cache. Short texts have what one of 256 tokens needs.
std::int64_t frame_block_tokens(const H3Model& model, const EngineOptions& options, std::int64_t capacity,
                                std::int64_t length);
// Scratch memory of steps of up to `most.batch` sequences and of blocks of `block_tokens`.
std::uint64_t count_frame_workspace(Device& device, const H3Model& model, const ModelState& state,
                                    const EngineTensors& tensors, const StepKind& most, std::int64_t block_tokens);

// How Engine::forward goes through sequences of `length` tokens: `group` of them at a time, `piece` tokens of each.
struct ForwardPieces {
  std::int64_t group = 1;
  std::int64_t piece = 1;
};
// Of `rows` tokens at most at a time.
ForwardPieces forward_pieces(std::int64_t rows, std::int64_t batch, std::int64_t length);
// Slots, cache, ids, logits and scratch of one such piece.
std::uint64_t count_forward(Device& device, const H3Model& model, const ForwardPieces& pieces, std::int64_t length);

// Free on the device and within the budget.
std::uint64_t available_bytes(const Device& device, const EngineOptions& options);
// Errors: out_of_memory, when `bytes` for `what` ("a KV cache for 8 sessions of 4096 tokens") are not available.
void require_available(const Device& device, const EngineOptions& options, std::uint64_t bytes,
                       std::string_view what);

// Whether an engine takes these, but for memory. Errors: invalid_argument, naming the option; unsupported, naming the
// device.
void check_loadable(const Device& device, const Checkpoint& checkpoint, const EngineOptions& options);
// Errors: unsupported, when a tensor is larger than the device takes; out_of_memory, when all does not fit, with the
// numbers and with what would fit. Nothing is allocated.
void check_memory(Device& device, const Checkpoint& checkpoint, const EngineOptions& options);

}  // namespace riverhorse
