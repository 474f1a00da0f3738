// Freshly initialised models without a file: for benchmarks, tests and, later, the start of training.
#pragma once

#include <cstdint>

#include "model/checkpoint.h"

namespace riverhorse {

// A model of this configuration as the original initialises it, from `seed`; the same seed gives the same bytes on
// every machine. Matrices and embedding N(0, initializer_range), out_proj and fc2 divided by sqrt(2 n_layer), biases
// 0, layer norms 1 and 0; the SSM's A by its measure, B = 1, C complex normal, step sizes log-uniform in
// [0.001, 0.1]; shift B = e_0, shift C uniform in +-1/sqrt(N); D normal. All f32, in host memory.
// Errors: unsupported for the measure "diag-legs", whose A needs an eigenvalue decomposition.
Checkpoint random_checkpoint(const ModelConfig& config, std::uint64_t seed);

}  // namespace riverhorse
