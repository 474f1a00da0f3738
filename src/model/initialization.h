// The initial values of a new model, as the original has them: where training begins, and models without a file for
// benchmarks and tests.
#pragma once

#include <cstdint>

#include "model/checkpoint.h"

namespace riverhorse {

// A model of this configuration, from `seed`; the same seed gives the same random numbers on every machine. All f32,
// in host memory.
//   matrices, embedding: N(0, initializer_range^2); out_proj and fc2: the deviation divided by sqrt(2 n_layer)
//   biases 0; layer norms 1 and 0
//   diagonal SSM: Re A = -1/2 as inv_A_real = ln 1/2; Im A by ssm_measure, see initialization.cpp; B = 1;
//     C complex normal, E |C|^2 = 1; log_dt uniform in [ln 0.001, ln 0.1]; D normal
//   shift SSM: B = e_0; C uniform in +-1 / sqrt(N); ssm_k_D normal
// Errors: invalid_argument for an unknown ssm_measure.
Checkpoint random_checkpoint(const ModelConfig& config, std::uint64_t seed);

}  // namespace riverhorse
