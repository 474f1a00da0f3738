// Dot products of a few rows of x with rows of W, a team a set of rows: the core of linear_gemv.comp and of
// h3_step_projected.comp. Whoever includes it says which rows of W a team takes (weight_row).
//
// A team (one subgroup, or 32 invocations that reduce through shared memory where subgroup arithmetic is missing)
// computes ROWS rows of W against BATCH rows of x. A lane reads 16 bytes of a weight row at a time, a unit; the team's
// lanes stride along K. Of a quantised W (-DWEIGHT_Q8, -DWEIGHT_Q4) the scale of a unit's block meets the sum of its
// products. SPLIT teams share a row along K. The first weights are requested before the layer norm's statistics
// are computed, because they do not depend on them: the latency of the norm hides behind that of the weights.
//
// The order of additions depends on K, SPLIT and the device only, not on BATCH or ROWS: a row of y is the same bits
// whichever rows it is computed with.
#ifndef LINEAR_GEMV_GLSL
#define LINEAR_GEMV_GLSL

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
layout(constant_id = 6) const uint FLAGS = 0u;   // linear_storage.glsl, and this one:
const uint kHoldNorm = 2048u;  // UNROLL units a lane are a row of x, which stays in registers from its norm on

layout(set = 0, binding = 4) readonly buffer Gamma { float gamma[]; };  // (K) layer norm weight
layout(set = 0, binding = 4) readonly buffer Gammav { vec4 gammav[]; };
layout(set = 0, binding = 5) readonly buffer Beta { float beta[]; };    // (K) layer norm bias
layout(set = 0, binding = 5) readonly buffer Betav { vec4 betav[]; };

#if defined(WEIGHT_Q8) || defined(WEIGHT_Q4)
#define QUANTISED
#include "quantised.glsl"
layout(set = 0, binding = 3) readonly buffer WQuants { uvec4 weight_units[]; };
layout(set = 0, binding = 3) readonly buffer WWords { uint weight_words[]; };
#define UNIT_BITS uvec4
#elif defined(ACT_F16)
const uint kUnit = 8u;  // elements of a 16-byte unit
#define UNIT_BITS uvec4
#else
const uint kUnit = 4u;
#define UNIT_BITS vec4
#endif
const uint kQuads = kUnit / 4u;  // quads (vec4) of x for a unit of W

// Defined by who includes this: the i-th of a team's rows of W, and what a layer norm does between requesting its
// first row and waiting for it.
uint weight_row(uint first, uint i);
void while_waiting();

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

// Quads of a row of x a lane, in the order of the team's units from unit `begin` on. They are loaded at once: one
// after the other they would take longer than the weights. Quads beyond the row are zeros.
const uint kHeld = (FLAGS & kHoldNorm) != 0u ? UNROLL * kQuads : 8u;
const uint kHeldUnits = kHeld / kQuads;  // a lane
vec4 held[kHeld];

uint held_quad(uint begin, uint i) { return (begin + i / kQuads * lanes() + lane()) * kQuads + i % kQuads; }

void hold_quads(uint base, uint begin) {
  [[unroll]] for (uint i = 0u; i < kHeld; ++i) {
    const uint quad = held_quad(begin, i);
    held[i] = quad < K / 4u ? x32v[base / 4u + quad] : vec4(0.0);
  }
}

// Two passes over the row: the variance is a sum of squared distances from the mean, never a difference. With vectors
// a row of up to kHeldUnits lanes() units stays in `held` between them, and afterwards.
void layer_norm_statistics() {
  [[unroll]] for (uint row = 0u; row < BATCH; ++row) {
    const uint base = min(row, R - 1u) * K;
    const uint units = (K + kUnit - 1u) / kUnit;
    const uint step = kHeldUnits * lanes();
    float sum = 0.0;
    if ((FLAGS & kVectorX) != 0u) {
      hold_quads(base, 0u);
      if (row == 0u) while_waiting();
      for (uint begin = 0u; begin < units; begin += step) {
        if (begin > 0u) hold_quads(base, begin);
        [[unroll]] for (uint i = 0u; i < kHeld; ++i) sum += (held[i].x + held[i].y) + (held[i].z + held[i].w);
      }
    } else {
      if (row == 0u) while_waiting();
      for (uint k = lane(); k < K; k += lanes()) sum += x32[base + k];
    }
    mean[row] = team_sum(sum) / float(K);
    float squares = 0.0;
    if ((FLAGS & kVectorX) != 0u) {
      for (uint begin = 0u; begin < units; begin += step) {
        if (units > step) hold_quads(base, begin);
        [[unroll]] for (uint i = 0u; i < kHeld; ++i) {
          const vec4 v = held_quad(begin, i) < K / 4u ? held[i] - mean[row] : vec4(0.0);
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

// kHoldNorm: one row of x, whose quads and those of gamma and beta are loaded before anything is waited for, and are
// still in `held`, normalised, when the weights arrive.
void hold_layer_norm() {
  vec4 gammas[kHeld], betas[kHeld];
  [[unroll]] for (uint i = 0u; i < kHeld; ++i) {
    const uint quad = min(held_quad(0u, i), K / 4u - 1u);
    gammas[i] = gammav[quad];
    betas[i] = betav[quad];
  }
  layer_norm_statistics();
  [[unroll]] for (uint i = 0u; i < kHeld; ++i) held[i] = fma((held[i] - mean[0]) * scale[0], gammas[i], betas[i]);
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

UNIT_BITS load_unit(uint row, uint unit) {
#if defined(QUANTISED)
  return weight_units[row * quantised_row_units(K) + unit];
#elif defined(ACT_F16)
  return weight16x8[row * (K / kUnit) + unit];
#else
  return weight32v[row * (K / kUnit) + unit];
#endif
}

// The word with the scale of a unit; 0 where weights have none.
uint load_scale(uint row, uint unit) {
#ifdef QUANTISED
  return weight_words[scale_word(row, unit, K)];
#else
  return 0u;
#endif
}

// Weights 4 q .. 4 q + 3 of a unit, but for the scale.
vec4 weight_quad(UNIT_BITS bits, uint q) {
#if defined(QUANTISED)
  return unit_quad(bits, q);
#elif defined(ACT_F16)
  return unpack4(q == 0u ? bits.xy : bits.zw);
#else
  return bits;
#endif
}

float dot_onto(vec4 a, vec4 b, float sum) { return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum)))); }

float sums[ROWS * BATCH];

void dot_vectors(uint first_row, uint part) {
  const uint units = K / kUnit;
  const uint stride = lanes() * SPLIT;
  UNIT_BITS now[UNROLL * ROWS];
  uint now_scales[UNROLL * ROWS];
  uint unit = part * lanes() + lane();
  [[unroll]] for (uint u = 0u; u < UNROLL; ++u) {
    [[unroll]] for (uint i = 0u; i < ROWS; ++i) {
      const uint source = min(unit + u * stride, units - 1u);
      now[u * ROWS + i] = load_unit(weight_row(first_row, i), source);
      now_scales[u * ROWS + i] = load_scale(weight_row(first_row, i), source);
    }
  }
  const bool hold = (FLAGS & kHoldNorm) != 0u;  // then UNROLL units a lane are the whole row
  if (hold) {
    hold_layer_norm();
  } else if ((FLAGS & kNorm) != 0u) {
    layer_norm_statistics();
  }
  for (; unit < units; unit += UNROLL * stride) {
    UNIT_BITS next[UNROLL * ROWS];
    uint next_scales[UNROLL * ROWS];
    const bool more = !hold && unit + UNROLL * stride < units;
    if (more) {
      [[unroll]] for (uint u = 0u; u < UNROLL; ++u) {
        [[unroll]] for (uint i = 0u; i < ROWS; ++i) {
          const uint source = min(unit + (UNROLL + u) * stride, units - 1u);
          next[u * ROWS + i] = load_unit(weight_row(first_row, i), source);
          next_scales[u * ROWS + i] = load_scale(weight_row(first_row, i), source);
        }
      }
    }
    [[unroll]] for (uint u = 0u; u < UNROLL; ++u) {
      const uint here = unit + u * stride;
      if (here < units) {
        [[unroll]] for (uint row = 0u; row < BATCH; ++row) {
          vec4 x[kQuads];
          [[unroll]] for (uint q = 0u; q < kQuads; ++q) {
            x[q] = hold ? held[u * kQuads + q] : x_vector(row, here * kUnit + 4u * q);
          }
          [[unroll]] for (uint i = 0u; i < ROWS; ++i) {
            const uint index = i * BATCH + row;
#ifdef QUANTISED
            float sum = 0.0;
#else
            float sum = sums[index];
#endif
            [[unroll]] for (uint q = 0u; q < kQuads; ++q) sum = dot_onto(weight_quad(now[u * ROWS + i], q), x[q], sum);
#ifdef QUANTISED
            sum = fma(scale_of(now_scales[u * ROWS + i], here), sum, sums[index]);
#endif
            sums[index] = sum;
          }
        }
      }
    }
    if (more) {
      [[unroll]] for (uint i = 0u; i < UNROLL * ROWS; ++i) {
        now[i] = next[i];
        now_scales[i] = next_scales[i];
      }
    }
  }
}

void dot_scalars(uint first_row, uint part) {
  if ((FLAGS & kNorm) != 0u) layer_norm_statistics();
  for (uint k = part * lanes() + lane(); k < K; k += lanes() * SPLIT) {
    [[unroll]] for (uint row = 0u; row < BATCH; ++row) {
      const float x = x_value(row, k);
      [[unroll]] for (uint i = 0u; i < ROWS; ++i) {
        sums[i * BATCH + row] = fma(load_weight(weight_row(first_row, i) * K + k), x, sums[i * BATCH + row]);
      }
    }
  }
}

#endif
