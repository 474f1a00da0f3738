// One token of the H3 mixer (h3_step.glsl): 32 invocations an output channel (h, j) of one sequence, four of them a
// workgroup; y_j = sum_i q_i z_ij. The two sums go through shared memory: every invocation adds the 32 parts itself,
// in one order, with one barrier a sum.
#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "h3_mixer_storage.glsl"

// Sizes known to the compiler where they are usual, else zero and taken from the push constants: few pipelines.
layout(constant_id = 0) const uint kFixedStateSize = 64u;  // N, or 0
layout(constant_id = 1) const uint kFixedHeadDim = 1u;     // d, or 0
layout(constant_id = 2) const uint kGroups = 1u;           // ceil(n / 32)

layout(local_size_x = 128) in;

layout(std430, set = 0, binding = 0) readonly buffer Qkv { ACT qkv[]; };               // (B, 3 D)
layout(std430, set = 0, binding = 1) readonly buffer Slots { int slots[]; };           // (B)
layout(std430, set = 0, binding = 2) readonly buffer Positions { int positions[]; };   // (S)
layout(std430, set = 0, binding = 3) buffer Shift { float shift_state[]; };            // (S, D, N)
layout(std430, set = 0, binding = 4) buffer ModeState { vec2 mode_state[]; };          // (S, D d, n)
layout(std430, set = 0, binding = 5) readonly buffer A { vec4 a_in[]; };               // (H, n) high, low
layout(std430, set = 0, binding = 6) readonly buffer B { vec2 b_in[]; };               // (H, n)
layout(std430, set = 0, binding = 7) readonly buffer C { vec2 c_in[]; };               // (H, n)
layout(std430, set = 0, binding = 8) readonly buffer D { float d_in[]; };              // (H)
layout(std430, set = 0, binding = 9) readonly buffer Taps { float taps[]; };           // (D, N)
layout(std430, set = 0, binding = 10) writeonly buffer Y { ACT y[]; };                 // (B, D)

layout(push_constant) uniform Push {
  uint channels;
  uint sequences;
  uint dim_major;
  uint state_size;  // N
  uint head_dims;   // d
};

#define kStateSize (kFixedStateSize != 0u ? kFixedStateSize : state_size)
#define kHeadDim (kFixedHeadDim != 0u ? kFixedHeadDim : head_dims)
#define kModes (kStateSize / 2u)
#include "h3_step.glsl"

float tap(uint channel, uint age) { return taps[channel * kStateSize + age]; }

shared vec4 key_parts[4][8];
shared vec4 mode_parts[4][8];

float sum_of(vec4 parts[8]) {
  vec4 sum = ((parts[0] + parts[1]) + (parts[2] + parts[3])) + ((parts[4] + parts[5]) + (parts[6] + parts[7]));
  return (sum.x + sum.y) + (sum.z + sum.w);
}

void main() {
  uint lane = gl_LocalInvocationID.x & 31u;
  uint team = gl_LocalInvocationID.x >> 5;
  uint unit = gl_WorkGroupID.x * 4u + team;
  bool in_range = unit < channels;
  unit = min(unit, channels - 1u);
  uint head = unit / kHeadDim;
  uint j = unit % kHeadDim;

  for (uint sequence = gl_WorkGroupID.y; sequence < sequences; sequence += gl_NumWorkGroups.y) {
    uint slot = uint(slots[sequence]);
    uint position = uint(positions[slot]);
    uint row = sequence * 3u * channels;
    float value = float(qkv[row + 2u * channels + unit]);
    load_filter(head, lane, 32u);
    float sum = 0.0;
    for (uint i = 0u; i < kHeadDim; ++i) {
      uint key_channel = head * kHeadDim + i;
      float query = float(qkv[row + key_channel]);
      float key = float(qkv[row + channels + key_channel]);
      uint state_row = (slot * channels * kHeadDim + key_channel * kHeadDim + j) * kModes;
      uint shift_row = (slot * channels + key_channel) * kStateSize;

      load_state(state_row, shift_row, lane, 32u);
      uint newest = position % kStateSize;
      float part = past_keys(key_channel, newest, lane, 32u);
      if (lane == 0u) part += tap(key_channel, 0u) * key;
      key_parts[team][lane >> 2][lane & 3u] = part;
      barrier();
      float w = sum_of(key_parts[team]) * value;
      mode_parts[team][lane >> 2][lane & 3u] = step_modes(state_row, w, in_range, lane, 32u);
      barrier();
      sum += query * (d_in[head] * w + 2.0 * sum_of(mode_parts[team]));
      if (in_range && j == 0u && lane == 0u) shift_state[shift_row + newest] = key;
    }
    uint heads = channels / kHeadDim;
    if (in_range && lane == 0u) {
      y[sequence * channels + (dim_major != 0u ? j * heads + head : unit)] = ACT(sum);
    }
  }
}
