// Cases of the long convolutions at shapes of the caller's choice: for benchmarks, and for checks of what these time.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/op_cases.h"

namespace riverhorse {

struct ConvolutionShape {
  std::int64_t batch, width, tokens;
  std::int64_t state = 0;  // N, of the mixer
};

enum class MixerPass {
  carrying,              // forward from a carried state, which it updates: inference
  forward,               // from an empty state
  keeping,               // forward, with the states that the backward pass begins from
  backward,              // all gradients, given nothing but inputs
  backward_from_states,  // ... and the states that `keeping` left
  step,                  // keeping, then backward_from_states
};

// Bytes that must move: q, k, v and y once; backward d_y and their gradients too. Filter and states are not counted.
OpCase mixer_case(const ConvolutionShape& shape, MixerPass pass, ConvAlgorithm algorithm, DType dtype);

// y = conv(u, kernel) + skip u, or its backward pass; what must move is every input and output, the kernel among
// them.
OpCase fft_conv_case(const ConvolutionShape& shape, bool backward, DType dtype);

}  // namespace riverhorse
