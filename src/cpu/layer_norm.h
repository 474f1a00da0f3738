#pragma once

#include <cstdint>

#include "backend/ops.h"

namespace riverhorse::cpu {

// out = (x - mean) / sqrt(var + epsilon) * weight + bias over one row; var biased, sums in double.
void layer_norm_row(const float* x, std::int64_t width, const NormWeights& norm, float* out);

}  // namespace riverhorse::cpu
