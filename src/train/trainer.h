// A training from its first step to its last: data, schedule, validation, logs and checkpoints around TrainerCore.
//
// A training that is stopped, or killed, and goes on from its newest checkpoint gives bit for bit the losses of one
// that was not: weights, moments, step, the position in the data, the count of dropout and the loss scale are all
// there is. It may go on with another number of ranks: the same samples, and sums in another order.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>

#include "train/batches.h"
#include "train/checkpoint_folder.h"
#include "train/trainer_core.h"
#include "train/training_log.h"

namespace riverhorse {

using StopFunction = std::function<bool()>;
using ReportFunction = std::function<void(const StepReport&)>;

// One line for people: step, loss, perplexity, learning rate, speed, MFU where it is known, memory, time left,
// validation.
std::string report_line(const StepReport& report);

class Trainer {
 public:
  // Goes on from `start`, a fresh one or a loaded one, with its state's options. Everything is allocated here. `data`
  // and `validation` (null: none) outlive this object; checkpoints and logs go into the folder `run`.
  // Every one of `ranks` has such a trainer, of the same start and data; the first alone writes.
  // Errors: as TrainerCore and Batches; invalid_argument when `data` is not of the size that `start` was trained on,
  // or micro-batches and sequences do not divide among the ranks.
  Trainer(std::shared_ptr<Device> device, TrainingCheckpoint start, const TokenSource& data,
          const TokenSource* validation, std::filesystem::path run, const Ranks& ranks = {});

  // Until all steps are done, or `stop` says so after one, on any rank; saves a checkpoint at the end either way.
  // `report` is called after every step. Both may be empty. Returns whether all steps are done. Errors: io_error (a
  // folder in use by another process included), device_lost, invalid_argument for a token beyond the vocabulary; the
  // checkpoints so far are whole.
  bool run(const StopFunction& stop, const ReportFunction& report);

  const TrainerState& state() const { return checkpoint_.state; }
  // The model as it is now; not while a step runs.
  Checkpoint model() const;
  TrainerCore& core() { return core_; }

  // The mean loss of the validation data's tokens, each counted once, read in pieces of the length of a sample,
  // which with reset_state_at_documents begin anew with each document; empty without data.
  std::optional<double> validate();

 private:
  StepReport step();
  StepReport next_report(const StepResult& result, double rate_factor, double seconds) const;
  Sample validation_sample(std::int64_t index) const;
  void save(const std::optional<double>& validation_loss);

  TrainingCheckpoint checkpoint_;  // of its tensors only those of the start, until it is in the core
  TrainerCore core_;
  Batches batches_;
  const TokenSource* validation_;
  std::optional<DocumentSamples> validation_documents_;  // where no sample may cross their ends
  std::filesystem::path run_;
  Ranks ranks_;
  double flops_per_token_;
};

// A Trainer. With the option auto_batch and too little memory for it, its micro-batch is halved and the accumulation
// doubled (an odd one is divided by its smallest factor), announced in the log, until it fits on every rank: a step
// has the same samples. Errors: as Trainer; out_of_memory when a micro-batch of one sequence a rank does not fit.
std::unique_ptr<Trainer> make_trainer(const std::shared_ptr<Device>& device, TrainingCheckpoint start,
                                      const TokenSource& data, const TokenSource* validation,
                                      const std::filesystem::path& run, const Ranks& ranks = {});

}  // namespace riverhorse
