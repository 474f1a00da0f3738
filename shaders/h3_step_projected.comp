// One token of the H3 mixer from the residual stream: q, k, v = W layer_norm(x) + bias, then h3_step.glsl, for head
// width 1. A team makes one channel: rows h, D + h and 2 D + h of W (linear_gemv.glsl), and that channel's step, whose
// state it requests before the weights arrive. q, k and v are rounded to the activation dtype, as between the two
// operations that this is.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "linear_gemv.glsl"

layout(constant_id = 7) const uint kStateSize = 64u;  // N
layout(constant_id = 8) const uint kGroups = 1u;      // ceil(n / lanes)
const uint kModes = kStateSize / 2u;

layout(std430, set = 0, binding = 6) readonly buffer Slots { int slots[]; };          // (B)
layout(std430, set = 0, binding = 7) readonly buffer Positions { int positions[]; };  // (S)
layout(std430, set = 0, binding = 8) buffer Shift { float shift_state[]; };           // (S, D, N)
layout(std430, set = 0, binding = 9) buffer ModeState { vec2 mode_state[]; };         // (S, D, n)
layout(std430, set = 0, binding = 10) readonly buffer A { vec4 a_in[]; };             // (D, n) high, low
layout(std430, set = 0, binding = 11) readonly buffer B { vec2 b_in[]; };             // (D, n)
layout(std430, set = 0, binding = 12) readonly buffer C { vec2 c_in[]; };             // (D, n)
layout(std430, set = 0, binding = 13) readonly buffer D { float d_in[]; };            // (D)
layout(std430, set = 0, binding = 14) readonly buffer Taps { float taps[]; };         // (D, N)
#include "h3_step.glsl"

uint weight_row(uint first, uint i) { return min(first, M / 3u - 1u) + i * (M / 3u); }

uint state_row, shift_row, newest;
float past;  // this lane's part

void request_state(uint row, uint channel) {
  const uint slot = uint(slots[min(row, R - 1u)]);
  newest = uint(positions[slot]) % kStateSize;
  state_row = (slot * (M / 3u) + channel) * kModes;
  shift_row = (slot * (M / 3u) + channel) * kStateSize;
  load_modes(channel, state_row, lane(), lanes());
  past = past_keys(channel, shift_row, newest, lane(), lanes());
}

// The i-th of q, k, v of one row.
float projected(uint i, uint row, uint channel) {
  float value = team_sum(sums[i * BATCH + row]);
  if ((FLAGS & kBias) != 0u) value += bias[i * (M / 3u) + channel];
#ifdef ACT_F16
  value = unpackHalf2x16(packHalf2x16(vec2(value, 0.0))).x;
#endif
  return value;
}

void main() {
  const uint group = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
#ifdef SUBGROUPS
  for (uint team = gl_SubgroupID; team < TEAMS; team += gl_NumSubgroups) {
#else
  const uint team = gl_LocalInvocationIndex / 32u;
  {
#endif
    const bool in_range = group * TEAMS + team < M / 3u;
    const uint channel = min(group * TEAMS + team, M / 3u - 1u);
    [[unroll]] for (uint i = 0u; i < ROWS * BATCH; ++i) sums[i] = 0.0;
    if (BATCH == 1u) request_state(0u, channel);
    if ((FLAGS & kVectorWeight) != 0u) {
      dot_vectors(channel, 0u);
    } else {
      dot_scalars(channel, 0u);
    }
    [[unroll]] for (uint row = 0u; row < BATCH; ++row) {
      const bool write = in_range && row < R;
      if (BATCH > 1u) request_state(row, channel);
      const float query = projected(0u, row, channel);
      const float key = projected(1u, row, channel);
      const float value = projected(2u, row, channel);
      const float w = (team_sum(past) + taps[channel * kStateSize] * key) * value;
      const float z = d_in[channel] * w + 2.0 * team_sum(step_modes(state_row, w, write, lane(), lanes()));
      if (write && lane() == 0u) {
        shift_state[shift_row + newest] = key;
#ifdef ACT_F16
        y16[row * (M / 3u) + channel] = float16_t(query * z);
#else
        y32[row * (M / 3u) + channel] = query * z;
#endif
      }
    }
  }
}
