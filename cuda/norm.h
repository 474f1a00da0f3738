// Layer norm as a step of other operations.
#pragma once

#include "backend/ops.h"
#include "core.h"

namespace riverhorse::cuda {

// out (R, D) = layer_norm(x), x (R, D) f32, out act. In turn (kernel.cuh); norm is read ahead.
void launch_layer_norm(Launch turn, const Tensor& x, const NormWeights& norm, const Tensor& out);

}  // namespace riverhorse::cuda
