#version 450
// out[i] = in[i], converting. Each invocation strides over the whole grid.
#ifdef CONVERT
#extension GL_EXT_shader_16bit_storage : require
#endif
layout(local_size_x_id = 0) in;

layout(push_constant) uniform Push {
  uint count;
  uint skip_in;   // elements before the first one, where the bound range begins
  uint skip_out;
};
layout(binding = 0, std430) readonly restrict buffer In { IN from[]; };
layout(binding = 1, std430) writeonly restrict buffer Out { OUT to[]; };

void main() {
  const uint stride = gl_NumWorkGroups.x * gl_WorkGroupSize.x;
  for (uint i = gl_GlobalInvocationID.x; i < count; i += stride) to[skip_out + i] = OUT(from[skip_in + i]);
}
