// Which elements dropout keeps: see Dropout in backend/ops.h. The mask is a function of the element's index, so the
// backward pass draws the same one again and nothing is stored.
#pragma once

#include <cmath>
#include <cstdint>

#include "cpu/cpu_encoder.h"
#include "cpu/philox.h"

namespace riverhorse::cpu {

class DropoutMask {
 public:
  // Reads seed and step from device memory: to be made when the operation runs, not when it is recorded.
  explicit DropoutMask(const Dropout& dropout)
      : site_(dropout.site),
        threshold_(static_cast<std::uint32_t>(std::ceil(static_cast<double>(dropout.p) * 0x1p32))),
        kept_(1.0f / (1.0f - dropout.p)),
        first_(dropout.first) {
    if (dropout.p == 0) return;
    const std::int32_t* random = integers(dropout.random);
    seed_low_ = static_cast<std::uint32_t>(random[0]);
    seed_high_ = static_cast<std::uint32_t>(random[1]);
    step_ = static_cast<std::uint32_t>(random[2]);
  }

  // What element `index` is multiplied by: 0 or 1 / (1 - p).
  float factor(std::int64_t index) const {
    if (threshold_ == 0) return 1.0f;
    index += first_;
    const std::int64_t block = index / 4;
    const auto words =
        philox({static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32), site_, step_}, seed_low_,
               seed_high_);
    return words[static_cast<std::size_t>(index % 4)] >= threshold_ ? kept_ : 0.0f;
  }

 private:
  std::uint32_t seed_low_ = 0, seed_high_ = 0, step_ = 0, site_;
  std::uint32_t threshold_;  // the smallest word that keeps an element
  float kept_;
  std::int64_t first_;
};

}  // namespace riverhorse::cpu
