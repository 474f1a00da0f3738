// Which elements dropout keeps, drawn in the kernel that needs it: see Dropout in backend/ops.h and cpu/dropout.h.
#pragma once

#include <cmath>
#include <cstdint>

#include "backend/ops.h"
#include "core.h"
#include "philox.cuh"

namespace riverhorse::cuda {

// Given to kernels by value. A closure makes it of the operation's Dropout; seed and step are read on the device,
// since they change between runs of a recording.
struct DropoutMask {
  const std::int32_t* random = nullptr;
  std::uint32_t site = 0;
  std::uint32_t threshold = 0;  // the smallest word that keeps an element; 0: no dropout
  float kept = 1;               // what a kept element is multiplied by

  DropoutMask() = default;
  explicit DropoutMask(const Dropout& dropout)
      : random(data<std::int32_t>(dropout.random)),
        site(dropout.site),
        threshold(static_cast<std::uint32_t>(std::ceil(static_cast<double>(dropout.p) * 0x1p32))),
        kept(1.0f / (1.0f - dropout.p)) {}

  // What element `index` is multiplied by: 0 or 1 / (1 - p).
  __device__ float factor(std::int64_t index) const {
    if (threshold == 0) return 1.0f;
    const PhiloxWords drawn = draw(index / 4);
    // Chosen by comparisons: an array indexed by a variable would live in local memory.
    const int word = static_cast<int>(index % 4);
    const std::uint32_t low = word == 0 ? drawn.words[0] : drawn.words[1];
    const std::uint32_t high = word == 2 ? drawn.words[2] : drawn.words[3];
    return (word < 2 ? low : high) >= threshold ? kept : 0.0f;
  }
  // The same of four elements from `index` on: by one draw where it is a multiple of four.
  __device__ void factors(std::int64_t index, float (&result)[4]) const {
    if (threshold == 0 || index % 4 != 0) {
      for (int i = 0; i < 4; ++i) result[i] = factor(index + i);
      return;
    }
    const PhiloxWords drawn = draw(index / 4);
    for (int i = 0; i < 4; ++i) result[i] = drawn.words[i] >= threshold ? kept : 0.0f;
  }

 private:
  __device__ PhiloxWords draw(std::int64_t block) const {
    return philox({{static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32), site,
                    static_cast<std::uint32_t>(random[2])}},
                  static_cast<std::uint32_t>(random[0]), static_cast<std::uint32_t>(random[1]));
  }
};

}  // namespace riverhorse::cuda
