// The learning rate over a training: a factor of every learning rate, by step.
#pragma once

#include <cstdint>

namespace riverhorse {

// After the warm-up, from 1 at its end to the final fraction at the last step:
// constant: stays at 1; linear: a straight line; cosine: half a wave; wsd (warm-up, stable, decay): stays at 1, then
// a straight line over the last part.
enum class ScheduleKind { constant, linear, cosine, wsd };

struct ScheduleOptions {
  ScheduleKind kind = ScheduleKind::cosine;
  std::int64_t warmup_steps = 0;  // a straight line from 0; the last of them has the factor 1
  double final_fraction = 0.1;
  double decay_fraction = 0.2;  // of all steps: the decay of wsd
};

// `step` counts from 1; after the last of `steps` the factor stays as it is there. From 0 to 1.
double schedule_factor(const ScheduleOptions& options, std::int64_t steps, std::int64_t step);

}  // namespace riverhorse
