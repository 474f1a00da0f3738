// The first 64 lags of the diagonal SSM of one head a workgroup: K_l = 2 Re sum_n c_n b_n a_n^l, D added to K_0; c and
// D are copied. Two invocations walk each of 32 modes, 32 lags each, in two-float arithmetic; then one sums each lag.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "discretize_df64.glsl"

layout(local_size_x = 64) in;

layout(std430, set = 0, binding = 0) readonly buffer A { vec4 a_in[]; };               // (H, n)
layout(std430, set = 0, binding = 1) readonly buffer B { vec2 b_in[]; };               // (H, n)
layout(std430, set = 0, binding = 2) readonly buffer CIn { vec2 c_in[]; };             // (H, n)
layout(std430, set = 0, binding = 3) readonly buffer DIn { float d_in[]; };            // (H)
layout(std430, set = 0, binding = 4) writeonly buffer COut { vec2 c_out[]; };          // (H, n)
layout(std430, set = 0, binding = 5) writeonly buffer DOut { float d_out[]; };         // (H)
layout(std430, set = 0, binding = 6) writeonly buffer Toeplitz { float toeplitz[]; };  // (H, 64)

layout(push_constant) uniform Push {
  uint heads;
  uint modes;
};

shared float terms[32][65];

void main() {
  uint lane = gl_LocalInvocationID.x;
  for (uint head = gl_WorkGroupID.x; head < heads; head += gl_NumWorkGroups.x) {
    vec2 sum = vec2(0.0);
    for (uint first = 0u; first < modes; first += 32u) {
      uint mode = first + lane / 2u;
      uint lag = (lane & 1u) * 32u;
      bool in_range = mode < modes;
      uint index = head * modes + min(mode, modes - 1u);
      vec4 stored = a_in[index];
      vec2 c = c_in[index];
      Complex a = Complex(stored.xz, stored.yw);
      Complex term = complex_mul(complex_of(2.0 * c), complex_of(b_in[index]));
      if (lag != 0u) {
        Complex jump = a;  // a^32
        for (int i = 0; i < 5; ++i) jump = complex_mul(jump, jump);
        term = complex_mul(term, jump);
      }
      if (in_range && lag == 0u) c_out[index] = c;
      for (uint l = 0u; l < 32u; ++l) {
        terms[lane / 2u][lag + l] = in_range ? term.re.x : 0.0;
        term = complex_mul(term, a);
      }
      barrier();
      for (int i = 0; i < 32; ++i) sum = df_add(sum, vec2(terms[i][lane], 0.0));
      barrier();
    }
    float skip = d_in[head];
    if (lane == 0u) {
      d_out[head] = skip;
      sum = df_add(sum, vec2(skip, 0.0));
    }
    toeplitz[head * 64u + lane] = sum.x;
  }
}
