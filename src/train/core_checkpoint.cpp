#include "train/core_checkpoint.h"

namespace riverhorse {

TrainerCoreOptions core_options(const TrainerOptions& options, bool evaluation, const Ranks& ranks) {
  TrainerCoreOptions core;
  core.ranks = ranks;
  core.micro_batch = {ranks.part_of(options.batch), options.length};
  core.dtype = options.dtype;
  core.conv = options.conv;
  core.recompute = options.recompute;
  core.logits = options.logits;
  core.optimizer = options.optimizer;
  core.seed = static_cast<std::uint64_t>(options.seed);
  core.evaluation = evaluation;
  core.accumulates = options.accumulation > 1;
  return core;
}

void restore_core(TrainerCore& core, TrainingCheckpoint& checkpoint) {
  if (checkpoint.state.step > 0) {
    const ParameterArena& arena = core.model().parameters();
    arena.upload(core.optimizer().first_moments(), checkpoint.first_moments);
    arena.upload(core.optimizer().second_moments(), checkpoint.second_moments);
  }
  core.resume_at(checkpoint.state.step, checkpoint.state.micro_batches, checkpoint.state.loss_scale);
  checkpoint.model.file.tensors.clear();
  checkpoint.first_moments.clear();
  checkpoint.second_moments.clear();
}

TrainingCheckpoint with_core(TrainingCheckpoint checkpoint, TrainerCore& core) {
  const ParameterArena& arena = core.model().parameters();
  checkpoint.state.loss_scale = core.loss_scale();
  checkpoint.model.file.tensors = arena.download(arena.values());
  checkpoint.first_moments = arena.download(core.optimizer().first_moments());
  checkpoint.second_moments = arena.download(core.optimizer().second_moments());
  return checkpoint;
}

}  // namespace riverhorse
