// Writes k and v of this call into the cache at each sequence's position.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "attention_storage.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint GROUP = 128u;

DECLARE_QKV(readonly)
DECLARE_CACHE(writeonly)

void main() {
  const uint stride = gl_NumWorkGroups.x * GROUP;
  for (uint index = gl_WorkGroupID.x * GROUP + gl_LocalInvocationIndex; index < B * L * D; index += stride) {
    const uint channel = index % D;
    const uint row = index / D;
    const uint slot = uint(slots[row / L]);
    const uint position = uint(positions[slot]) + row % L;
    if (position >= capacity) continue;
    const uint target = (slot * capacity + position) * D + channel;
    cache_k[target] = qkv[row * 3u * D + D + channel];
    cache_v[target] = qkv[row * 3u * D + 2u * D + channel];
  }
}
