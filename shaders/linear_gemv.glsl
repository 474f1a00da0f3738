// Dot products of a few rows of x with rows of W, a team a set of rows: the core of linear_gemv.comp and of
// h3_step_projected.comp. Whoever includes it says which rows of W a team takes (weight_row).
//
// A team (one subgroup, or 32 invocations that reduce through shared memory where subgroup arithmetic is missing)
// computes ROWS rows of W against BATCH rows of x. A lane reads 16 bytes of a weight row at a time, a unit; the team's
// lanes stride along K, and each unit that was used makes room for the request of a later one. Of a quantised W
// (-DWEIGHT_Q8, -DWEIGHT_Q4) the scale of a unit's block meets the sum of its products. SPLIT teams share a row along
// K.
//
// One token is a matter of latency: the first weights are requested before x is looked at. A workgroup normalises the
// rows of x once, and has them in shared memory (kStaged) in the order in which lanes read them: the i-th 16 bytes of
// all units lie together, so that neighbouring lanes read neighbouring 16 bytes, however long a unit is.
//
// The order of additions depends on K, SPLIT, the workgroup's size and the device only, not on BATCH or ROWS: a row of
// y is the same bits whichever rows it is computed with.
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
layout(constant_id = 6) const uint STAGED = 1u;  // 16-byte pieces of x in shared memory
layout(constant_id = 7) const uint FLAGS = 0u;   // linear_storage.glsl, and this one:
const uint kStaged = 2048u;  // the products read x from shared memory

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

// Defined by who includes this: the i-th of a team's rows of W.
uint weight_row(uint first, uint i);

shared uvec4 staged[STAGED];
#ifndef SUBGROUPS
shared float tree[GROUP];
#endif
const uint kMostParts = GROUP / 4u;  // subgroups have at least 4 lanes
shared float group_parts[2u * BATCH * kMostParts];

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

// BATCH sums over the workgroup at once, for every invocation of it; `which`: 0, then 1.
void group_sums(uint which, inout float values[BATCH]) {
#ifdef SUBGROUPS
  const uint own = gl_SubgroupID, parts = gl_NumSubgroups;
#else
  const uint own = gl_LocalInvocationIndex / 32u, parts = TEAMS;
#endif
  [[unroll]] for (uint row = 0u; row < BATCH; ++row) {
    const float sum = team_sum(values[row]);
    if (lane() == 0u) group_parts[(which * BATCH + row) * kMostParts + own] = sum;
  }
  barrier();
  [[unroll]] for (uint row = 0u; row < BATCH; ++row) {
    values[row] = 0.0;
    for (uint part = 0u; part < parts; ++part) values[row] += group_parts[(which * BATCH + row) * kMostParts + part];
  }
}

// Where piece `index` of a row goes in shared memory; units have `of_unit` pieces.
uint place(uint index, uint of_unit) { return index % of_unit * (K / kUnit) + index / of_unit; }

float mean[BATCH];
float scale[BATCH];  // 1 / standard deviation

// Quads of a row of x that an invocation keeps between the sums over the workgroup, if that is the whole row.
const uint kHeld = 4u;

uint held_quad(uint begin, uint i) { return begin + i * GROUP + gl_LocalInvocationIndex; }

void load_quads(uint base, uint begin, out vec4 held[kHeld]) {
  [[unroll]] for (uint i = 0u; i < kHeld; ++i) {
    const uint quad = held_quad(begin, i);
    held[i] = quad < K / 4u ? x32v[base / 4u + quad] : vec4(0.0);
  }
}

// Two passes over the rows: the variance is a sum of squared distances from the mean, never a difference.
void layer_norm() {
  vec4 held[kHeld], gammas[kHeld], betas[kHeld];
  const uint quads = K / 4u;
  const bool vectors = (FLAGS & kVectorX) != 0u;
  if ((FLAGS & kStaged) != 0u) {
    [[unroll]] for (uint i = 0u; i < kHeld; ++i) {
      const uint quad = min(held_quad(0u, i), quads - 1u);
      gammas[i] = gammav[quad];
      betas[i] = betav[quad];
    }
  }
  [[unroll]] for (uint row = 0u; row < BATCH; ++row) {
    const uint base = min(row, R - 1u) * K;
    mean[row] = 0.0;
    if (vectors) {
      for (uint begin = 0u; begin < quads; begin += kHeld * GROUP) {
        load_quads(base, begin, held);
        [[unroll]] for (uint i = 0u; i < kHeld; ++i) mean[row] += (held[i].x + held[i].y) + (held[i].z + held[i].w);
      }
    } else {
      for (uint k = gl_LocalInvocationIndex; k < K; k += GROUP) mean[row] += x32[base + k];
    }
  }
  group_sums(0u, mean);
  [[unroll]] for (uint row = 0u; row < BATCH; ++row) {
    const uint base = min(row, R - 1u) * K;
    mean[row] /= float(K);
    scale[row] = 0.0;
    if (vectors) {
      for (uint begin = 0u; begin < quads; begin += kHeld * GROUP) {
        if (BATCH > 1u || quads > kHeld * GROUP) load_quads(base, begin, held);
        [[unroll]] for (uint i = 0u; i < kHeld; ++i) {
          const vec4 v = held_quad(begin, i) < quads ? held[i] - mean[row] : vec4(0.0);
          scale[row] += dot(v, v);
        }
      }
    } else {
      for (uint k = gl_LocalInvocationIndex; k < K; k += GROUP) {
        const float v = x32[base + k] - mean[row];
        scale[row] = fma(v, v, scale[row]);
      }
    }
  }
  group_sums(1u, scale);
  [[unroll]] for (uint row = 0u; row < BATCH; ++row) {
    scale[row] = inversesqrt(scale[row] / float(K) + epsilon);
    if ((FLAGS & kStaged) == 0u) continue;
    for (uint begin = 0u; begin < quads; begin += kHeld * GROUP) {
      if (BATCH > 1u || quads > kHeld * GROUP) load_quads(min(row, R - 1u) * K, begin, held);
      [[unroll]] for (uint i = 0u; i < kHeld; ++i) {
        const uint quad = held_quad(begin, i);
        if (quad >= quads) continue;
        const vec4 weights = begin == 0u ? gammas[i] : gammav[quad];
        const vec4 biases = begin == 0u ? betas[i] : betav[quad];
        staged[row * quads + place(quad, kQuads)] =
            floatBitsToUint(fma((held[i] - mean[row]) * scale[row], weights, biases));
      }
    }
  }
  if ((FLAGS & kStaged) != 0u) barrier();
}

bool x_is_half() {
#ifdef ACT_F16
  return (FLAGS & (kXIsF32 | kNorm)) == 0u;
#else
  return false;
#endif
}

void stage_rows() {
  const uint pieces = x_is_half() ? K / 8u : K / 4u;
  const uint of_unit = x_is_half() ? kUnit / 8u : kQuads;
  [[unroll]] for (uint row = 0u; row < BATCH; ++row) {
    const uint base = min(row, R - 1u) * pieces;
    for (uint piece = gl_LocalInvocationIndex; piece < pieces; piece += GROUP) {
#ifdef ACT_F16
      if (x_is_half()) {
        staged[row * pieces + place(piece, of_unit)] = x16x8[base + piece];
        continue;
      }
#endif
      staged[row * pieces + place(piece, of_unit)] = floatBitsToUint(x32v[base + piece]);
    }
  }
  barrier();
}

// What is done to x before the products, by the whole workgroup.
void prepare_rows() {
  if ((FLAGS & kNorm) != 0u) {
    layer_norm();
  } else if ((FLAGS & kStaged) != 0u) {
    stage_rows();
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

// What a unit of W meets of a row of x.
void x_of_unit(uint row, uint unit, out vec4 x[kQuads]) {
  if ((FLAGS & kStaged) == 0u) {
    [[unroll]] for (uint q = 0u; q < kQuads; ++q) x[q] = x_vector(row, unit * kUnit + 4u * q);
    return;
  }
  const uint units = K / kUnit;
#ifdef ACT_F16
  if (x_is_half()) {
    [[unroll]] for (uint q = 0u; q < kQuads; q += 2u) {
      const uvec4 piece = staged[row * (K / 8u) + q / 2u * units + unit];
      x[q] = unpack4(piece.xy);
      x[q + 1u] = unpack4(piece.zw);
    }
    return;
  }
#endif
  [[unroll]] for (uint q = 0u; q < kQuads; ++q) x[q] = uintBitsToFloat(staged[row * (K / 4u) + q * units + unit]);
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
UNIT_BITS flying[UNROLL * ROWS];      // units that were requested
#ifdef QUANTISED
uint flying_scales[UNROLL * ROWS];  // the words with the scales of their blocks
#endif

// Into slot u, of each of the team's rows.
void request(uint first_row, uint u, uint unit) {
  [[unroll]] for (uint i = 0u; i < ROWS; ++i) {
    const uint row = weight_row(first_row, i);
    flying[u * ROWS + i] = load_unit(row, unit);
#ifdef QUANTISED
    flying_scales[u * ROWS + i] = weight_words[scale_word(row, unit, K)];
#endif
  }
}

void request_first(uint first_row, uint part) {
  if ((FLAGS & kVectorWeight) == 0u) return;
  [[unroll]] for (uint u = 0u; u < UNROLL; ++u) {
    request(first_row, u, min((part + u * SPLIT) * lanes() + lane(), K / kUnit - 1u));
  }
}

void dot_vectors(uint first_row, uint part) {
  const uint units = K / kUnit;
  const uint stride = lanes() * SPLIT;
  for (uint unit = part * lanes() + lane(); unit < units; unit += UNROLL * stride) {
    [[unroll]] for (uint u = 0u; u < UNROLL; ++u) {
      const uint here = unit + u * stride;
      if (here < units) {
        [[unroll]] for (uint row = 0u; row < BATCH; ++row) {
          vec4 x[kQuads];
          x_of_unit(row, here, x);
          [[unroll]] for (uint i = 0u; i < ROWS; ++i) {
            const uint index = i * BATCH + row;
#ifdef QUANTISED
            float sum = 0.0;
#else
            float sum = sums[index];
#endif
            [[unroll]] for (uint q = 0u; q < kQuads; ++q) {
              sum = dot_onto(weight_quad(flying[u * ROWS + i], q), x[q], sum);
            }
#ifdef QUANTISED
            sum = fma(scale_of(flying_scales[u * ROWS + i], here), sum, sums[index]);
#endif
            sums[index] = sum;
          }
        }
      }
      if (here + UNROLL * stride < units) request(first_row, u, here + UNROLL * stride);
    }
  }
}

void dot_scalars(uint first_row, uint part) {
  for (uint k = part * lanes() + lane(); k < K; k += lanes() * SPLIT) {
    [[unroll]] for (uint row = 0u; row < BATCH; ++row) {
      const float x = x_value(row, k);
      [[unroll]] for (uint i = 0u; i < ROWS; ++i) {
        sums[i * BATCH + row] = fma(load_weight(weight_row(first_row, i) * K + k), x, sums[i * BATCH + row]);
      }
    }
  }
}

// After request_first and prepare_rows.
void multiply(uint first_row, uint part) {
  [[unroll]] for (uint i = 0u; i < ROWS * BATCH; ++i) sums[i] = 0.0;
  if ((FLAGS & kVectorWeight) != 0u) {
    dot_vectors(first_row, part);
  } else {
    dot_scalars(first_row, part);
  }
}

#endif
