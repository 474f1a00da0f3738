// Between a trainer's core, whose tensors are on a device, and a checkpoint, whose tensors are files.
#pragma once

#include "train/checkpoint_folder.h"
#include "train/trainer_core.h"

namespace riverhorse {

// `evaluation`: as TrainerCoreOptions. Errors: invalid_argument, as Ranks::part_of and
// Ranks::tokens_of.
TrainerCoreOptions core_options(const TrainerOptions& options, bool evaluation = false, const Ranks& ranks = {});

// Puts the moments, of which there are none before the first step, the counts and the loss scale of `checkpoint` into
// `core`, which was made from its model. Frees the checkpoint's tensors: from here on they are in the core.
void restore_core(TrainerCore& core, TrainingCheckpoint& checkpoint);

// `checkpoint`, with the weights and the loss scale that `core` has now; the first rank alone gets them.
TrainingCheckpoint with_weights(TrainingCheckpoint checkpoint, const TrainerCore& core);

// `checkpoint`, with the weights, the loss scale and moments that `core` has now. All ranks take part; the first
// alone gets them.
TrainingCheckpoint with_core(TrainingCheckpoint checkpoint, TrainerCore& core);

}  // namespace riverhorse
