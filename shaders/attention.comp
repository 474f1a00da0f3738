// Causal softmax attention of many queries over the cache: online softmax, memory linear in L.
//
// A workgroup of 128 takes 32 queries of one head and walks over the keys, 32 at a time. Heads are cut into chunks of
// 32 channels so that 16 KiB of shared memory suffice for any width. For scores and outputs alike, an invocation
// holds 2 rows (queries) x 4 columns. All is f32. A masked key gets weight zero and its value is never
// multiplied: later tokens cannot change earlier outputs, not by a bit. Loops over a whole tile are unrolled, also for
// lavapipe, which ends an invocation's loops after 65,535 turns in all: a turn a tile is 2 million keys.
#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "attention_storage.glsl"

layout(local_size_x = 128) in;
layout(constant_id = 0) const uint CHUNKS = 2u;       // ceil(width / 32)
layout(constant_id = 1) const uint VECTORS = 0u;      // 1: width is a multiple of 4

DECLARE_QKV(readonly)
DECLARE_CACHE(readonly)
layout(set = 0, binding = 5) buffer Y { ACT y[]; };   // (B, L, D)

const uint kTile = 32u;
const uint kStride = 33u;   // rows of scores
const uint kStride4 = 9u;   // vectors a row of 32 channels, padded

shared float tile_q[kTile * kStride];      // [query][channel]
shared vec4 tile_kv[kTile * kStride4];     // keys: [channel][key / 4]; values: [key][channel / 4]
shared float weights[kTile * kStride];     // [query][key] scores, then weights

// Channels c .. c + 3 of a cache row that starts at `row`; zero beyond the head and for keys that are not there.
vec4 cache_vector(bool values, uint row, uint c, bool present) {
  if (!present || c >= width) return vec4(0.0);
  if (VECTORS != 0u) {
    if (values) return TO_VECTOR(cache_v_vectors[(row + c) / 4u]);
    return TO_VECTOR(cache_k_vectors[(row + c) / 4u]);
  }
  vec4 v = vec4(0.0);
  [[unroll]] for (uint i = 0u; i < 4u; ++i) {
    if (c + i < width) v[i] = values ? float(cache_v[row + c + i]) : float(cache_k[row + c + i]);
  }
  return v;
}

void main() {
  const uint self = gl_LocalInvocationIndex;
  // The last queries see the most keys: they begin first.
  const uint query_begin = (block_begin + gl_NumWorkGroups.y - 1u - gl_WorkGroupID.y) * kTile;
  const uint head = gl_WorkGroupID.x % heads;
  const uint sequence = gl_WorkGroupID.x / heads;
  const uint slot = uint(slots[sequence]);
  const uint past = uint(positions[slot]);
  const uint row = self / 8u * 2u;      // queries row, row + 1
  const uint column = self % 8u;        // columns 4 column .. 4 column + 3
  const uint last_query = min(query_begin + kTile, L) - 1u;
  const uint keys = min(past + last_query + 1u, capacity);

  vec4 outputs[CHUNKS * 2u];
  [[unroll]] for (uint i = 0u; i < CHUNKS * 2u; ++i) outputs[i] = vec4(0.0);
  float highest[2] = float[2](-3.0e38, -3.0e38);
  float total[2] = float[2](0.0, 0.0);

  for (uint key_begin = 0u; key_begin < keys; key_begin += kTile) {
    vec4 scores[2] = vec4[2](vec4(0.0), vec4(0.0));
    [[unroll]] for (uint chunk = 0u; chunk < CHUNKS; ++chunk) {
      barrier();
      [[unroll]] for (uint n = 0u; n < kTile * kTile / 128u; ++n) {
        const uint i = n * 128u + self;
        const uint query = query_begin + i / kTile;
        const uint c = chunk * kTile + i % kTile;
        float q = 0.0;
        if (query < L && c < width) q = float(qkv[(sequence * L + query) * 3u * D + head * width + c]) * scale;
        tile_q[i / kTile * kStride + i % kTile] = q;
      }
      [[unroll]] for (uint n = 0u; n < kTile * kTile / 512u; ++n) {
        const uint i = n * 128u + self;
        const uint key = i / 8u;
        const uint base = (slot * capacity + key_begin + key) * D + head * width;
        const vec4 k = cache_vector(false, base, chunk * kTile + i % 8u * 4u, key_begin + key < keys);
        [[unroll]] for (uint j = 0u; j < 4u; ++j) tile_kv[(i % 8u * 4u + j) * kStride4 + key / 4u][key % 4u] = k[j];
      }
      barrier();
      [[unroll]] for (uint c = 0u; c < kTile; ++c) {
        const vec4 k = tile_kv[c * kStride4 + column];
        scores[0] = fma(vec4(tile_q[row * kStride + c]), k, scores[0]);
        scores[1] = fma(vec4(tile_q[(row + 1u) * kStride + c]), k, scores[1]);
      }
    }
    // Keys that a query does not see weigh nothing: it sees the first tile's first, so `highest` is above this.
    [[unroll]] for (uint i = 0u; i < 2u; ++i) {
      const uint seen = past + query_begin + row + i + 1u;
      [[unroll]] for (uint j = 0u; j < 4u; ++j) {
        const uint key = key_begin + column * 4u + j;
        weights[(row + i) * kStride + column * 4u + j] = key < seen && key < keys ? scores[i][j] : -3.0e38;
      }
    }
    barrier();
    // Every one of the 8 invocations of a row finds the same maximum and sum, in the same order.
    float shrink[2];
    float fresh[2];
    [[unroll]] for (uint i = 0u; i < 2u; ++i) {
      float top = highest[i];
      [[unroll]] for (uint key = 0u; key < kTile; ++key) top = max(top, weights[(row + i) * kStride + key]);
      shrink[i] = exp(highest[i] - top);
      highest[i] = top;
      float sum = 0.0;
      [[unroll]] for (uint key = 0u; key < kTile; ++key) sum += exp(weights[(row + i) * kStride + key] - top);
      fresh[i] = sum;
    }
    barrier();
    [[unroll]] for (uint i = 0u; i < 2u; ++i) {
      const uint seen = past + query_begin + row + i + 1u;
      total[i] = fma(total[i], shrink[i], fresh[i]);
      [[unroll]] for (uint j = 0u; j < 4u; ++j) {
        const uint key = key_begin + column * 4u + j;
        const bool visible = key < seen && key < keys;
        weights[(row + i) * kStride + column * 4u + j] = visible ? exp(scores[i][j] - highest[i]) : 0.0;
      }
      [[unroll]] for (uint chunk = 0u; chunk < CHUNKS; ++chunk) outputs[chunk * 2u + i] *= shrink[i];
    }
    [[unroll]] for (uint chunk = 0u; chunk < CHUNKS; ++chunk) {
      barrier();
      [[unroll]] for (uint n = 0u; n < kTile * kTile / 512u; ++n) {
        const uint i = n * 128u + self;
        const uint key = i / 8u;
        const uint base = (slot * capacity + key_begin + key) * D + head * width;
        tile_kv[key * kStride4 + i % 8u] =
            cache_vector(true, base, chunk * kTile + i % 8u * 4u, key_begin + key < keys);
      }
      barrier();
      [[unroll]] for (uint i = 0u; i < 2u; ++i) {
        const uint seen = past + query_begin + row + i + 1u;
        const uint count = min(max(seen, key_begin) - key_begin, min(keys - key_begin, kTile));
        vec4 sum = outputs[chunk * 2u + i];
        if (count == kTile) {
          [[unroll]] for (uint key = 0u; key < kTile; ++key) {
            sum = fma(vec4(weights[(row + i) * kStride + key]), tile_kv[key * kStride4 + column], sum);
          }
        } else {
          for (uint key = 0u; key < count; ++key) {
            sum = fma(vec4(weights[(row + i) * kStride + key]), tile_kv[key * kStride4 + column], sum);
          }
        }
        outputs[chunk * 2u + i] = sum;
      }
    }
  }

  [[unroll]] for (uint i = 0u; i < 2u; ++i) {
    const uint query = query_begin + row + i;
    if (query >= L) continue;
    [[unroll]] for (uint chunk = 0u; chunk < CHUNKS; ++chunk) {
      [[unroll]] for (uint j = 0u; j < 4u; ++j) {
        const uint c = chunk * kTile + column * 4u + j;
        if (c < width) y[(sequence * L + query) * D + head * width + c] = ACT(outputs[chunk * 2u + i][j] / total[i]);
      }
    }
  }
}
