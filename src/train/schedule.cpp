#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace riverhorse {

double schedule_factor(const ScheduleOptions& options, std::int64_t steps, std::int64_t step) {
  const auto at = static_cast<double>(step), last = static_cast<double>(steps);
  const auto warmup = static_cast<double>(options.warmup_steps);
  if (at <= warmup) return at / warmup;
  if (options.kind == ScheduleKind::constant) return 1;
  const double begin =
      options.kind == ScheduleKind::wsd ? std::max(warmup, last - options.decay_fraction * last) : warmup;
  const double done = last > begin ? std::clamp((at - begin) / (last - begin), 0.0, 1.0) : 1.0;
  const double left = options.kind == ScheduleKind::cosine ? 0.5 + 0.5 * std::cos(std::numbers::pi * done) : 1 - done;
  return options.final_fraction + (1 - options.final_fraction) * left;
}

}  // namespace riverhorse
