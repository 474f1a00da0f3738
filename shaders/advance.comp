#version 450
// positions[slots[b]] += tokens. Slots are distinct.
layout(local_size_x_id = 0) in;

layout(push_constant) uniform Push {
  uint batch;
  int tokens;
};
layout(binding = 0, std430) readonly restrict buffer Slots { int slots[]; };        // (B)
layout(binding = 1, std430) restrict buffer Positions { int positions[]; };         // (S)

void main() {
  const uint stride = gl_NumWorkGroups.x * gl_WorkGroupSize.x;
  for (uint b = gl_GlobalInvocationID.x; b < batch; b += stride) positions[slots[b]] += tokens;
}
