// The taps of the shift SSM: f_j = sum_i B_i C_{i+j}, the skip added to f_0; one tap an invocation.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "discretize_df64.glsl"

layout(local_size_x = 64) in;

layout(std430, set = 0, binding = 0) readonly buffer B { float b_in[]; };        // (D, N)
layout(std430, set = 0, binding = 1) readonly buffer C { float c_in[]; };        // (D, N)
layout(std430, set = 0, binding = 2) readonly buffer Skip { float skip[]; };     // (D)
layout(std430, set = 0, binding = 3) writeonly buffer Taps { float taps[]; };    // (D, N)

layout(push_constant) uniform Push {
  uint channels;
  uint state_size;  // N
};

void main() {
  uint index = gl_GlobalInvocationID.x;
  if (index >= channels * state_size) return;
  uint channel = index / state_size;
  uint lag = index % state_size;
  uint row = channel * state_size;
  vec2 sum = lag == 0u ? vec2(skip[channel], 0.0) : vec2(0.0);
  for (uint i = 0u; i + lag < state_size; ++i) sum = df_add(sum, two_product(b_in[row + i], c_in[row + i + lag]));
  taps[index] = sum.x;
}
