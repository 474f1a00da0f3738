// Inference: a model on a device (Engine), and texts in progress (Session).
//
// An Engine owns the weights and a pool of slots; each Session holds one slot: the SSM state and KV cache of one
// text. Sessions of an engine step together in batches. Engine and its sessions are used by one thread at a time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "model/checkpoint.h"

namespace riverhorse {

struct EngineOptions {
  DType dtype = DType::f32;  // of weights and activations: f32, or f16 where the device supports it
  ConvAlgorithm conv = ConvAlgorithm::automatic;
  std::int64_t max_sessions = 4;          // slots
  std::int64_t context_tokens = 2048;     // first capacity of the KV cache, which doubles when needed; attention only
  std::int64_t prefill_piece_tokens = 0;  // 0: chosen so that a piece stays responsive
  ProgressFunction progress;              // of loading and preparing, in bytes or steps; may be empty
};

// Bytes on the device by purpose, known before anything is allocated.
struct MemoryEstimate {
  std::uint64_t weights_bytes = 0;
  std::uint64_t filters_bytes = 0;   // discretised SSM parameters
  std::uint64_t state_bytes = 0;     // SSM state of all slots
  std::uint64_t cache_bytes = 0;     // KV cache of all slots at context_tokens
  std::uint64_t workspace_bytes = 0;
  std::uint64_t total_bytes() const {
    return weights_bytes + filters_bytes + state_bytes + cache_bytes + workspace_bytes;
  }
};
MemoryEstimate estimate_memory(const ModelConfig& config, const EngineOptions& options);

// How to draw tokens. Zero-initialised is greedy decoding. Validated by Session; errors name the field.
struct SamplingOptions {
  double temperature = 0.0;
  std::int64_t top_k = 0;
  double top_p = 1.0;
  double min_p = 0.0;
  double repetition_penalty = 1.0;
  double presence_penalty = 0.0;
  double frequency_penalty = 0.0;
  std::uint64_t seed = 0;
  std::vector<std::pair<std::int32_t, float>> logit_bias;
  bool padded_vocabulary = false;  // may draw the padding columns too, as the original's script does
};

struct LoadReport {
  std::int64_t tokens_reused = 0;  // of the saved text: all of them, or the call failed
};

class Engine;

class Session {
 public:
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  std::int64_t position() const;  // tokens in the state
  const std::vector<std::int32_t>& tokens() const;  // all of them, in order

  // Reads tokens into the state, in pieces, from whatever the state is; the logits of the last one are then
  // available. Errors: invalid_argument for an id outside the vocabulary (nothing is read then). `progress` counts
  // tokens; `cancelled`, asked between pieces, stops early with StatusCode::cancelled, the state at a piece's end.
  void append(std::span<const std::int32_t> tokens, const ProgressFunction& progress = {},
              const std::function<bool()>& cancelled = {});

  // Draws the next token from the logits of the last one and reads it into the state.
  // Errors: invalid_argument when nothing has been read yet.
  std::int32_t step();

  std::vector<float> logits();  // (padded vocabulary) of the last token

  void set_sampling(const SamplingOptions& options);  // restarts the random stream at the seed

  // A copy of everything, in a slot of its own; steps exactly as this one would.
  std::unique_ptr<Session> clone();
  // Host copies of the state: any number, restored into any session of the same engine.
  struct Snapshot;
  std::shared_ptr<const Snapshot> snapshot();
  void restore(const std::shared_ptr<const Snapshot>& snapshot);
  // Back to an earlier position: exact, by replaying from the start or from the newest snapshot kept by
  // checkpoint(); returns the tokens that had to be read again.
  std::int64_t rewind(std::int64_t position);
  void checkpoint();  // keeps a snapshot here for rewind()
  void clear();       // an empty text

  // One file, versioned: model hash, position, tokens, SSM state, KV cache, sampler. Written whole or not at all.
  void save(const std::filesystem::path& path);
  LoadReport load(const std::filesystem::path& path);  // bad_file: another model, version, damaged; session unchanged

 private:
  friend class Engine;
  struct Impl;
  explicit Session(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

class Engine {
 public:
  // Uploads the model. Errors: out_of_memory before anything is allocated, with the estimate by purpose and what
  // would fit; unsupported, naming the feature.
  Engine(std::shared_ptr<Device> device, const Checkpoint& checkpoint, const EngineOptions& options);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  Device& device();
  const ModelConfig& config() const;
  const EngineOptions& options() const;

  std::unique_ptr<Session> create_session(const SamplingOptions& sampling = {});  // out_of_memory: no free slot
  // Steps sessions of this engine together: one token each, in order.
  std::vector<std::int32_t> step(std::span<Session* const> sessions);

  // Full forward of (B, L) ids from empty states: `consume(first_row, logits)` gets (rows, V) pieces in row order,
  // rows counting b L + t. Uses its own slots. For `riverhorse forward` and the tests.
  void forward(std::span<const std::int32_t> ids, std::int64_t batch, std::int64_t length,
               const std::function<void(std::int64_t first_row, std::span<const float> logits)>& consume);

  // Device times of the last prefill piece or step, for benchmarks.
  struct Timing {
    double device_ms = 0;
    std::int64_t tokens = 0;
  };
  Timing last_timing() const;

 private:
  friend class Session;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace riverhorse
