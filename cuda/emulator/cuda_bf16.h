// The bfloat16 type of the emulated CUDA.
#pragma once

#include "base/dtype.h"

struct __nv_bfloat16 {
  std::uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 value) { return riverhorse::bf16_to_float(value.bits); }
inline __nv_bfloat16 __float2bfloat16_rn(float value) { return {riverhorse::float_to_bf16(value)}; }
