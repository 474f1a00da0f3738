// Dynamic loss scaling: gradients in f16 underflow at 6e-8 and overflow at 65504, so that the loss is multiplied by a
// power of two as large as the gradients bear, and the optimiser divides by it again (Micikevicius and others 2018).
#pragma once

#include <cstdint>

namespace riverhorse {

struct LossScale {
  static constexpr double smallest = 1, largest = 16777216;  // 2^24
  static constexpr std::int64_t steps_to_grow = 2000;

  double value = 65536;
  std::int64_t good_steps = 0;  // in a row, since the value changed

  // After a step: halved where the gradients were not finite, doubled after 2000 steps in a row where they were.
  void update(bool finite) {
    good_steps = finite ? good_steps + 1 : 0;
    if (!finite && value > smallest) value /= 2;
    if (good_steps < steps_to_grow) return;
    good_steps = 0;
    if (value < largest) value *= 2;
  }
};

}  // namespace riverhorse
