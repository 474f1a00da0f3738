#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "quantised.glsl"
// A quantised matrix as f32 or, with -DACT_F16, f16. An invocation takes a unit of 16 bytes at a time and strides over
// the whole grid.
layout(local_size_x_id = 0) in;

layout(push_constant) uniform Push {
  uint count;  // units of all rows
  uint width;  // K
};
layout(binding = 0, std430) readonly buffer Units { uvec4 units[]; };
layout(binding = 0, std430) readonly buffer Words { uint words[]; };
#ifdef ACT_F16
layout(binding = 1, std430) writeonly restrict buffer Out { uvec2 to[]; };
#else
layout(binding = 1, std430) writeonly restrict buffer Out { vec4 to[]; };
#endif

void main() {
  const uint quads = kUnit / 4u;
  const uint row_units = width / kUnit;
  for (uint i = gl_GlobalInvocationID.x; i < count; i += gl_NumWorkGroups.x * gl_WorkGroupSize.x) {
    const uint row = i / row_units;
    const uint unit = i % row_units;
    const uvec4 bits = units[row * quantised_row_units(width) + unit];
    const float scale = scale_of(words[scale_word(row, unit, width)], unit);
    [[unroll]] for (uint q = 0u; q < quads; ++q) {
      const vec4 values = scale * unit_quad(bits, q);
#ifdef ACT_F16
      to[i * quads + q] = uvec2(packHalf2x16(values.xy), packHalf2x16(values.zw));
#else
      to[i * quads + q] = values;
#endif
    }
  }
}
