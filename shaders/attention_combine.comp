// One new token per sequence attends to the cache, second pass: joins the parts' softmax sums. A workgroup a head.
#version 450
#extension GL_GOOGLE_include_directive : require
#ifdef ACT_F16
#extension GL_EXT_shader_16bit_storage : require
#define ACT float16_t
#else
#define ACT float
#endif

layout(local_size_x = 128) in;

layout(set = 0, binding = 0) readonly buffer Partial { float partial[]; };  // (B, heads, splits, width + 2)
layout(set = 0, binding = 1) buffer Y { ACT y[]; };                         // (B, D) = (B, heads, width)

layout(push_constant) uniform Push {
  uint splits;
  uint width;
};

void main() {
  const uint base = gl_WorkGroupID.x * splits * (width + 2u);
  float highest = -3.0e38;
  for (uint part = 0u; part < splits; ++part) highest = max(highest, partial[base + part * (width + 2u) + width]);
  float total = 0.0;
  for (uint part = 0u; part < splits; ++part) {
    const uint at = base + part * (width + 2u) + width;
    total = fma(partial[at + 1u], exp(partial[at] - highest), total);
  }
  for (uint c = gl_LocalInvocationIndex; c < width; c += 128u) {
    float sum = 0.0;
    for (uint part = 0u; part < splits; ++part) {
      const uint at = base + part * (width + 2u);
      sum = fma(partial[at + c], exp(partial[at + width] - highest), sum);
    }
    y[gl_WorkGroupID.x * width + c] = ACT(sum / total);
  }
}
