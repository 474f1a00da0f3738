// The backward pass of the H3 mixer on tensor cores, where it can be had.
#pragma once

#include <cuda_runtime.h>

#include "backend/training_ops.h"
#include "encoder.h"

namespace riverhorse::cuda {

// 16-bit activations, head_dim 1, at most 32 modes and 64 taps, enough shared memory, and a text of 1024 tokens or
// its entry states.
bool fits_chunked_backward(const H3MixerBackwardArgs& args, const DeviceLimits& limits);
// Begins early where the filter was written before the operation before (add_in_turn()).
void run_chunked_backward(const H3MixerBackwardArgs& args, const DeviceLimits& limits, Launch turn);

}  // namespace riverhorse::cuda
