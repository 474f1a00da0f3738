// Ways to train a model on many ranks: the memory that each takes, what a rank sends, and how long a step may take.
//
// Memory is counted by the code that then allocates, on a device of shapes alone (train/shapes_device.h). What a rank
// sends is counted likewise, as around a ring. The time of a step is no measurement but a prediction from one step
// that was measured on one device:
//
//   C = its time x the operations of a rank / its operations       with those that recomputation adds
//   T = C + max(0, S - 2/3 C) + M                                  S: sums of gradients, M: all else, by the
//   bandwidth
//
// since the sums of gradients travel while the backward pass, two thirds of a step, makes the next, and all else is
// waited for. Ranks that share sequences run the mixers of a layer one after the other, which is not in C.
#pragma once

#include <optional>
#include <vector>

#include "train/shapes_device.h"
#include "train/trainer_core.h"

namespace riverhorse {

struct MeasuredStep {
  double ms = 0, flops = 0;  // with those that recomputation added
};

struct PlanOptions {
  ModelConfig config;
  int ranks = 1;
  TrainingShape batch;  // of all ranks, sequences whole
  DType dtype = DType::f32;
  LogitBits logits = LogitBits::full;
  ReduceDtype reduce_dtype = ReduceDtype::f32;
  double bandwidth = 0;  // bytes a second that a rank can send
  std::optional<MeasuredStep> measured;
};

struct PlannedLayout {
  Shard shard = Shard::none;
  Recompute recompute = Recompute::none;
  int places = 1;  // ranks that share a sequence
  MemoryPlan memory;
  ShapesTraffic traffic;  // of a rank in a step
  std::optional<double> step_ms;
};

// Every layout that divides the batch, the fastest first, of equal ones that with less memory. Empty where none
// divides it. Errors: unsupported, for a model that is not trained.
std::vector<PlannedLayout> plan_layouts(const PlanOptions& options);

}  // namespace riverhorse
