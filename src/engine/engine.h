// Inference: a model on a device (Engine), and texts in progress (Session).
//
// An Engine owns the weights and a pool of slots; each Session holds one slot: the SSM state and KV cache of one
// text. Sessions of an engine step together in batches. Engine and its sessions are used by one thread at a time.
// Sessions keep what they need of their engine alive: they may outlive the Engine object.
//
// The newest token of a text is not in the state yet: reading it gives the logits that the next token is drawn from,
// so one recorded step reads it, draws, and is replayed for every token with nothing but the token flowing through.
// A prefill therefore reads all tokens but the last. See engine_core.h.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "model/checkpoint.h"
#include "model/h3_model.h"

namespace riverhorse {

class Trace;

constexpr std::int64_t most_prefill_piece_tokens = 65536;

struct EngineOptions {
  // Of activations and of weights that are not quantised: f32, or f16 or bf16 where the device supports it.
  DType dtype = DType::f32;
  ConvAlgorithm conv = ConvAlgorithm::automatic;
  // With a value (as DeviceOptions::cache_folder), an automatic `conv` is measured on CUDA, once, and remembered
  // there (conv_choice.h); Engine::options() tells what was chosen.
  std::optional<std::string> cache_folder;
  std::int64_t max_sessions = 4;       // slots
  std::int64_t context_tokens = 2048;  // first capacity of the KV cache, which doubles when needed; attention only
  // Tokens read in one piece of a prefill; 0: chosen from the model's size and the kind of device so that a piece
  // takes a fraction of a second and its workspace stays below a quarter GiB. Never from a clock: the same text is
  // cut the same way every time, so results are reproducible to the last bit.
  std::int64_t prefill_piece_tokens = 0;
  // The most that the device may have handed out to this program, with this engine; 0: what is free on it.
  std::uint64_t memory_budget_bytes = 0;
  // forward() is to read texts of this length: what it takes at least counts as needed; 0: it is not used.
  std::int64_t forward_tokens = 0;
  // So many sessions are to be in frames at once, each by itself: what they take counts as needed, for texts of up to
  // 256 tokens at once.
  std::int64_t frame_sessions = 0;
  ProgressFunction progress;  // of loading, in bytes; may be empty
};

// Bytes on the device by purpose, known before anything is allocated.
struct MemoryEstimate {
  std::uint64_t weights_bytes = 0;
  std::uint64_t filters_bytes = 0;    // discretised SSM parameters
  std::uint64_t state_bytes = 0;      // SSM state and sampler of all slots
  std::uint64_t cache_bytes = 0;      // KV cache of all slots at context_tokens
  std::uint64_t workspace_bytes = 0;  // scratch memory of operations
  std::uint64_t staging_bytes = 0;    // of transfers
  std::uint64_t frames_bytes = 0;     // of sessions in frames: logits, scratch memory, copies of states
  std::uint64_t total_bytes() const {
    return weights_bytes + filters_bytes + state_bytes + cache_bytes + workspace_bytes + staging_bytes + frames_bytes;
  }
  std::string text() const;  // "weights 482.1 MiB, filters 5.2 MiB, ..., 611.0 MiB in all"
};
// For no device in particular: the workspace is a rough figure. With prefill_piece_tokens = 0, a piece of 2048 tokens
// is assumed.
MemoryEstimate estimate_memory(const ModelConfig& config, const EngineOptions& options, const MatrixTypes& types);
// On a device, whose operations say what they take.
MemoryEstimate estimate_memory(const ModelConfig& config, const EngineOptions& options, const MatrixTypes& types,
                               Device& device);

// How to draw tokens. Zero-initialised is greedy decoding. Validated by Session; errors name field, value and limit.
struct SamplingOptions {
  double temperature = 0.0;         // 0: greedy; at most 100
  std::int64_t top_k = 0;           // 0: all
  double top_p = 1.0;               // above 0, at most 1
  double min_p = 0.0;               // 0 to 1
  double repetition_penalty = 1.0;  // above 0, at most 100
  double presence_penalty = 0.0;    // -100 to 100
  double frequency_penalty = 0.0;   // -100 to 100
  std::uint64_t seed = 0;
  std::vector<std::pair<std::int32_t, float>> logit_bias;  // token, addend between -1000 and 1000
  bool padded_vocabulary = false;     // may draw the padding columns too, as the original's script does
  std::int64_t vocabulary_limit = 0;  // tokens from here on are never drawn (a tokenizer knows fewer); 0: no limit

  bool penalises() const { return repetition_penalty != 1.0 || presence_penalty != 0.0 || frequency_penalty != 0.0; }
};
// Errors: invalid_argument.
void check_sampling(const SamplingOptions& options, const ModelConfig& config);

struct LoadReport {
  std::int64_t tokens_reused = 0;  // of the saved text: all of them, or the call failed
};

class Engine;
class EngineCore;

class Session {
 public:
  struct Impl;  // session_impl.h
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  std::int64_t position() const;                    // tokens in the text
  const std::vector<std::int32_t>& tokens() const;  // all of them, in order
  const SamplingOptions& sampling() const;

  // Adds tokens to the text, in pieces, from whatever the state is. Errors: invalid_argument for an id outside the
  // vocabulary (nothing is read then). `progress` counts tokens; `cancelled`, asked between pieces, stops early with
  // StatusCode::cancelled: the text then ends where reading ended, and the session is good.
  void append(std::span<const std::int32_t> tokens, const ProgressFunction& progress = {},
              const std::function<bool()>& cancelled = {});

  // Draws the next token and adds it to the text. Errors: invalid_argument when the text is empty.
  std::int32_t step();

  // Draws up to `max_tokens` tokens, the same ones as that many step() calls, and returns how many. Each goes to
  // `on_token`, which ends the text after it by returning false. On devices where a step takes less time than
  // telling the host about it, several are in flight; those behind the end are undone exactly.
  std::int64_t generate(std::int64_t max_tokens, const std::function<bool(std::int32_t token)>& on_token);

  // (padded vocabulary) what the next token will be drawn from, before bias and penalties. Costs a step.
  std::vector<float> logits();

  void set_sampling(const SamplingOptions& options);  // restarts the random stream at the seed

  // A copy of everything, in a slot of its own; steps exactly as this one would. out_of_memory: no free slot.
  std::unique_ptr<Session> clone();
  // Host copies of the state: any number, restored into any session of the same engine.
  struct Text;
  struct Snapshot;
  std::shared_ptr<const Snapshot> snapshot();
  void restore(const std::shared_ptr<const Snapshot>& snapshot);
  // A place in this text to return to, any number of times and to the last bit: everything goes back, the random
  // stream and sampling options too. It keeps a copy of the SSM state on the device, none of the KV cache. Returns
  // the tokens that had to be read again: 0 unless the text no longer begins with what it was there, after clear(),
  // load() or restore(). Errors: out_of_memory; invalid_argument for a mark of another engine.
  struct Mark;
  std::shared_ptr<const Mark> mark();
  std::int64_t return_to(const std::shared_ptr<const Mark>& mark);
  // Back to an earlier position, by reading again from the start or from the newest checkpoint() before it; returns
  // the tokens that were read again. The random stream goes back too. Sampling options stay.
  std::int64_t rewind(std::int64_t position);
  void checkpoint();  // keeps a mark here for rewind()
  void clear();       // an empty text; the random stream starts again

  // One file, versioned: model hash, position, tokens, SSM state, KV cache, sampler. Written whole or not at all.
  // It may be loaded on another backend and with another dtype.
  void save(const std::filesystem::path& path);
  LoadReport load(const std::filesystem::path& path);  // bad_file: another model, version, damaged; session unchanged
  // The same bytes in memory.
  std::vector<std::byte> save_bytes();
  std::uint64_t saved_size_bytes() const;  // of save_bytes() now, without making them
  LoadReport load_bytes(std::span<const std::byte> bytes);

  // Work that the host runs: recorded into its command buffers, so much a frame as its time allows. Needs a device
  // that was adopted, or another whose queue the host submits to. A session in a FrameBatch (frame_batch.h) is
  // recorded with others there. enqueue: reads `tokens` behind the text, cut into the pieces of append(), and ends
  // what was being drawn with what was handed out. start: draws up to `max_tokens` tokens once all is read. Slow the
  // first time, after the KV cache has grown, and for a text longer than all before. Errors: invalid_argument for an
  // id outside the vocabulary, or an empty text; unsupported.
  void enqueue_frames(std::span<const std::int32_t> tokens);
  void start_frames(std::int64_t max_tokens);
  struct FrameWork {
    double expected_us = 0;  // device time
    std::int64_t pieces = 0;
  };
  // Appends work to an open VkCommandBuffer, as FrameQueue::append; nothing when there is none to do. Errors:
  // invalid_argument for a session in a FrameBatch.
  FrameWork record_frame(void* commands, double budget_us);
  struct FrameReport {
    bool running = false;     // tokens are still to be read or to come
    std::int64_t frames = 0;  // executed since the last report
    std::int64_t frames_in_flight = 0;
    std::int64_t tokens_to_read = 0;
    double expected_us = 0;  // of the newest of them
    double measured_us = 0;
  };
  // Takes the tokens of frames that the device has executed; never waits. `on_token` ends the text after a token by
  // returning false: what was recorded ahead is dropped.
  FrameReport poll_frames(const std::function<bool(std::int32_t token)>& on_token);

 private:
  friend class Engine;
  friend class EngineCore;
  friend class FrameBatch;
  void settle();  // of what is recorded, before anything else
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
  const EngineOptions& options() const;  // prefill_piece_tokens as chosen
  const std::string& model_hash() const;

  std::unique_ptr<Session> create_session(const SamplingOptions& sampling = {});  // out_of_memory: no free slot
  // Steps sessions of this engine together: one token each, in order. No session twice, none empty.
  std::vector<std::int32_t> step(std::span<Session* const> sessions);
  // The logits (sessions, padded vocabulary) that the tokens of the last step() were drawn from, in its order.
  std::vector<float> step_logits();

  // Makes now what the first tokens would otherwise wait for: pipelines, plans, recordings of a step of `batch`
  // sessions and, with `prefill`, of a whole prefill piece.
  void prepare(std::int64_t batch = 1, bool prefill = true);
  // The same for sessions that come and go: a step of every number of them up to max_sessions, and what makes each
  // slot empty. From then on joining, stepping and leaving records, allocates and compiles nothing, but for reading a
  // prompt of a length that was not read before, sampling with penalties or a bias, and texts beyond context_tokens.
  void prepare_sessions();

  // From now on every operation of append, step, generate and forward is timed, by itself, into `trace`, and generate
  // has one step in flight; null: no longer. Not of frames that a host submits.
  void set_trace(std::shared_ptr<Trace> trace);

  // Full forward of (B, L) ids from empty states: `consume(first_row, logits)` gets (rows, V) pieces in row order,
  // rows counting b L + t. Uses slots of its own. For `riverhorse forward` and the tests.
  // Errors: invalid_argument for an id outside the vocabulary.
  void forward(std::span<const std::int32_t> ids, std::int64_t batch, std::int64_t length,
               const std::function<void(std::int64_t first_row, std::span<const float> logits)>& consume);

  // Device time of the last prefill piece or step, for benchmarks; 0 where the device has no clock.
  struct Timing {
    double device_ms = 0;
    std::int64_t tokens = 0;
  };
  Timing last_timing() const;

 private:
  friend class FrameBatch;
  friend class Session;
  std::shared_ptr<EngineCore> core_;
};

}  // namespace riverhorse
