// The shift state after a call: the newest min(N, L) keys of each sequence and channel, each at its position mod N.
// A dispatch of its own where several workgroups of h3_mixer read the state of one channel.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "h3_mixer_storage.glsl"

layout(local_size_x = 64) in;

layout(std430, set = 0, binding = 0) readonly buffer Qkv { ACT qkv[]; };              // (3 D, B, L)
layout(std430, set = 0, binding = 1) readonly buffer Slots { int slots[]; };          // (B)
layout(std430, set = 0, binding = 2) readonly buffer Positions { int positions[]; };  // (S)
layout(std430, set = 0, binding = 3) writeonly buffer Shift { float shift_state[]; }; // (S, D, N)

layout(push_constant) uniform Push {
  uint channels;
  uint batch;
  uint tokens;
  uint state_size;
};

void main() {
  uint channel = gl_WorkGroupID.x;
  for (uint sequence = gl_WorkGroupID.y; sequence < batch; sequence += gl_NumWorkGroups.y) {
    uint slot = uint(slots[sequence]);
    uint position = uint(positions[slot]);
    uint row = ((channels + channel) * batch + sequence) * tokens;
    uint begin = tokens > state_size ? tokens - state_size : 0u;
    for (uint token = begin + gl_LocalInvocationID.x; token < tokens; token += 64u) {
      shift_state[(slot * channels + channel) * state_size + (position + token) % state_size] = float(qkv[row + token]);
    }
  }
}
