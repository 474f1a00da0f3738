// AdamW over a parameter arena, with clipping by the global norm, by one of two recipes for the groups.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/parameter_arena.h"

namespace riverhorse {

// grouped: weight decay for the weights only; the dynamics at the learning rate of all, unless given one.
// safari: weight decay for weights and vectors; the dynamics at min(learning rate, 1e-3), unless given one.
// The dynamics never decay.
enum class OptimizerRecipe { grouped, safari };

struct OptimizerOptions {
  OptimizerRecipe recipe = OptimizerRecipe::grouped;
  double learning_rate = 6e-4;
  std::optional<double> ssm_learning_rate;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;
  double clip_norm = 1.0;   // 0: no clipping
  double skip_above = 0.0;  // a larger norm leaves the step out; 0: only one that is not finite
};
// Errors: invalid_argument, naming field, value and limit.
void check_optimizer(const OptimizerOptions& options);

class Optimizer {
 public:
  // Updates one of `parts` equal parts of the arena, and has the moments of that alone. Errors: invalid_argument,
  // out_of_memory.
  Optimizer(const TrainingMemory& memory, const ParameterArena& arena, const OptimizerOptions& options,
            std::int64_t part = 0, std::int64_t parts = 1);

  const OptimizerOptions& options() const { return options_; }

  // Before a step is submitted: `step` counts from 1; the schedule's factor is of every learning rate; the gradients
  // are `loss_scale` times too large.
  void set_step(std::int64_t step, double rate_factor, double loss_scale = 1);
  // The update of its part of values and operands by what set_step() said, from the gradients of that part, (P /
  // parts) f32. The norm of all gradients is in norm_tensor() before.
  void record(Encoder& encoder, const Tensor& gradients) const;
  const Tensor& norm_tensor() const { return norm_; }  // (1) f32

  // After a step: the norm before clipping, without the loss scale, and whether the update was left out.
  double norm() const;
  bool was_skipped() const;

  // (P / parts) f32 each, in the arena's layout.
  const Tensor& first_moments() const { return m_; }
  const Tensor& second_moments() const { return v_; }
  // That part of a tensor in the arena's layout.
  Tensor part_of(const Tensor& whole) const { return whole.slice(part_.first, part_.second - part_.first); }

 private:
  double learning_rate(ParameterGroup group) const;
  double weight_decay(ParameterGroup group) const;

  std::shared_ptr<Device> device_;
  const ParameterArena& arena_;
  OptimizerOptions options_;
  ParameterArena::Range part_;
  Tensor m_, v_;
  Tensor norm_;  // (1) f32, with the loss scale
  Tensor rows_;  // (groups, 16) i32: AdamwRow
};

}  // namespace riverhorse
