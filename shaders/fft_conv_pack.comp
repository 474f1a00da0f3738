// Rows for the transform: out[r, t] = in[row(r), t] widened to f32, then zeros to half a row, beyond which the
// transform takes zeros anyway. Rows are (batch, channel) of a group: r = b * group_channels + c.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "h3_mixer_storage.glsl"

layout(local_size_x = 64) in;

layout(std430, set = 0, binding = 0) readonly buffer In { ACT values[]; };   // (B, H, L)
layout(std430, set = 0, binding = 1) writeonly buffer Out { float rows[]; }; // (rows, row_stride)

layout(push_constant) uniform Push {
  uint channels;        // H
  uint tokens;          // L
  uint first_channel;   // of the group
  uint group_channels;  // in the group
  uint first_sequence;
  uint row_count;       // rows of the group
  uint row_stride;
};

void main() {
  for (uint row = gl_WorkGroupID.y; row < row_count; row += gl_NumWorkGroups.y) {
    uint channel = first_channel + row % group_channels;
    uint sequence = first_sequence + row / group_channels;
    uint begin = (sequence * channels + channel) * tokens;
    uint used_inputs = row_stride / 2u - 1u;
    for (uint token = gl_GlobalInvocationID.x; token < used_inputs; token += gl_NumWorkGroups.x * 64u) {
      rows[row * row_stride + token] = token < tokens ? float(values[begin + token]) : 0.0;
    }
  }
}
