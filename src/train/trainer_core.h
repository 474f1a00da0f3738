// One optimiser step of a model: micro-batches whose gradients add up, then the update. What a training program, the
// C API and the tests share; schedules, data and files lie above it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/training_model.h"
#include "train/loss_scale.h"
#include "train/moment_shards.h"
#include "train/optimizer.h"
#include "train/ranks.h"

namespace riverhorse {

struct TrainerCoreOptions {
  TrainingShape micro_batch;  // this rank's part, of the sequences and of their tokens
  DType dtype = DType::f32;   // of activations and operands; f16 has a loss scale
  ConvAlgorithm conv = ConvAlgorithm::automatic;
  Recompute recompute = Recompute::none;
  LogitBits logits = LogitBits::full;
  OptimizerOptions optimizer;
  std::uint64_t seed = 0;   // of dropout
  bool evaluation = false;  // evaluate() gets its memory at once, and not when it is first called
  // Steps have several micro-batches. Else the first such step records the gradients anew.
  bool accumulates = false;
  // All make the same calls, each with its part of the tokens, and get the same results.
  Ranks ranks;
  Shard shard = Shard::none;
  ReduceDtype reduce_dtype = ReduceDtype::f32;
};

struct StepResult {
  double loss = 0;           // mean over the scored tokens of the step
  std::int64_t scored = 0;   // tokens
  double gradient_norm = 0;  // before clipping
  bool skipped = false;      // the norm was too large or not finite: nothing was changed
  double loss_scale = 1;     // of this step
};

struct EvaluationResult {
  double loss_sum = 0;       // over the scored tokens
  std::int64_t scored = 0;   // tokens
  std::int64_t correct = 0;  // of them, where the largest logit was the target's
};

// Of ids (B, L) with L = `length`: the next one of each within its sequence; the last has none, -1.
std::vector<std::int32_t> next_token_targets(std::span<const std::int32_t> ids, std::int64_t length);

class TrainerCore {
 public:
  // Says in the log what memory it takes. Errors: as TrainingModel and Optimizer; out_of_memory before anything is
  // allocated, when that is more than the device has free.
  TrainerCore(std::shared_ptr<Device> device, const Checkpoint& checkpoint, const TrainerCoreOptions& options);
  // That memory, without taking it. Errors: as above but for out_of_memory.
  static MemoryPlan estimate_memory(const std::shared_ptr<Device>& device, const ModelConfig& config,
                                    const TrainerCoreOptions& options);

  TrainingModel& model() { return model_; }
  const TrainingModel& model() const { return model_; }
  Optimizer& optimizer() { return optimizer_; }
  std::int64_t steps_done() const { return steps_done_; }
  // Goes on after `steps` steps and `micro_batches` micro-batches, which dropout counts.
  void resume_at(std::int64_t steps, std::int64_t micro_batches, const LossScale& loss_scale);
  const Ranks& ranks() const { return ranks_; }
  std::int64_t micro_batches_done() const { return micro_batches_done_; }
  const LossScale& loss_scale() const { return loss_scale_; }  // of the next step; not used but in f16

  // A step over any number of micro-batches: `ids` and `targets` (micro-batches, B, L), targets negative where
  // nothing is scored. `rate_factor` multiplies the learning rates. Errors: invalid_argument for an id or a target
  // beyond the vocabulary, for no scored token; device_lost; internal where the ranks' gradients differ.
  StepResult step(std::span<const std::int32_t> ids, std::span<const std::int32_t> targets, double rate_factor);

  // The gradients of one micro-batch's mean loss, in the arena, in f16 times the loss scale; no update. Returns that
  // loss.
  double gradients(std::span<const std::int32_t> ids, std::span<const std::int32_t> targets);
  // The moments, host copies of the whole, by parameter; on the first rank only. All ranks take part. With sharded
  // moments the arena's gradients are lost.
  struct Moments {
    std::map<std::string, HostTensor> first, second;
  };
  Moments download_moments();
  // Of them this rank's part, or where all ranks have them an equal one; no rank waits for another.
  MomentShard download_own_moments() const;
  // This rank's part of them.
  void upload_moments(const Moments& moments);

  // Host copies of what the arena holds, without the loss scale. Of divided gradients all ranks take part, and the
  // first one has them.
  std::map<std::string, HostTensor> unscaled_gradients() const;

  // What the ranks send each other of gradients and parameters in a step, without the rest of it, for measurements;
  // all ranks take part, and the gradients are lost.
  void exchange();
  // Of that, what each rank has to send at least, in bytes.
  double exchanged_bytes() const;

  // Loss over any number of micro-batches, as step(): no gradients, no dropout.
  EvaluationResult evaluate(std::span<const std::int32_t> ids, std::span<const std::int32_t> targets);

 private:
  TrainerCore(const TrainingMemory& memory, const ModelConfig& config, const TrainerCoreOptions& options);
  void record_evaluation();
  // What a step of one or of `several` micro-batches needs; from the first of several on they all do it as these do.
  // Submits the zeroes that gradients are then added to.
  void begin_gradients(bool several);
  void record_gradients();
  void record_reduction(Encoder& encoder) const;
  void record_norm(Encoder& encoder) const;
  void record_update(Encoder& encoder) const;
  void record_gather(Encoder& encoder) const;  // of the parts of the parameters that the ranks updated
  // On the first rank the whole of what each has a part of, in the arena's layout; by way of the arena's gradients.
  // All ranks take part.
  std::vector<float> gathered(const Tensor& part) const;
  // What the micro-batches of a step were on each rank, and the norm that each found.
  struct RankResult {
    double loss_sum = 0, norm = 0;
  };
  // The sum of all ranks' losses. Errors: internal, when their norms differ.
  double joined_loss(double loss_sum) const;
  // Tokens, of all ranks. Errors: invalid_argument when there are none.
  std::int64_t count_all_scored(std::span<const std::int32_t> targets) const;
  // Errors: invalid_argument, as step().
  void check(std::span<const std::int32_t> ids, std::span<const std::int32_t> targets, bool one) const;
  bool scaled() const { return model_.activations() == DType::f16; }
  // After a step in f16; says in the log what it changes.
  void update_loss_scale(bool finite);
  // After a step whose gradients are not finite, the first of several in a row, as it downloads them all; says in the
  // log whose.
  void report_bad_gradients() const;
  // For the next recording that is submitted; what was submitted before has been waited for.
  void write_micro_batch(std::span<const std::int32_t> ids, std::span<const std::int32_t> targets);
  // Of the micro-batch that was run last, over its scored tokens.
  double loss_sum() const;

  TrainingMemory memory_;
  Device& device_;
  TrainingModel model_;
  Optimizer optimizer_;
  std::uint64_t seed_;
  std::int64_t steps_done_ = 0;
  std::int64_t micro_batches_done_ = 0;
  LossScale loss_scale_;
  bool last_finite_ = true;  // the gradients of the step before
  bool accumulates_;
  Ranks ranks_;
  bool sharded_;        // the moments are divided among the ranks
  Tensor own_;          // (P / ranks) f32: the sums of this rank's part of the gradients; empty where they are whole
  Tensor own_norm_;     // (1) f32, of that
  Tensor all_norms_;    // (ranks) f32, likewise
  Tensor transferred_;  // (P), or as the largest part, bf16: gradients on their way; empty in f32
  std::unique_ptr<Recording> zero_;       // before gradients that are added
  std::unique_ptr<Recording> gradients_;  // written, or added; null after a failure to record them
  std::unique_ptr<Recording>
      reduction_;  // of the ranks' gradients; null where gradients_ has it, or it is not needed
  std::unique_ptr<Recording> update_;
  std::unique_ptr<Recording> evaluation_;
  std::unique_ptr<Recording> exchange_;       // once it is asked for
  std::vector<GradientPart> gradient_parts_;  // as the backward pass has them ready, and as they are reduced
};

}  // namespace riverhorse
