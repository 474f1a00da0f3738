// y = activation(convolution + skip u); the activation is none or the exact GELU, p (1 + erf(p / sqrt 2)) / 2.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "h3_mixer_storage.glsl"

layout(constant_id = 0) const uint kHasSkip = 0u;
layout(constant_id = 1) const uint kGelu = 0u;

layout(local_size_x = 64) in;

layout(std430, set = 0, binding = 0) readonly buffer Rows { float rows[]; };  // (rows, row_stride)
layout(std430, set = 0, binding = 1) readonly buffer U { ACT u[]; };          // (B, H, L)
layout(std430, set = 0, binding = 2) readonly buffer Skip { float skip[]; };  // (H); u again without a skip
layout(std430, set = 0, binding = 3) writeonly buffer Y { ACT y[]; };         // (B, H, L)

layout(push_constant) uniform Push {
  uint channels;
  uint tokens;
  uint first_channel;
  uint group_channels;
  uint first_sequence;
  uint row_count;
  uint row_stride;
};

#include "fft_conv_gelu.glsl"

void main() {
  for (uint row = gl_WorkGroupID.y; row < row_count; row += gl_NumWorkGroups.y) {
    uint channel = first_channel + row % group_channels;
    uint sequence = first_sequence + row / group_channels;
    uint begin = (sequence * channels + channel) * tokens;
    for (uint token = gl_GlobalInvocationID.x; token < tokens; token += gl_NumWorkGroups.x * 64u) {
      float p = rows[row * row_stride + token];
      if (kHasSkip != 0u) p += skip[channel] * float(u[begin + token]);
      if (kGelu != 0u) p = gelu_erf(p);
      y[begin + token] = ACT(p);
    }
  }
}
