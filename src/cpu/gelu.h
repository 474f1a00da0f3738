#pragma once

#include <cstdint>

namespace riverhorse::cpu {

// values[i] <- values[i] / 2 (1 + tanh(sqrt(2 / pi) (values[i] + 0.044715 values[i]^3))), in double
void gelu_tanh(float* values, std::int64_t count);

}  // namespace riverhorse::cpu
