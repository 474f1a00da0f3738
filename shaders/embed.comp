#version 450
#extension GL_GOOGLE_include_directive : require
#include "activation.glsl"
// residual[r] = table[ids[r]], zeros for ids out of range. One workgroup a row, striding over rows.
layout(local_size_x_id = 0) in;

layout(push_constant) uniform Push {
  uint rows;
  uint width;       // D
  uint vocabulary;  // V
};
layout(binding = 0, std430) readonly restrict buffer Ids { int ids[]; };                  // (R)
layout(binding = 1, std430) readonly restrict buffer Table { ACT table[]; };              // (V, D)
layout(binding = 2, std430) writeonly restrict buffer Residual { float residual[]; };     // (R, D)

void main() {
  for (uint row = gl_WorkGroupID.x; row < rows; row += gl_NumWorkGroups.x) {
    const int id = ids[row];
    const bool known = id >= 0 && uint(id) < vocabulary;
    for (uint i = gl_LocalInvocationID.x; i < width; i += gl_WorkGroupSize.x) {
      residual[row * width + i] = known ? float(table[uint(id) * width + i]) : 0.0;
    }
  }
}
