#include "train/core_checkpoint.h"

namespace riverhorse {

TrainerCoreOptions core_options(const TrainerOptions& options, bool evaluation, const Ranks& ranks) {
  TrainerCoreOptions core;
  core.ranks = ranks;
  core.micro_batch = {ranks.part_of(options.batch), ranks.tokens_of(options.length)};
  core.dtype = options.dtype;
  core.conv = options.conv;
  core.recompute = options.recompute;
  core.logits = options.logits;
  core.optimizer = options.optimizer;
  core.seed = static_cast<std::uint64_t>(options.seed);
  core.evaluation = evaluation;
  core.accumulates = options.accumulation > 1;
  core.shard = options.shard;
  core.reduce_dtype = options.reduce_dtype;
  return core;
}

void restore_core(TrainerCore& core, TrainingCheckpoint& checkpoint) {
  if (checkpoint.state.step > 0) {
    core.upload_moments({std::move(checkpoint.first_moments), std::move(checkpoint.second_moments)});
  }
  core.resume_at(checkpoint.state.step, checkpoint.state.micro_batches, checkpoint.state.loss_scale);
  checkpoint.model.file.tensors.clear();
  checkpoint.first_moments.clear();
  checkpoint.second_moments.clear();
}

TrainingCheckpoint with_weights(TrainingCheckpoint checkpoint, const TrainerCore& core) {
  if (!core.ranks().first()) return checkpoint;
  const ParameterArena& arena = core.model().parameters();
  checkpoint.state.loss_scale = core.loss_scale();
  checkpoint.model.file.tensors = arena.download(arena.values());
  return checkpoint;
}

TrainingCheckpoint with_core(TrainingCheckpoint checkpoint, TrainerCore& core) {
  TrainerCore::Moments moments = core.download_moments();
  checkpoint = with_weights(std::move(checkpoint), core);
  checkpoint.first_moments = std::move(moments.first);
  checkpoint.second_moments = std::move(moments.second);
  return checkpoint;
}

}  // namespace riverhorse
