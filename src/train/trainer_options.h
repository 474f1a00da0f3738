// Everything that decides how a training runs, as one list of named options: the program's flags, the JSON that a
// checkpoint keeps, and the checks are made from it.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "backend/ops.h"
#include "model/logit_bits.h"
#include "model/recompute.h"
#include "train/optimizer.h"
#include "train/ranks.h"
#include "train/schedule.h"

namespace riverhorse {

struct TrainerOptions {
  // Files, or patterns of text files; the trainer itself is given what they hold.
  std::vector<std::string> data, validation_data;
  std::string column = "text";    // of .csv files
  std::string field = "text";     // of .json and .jsonl files
  double validation_percent = 0;  // of the documents of `data`, set aside
  std::int64_t steps = 1000;
  std::int64_t batch = 8;         // sequences of a micro-batch
  std::int64_t accumulation = 1;  // micro-batches of a step
  std::int64_t length = 1024;     // tokens of a sequence
  OptimizerOptions optimizer;
  ScheduleOptions schedule;
  std::int64_t validate_every = 0;     // steps; 0: with every checkpoint only
  std::int64_t validation_tokens = 0;  // at most so many; 0: all
  std::int64_t checkpoint_every = 1000;
  std::int64_t keep = 3;                  // checkpoints, and the best besides
  bool sharded_save = false;              // each rank writes its part of the moments
  bool reset_state_at_documents = false;  // no sequence crosses the end of a document
  bool auto_batch = false;                // a smaller batch and more accumulation where memory is short
  bool tensorboard = false;               // event files too
  double peak_tflops = 0;                 // of the device; 0: not known, and no MFU
  std::int64_t sample_every = 0;          // steps between texts that are generated; 0: never
  std::int64_t sample_tokens = 64;        // of each
  std::string prompt;                     // what they begin with
  std::int64_t seed = 0;                  // of the order of the data, dropout, and new weights
  ConvAlgorithm conv = ConvAlgorithm::automatic;
  DType dtype = DType::f32;               // of activations and operands
  LogitBits logits = LogitBits::full;     // of the loss, in f16 and bf16
  Recompute recompute = Recompute::none;  // what the backward pass makes again
  Shard shard = Shard::none;              // among several ranks
  ReduceDtype reduce_dtype = ReduceDtype::f32;
  std::int64_t sequence_parallel = 1;  // ranks that share a sequence

  std::int64_t samples_per_step() const { return batch * accumulation; }
};

// Sees every option: its name ("learning_rate"), what it means, its value, which it may change, and its limits.
class OptionVisitor {
 public:
  virtual ~OptionVisitor() = default;
  virtual void text(const char* name, const char* help, std::string& value) = 0;
  virtual void texts(const char* name, const char* help, std::vector<std::string>& value) = 0;
  virtual void flag(const char* name, const char* help, bool& value) = 0;
  virtual void integer(const char* name, const char* help, std::int64_t& value, std::int64_t low,
                       std::int64_t high) = 0;
  virtual void number(const char* name, const char* help, double& value, double low, double high) = 0;
  virtual void optional_number(const char* name, const char* help, std::optional<double>& value, double low,
                               double high) = 0;
  // `value`: an index of `names`.
  virtual void choice(const char* name, const char* help, int& value, const std::vector<std::string>& names) = 0;
};
void visit_options(TrainerOptions& options, OptionVisitor& visitor);

nlohmann::ordered_json trainer_options_json(const TrainerOptions& options);
// An option that is absent has its default. Errors: invalid_argument, beginning with `origin` and naming option,
// value and limit.
TrainerOptions parse_trainer_options(const nlohmann::json& json, const std::string& origin);

}  // namespace riverhorse
