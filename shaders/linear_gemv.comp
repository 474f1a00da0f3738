// y = activation(x' W^T + bias) for few rows of x: reads every weight once, for all rows together (linear_gemv.glsl).
// SPLIT teams share a row of W when M alone cannot fill the device; their partial sums meet in shared memory.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "linear_gemv.glsl"

uint weight_row(uint first, uint i) { return min(first + i, M - 1u); }
void while_waiting() {}

shared float partial[TEAMS * ROWS * BATCH];

void main() {
  const uint group = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
  const uint group_row = group * (TEAMS / SPLIT) * ROWS;
#ifdef SUBGROUPS
  for (uint team = gl_SubgroupID; team < TEAMS; team += gl_NumSubgroups) {
#else
  const uint team = gl_LocalInvocationIndex / 32u;
  {
#endif
    const uint first_row = group_row + team / SPLIT * ROWS;
    [[unroll]] for (uint i = 0u; i < ROWS * BATCH; ++i) sums[i] = 0.0;
    if ((FLAGS & kVectorWeight) != 0u) {
      dot_vectors(first_row, team % SPLIT);
    } else {
      dot_scalars(first_row, team % SPLIT);
    }
    [[unroll]] for (uint i = 0u; i < ROWS; ++i) {
      [[unroll]] for (uint row = 0u; row < BATCH; ++row) {
        const uint index = i * BATCH + row;
        const float sum = team_sum(sums[index]);
        if (lane() == index % lanes()) {
          if (SPLIT > 1u) {
            partial[team * ROWS * BATCH + index] = sum;
          } else if (first_row + i < M && row < R) {
            store_y(FLAGS, row, first_row + i, sum);
          }
        }
      }
    }
  }
  if (SPLIT > 1u) {
    barrier();
    for (uint index = gl_LocalInvocationIndex; index < TEAMS / SPLIT * ROWS * BATCH; index += GROUP) {
      const uint set = index / (ROWS * BATCH);
      const uint within = index % (ROWS * BATCH);
      float sum = 0.0;
      [[unroll]] for (uint part = 0u; part < SPLIT; ++part) {
        sum += partial[(set * SPLIT + part) * ROWS * BATCH + within];
      }
      const uint m = group_row + set * ROWS + within / BATCH;
      if (m < M && within % BATCH < R) store_y(FLAGS, within % BATCH, m, sum);
    }
  }
}
