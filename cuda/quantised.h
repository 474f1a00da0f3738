// Quantised matrices as what they stand for.
#pragma once

#include "backend/ops.h"
#include "core.h"

namespace riverhorse::cuda {

// out (R, K) act = matrix, quantised.
void launch_dequantise(cudaStream_t stream, const Tensor& matrix, const Tensor& out);
// embed from a quantised table.
void launch_embed_quantised(Launch turn, const EmbedArgs& args);

}  // namespace riverhorse::cuda
