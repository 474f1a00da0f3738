// Which elements dropout keeps, drawn in the kernel that needs it: see Dropout in backend/ops.h and cpu/dropout.h.
#pragma once

#include <cmath>
#include <cstdint>

#include "backend/ops.h"
#include "core.h"
#include "philox.cuh"

namespace riverhorse::cuda {

// Given to kernels by value. A closure makes it of the operation's Dropout; seed and step are read on the device,
// since they change between runs of a recording. Words are chosen by comparisons: an array indexed by a variable
// would live in local memory.
struct DropoutMask {
  const std::int32_t* random = nullptr;
  std::uint32_t site = 0;
  std::uint32_t threshold = 0;  // the smallest word that keeps an element; 0: no dropout
  float kept = 1;               // what a kept element is multiplied by
  std::int64_t first = 0;       // elements before those of this operation

  DropoutMask() = default;
  explicit DropoutMask(const Dropout& dropout)
      : random(data<std::int32_t>(dropout.random)),
        site(dropout.site),
        threshold(static_cast<std::uint32_t>(std::ceil(static_cast<double>(dropout.p) * 0x1p32))),
        kept(1.0f / (1.0f - dropout.p)),
        first(dropout.first) {}

  // Else all factors are 1.
  __device__ bool drops() const { return threshold != 0; }
  // What element `index` is multiplied by: 0 or 1 / (1 - p).
  __device__ float factor(std::int64_t index) const {
    if (threshold == 0) return 1.0f;
    index += first;
    const PhiloxWords drawn = draw(index / 4);
    const auto place = static_cast<int>(index % 4);
    const std::uint32_t even = place == 0 ? drawn.words[0] : drawn.words[2];
    const std::uint32_t odd = place == 1 ? drawn.words[1] : drawn.words[3];
    return factor_of(place % 2 == 0 ? even : odd);
  }
  // The same of 1 to 4 elements from `index` on.
  template <int count>
  __device__ void factors(std::int64_t index, float (&result)[count]) const {
    static_assert(count <= 4);
    for (float& each : result) each = 1.0f;
    if (threshold == 0) return;
    index += first;
    const auto place = static_cast<int>(index % 4);
    const PhiloxWords low = draw(index / 4), high = place + count <= 4 ? low : draw(index / 4 + 1);
    const std::uint32_t words[8] = {low.words[0],  low.words[1],  low.words[2],  low.words[3],
                                    high.words[0], high.words[1], high.words[2], high.words[3]};
    for (int i = 0; i < count; ++i) {
      const std::uint32_t even = place == 0 ? words[i] : words[i + 2], odd = place == 1 ? words[i + 1] : words[i + 3];
      result[i] = factor_of(place % 2 == 0 ? even : odd);
    }
  }

 private:
  __device__ float factor_of(std::uint32_t drawn) const { return drawn >= threshold ? kept : 0.0f; }
  __device__ PhiloxWords draw(std::int64_t block) const {
    return philox({{static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32), site, word(2)}},
                  word(0), word(1));
  }
  // These may lie in host memory: through the read-only cache, they are read once a multiprocessor or so.
  __device__ std::uint32_t word(int index) const { return static_cast<std::uint32_t>(__ldg(random + index)); }
};

}  // namespace riverhorse::cuda
