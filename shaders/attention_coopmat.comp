// Causal softmax attention of many queries over the cache on cooperative matrices: f16 operands, f32 sums and softmax,
// 16 x 16 x 16.
//
// A workgroup takes 64 queries of one head, a subgroup 16 of them, and walks over the keys, KEYS at a time, which are
// in shared memory with their values. A subgroup keeps its queries and its outputs as matrices. Which invocation
// holds which element of those is not known, so scores go through shared memory to where a row belongs to a few
// invocations, and weights come back from there, with the factor that each row of outputs shrinks by written out as a
// matrix. A masked key gets weight zero: finite later tokens cannot change earlier outputs, not by a bit.
//
// On an H100 1024 tokens of 12 heads of 64 take 0.034 ms, with plain arithmetic (attention.comp) 0.743. Floors, by
// arithmetic: 0.004 ms of memory, 0.007 of shared memory (28 KB for 64 keys of 16 queries).
#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#define ACT_F16
#include "attention_storage.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint GROUP = 128u;    // = 4 SUBGROUP
layout(constant_id = 1) const uint SUBGROUP = 32u;  // 16, 32 or 64
layout(constant_id = 2) const uint WIDTH = 64u;     // of a head, a multiple of 16
layout(constant_id = 3) const uint KEYS = 64u;      // 32 or 64
layout(constant_id = 4) const uint AHEAD = 1u;      // 1: a tile is asked for while the one before is worked on

layout(set = 0, binding = 0) readonly buffer Qkv { uvec4 qkv_units[]; };       // (B, L, 3 D)
layout(set = 0, binding = 3) readonly buffer CacheK { uvec4 cache_k_units[]; };  // (S, capacity, D)
layout(set = 0, binding = 4) readonly buffer CacheV { uvec4 cache_v_units[]; };
layout(set = 0, binding = 5) buffer Y { uvec2 y_vectors[]; };                  // (B, L, D)

const uint kWarps = 4u;
const uint kQueries = 16u * kWarps;
// Units are eight f16 or four f32; strides in units.
const uint kUnits = WIDTH / 8u;
const uint kStride = kUnits + 1u;
const uint kLanes = SUBGROUP / 16u;     // invocations a row
const uint kScoreStride = KEYS / 4u + 2u;
const uint kScoreSize = 16u * kScoreStride;  // of a subgroup: scores, then weights and factors
const uint kWeightStride = KEYS / 8u + 1u;
const uint kFactorStride = 5u;
const uint kFactors = 16u * kWeightStride;  // where the factors begin
const uint kBlocks = WIDTH / 16u;
const uint kKeyBlocks = KEYS / 16u;
const uint kLoads = (KEYS * kUnits + GROUP - 1u) / GROUP;  // units of keys that an invocation brings
const uint kHeld = KEYS / 8u / kLanes;  // runs of eight scores an invocation

#define SUMS coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator>
#define LEFT coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA>
#define RIGHT coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseB>

shared uvec4 tile[2u * KEYS * kStride];  // [key][channel] keys, then values; at first the queries
shared uvec4 scores[kWarps * kScoreSize];
shared float exchange[GROUP];

uint pair(float low, float high) { return packHalf2x16(vec2(low, high)); }

// Units of a tile of keys and values; zeros from `keys` on.
uvec4 held_k[kLoads];
uvec4 held_v[kLoads];

void fetch(uint key_begin, uint keys, uint cache_base, uint head_units) {
  [[unroll]] for (uint n = 0u; n < kLoads; ++n) {
    const uint i = n * GROUP + gl_LocalInvocationIndex;
    if (KEYS * kUnits % GROUP != 0u && i >= KEYS * kUnits) break;
    const uint key = key_begin + i / kUnits;
    const uint from = cache_base + key * head_units + i % kUnits;
    held_k[n] = key < keys ? cache_k_units[from] : uvec4(0u);
    held_v[n] = key < keys ? cache_v_units[from] : uvec4(0u);
  }
}

void main() {
  const uint self = gl_LocalInvocationIndex;
  // The last queries see the most keys: they begin first.
  const uint block = block_begin + gl_NumWorkGroups.y - 1u - gl_WorkGroupID.y;
  const uint head = gl_WorkGroupID.x % heads;
  const uint sequence = gl_WorkGroupID.x / heads;
  const uint query_begin = block * kQueries;
  const uint slot = uint(slots[sequence]);
  const uint past = uint(positions[slot]);
  const uint keys = min(past + min(query_begin + kQueries, L), capacity);
  const uint head_units = D / 8u;
  const uint cache_base = slot * capacity * head_units + head * kUnits;

  const uint row = gl_SubgroupInvocationID / kLanes;  // of this invocation, within its subgroup
  const uint part = gl_SubgroupInvocationID % kLanes;
  const uint own = gl_SubgroupID * kScoreSize;
  const uint own_lane = gl_SubgroupID * SUBGROUP + gl_SubgroupInvocationID;
  const uint seen = past + query_begin + gl_SubgroupID * 16u + row + 1u;        // keys that the row may see
  const uint subgroup_seen = past + query_begin + gl_SubgroupID * 16u + 16u;  // and any row of the subgroup

  for (uint i = self; i < kQueries * kUnits; i += GROUP) {
    const uint query = min(query_begin + i / kUnits, L - 1u);
    tile[i / kUnits * kStride + i % kUnits] =
        qkv_units[(sequence * L + query) * 3u * head_units + head * kUnits + i % kUnits];
  }
  barrier();
  LEFT q[kBlocks];
  SUMS outputs[kBlocks];
  [[unroll]] for (uint c = 0u; c < kBlocks; ++c) {
    coopMatLoad(q[c], tile, gl_SubgroupID * 16u * kStride + c * 2u, kStride, gl_CooperativeMatrixLayoutRowMajor);
    outputs[c] = SUMS(0.0);
  }
  float highest = -3.0e38;
  float total = 0.0;

  if (AHEAD != 0u) fetch(0u, keys, cache_base, head_units);
  for (uint key_begin = 0u; key_begin < keys; key_begin += KEYS) {
    barrier();
    if (AHEAD == 0u) fetch(key_begin, keys, cache_base, head_units);
    [[unroll]] for (uint n = 0u; n < kLoads; ++n) {
      const uint i = n * GROUP + self;
      if (KEYS * kUnits % GROUP != 0u && i >= KEYS * kUnits) break;
      const uint to = i / kUnits * kStride + i % kUnits;
      tile[to] = held_k[n];
      tile[KEYS * kStride + to] = held_v[n];
    }
    barrier();
    if (AHEAD != 0u && key_begin + KEYS < keys) fetch(key_begin + KEYS, keys, cache_base, head_units);
    if (key_begin >= subgroup_seen) continue;

    [[unroll]] for (uint n = 0u; n < kKeyBlocks; ++n) {
      SUMS sums = SUMS(0.0);
      [[unroll]] for (uint c = 0u; c < kBlocks; ++c) {
        RIGHT k;
        coopMatLoad(k, tile, n * 16u * kStride + c * 2u, kStride, gl_CooperativeMatrixLayoutColumnMajor);
        sums = coopMatMulAdd(q[c], k, sums);
      }
      coopMatStore(sums, scores, own + n * 4u, kScoreStride, gl_CooperativeMatrixLayoutRowMajor);
    }
    subgroupBarrier();

    float held[kHeld * 8u];
    float top = highest;
    const uint bound = min(seen, keys);
    [[unroll]] for (uint i = 0u; i < kHeld; ++i) {
      const uint column = (i * kLanes + part) * 8u;
      const uint from = own + row * kScoreStride + column / 4u;
      const vec4 low = uintBitsToFloat(scores[from]);
      const vec4 high = uintBitsToFloat(scores[from + 1u]);
      [[unroll]] for (uint j = 0u; j < 8u; ++j) {
        const uint key = key_begin + column + j;
        held[i * 8u + j] = key < bound ? (j < 4u ? low[j % 4u] : high[j % 4u]) * scale : -3.0e38;
        top = max(top, held[i * 8u + j]);
      }
    }
    exchange[own_lane] = top;
    subgroupBarrier();
    [[unroll]] for (uint i = 0u; i < kLanes; ++i) top = max(top, exchange[own_lane - part + i]);
    const float shrink = exp(highest - top);
    highest = top;
    float sum = 0.0;
    [[unroll]] for (uint i = 0u; i < kHeld * 8u; ++i) {
      held[i] = held[i] > -2.9e38 ? exp(held[i] - top) : 0.0;
      sum += held[i];
    }
    total = fma(total, shrink, sum);
    [[unroll]] for (uint i = 0u; i < kHeld; ++i) {
      scores[own + row * kWeightStride + i * kLanes + part] =
          uvec4(pair(held[i * 8u], held[i * 8u + 1u]), pair(held[i * 8u + 2u], held[i * 8u + 3u]),
                pair(held[i * 8u + 4u], held[i * 8u + 5u]), pair(held[i * 8u + 6u], held[i * 8u + 7u]));
    }
    [[unroll]] for (uint i = 0u; i < 4u / kLanes; ++i) {
      scores[own + kFactors + row * kFactorStride + i * kLanes + part] = floatBitsToUint(vec4(shrink));
    }
    subgroupBarrier();

    SUMS factor;
    coopMatLoad(factor, scores, own + kFactors, kFactorStride, gl_CooperativeMatrixLayoutRowMajor);
    LEFT weights[kKeyBlocks];
    [[unroll]] for (uint n = 0u; n < kKeyBlocks; ++n) {
      coopMatLoad(weights[n], scores, own + n * 2u, kWeightStride, gl_CooperativeMatrixLayoutRowMajor);
    }
    [[unroll]] for (uint c = 0u; c < kBlocks; ++c) {
      outputs[c] = outputs[c] * factor;
      [[unroll]] for (uint n = 0u; n < kKeyBlocks; ++n) {
        RIGHT v;
        coopMatLoad(v, tile, (KEYS + n * 16u) * kStride + c * 2u, kStride, gl_CooperativeMatrixLayoutRowMajor);
        outputs[c] = coopMatMulAdd(weights[n], v, outputs[c]);
      }
    }
  }

  // Out through the scores' memory, 16 channels at a time, divided by the sums of the weights.
  exchange[own_lane] = total;
  subgroupBarrier();
  const uint line_begin = query_begin + gl_SubgroupID * 16u;
  [[unroll]] for (uint c = 0u; c < kBlocks; ++c) {
    coopMatStore(outputs[c], scores, own, kFactorStride, gl_CooperativeMatrixLayoutRowMajor);
    subgroupBarrier();
    [[unroll]] for (uint n = 0u; n < 4u / kLanes; ++n) {
      const uint line = (n * SUBGROUP + gl_SubgroupInvocationID) / 4u;
      const uint vector = gl_SubgroupInvocationID % 4u;
      const uint query = line_begin + line;
      if (query < L) {
        float sum = 0.0;
        [[unroll]] for (uint i = 0u; i < kLanes; ++i) sum += exchange[gl_SubgroupID * SUBGROUP + line * kLanes + i];
        const vec4 value = uintBitsToFloat(scores[own + line * kFactorStride + vector]) / sum;
        y_vectors[((sequence * L + query) * D + head * WIDTH + c * 16u) / 4u + vector] =
            uvec2(pair(value.x, value.y), pair(value.z, value.w));
      }
    }
    subgroupBarrier();
  }
}
