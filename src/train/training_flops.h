// The arithmetic of training, for how much of a device's peak it uses (MFU).
#pragma once

#include <cstdint>

#include "model/config.h"
#include "model/recompute.h"

namespace riverhorse {

// Floating-point operations, a multiplication and an addition being two, that training needs for one token of a
// sequence of `length` tokens: three times those of the forward pass, since the backward pass has two products for
// each of its products. Of the forward pass are counted
//
//   2 x the elements of every weight matrix of the layers, and of the head (padded vocabulary, D)
//   2 D (length + 1) for each attention layer: scores and sums over the keys that a token sees, on average
//   6 N d D for each H3 layer: the recurrence, whatever algorithm computes it
//
// and not look-ups, norms, activations, dropout and the optimiser.
double training_flops_per_token(const ModelConfig& config, std::int64_t length);

// Those that recomputation adds: of a layer's products, which the last layer keeps.
double recomputed_flops_per_token(const ModelConfig& config, Recompute recompute);

}  // namespace riverhorse
