// Text generated while a model trains, to look at: on stderr, and a row each in samples.jsonl of the run's folder.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include "backend/backend.h"
#include "data/tokenizer.h"
#include "model/checkpoint.h"
#include "train/log_file.h"
#include "train/trainer_options.h"

namespace riverhorse::cli {

class TrainSamples {
 public:
  // As options.sample_every, sample_tokens and prompt say, for a training that goes on after `step` steps in the
  // folder `run`. `tokenizer` (null: none) outlives this object. Errors: invalid_argument without a tokenizer, and
  // for an empty prompt with a tokenizer that has no end of text to begin with.
  TrainSamples(std::shared_ptr<Device> device, const Tokenizer* tokenizer, const TrainerOptions& options,
               std::filesystem::path run, std::int64_t step);

  bool wanted(std::int64_t step) const { return options_.sample_every > 0 && step % options_.sample_every == 0; }

  // Generates with an engine of its own on the training's device, which is gone afterwards: nothing that trains is
  // touched. The same model gives the same text. Where memory is too short for it, a warning. Errors: io_error.
  void add(const Checkpoint& model, std::int64_t step);

 private:
  std::string generate(const Checkpoint& model) const;

  std::shared_ptr<Device> device_;
  const Tokenizer* tokenizer_;
  TrainerOptions options_;
  std::filesystem::path run_;
  std::int64_t first_step_;
  std::vector<std::int32_t> prompt_;
  std::optional<LogFile> log_;  // opened with the first text, when the folder is the training's own
};

}  // namespace riverhorse::cli
