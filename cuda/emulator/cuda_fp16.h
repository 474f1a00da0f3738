// The half type of the emulated CUDA.
#pragma once

#include "base/dtype.h"

struct __half {
  std::uint16_t bits;
};
inline float __half2float(__half value) { return riverhorse::f16_to_float(value.bits); }
inline __half __float2half_rn(float value) { return {riverhorse::float_to_f16(value)}; }
