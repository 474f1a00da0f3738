// Training checkpoints. A run's folder has one folder a checkpoint, step-00001000, which is a model folder
// (config.json, model.safetensors, tokenizer files) with the state of the training beside it:
//
//   optimizer.safetensors   first_moment.<parameter> and second_moment.<parameter>, f32; or several files
//                           (train/moment_shards.h)
//   trainer_state.json      version, step, samples, tokens, micro_batches, data_tokens, validation_loss, best_loss,
//                           best_step, loss_scale, loss_scale_good_steps, options; of several files optimizer_shards,
//                           an object with their count and their save
//
// A checkpoint is written as tmp-step-00001000, every file synced, and renamed: what is called step-* is whole, and a
// crash at any byte leaves those before it whole. One is removed by renaming it to tmp-* first. Whatever is called
// tmp-step-* is what a crash left, and goes at the next save. One process at a time writes to a run's folder
// (FolderLock).
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "model/checkpoint.h"
#include "train/loss_scale.h"
#include "train/moment_shards.h"
#include "train/ranks.h"
#include "train/trainer_options.h"

namespace riverhorse {

struct TrainerState {
  std::int64_t step = 0;                  // done
  std::int64_t samples = 0;               // read: the position in the data
  std::int64_t tokens = 0;                // targets trained on
  std::int64_t micro_batches = 0;         // done, which dropout counts
  std::int64_t data_tokens = 0;           // of the data that the position is in
  std::optional<double> validation_loss;  // of this checkpoint
  std::optional<double> best_loss;        // the lowest of the checkpoints so far, and which it was
  std::int64_t best_step = 0;
  LossScale loss_scale;  // of the next step; moves in f16 only
  TrainerOptions options;
};

// What a training starts or goes on from. The moments are empty, and the state all zero, before the first step.
struct TrainingCheckpoint {
  Checkpoint model;
  std::map<std::string, HostTensor> first_moments, second_moments;  // by parameter
  TrainerState state;
  std::map<std::string, std::string> tokenizer_files;  // text by name
};

// The tokenizer files that a model folder has, by name; `path` may also be a file in it, or a tokenizer.json of any
// name. Empty when there is none.
std::map<std::string, std::string> read_tokenizer_files(const std::filesystem::path& path);

std::filesystem::path checkpoint_path(const std::filesystem::path& run, std::int64_t step);

// The checkpoints of a run, newest first; empty where there is none or no folder.
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& run);

// Makes `run` if it is absent, and removes all checkpoints but the newest `state.options.keep` and the best.
// Errors: io_error; the checkpoints from before are then as they were.
void save_training_checkpoint(const std::filesystem::path& run, const TrainingCheckpoint& checkpoint);

// The same by all ranks together, into a folder that all of them see: each has the state, its part of the moments
// instead of those of the checkpoint, and the first the weights. What is called step-* has the parts of all ranks.
// Errors: io_error, on all ranks.
void save_sharded_checkpoint(const std::filesystem::path& run, const TrainingCheckpoint& checkpoint,
                             const MomentShard& moments, const Ranks& ranks);

// However it was saved. Errors: not_found, bad_file; io_error.
TrainingCheckpoint load_training_checkpoint(const std::filesystem::path& folder);

// The newest that loads; one that does not is left out with a warning. Errors: not_found when there is none.
TrainingCheckpoint load_newest_checkpoint(const std::filesystem::path& run);

}  // namespace riverhorse
