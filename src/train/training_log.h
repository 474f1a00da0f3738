// What a training leaves to look at: train.csv and train.jsonl in the run's folder, a row a step.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>

namespace riverhorse {

struct StepReport {
  std::int64_t step = 0;  // counted from 1
  double loss = 0;        // mean over the step's tokens, in nats
  double learning_rate = 0;
  double gradient_norm = 0;  // before clipping
  bool skipped = false;      // left out: nothing was changed
  std::int64_t tokens = 0;   // seen since the start of the training
  double tokens_per_second = 0;
  std::optional<double> validation_loss;  // where there was a validation
  // Not in the files.
  std::int64_t steps = 0;   // in all
  double seconds_left = 0;  // at the pace so far

  double perplexity() const;
};

class TrainingLog {
 public:
  // Goes on after `step` steps: rows of later ones, and one that a crash cut short, are removed; 0 starts anew.
  // Errors: io_error.
  TrainingLog(const std::filesystem::path& folder, std::int64_t step);

  void add(const StepReport& report);  // io_error
  void sync();                         // to the disk, so that no checkpoint is ahead of its log

 private:
  struct Closer {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  using File = std::unique_ptr<std::FILE, Closer>;
  static File open(const std::filesystem::path& path, std::int64_t step);

  std::filesystem::path folder_;
  File csv_, jsonl_;
};

}  // namespace riverhorse
