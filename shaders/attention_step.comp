// One new token per sequence attends to the cache: the keys are cut into up to `splits` parts, a workgroup of 128
// makes the partial softmax of one head over one part, and the last workgroup of a head joins the parts. Positions
// live in device memory, so the grid is fixed and parts adapt: each is ceil(keys / splits) keys, at least 64, and
// workgroups that begin beyond the last key have nothing to do. The new token's own k and v come from qkv; part 0
// also writes them to the cache, where no one reads them yet.
//
// Scores: two invocations a key, half a head each. Values: LANES invocations across the head (a vector of four
// channels each, or single channels where the width is odd), 128 / LANES keys at a time. One token's attention is a
// matter of latency: what a tile needs of keys and values is requested at once, before anything is waited for.
#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "attention_storage.glsl"

layout(local_size_x = 128) in;
layout(constant_id = 0) const uint LANES = 16u;     // a power of two
layout(constant_id = 1) const uint VECTORS = 1u;    // 1: width is a multiple of 4
layout(constant_id = 2) const uint HELD = 1u;       // ceil(width / (LANES (4 or 1))): values an invocation holds
layout(constant_id = 3) const uint AHEAD = 8u;      // values of a tile that an invocation loads with the keys: all or 0

DECLARE_QKV(readonly)
DECLARE_CACHE(restrict)
// (B, heads, splits, width + 2): sums, max, total
layout(set = 0, binding = 5) coherent buffer Partial { float partial[]; };
layout(set = 0, binding = 6) buffer Y { ACT y[]; };  // (B, D) = (B, heads, width)
#define LAST_GROUP_BINDING 7
#include "last_group.glsl"

const uint kKeys = 64u;
const uint kGroups = 128u / LANES;
const uint kAhead = AHEAD != 0u ? AHEAD : 1u;
const uint kKeysAtOnce = 8u;    // vectors of a key that an invocation loads at once
const uint kMostParts = 128u;   // what the recording side allows
const uint kPartsAtOnce = 32u;  // of which an invocation loads a channel at once

shared float query[256];
shared vec4 query_vectors[64];
shared vec4 halves[32];  // of scores, two a key
shared vec4 weights[kKeys / 4u];
shared vec4 gathered[128];
shared vec4 part_highest[kMostParts / 4u];
shared vec4 part_totals[kMostParts / 4u];
shared float part_weights[kMostParts];

void load_parts(uint first, uint parts, uint channel, out float values[kPartsAtOnce]) {
  const uint row = gl_WorkGroupID.y * splits;
  [[unroll]] for (uint i = 0u; i < kPartsAtOnce; ++i) {
    values[i] = partial[(row + min(first + i, parts - 1u)) * (width + 2u) + min(channel, width - 1u)];
  }
}

// The softmax over all parts of this head. The first loads are under way before the parts' weights are known.
void join_parts(uint parts) {
  const uint self = gl_LocalInvocationIndex;
  const uint own = (gl_WorkGroupID.y * splits + min(self, parts - 1u)) * (width + 2u) + width;
  const float own_highest = self < parts ? partial[own] : -3.0e38;
  const float own_total = self < parts ? partial[own + 1u] : 0.0;
  float values[kPartsAtOnce];
  load_parts(0u, parts, self, values);

  part_highest[self / 4u][self % 4u] = own_highest;
  barrier();
  vec4 tops = part_highest[0];
  [[unroll]] for (uint i = 1u; i < kMostParts / 4u; ++i) tops = max(tops, part_highest[i]);
  const float highest = max(max(tops.x, tops.y), max(tops.z, tops.w));
  const float weight = self < parts ? exp(own_highest - highest) : 0.0;
  part_weights[self] = weight;
  part_totals[self / 4u][self % 4u] = own_total * weight;
  barrier();
  vec4 totals = part_totals[0];
  [[unroll]] for (uint i = 1u; i < kMostParts / 4u; ++i) totals += part_totals[i];
  const float total = (totals.x + totals.y) + (totals.z + totals.w);

  for (uint c = self; c < width; c += 128u) {
    float sum = 0.0;
    for (uint first = 0u; first < parts; first += kPartsAtOnce) {
      if (c != self || first != 0u) load_parts(first, parts, c, values);
      [[unroll]] for (uint i = 0u; i < kPartsAtOnce; ++i) {
        if (first + i < parts) sum = fma(values[i], part_weights[first + i], sum);
      }
    }
    y[gl_WorkGroupID.y * width + c] = ACT(sum / total);
  }
}

void main() {
  const uint self = gl_LocalInvocationIndex;
  const uint part = gl_WorkGroupID.x;
  const uint head = gl_WorkGroupID.y % heads;
  const uint sequence = gl_WorkGroupID.y / heads;
  const uint slot = uint(slots[sequence]);
  const uint own = sequence * 3u * D + head * width;  // q of this head in qkv
  // The token's own q, k and v do not depend on the slot; heads are at most 256 wide.
  float own_q[2], own_k[2], own_v[2];
  [[unroll]] for (uint i = 0u; i < 2u; ++i) {
    const uint c = own + min(self + i * 128u, width - 1u);
    own_q[i] = float(qkv[c]);
    own_k[i] = float(qkv[c + D]);
    own_v[i] = float(qkv[c + 2u * D]);
  }
  const uint position = min(uint(positions[slot]), capacity - 1u);
  const uint keys = position + 1u;
  const uint in_part = max((keys + splits - 1u) / splits, kKeys);
  const uint begin = part * in_part;
  const uint end = min(begin + in_part, keys);
  const uint parts = (keys + in_part - 1u) / in_part;
  if (part >= parts) return;
  const uint base = slot * capacity * D + head * width;  // key 0 of this head in the cache

  [[unroll]] for (uint i = 0u; i < 2u; ++i) {
    const uint c = self + i * 128u;
    const float q = c < width ? own_q[i] * scale : 0.0;
    query[c] = q;
    query_vectors[c / 4u][c % 4u] = q;
    if (part == 0u && c < width) {
      cache_k[base + position * D + c] = ACT(own_k[i]);
      cache_v[base + position * D + c] = ACT(own_v[i]);
    }
  }
  barrier();

  vec4 sums[HELD];
  [[unroll]] for (uint i = 0u; i < HELD; ++i) sums[i] = vec4(0.0);
  float highest = -3.0e38;
  float total = 0.0;

  for (uint tile = begin; tile < end; tile += kKeys) {
    const uint count = min(end - tile, kKeys);
    const uint lane = self % LANES;
    ACT_VECTOR ahead[kAhead];
    [[unroll]] for (uint n = 0u; n < AHEAD; ++n) {
      const uint key = min(tile + self / LANES + n * kGroups, end - 1u);
      ahead[n] = cache_v_vectors[(base + key * D) / 4u + min(lane, width / 4u - 1u)];
    }
    {
      const uint key = tile + self / 2u;
      const uint which = self % 2u;
      float score = -1.5e38;  // half of what is below every score
      if (key < end) {
        score = 0.0;
        const bool fresh = key == position;
        const uint row = fresh ? own + D : base + key * D;
        if (VECTORS != 0u) {
          const uint vectors = width / 4u;
          const uint middle = (vectors + 1u) / 2u;
          vec4 products = vec4(0.0);
          for (uint first = which * middle; first < (which + 1u) * middle; first += kKeysAtOnce) {
            ACT_VECTOR k[kKeysAtOnce];
            [[unroll]] for (uint i = 0u; i < kKeysAtOnce; ++i) {
              const uint vector = row / 4u + min(first + i, vectors - 1u);
              k[i] = fresh ? qkv_vectors[vector] : cache_k_vectors[vector];
            }
            [[unroll]] for (uint i = 0u; i < kKeysAtOnce; ++i) {
              if (first + i < min((which + 1u) * middle, vectors)) {
                products = fma(query_vectors[first + i], TO_VECTOR(k[i]), products);
              }
            }
          }
          score = (products.x + products.y) + (products.z + products.w);
        } else {
          const uint middle = (width + 1u) / 2u;
          for (uint c = which * middle; c < (which == 0u ? middle : width); ++c) {
            score = fma(query[c], fresh ? float(qkv[row + c]) : float(cache_k[row + c]), score);
          }
        }
      }
      halves[self / 4u][self % 4u] = score;
    }
    barrier();
    float top = highest;
    [[unroll]] for (uint i = 0u; i < 32u; ++i) {
      const vec4 pair = halves[i];
      top = max(top, max(pair.x + pair.y, pair.z + pair.w));
    }
    if (self < kKeys) {
      const uint at = 2u * self;
      weights[self / 4u][self % 4u] =
          self < count ? exp(halves[at / 4u][at % 4u] + halves[at / 4u][at % 4u + 1u] - top) : 0.0;
    }
    barrier();
    const float shrink = exp(highest - top);
    highest = top;
    vec4 added = vec4(0.0);
    [[unroll]] for (uint i = 0u; i < kKeys / 4u; ++i) added += weights[i];
    total = fma(total, shrink, (added.x + added.y) + (added.z + added.w));
    [[unroll]] for (uint i = 0u; i < HELD; ++i) sums[i] *= shrink;
    [[unroll]] for (uint n = 0u; n < AHEAD; ++n) {
      const uint i = self / LANES + n * kGroups;
      if (i < count && lane < width / 4u) {
        const ACT_VECTOR v = tile + i == position ? qkv_vectors[(own + 2u * D) / 4u + lane] : ahead[n];
        sums[0] = fma(vec4(weights[i / 4u][i % 4u]), TO_VECTOR(v), sums[0]);
      }
    }
    for (uint i = self / LANES; AHEAD == 0u && i < count; i += kGroups) {
      const uint key = tile + i;
      const bool fresh = key == position;
      const uint row = fresh ? own + 2u * D : base + key * D;
      [[unroll]] for (uint j = 0u; j < HELD; ++j) {
        const uint c = lane + j * LANES;  // vectors or channels
        if (VECTORS != 0u) {
          if (c < width / 4u) {
            const vec4 v = fresh ? TO_VECTOR(qkv_vectors[row / 4u + c]) : TO_VECTOR(cache_v_vectors[row / 4u + c]);
            sums[j] = fma(vec4(weights[i / 4u][i % 4u]), v, sums[j]);
          }
        } else if (c < width) {
          sums[j].x = fma(weights[i / 4u][i % 4u], fresh ? float(qkv[row + c]) : float(cache_v[row + c]), sums[j].x);
        }
      }
    }
    barrier();
  }

  // The groups' sums meet, in order; lane by lane the head's result or partial result goes out.
  const uint out_base = (sequence * heads + head) * splits * (width + 2u) + part * (width + 2u);
  [[unroll]] for (uint j = 0u; j < HELD; ++j) {
    barrier();
    gathered[self] = sums[j];
    barrier();
    if (self < LANES) {
      vec4 sum = gathered[self];
      [[unroll]] for (uint group = 1u; group < kGroups; ++group) sum += gathered[group * LANES + self];
      const uint each = VECTORS != 0u ? 4u : 1u;
      const uint c = (self + j * LANES) * each;
      [[unroll]] for (uint i = 0u; i < 4u; ++i) {
        if (i < each && c + i < width) {
          if (parts == 1u) {
            y[sequence * D + head * width + c + i] = ACT(sum[i] / total);
          } else {
            partial[out_base + c + i] = sum[i];
          }
        }
      }
    }
  }
  if (parts == 1u) return;
  if (self == 0u) {
    partial[out_base + width] = highest;
    partial[out_base + width + 1u] = total;
  }
  if (last_group(gl_WorkGroupID.y, parts)) join_parts(parts);
}
