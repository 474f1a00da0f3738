// One new token per sequence attends to the cache, second pass: joins the parts' softmax sums. A workgroup a head.
#version 450
#extension GL_EXT_control_flow_attributes : require
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

const uint kMostParts = 128u;  // what the recording side allows
const uint kAtOnce = 8u;       // loads under way in each invocation: this is a matter of latency alone
shared float weights[kMostParts];
shared float reduced[kMostParts];

void main() {
  const uint self = gl_LocalInvocationIndex;
  const uint stride = width + 2u;
  const uint base = gl_WorkGroupID.x * splits * stride;
  const uint own = base + min(self, splits - 1u) * stride + width;
  const float own_highest = self < splits ? partial[own] : -3.0e38;
  const float own_total = partial[own + 1u];

  reduced[self] = own_highest;
  barrier();
  for (uint half_count = kMostParts / 2u; half_count > 0u; half_count /= 2u) {
    if (self < half_count) reduced[self] = max(reduced[self], reduced[self + half_count]);
    barrier();
  }
  const float highest = reduced[0];
  barrier();
  const float weight = self < splits ? exp(own_highest - highest) : 0.0;
  weights[self] = weight;
  reduced[self] = own_total * weight;
  barrier();
  for (uint half_count = kMostParts / 2u; half_count > 0u; half_count /= 2u) {
    if (self < half_count) reduced[self] += reduced[self + half_count];
    barrier();
  }
  const float total = reduced[0];

  for (uint c = self; c < width; c += 128u) {
    float sum = 0.0;
    for (uint first = 0u; first < splits; first += kAtOnce) {
      float values[kAtOnce];
      [[unroll]] for (uint i = 0u; i < kAtOnce; ++i) {
        values[i] = partial[base + min(first + i, splits - 1u) * stride + c];
      }
      [[unroll]] for (uint i = 0u; i < kAtOnce; ++i) {
        const uint part = first + i;
        if (part < splits) sum = fma(values[i], weights[part], sum);
      }
    }
    y[gl_WorkGroupID.x * width + c] = ACT(sum / total);
  }
}
