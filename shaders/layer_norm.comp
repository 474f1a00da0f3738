#version 450
#extension GL_GOOGLE_include_directive : require
#include "activation.glsl"
// residual += x (if add); out = (residual - mean) / sqrt(var + epsilon) * weight + bias. One workgroup a row,
// striding over rows. An element is read again by the invocation that wrote it, so no barrier guards it.
layout(local_size_x_id = 0) in;

layout(push_constant) uniform Push {
  uint rows;
  uint width;  // D
  uint add;
  float epsilon;
};
layout(binding = 0, std430) readonly buffer X { ACT x[]; };                         // (R, D), or anything
layout(binding = 1, std430) restrict buffer Residual { float residual[]; };         // (R, D)
layout(binding = 2, std430) readonly restrict buffer Weight { float weight[]; };    // (D)
layout(binding = 3, std430) readonly restrict buffer Bias { float bias[]; };        // (D)
layout(binding = 4, std430) writeonly buffer Out { ACT result[]; };                 // (R, D)

shared float partial[gl_WorkGroupSize.x];

// The sum of `value` over the workgroup, the same bits in every invocation.
float sum_over_group(float value) {
  const uint self = gl_LocalInvocationID.x;
  barrier();
  partial[self] = value;
  barrier();
  for (uint width_left = gl_WorkGroupSize.x; width_left > 1;) {
    const uint half_width = (width_left + 1) / 2;
    if (self + half_width < width_left) partial[self] += partial[self + half_width];
    width_left = half_width;
    barrier();
  }
  return partial[0];
}

void main() {
  const uint self = gl_LocalInvocationID.x;
  for (uint row = gl_WorkGroupID.x; row < rows; row += gl_NumWorkGroups.x) {
    const uint begin = row * width;
    float sum = 0.0;
    for (uint i = self; i < width; i += gl_WorkGroupSize.x) {
      float value = residual[begin + i];
      if (add != 0) {
        value += float(x[begin + i]);
        residual[begin + i] = value;
      }
      sum += value;
    }
    const float mean = sum_over_group(sum) / float(width);
    sum = 0.0;
    for (uint i = self; i < width; i += gl_WorkGroupSize.x) {
      const float centred = residual[begin + i] - mean;
      sum += centred * centred;
    }
    const float scale = inversesqrt(sum_over_group(sum) / float(width) + epsilon);
    for (uint i = self; i < width; i += gl_WorkGroupSize.x) {
      result[begin + i] = ACT((residual[begin + i] - mean) * scale * weight[i] + bias[i]);
    }
  }
}
