// y = activation(x' W^T + bias) for few rows of x: reads every weight once, for all rows together (linear_gemv.glsl).
// SPLIT teams share a row of W when M alone cannot fill the device; their partial sums meet in shared memory. Biases
// and what is added to come from memory as well, so they are requested when the weights are.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "linear_gemv.glsl"

uint weight_row(uint first, uint i) { return min(first + i, M - 1u); }

shared float partial[TEAMS * ROWS * BATCH];

uint group_row;

// An element of y: of `set`, the teams that share rows of W, the within-th.
struct Element {
  bool there;
  uint row, m;
  float bias, before;
};
Element element_of(uint set, uint within) {
  Element element;
  element.row = within % BATCH;
  element.m = group_row + set * ROWS + within / BATCH;
  element.there = within < ROWS * BATCH && set < TEAMS / SPLIT && element.m < M && element.row < R;
  element.bias = 0.0;
  element.before = 0.0;
  if (element.there && (FLAGS & kBias) != 0u) element.bias = bias[y_column + element.m];
  if (element.there && (FLAGS & kAccumulate) != 0u) element.before = y32[y_index(FLAGS, element.row, element.m)];
  return element;
}
void store(Element element, float value) {
  if (!element.there) return;
  const uint index = y_index(FLAGS, element.row, element.m);
  value += element.bias;
  if ((FLAGS & kGelu) != 0u) value = gelu_tanh(value);
#ifdef ACT_F16
  if ((FLAGS & kYIsF32) == 0u) {
    y16[index] = float16_t(value);
    return;
  }
#endif
  y32[index] = (FLAGS & kAccumulate) != 0u ? element.before + value : value;
}

void main() {
  const uint group = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
  group_row = group * (TEAMS / SPLIT) * ROWS;
#ifdef SUBGROUPS
  uint team = gl_SubgroupID;
#else
  uint team = gl_LocalInvocationIndex / 32u;
#endif
  request_first(group_row + team / SPLIT * ROWS, team % SPLIT);
  Element element = SPLIT > 1u
      ? element_of(gl_LocalInvocationIndex / (ROWS * BATCH), gl_LocalInvocationIndex % (ROWS * BATCH))
      : element_of(team, lane());
  prepare_rows();
#ifdef SUBGROUPS
  while (team < TEAMS) {
#else
  {
#endif
    multiply(group_row + team / SPLIT * ROWS, team % SPLIT);
    float own = 0.0;
    [[unroll]] for (uint index = 0u; index < ROWS * BATCH; ++index) {
      const float sum = team_sum(sums[index]);
      if (lane() == index) own = sum;
      if (SPLIT > 1u) {
        if (lane() == index % lanes()) partial[team * ROWS * BATCH + index] = sum;
      } else if (index >= lanes() && lane() == index % lanes()) {
        store(element_of(team, index), sum);
      }
    }
    if (SPLIT == 1u) store(element, own);
#ifdef SUBGROUPS
    team += gl_NumSubgroups;
    if (team < TEAMS) {
      request_first(group_row + team / SPLIT * ROWS, team % SPLIT);
      if (SPLIT == 1u) element = element_of(team, lane());
    }
#endif
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
      if (index >= GROUP) element = element_of(set, within);
      store(element, sum);
    }
  }
}
