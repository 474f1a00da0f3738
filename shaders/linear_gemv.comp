// y = activation(x' W^T + bias) for few rows of x: reads every weight once, for all rows together.
//
// A team (one subgroup, or 32 invocations that reduce through shared memory where subgroup arithmetic is missing)
// computes ROWS rows of W against BATCH rows of x. A lane reads 16 bytes of a weight row at a time; the team's lanes
// stride along K. SPLIT teams share a row along K when M alone cannot fill the device; their partial sums meet in
// shared memory. The first weights are requested before the layer norm's statistics are computed, because they do
// not depend on them: the latency of the norm hides behind that of the weights.
//
// The order of additions depends on K, M and the device only, not on BATCH or ROWS: a row of y is the same bits
// whichever rows it is computed with.
#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#ifdef SUBGROUPS
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#endif
#include "linear_storage.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint GROUP = 128u;
layout(constant_id = 1) const uint ROWS = 1u;    // rows of W a team
layout(constant_id = 2) const uint BATCH = 1u;   // rows of x
layout(constant_id = 3) const uint SPLIT = 1u;   // teams that share a row of W
layout(constant_id = 4) const uint TEAMS = 4u;   // teams a workgroup, a multiple of SPLIT
layout(constant_id = 5) const uint UNROLL = 1u;  // 16-byte units in flight a lane and row
layout(constant_id = 6) const uint FLAGS = 0u;

layout(set = 0, binding = 4) readonly buffer Gamma { float gamma[]; };  // (K) layer norm weight
layout(set = 0, binding = 4) readonly buffer Gammav { vec4 gammav[]; };
layout(set = 0, binding = 5) readonly buffer Beta { float beta[]; };    // (K) layer norm bias
layout(set = 0, binding = 5) readonly buffer Betav { vec4 betav[]; };

#ifdef ACT_F16
const uint kUnit = 8u;  // elements of a 16-byte unit
#define UNIT_BITS uvec4
#else
const uint kUnit = 4u;
#define UNIT_BITS vec4
#endif

shared float partial[TEAMS * ROWS * BATCH];
#ifndef SUBGROUPS
shared float tree[GROUP];
#endif

uint lane() {
#ifdef SUBGROUPS
  return gl_SubgroupInvocationID;
#else
  return gl_LocalInvocationIndex % 32u;
#endif
}

uint lanes() {
#ifdef SUBGROUPS
  return gl_SubgroupSize;
#else
  return 32u;
#endif
}

// The sum over the team, for every lane of it.
float team_sum(float value) {
#ifdef SUBGROUPS
  return subgroupAdd(value);
#else
  const uint self = gl_LocalInvocationIndex;
  barrier();
  tree[self] = value;
  barrier();
  for (uint step = 16u; step > 0u; step >>= 1u) {
    if (lane() < step) tree[self] += tree[self + step];
    barrier();
  }
  return tree[self - lane()];
#endif
}

float mean[BATCH];
float scale[BATCH];  // 1 / standard deviation

// Eight quads of the row a lane, from quad `begin` on: loads that do not wait for each other, because one after the
// other they would take longer than the weights. Quads beyond the row are zeros.
const uint kHeld = 8u;
vec4 held[kHeld];

void hold_quads(uint base, uint begin) {
  [[unroll]] for (uint i = 0u; i < kHeld; ++i) {
    const uint quad = begin + i * lanes() + lane();
    held[i] = quad < K / 4u ? x32v[base / 4u + quad] : vec4(0.0);
  }
}

// Two passes over the row: the variance is a sum of squared distances from the mean, never a difference. A row of up
// to 32 lanes() elements stays in registers between them.
void layer_norm_statistics() {
  [[unroll]] for (uint row = 0u; row < BATCH; ++row) {
    const uint base = min(row, R - 1u) * K;
    const uint step = kHeld * lanes();
    float sum = 0.0;
    if ((FLAGS & kVectorX) != 0u) {
      for (uint begin = 0u; begin < K / 4u; begin += step) {
        hold_quads(base, begin);
        [[unroll]] for (uint i = 0u; i < kHeld; ++i) sum += (held[i].x + held[i].y) + (held[i].z + held[i].w);
      }
    } else {
      for (uint k = lane(); k < K; k += lanes()) sum += x32[base + k];
    }
    mean[row] = team_sum(sum) / float(K);
    float squares = 0.0;
    if ((FLAGS & kVectorX) != 0u) {
      for (uint begin = 0u; begin < K / 4u; begin += step) {
        if (K / 4u > step) hold_quads(base, begin);
        [[unroll]] for (uint i = 0u; i < kHeld; ++i) {
          const vec4 v = begin + i * lanes() + lane() < K / 4u ? held[i] - mean[row] : vec4(0.0);
          squares += dot(v, v);
        }
      }
    } else {
      for (uint k = lane(); k < K; k += lanes()) {
        const float v = x32[base + k] - mean[row];
        squares = fma(v, v, squares);
      }
    }
    scale[row] = inversesqrt(team_sum(squares) / float(K) + epsilon);
  }
}

float x_value(uint row, uint k) {
  const uint source = min(row, R - 1u);
  float value = load_x(FLAGS, (FLAGS & kXTransposed) != 0u ? k * R + source : source * K + k);
  if ((FLAGS & kNorm) != 0u) value = fma((value - mean[row]) * scale[row], gamma[k], beta[k]);
  return value;
}

vec4 x_vector(uint row, uint k) {  // elements k .. k + 3; k a multiple of 4
  if ((FLAGS & kVectorX) == 0u) {
    return vec4(x_value(row, k), x_value(row, k + 1u), x_value(row, k + 2u), x_value(row, k + 3u));
  }
  const uint index = (min(row, R - 1u) * K + k) / 4u;
#ifdef ACT_F16
  if ((FLAGS & kXIsF32) == 0u) return unpack4(x16x4[index]);
#endif
  vec4 value = x32v[index];
  if ((FLAGS & kNorm) != 0u) {
    value = fma((value - mean[row]) * scale[row], gammav[k / 4u], betav[k / 4u]);
  }
  return value;
}

float dot_onto(vec4 a, vec4 b, float sum) { return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum)))); }

float sums[ROWS * BATCH];

void dot_vectors(uint first_row, uint part) {
  const uint units = K / kUnit;
  const uint stride = lanes() * SPLIT;
  UNIT_BITS now[UNROLL * ROWS];
  uint unit = part * lanes() + lane();
  [[unroll]] for (uint u = 0u; u < UNROLL; ++u) {
    [[unroll]] for (uint i = 0u; i < ROWS; ++i) {
      const uint source = min(first_row + i, M - 1u) * units + min(unit + u * stride, units - 1u);
#ifdef ACT_F16
      now[u * ROWS + i] = weight16x8[source];
#else
      now[u * ROWS + i] = weight32v[source];
#endif
    }
  }
  if ((FLAGS & kNorm) != 0u) layer_norm_statistics();
  for (; unit < units; unit += UNROLL * stride) {
    UNIT_BITS next[UNROLL * ROWS];
    const bool more = unit + UNROLL * stride < units;
    if (more) {
      [[unroll]] for (uint u = 0u; u < UNROLL; ++u) {
        [[unroll]] for (uint i = 0u; i < ROWS; ++i) {
          const uint source =
              min(first_row + i, M - 1u) * units + min(unit + (UNROLL + u) * stride, units - 1u);
#ifdef ACT_F16
          next[u * ROWS + i] = weight16x8[source];
#else
          next[u * ROWS + i] = weight32v[source];
#endif
        }
      }
    }
    [[unroll]] for (uint u = 0u; u < UNROLL; ++u) {
      const uint here = unit + u * stride;
      if (here < units) {
        [[unroll]] for (uint row = 0u; row < BATCH; ++row) {
          const vec4 low = x_vector(row, here * kUnit);
#ifdef ACT_F16
          const vec4 high = x_vector(row, here * kUnit + 4u);
#endif
          [[unroll]] for (uint i = 0u; i < ROWS; ++i) {
#ifdef ACT_F16
            const UNIT_BITS bits = now[u * ROWS + i];
            const float sum = dot_onto(unpack4(bits.xy), low, sums[i * BATCH + row]);
            sums[i * BATCH + row] = dot_onto(unpack4(bits.zw), high, sum);
#else
            sums[i * BATCH + row] = dot_onto(now[u * ROWS + i], low, sums[i * BATCH + row]);
#endif
          }
        }
      }
    }
    if (more) {
      [[unroll]] for (uint i = 0u; i < UNROLL * ROWS; ++i) now[i] = next[i];
    }
  }
}

void dot_scalars(uint first_row, uint part) {
  if ((FLAGS & kNorm) != 0u) layer_norm_statistics();
  for (uint k = part * lanes() + lane(); k < K; k += lanes() * SPLIT) {
    [[unroll]] for (uint row = 0u; row < BATCH; ++row) {
      const float x = x_value(row, k);
      [[unroll]] for (uint i = 0u; i < ROWS; ++i) {
        sums[i * BATCH + row] = fma(load_weight(min(first_row + i, M - 1u) * K + k), x, sums[i * BATCH + row]);
      }
    }
  }
}

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
