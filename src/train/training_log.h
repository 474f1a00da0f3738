// What a training leaves to look at: train.csv and train.jsonl in the run's folder, a row a step, and event files for
// TensorBoard in the folder "tensorboard" of it where they are wanted.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "train/log_file.h"
#include "train/tensorboard.h"

namespace riverhorse {

struct StepReport {
  std::int64_t step = 0;  // counted from 1
  double loss = 0;        // mean over the step's tokens, in nats
  double learning_rate = 0;
  double gradient_norm = 0;  // before clipping
  bool skipped = false;      // left out: nothing was changed
  std::int64_t tokens = 0;   // targets since the start of the training
  double tokens_per_second = 0;
  std::optional<double> mfu;              // of the device's peak, where that is known: 0.4 is 40%
  std::uint64_t memory_bytes = 0;         // that tensors have on the device
  double seconds_left = 0;                // at the pace so far
  std::optional<double> validation_loss;  // where there was a validation
  std::int64_t steps = 0;                 // in all; not in the files

  double perplexity() const;
};

class TrainingLog {
 public:
  // Goes on after `step` steps, as LogFile. Errors: io_error.
  TrainingLog(const std::filesystem::path& folder, std::int64_t step, bool tensorboard = false);

  void add(const StepReport& report);  // io_error
  void sync();                         // to the disk, so that no checkpoint is ahead of its log

 private:
  LogFile csv_, jsonl_;
  std::optional<TensorboardWriter> tensorboard_;
};

}  // namespace riverhorse
