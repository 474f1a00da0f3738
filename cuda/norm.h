// Layer norm as a step of other operations.
#pragma once

#include "backend/ops.h"
#include "core.h"

namespace riverhorse::cuda {

// out (R, D) = layer_norm(x), x (R, D) f32, out act.
void launch_layer_norm(cudaStream_t stream, const Tensor& x, const NormWeights& norm, const Tensor& out);

}  // namespace riverhorse::cuda
