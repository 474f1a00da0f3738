#pragma once

#include <cstdint>

#include "backend/ops.h"

namespace riverhorse::cpu {

// Where everything of an h3_step is; shapes are those of ops.h.
struct H3Step {
  const float *a, *b, *c, *d, *shift_taps;
  float *shift, *modes;
  std::int64_t head_dim, heads, width;
  std::int64_t mode_count, state;  // n, N
  HeadOrder order;
};

}  // namespace riverhorse::cpu
