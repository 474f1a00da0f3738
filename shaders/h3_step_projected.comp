// One token of the H3 mixer from the residual stream: q, k, v = W layer_norm(x) + bias, then h3_step.glsl, for head
// width 1. A team makes one channel: rows h, D + h and 2 D + h of W (linear_gemv.glsl), and that channel's step. q, k
// and v are rounded to the activation dtype, as between the two operations that this is.
//
// One token is a matter of latency. Weights, x, the filter and the state are all requested before anything but the
// slot is waited for: keys and taps in the order of memory, which does not depend on the position, and the taps are
// turned to meet their keys in shared memory.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "linear_gemv.glsl"

layout(constant_id = 8) const uint kStateSize = 64u;  // N
layout(constant_id = 9) const uint kGroups = 1u;      // ceil(n / lanes)
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

shared float shared_taps[TEAMS * kStateSize];

uint own_team, own_channel;
bool channel_there;
uint row_slots[BATCH];
uint state_row, shift_row, newest;  // of the row of x at hand
float own_taps[kKeyGroups];
vec3 own_bias = vec3(0.0);  // of q, k and v
float own_d;

float tap(uint channel, uint age) { return shared_taps[own_team * kStateSize + age]; }

void request_state(uint row) {
  const uint first = row_slots[row] * (M / 3u) + own_channel;
  state_row = first * kModes;
  shift_row = first * kStateSize;
  newest = uint(positions[row_slots[row]]) % kStateSize;
  load_state(state_row, shift_row, lane(), lanes());
}

// Requests what there is of a team's channel.
void begin_channel(uint team) {
  const uint group = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
  own_team = team;
  channel_there = group * TEAMS + team < M / 3u;
  own_channel = min(group * TEAMS + team, M / 3u - 1u);
  request_first(own_channel, 0u);

  load_filter(own_channel, lane(), lanes());
  [[unroll]] for (uint group = 0u; group < kKeyGroups; ++group) {
    own_taps[group] = taps[own_channel * kStateSize + min(group * lanes() + lane(), kStateSize - 1u)];
  }
  if ((FLAGS & kBias) != 0u) {
    own_bias = vec3(bias[own_channel], bias[M / 3u + own_channel], bias[2u * (M / 3u) + own_channel]);
  }
  own_d = d_in[own_channel];
  if (BATCH == 1u) request_state(0u);
}

void share_taps() {
  [[unroll]] for (uint group = 0u; group < kKeyGroups; ++group) {
    const uint age = group * lanes() + lane();
    if (age < kStateSize) shared_taps[own_team * kStateSize + age] = own_taps[group];
  }
#ifdef SUBGROUPS
  subgroupBarrier();
#else
  barrier();
#endif
}

// Four sums at once: one after the other they would take four times as long.
vec4 team_sums(vec4 values) {
#ifdef SUBGROUPS
  return subgroupAdd(values);
#else
  return vec4(team_sum(values.x), team_sum(values.y), team_sum(values.z), team_sum(values.w));
#endif
}

vec3 rounded(vec3 values) {
#ifdef ACT_F16
  return vec3(unpackHalf2x16(packHalf2x16(values.xy)), unpackHalf2x16(packHalf2x16(values.zz)).x);
#else
  return values;
#endif
}

void main() {
  [[unroll]] for (uint row = 0u; row < BATCH; ++row) row_slots[row] = uint(slots[min(row, R - 1u)]);
#ifdef SUBGROUPS
  begin_channel(gl_SubgroupID);
  prepare_rows();
  while (own_team < TEAMS) {
#else
  begin_channel(gl_LocalInvocationIndex / 32u);
  prepare_rows();
  {
#endif
    multiply(own_channel, 0u);
    share_taps();
    [[unroll]] for (uint row = 0u; row < BATCH; ++row) {
      const bool write = channel_there && row < R;
      if (BATCH > 1u) request_state(row);
      const float past = past_keys(own_channel, newest, lane(), lanes());
      const vec4 totals = team_sums(vec4(sums[row], sums[BATCH + row], sums[2u * BATCH + row], past));
      const vec3 projected = rounded(totals.xyz + own_bias);  // q, k and v
      const float w = (totals.w + tap(own_channel, 0u) * projected.y) * projected.z;
      const float z = own_d * w + 2.0 * team_sum(step_modes(state_row, w, write, lane(), lanes()));
      if (write && lane() == 0u) {
        shift_state[shift_row + newest] = projected.y;
#ifdef ACT_F16
        y16[row * (M / 3u) + own_channel] = float16_t(projected.x * z);
#else
        y32[row * (M / 3u) + own_channel] = projected.x * z;
#endif
      }
    }
#ifdef SUBGROUPS
    if (own_team + gl_NumSubgroups >= TEAMS) break;
    begin_channel(own_team + gl_NumSubgroups);
#endif
  }
}
