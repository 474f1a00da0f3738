#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "quantised.glsl"
// residual[r] = table[ids[r]], zeros for ids out of range, of a quantised table. One workgroup a row, striding over
// rows; an invocation takes four neighbours.
layout(local_size_x_id = 0) in;

layout(push_constant) uniform Push {
  uint rows;
  uint width;       // D
  uint vocabulary;  // V
};
layout(binding = 0, std430) readonly restrict buffer Ids { int ids[]; };                // (R)
layout(binding = 1, std430) readonly buffer Units { uvec4 units[]; };                   // (V, D)
layout(binding = 1, std430) readonly buffer Words { uint words[]; };
layout(binding = 2, std430) writeonly restrict buffer Residual { float residual[]; };   // (R, D)

void main() {
  const uint quads = kUnit / 4u;
  for (uint row = gl_WorkGroupID.x; row < rows; row += gl_NumWorkGroups.x) {
    const int id = ids[row];
    const bool known = id >= 0 && uint(id) < vocabulary;
    for (uint i = gl_LocalInvocationID.x; i < width / 4u; i += gl_WorkGroupSize.x) {
      vec4 values = vec4(0.0);
      if (known) {
        const uint unit = i / quads;
        values = scale_of(words[scale_word(uint(id), unit, width)], unit) *
                 unit_quad(units[uint(id) * quantised_row_units(width) + unit], i % quads);
      }
      [[unroll]] for (uint c = 0u; c < 4u; ++c) residual[row * width + 4u * i + c] = values[c];
    }
  }
}
