// y = activation(x W^T + bias) for many rows on cooperative matrices: f16 operands, f32 sums, 16 x 16 x 16.
//
// A workgroup of WARPS_M x WARPS_R subgroups makes a tile of y; a subgroup holds FRAGMENTS_M x FRAGMENTS_R sums.
// Tiles of W (and x) are brought through registers into one of two shared buffers, padded by 16 bytes a row so that
// the rows of a fragment start in different banks. Finished sums pass through shared memory, because only
// there are rows and columns known: bias, activation and any layout of y need them.
#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#define ACT_F16
#include "linear_storage.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint GROUP = 128u;  // = SUBGROUP WARPS_M WARPS_R
layout(constant_id = 1) const uint SUBGROUP = 32u;
layout(constant_id = 2) const uint WARPS_M = 2u;
layout(constant_id = 3) const uint WARPS_R = 2u;
layout(constant_id = 4) const uint FRAGMENTS_M = 2u;
layout(constant_id = 5) const uint FRAGMENTS_R = 2u;
layout(constant_id = 6) const uint FLAGS = 0u;

const uint kTileM = WARPS_M * FRAGMENTS_M * 16u;
const uint kTileR = WARPS_R * FRAGMENTS_R * 16u;
const uint kTileK = 32u;
// Strides in units of eight f16.
const uint kStrideK = kTileK / 8u + 1u;
const uint kStrideR = kTileR / 8u + 1u;
const uint kSizeW = kTileM * kStrideK;
const uint kSizeX = (FLAGS & kXTransposed) != 0u ? kTileK * kStrideR : kTileR * kStrideK;
const uint kLoadsW = kTileM * (kTileK / 8u) / GROUP;
const uint kLoadsX = kTileR * (kTileK / 8u) / GROUP;
// Finished fragments lie in the memory of tile_w, as vectors of four f32: 16 rows of four vectors and a pad.
const uint kStrideOut = 5u;
const uint kFragment = 16u * kStrideOut;

shared uvec4 tile_w[2u * kSizeW];  // rows of W, k contiguous
shared uvec4 tile_x[2u * kSizeX];  // rows of x, k contiguous; or rows of k, r contiguous where x is transposed

uint pair(float low, float high) { return packHalf2x16(vec2(low, high)); }

uvec4 weight_unit(uint m, uint k) {
  if (m >= M || k >= K) return uvec4(0u);
  const uint index = m * K + k;
  if ((FLAGS & kVectorWeight) != 0u) return weight16x8[index / 8u];
  float v[8];
  [[unroll]] for (uint i = 0u; i < 8u; ++i) v[i] = k + i < K ? float(weight16[index + i]) : 0.0;
  return uvec4(pair(v[0], v[1]), pair(v[2], v[3]), pair(v[4], v[5]), pair(v[6], v[7]));
}

uvec4 x_unit(uint outer, uint count, uint inner, uint length) {
  if (outer >= count || inner >= length) return uvec4(0u);
  const uint index = outer * length + inner;
  if ((FLAGS & kVectorX) != 0u) return x16x8[index / 8u];
  float v[8];
  [[unroll]] for (uint i = 0u; i < 8u; ++i) v[i] = inner + i < length ? float(x16[index + i]) : 0.0;
  return uvec4(pair(v[0], v[1]), pair(v[2], v[3]), pair(v[4], v[5]), pair(v[6], v[7]));
}

uvec4 held_w[kLoadsW];
uvec4 held_x[kLoadsX];

void fetch(uint m_begin, uint r_begin, uint k_begin) {
  [[unroll]] for (uint i = 0u; i < kLoadsW; ++i) {
    const uint unit = i * GROUP + gl_LocalInvocationIndex;
    held_w[i] = weight_unit(m_begin + unit / (kTileK / 8u), k_begin + unit % (kTileK / 8u) * 8u);
  }
  [[unroll]] for (uint i = 0u; i < kLoadsX; ++i) {
    const uint unit = i * GROUP + gl_LocalInvocationIndex;
    if ((FLAGS & kXTransposed) != 0u) {
      held_x[i] = x_unit(k_begin + unit / (kTileR / 8u), K, r_begin + unit % (kTileR / 8u) * 8u, R);
    } else {
      held_x[i] = x_unit(r_begin + unit / (kTileK / 8u), R, k_begin + unit % (kTileK / 8u) * 8u, K);
    }
  }
}

void stage(uint buffer_index) {
  [[unroll]] for (uint i = 0u; i < kLoadsW; ++i) {
    const uint unit = i * GROUP + gl_LocalInvocationIndex;
    tile_w[buffer_index * kSizeW + unit / (kTileK / 8u) * kStrideK + unit % (kTileK / 8u)] = held_w[i];
  }
  [[unroll]] for (uint i = 0u; i < kLoadsX; ++i) {
    const uint unit = i * GROUP + gl_LocalInvocationIndex;
    const uint inner = (FLAGS & kXTransposed) != 0u ? kTileR / 8u : kTileK / 8u;
    const uint stride = (FLAGS & kXTransposed) != 0u ? kStrideR : kStrideK;
    tile_x[buffer_index * kSizeX + unit / inner * stride + unit % inner] = held_x[i];
  }
}

// Four neighbours of y: along r from (m, r) where y is transposed, else along m.
void write_out(uint m, uint r, vec4 value) {
  const bool transposed = (FLAGS & kYTransposed) != 0u;
  if ((FLAGS & kVectorY) == 0u) {
    [[unroll]] for (uint c = 0u; c < 4u; ++c) {
      const uint m_here = transposed ? m : m + c;
      const uint r_here = transposed ? r + c : r;
      if (m_here < M && r_here < R) store_y(FLAGS, r_here, m_here, value[c]);
    }
    return;
  }
  // Rows of y are whole vectors here, so a vector is inside or outside as one.
  if (m < M && r < R) store_y_vector(FLAGS, r, m, value);
}

void main() {
  const uint m_begin = gl_WorkGroupID.x * kTileM;
  const uint r_begin = (tile_begin + gl_WorkGroupID.y) * kTileR;
  const uint warp_m = gl_SubgroupID % WARPS_M * FRAGMENTS_M * 16u;
  const uint warp_r = gl_SubgroupID / WARPS_M * FRAGMENTS_R * 16u;

  coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator> sums[FRAGMENTS_M * FRAGMENTS_R];
  [[unroll]] for (uint i = 0u; i < FRAGMENTS_M * FRAGMENTS_R; ++i) {
    sums[i] = coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator>(0.0);
  }

  fetch(m_begin, r_begin, 0u);
  stage(0u);
  barrier();
  uint current = 0u;
  for (uint k_begin = 0u; k_begin < K; k_begin += kTileK) {
    const bool more = k_begin + kTileK < K;
    if (more) fetch(m_begin, r_begin, k_begin + kTileK);
    [[unroll]] for (uint k = 0u; k < kTileK; k += 16u) {
      coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA> w[FRAGMENTS_M];
      [[unroll]] for (uint i = 0u; i < FRAGMENTS_M; ++i) {
        coopMatLoad(w[i], tile_w, current * kSizeW + (warp_m + i * 16u) * kStrideK + k / 8u, kStrideK,
                    gl_CooperativeMatrixLayoutRowMajor);
      }
      [[unroll]] for (uint j = 0u; j < FRAGMENTS_R; ++j) {
        coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseB> x;
        const uint r = warp_r + j * 16u;
        if ((FLAGS & kXTransposed) != 0u) {
          coopMatLoad(x, tile_x, current * kSizeX + k * kStrideR + r / 8u, kStrideR,
                      gl_CooperativeMatrixLayoutRowMajor);
        } else {
          coopMatLoad(x, tile_x, current * kSizeX + r * kStrideK + k / 8u, kStrideK,
                      gl_CooperativeMatrixLayoutColumnMajor);
        }
        [[unroll]] for (uint i = 0u; i < FRAGMENTS_M; ++i) {
          sums[i * FRAGMENTS_R + j] = coopMatMulAdd(w[i], x, sums[i * FRAGMENTS_R + j]);
        }
      }
    }
    if (more) stage(1u - current);
    barrier();
    current = 1u - current;
  }

  // A row of fragments at a time to shared memory (the tiles are done with), each subgroup in a corner of its own,
  // then out along what is contiguous in y: m, or r where y is transposed. Loops have constant counts: compilers
  // that cannot unroll them would keep the sums in memory.
  const uint corner = gl_SubgroupID * FRAGMENTS_R * kFragment;
  [[unroll]] for (uint i = 0u; i < FRAGMENTS_M; ++i) {
    [[unroll]] for (uint j = 0u; j < FRAGMENTS_R; ++j) {
      if ((FLAGS & kYTransposed) != 0u) {
        coopMatStore(sums[i * FRAGMENTS_R + j], tile_w, corner + j * kFragment, kStrideOut,
                     gl_CooperativeMatrixLayoutRowMajor);
      } else {
        coopMatStore(sums[i * FRAGMENTS_R + j], tile_w, corner + j * kFragment, kStrideOut,
                     gl_CooperativeMatrixLayoutColumnMajor);
      }
    }
    subgroupBarrier();
    [[unroll]] for (uint n = 0u; n < FRAGMENTS_R * 64u / SUBGROUP; ++n) {
      const uint unit = n * SUBGROUP + gl_SubgroupInvocationID;
      const uint line = unit / 4u % 16u;
      const uint fragment = unit / 64u;
      const vec4 value = uintBitsToFloat(tile_w[corner + fragment * kFragment + line * kStrideOut + unit % 4u]);
      const uint m = m_begin + warp_m + i * 16u;
      const uint r = r_begin + warp_r + fragment * 16u;
      if ((FLAGS & kYTransposed) != 0u) {
        write_out(m + line, r + unit % 4u * 4u, value);
      } else {
        write_out(m + unit % 4u * 4u, r + line, value);
      }
    }
    subgroupBarrier();
  }
}
