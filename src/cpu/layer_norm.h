#pragma once

#include <cstdint>

#include "backend/ops.h"

namespace riverhorse::cpu {

// out = (x - mean) / sqrt(var + epsilon) * weight + bias over one row; var biased, sums in double. `statistics`, if
// any: mean, 1 / sqrt(var + epsilon).
void layer_norm_row(const float* x, std::int64_t width, const NormWeights& norm, float* out,
                    float* statistics = nullptr);

}  // namespace riverhorse::cpu
