// y = activation(x W^T + bias) for many rows on cooperative matrices: f16 operands, f32 sums, in the shape of matrix
// that the device offers.
//
// A workgroup of WARPS_M x WARPS_R subgroups makes a tile of y; a subgroup holds FRAGMENTS_M x FRAGMENTS_R sums. Where
// there are few tiles, WARPS_K such sets of subgroups share their depth, and the first adds up the sums of all.
// Tiles of W and x, TILE_K deep, come through registers into shared memory, 16 bytes at a time: requested before the
// tile at hand is multiplied, stored after it, into the other one of two buffers or, where those would not fit, into
// the same one. Rows are padded by 16 bytes, so that eight rows of a fragment lie in different banks. Rows of W and x
// beyond the edges are read as the last ones, and what comes of them is not written: only along K is there a zero.
// Finished sums pass through shared memory, because only there are rows and columns known: bias, activation and any
// layout of y need them.
//
// On an H100 (48 KiB of shared memory through Vulkan), TFLOP/s of 16384 x 2048 x 8192 by tile and depth: 128 x 128 x 64
// in one buffer 301; x 48 in one 221; x 32 in two 224, in one 215; 256 x 128 x 48 in one 220; 128 x 64 x 64 in one 223;
// 64 x 64 x 64 in two 173. Deep tiles win, because fewer barriers and whole latencies lie between them. Eight subgroups
// for 128 x 128 x 64 made 240, matrices of 16 x 8 x 16 the same as 16 x 16 x 16, bands of 8 to 33 the same. The floor by
// the rate of the tensor cores, 750 TFLOP/s in cuBLASLt, needs instructions that this extension has not; ggml makes 292
// of 4096^3 on that card, this shader 272. Predicted were 300 to 400, with 128 x 128 x 32. Tried and slower: tiles asked
// for two ahead through two buffers (128 x 128 x 32: 258), and VK_NV_cooperative_matrix2, where a workgroup's matrices
// are the driver's (at best 128 x 128 x 32: 243).
//
// What bounds it there, by probes and their machine code (tests/benchmarks/results/h100/vulkan_gemm.txt):
// a workgroup of more than 24 KiB of shared memory has a multiprocessor to itself, so this tile runs one subgroup a
// scheduler. Products alone make 632, with their fragments from shared memory 504 to 612, without the loads of tiles
// 442, the whole 283: fragments are LDSM and loads are issued ahead of the products, as they should be; loads, stores
// and fragments probably wait for each other in the pipe of L1 and shared memory. Fragments made element by element
// (unpadded rows, two workgroups of 16 KiB) 287, W's straight from global memory 287, both operands' 270, eight
// subgroups on 256 x 128 x 32 in two buffers 267.
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
layout(constant_id = 0) const uint GROUP = 128u;  // = SUBGROUP WARPS_M WARPS_R WARPS_K
layout(constant_id = 1) const uint SUBGROUP = 32u;
layout(constant_id = 2) const uint WARPS_M = 2u;
layout(constant_id = 3) const uint WARPS_R = 2u;
layout(constant_id = 4) const uint FRAGMENTS_M = 2u;
layout(constant_id = 5) const uint FRAGMENTS_R = 2u;
layout(constant_id = 6) const uint FLAGS = 0u;
layout(constant_id = 7) const uint TILE_K = 32u;   // a multiple of MATRIX_K WARPS_K
layout(constant_id = 8) const uint BUFFERS = 2u;   // 1 or 2
layout(constant_id = 9) const uint BAND = 1u;      // tiles of rows of x that are worked on side by side
layout(constant_id = 10) const uint MATRIX_M = 16u;
layout(constant_id = 11) const uint MATRIX_R = 16u;
layout(constant_id = 12) const uint MATRIX_K = 16u;
layout(constant_id = 13) const uint WARPS_K = 1u;

const uint kTileM = WARPS_M * FRAGMENTS_M * MATRIX_M;
const uint kTileR = WARPS_R * FRAGMENTS_R * MATRIX_R;
// Units are eight f16; strides and sizes in units.
const uint kUnitsK = TILE_K / 8u;
const uint kUnitsR = kTileR / 8u;
const uint kStrideK = kUnitsK + 1u;
const uint kStrideR = kUnitsR + 1u;
const bool kTransposedX = (FLAGS & kXTransposed) != 0u;
// Rows of k that start anywhere: then neighbours bring neighbouring words.
const bool kPairsX = (FLAGS & (kXTransposed | kVectorX)) == kXTransposed;
const bool kTransposedY = (FLAGS & kYTransposed) != 0u;
const uint kSizeW = kTileM * kStrideK;
const uint kSizeX = kTransposedX ? TILE_K * kStrideR : kTileR * kStrideK;
const uint kSize = kSizeW + kSizeX;  // of a buffer: rows of W, k contiguous; then rows of x likewise, or rows of k
const uint kLoadsW = kTileM * kUnitsK / GROUP;
const uint kLoadsX = kTileR * kUnitsK / GROUP;
// Finished sums go out in lines along what is contiguous in y: m, or r where y is transposed. Vectors of four f32.
const uint kTurns = kTransposedY ? FRAGMENTS_M : FRAGMENTS_R;
const uint kAlong = kTransposedY ? FRAGMENTS_R : FRAGMENTS_M;
const uint kLines = kTransposedY ? MATRIX_M : MATRIX_R;
const uint kVectors = (kTransposedY ? MATRIX_R : MATRIX_M) / 4u;  // of a fragment in a line
const uint kStrideOut = kAlong * kVectors + 1u;
const uint kSizeOut = WARPS_M * WARPS_R * kLines * kStrideOut;
const uint kAcross = kAlong * kVectors;          // vectors of a line
const uint kLinesAPass = SUBGROUP / kAcross;     // that a subgroup writes at once, a vector an invocation
const uint kPasses = kLines / kLinesAPass;
// Sums of a set of subgroups on their way to the first set.
const uint kStrideSums = MATRIX_R / 4u + 1u;
const uint kFragment = MATRIX_M * kStrideSums;
const uint kFragments = FRAGMENTS_M * FRAGMENTS_R;
const uint kSizeSums = WARPS_K > 1u ? WARPS_M * WARPS_R * kFragments * kFragment : 0u;
const uint kSizeAfter = kSizeOut > kSizeSums ? kSizeOut : kSizeSums;

shared uvec4 tiles[BUFFERS * kSize > kSizeAfter ? BUFFERS * kSize : kSizeAfter];

#define SUMS coopmat<float, gl_ScopeSubgroup, MATRIX_M, MATRIX_R, gl_MatrixUseAccumulator>

uint pair(float low, float high) { return packHalf2x16(vec2(low, high)); }

// W[m, k .. k + 7], k from `begin` on.
uvec4 weight_unit(uint m, uint k) {
  if ((FLAGS & kWholeTiles) == 0u) m = min(m, M - 1u);
  if ((FLAGS & kVectorWeight) != 0u) {
    if ((FLAGS & kWholeK) == 0u && k >= K) return uvec4(0u);
    return weight16x8[(m * K + k) / 8u];
  }
  float v[8];
  [[unroll]] for (uint i = 0u; i < 8u; ++i) v[i] = k + i < K ? float(weight16[m * K + k + i]) : 0.0;
  return uvec4(pair(v[0], v[1]), pair(v[2], v[3]), pair(v[4], v[5]), pair(v[6], v[7]));
}

// x[r, k .. k + 7]; where x is transposed x[r .. r + 7, k], of rows that start aligned.
uvec4 x_unit(uint r, uint k) {
  if ((FLAGS & kVectorX) != 0u) {
    if ((FLAGS & kWholeK) == 0u && k >= K) return uvec4(0u);
    if ((FLAGS & kWholeTiles) == 0u) r = min(r, kTransposedX ? R - 8u : R - 1u);
    return x16x8[(kTransposedX ? k * R + r : r * K + k) / 8u];
  }
  float v[8];
  [[unroll]] for (uint i = 0u; i < 8u; ++i) v[i] = k + i < K ? float(x16[min(r, R - 1u) * K + k + i]) : 0.0;
  return uvec4(pair(v[0], v[1]), pair(v[2], v[3]), pair(v[4], v[5]), pair(v[6], v[7]));
}

// x[r, k] and x[r + 1, k], r even, where rows of k start anywhere: from the one or two words that they lie in.
uint x_pair(uint r, uint k) {
  if ((FLAGS & kWholeK) == 0u && k >= K) return 0u;
  const uint index = k * R + min(r, R - 1u);
  const uint word = x16x2[index / 2u];
  if (index % 2u == 0u) return word;
  return word >> 16 | x16x2[min(index + 1u, K * R - 1u) / 2u] << 16;
}

uvec4 held_w[kLoadsW];
uvec4 held_x[kLoadsX];

void fetch(uint m_begin, uint r_begin, uint k_begin) {
  [[unroll]] for (uint i = 0u; i < kLoadsW; ++i) {
    const uint unit = i * GROUP + gl_LocalInvocationIndex;
    held_w[i] = weight_unit(m_begin + unit / kUnitsK, k_begin + unit % kUnitsK * 8u);
  }
  [[unroll]] for (uint i = 0u; i < kLoadsX; ++i) {
    const uint unit = i * GROUP + gl_LocalInvocationIndex;
    if (kPairsX) {
      [[unroll]] for (uint j = 0u; j < 4u; ++j) {
        const uint word = (i * 4u + j) * GROUP + gl_LocalInvocationIndex;
        held_x[i][j] = x_pair(r_begin + word % (kTileR / 2u) * 2u, k_begin + word / (kTileR / 2u));
      }
    } else if (kTransposedX) {
      held_x[i] = x_unit(r_begin + unit % kUnitsR * 8u, k_begin + unit / kUnitsR);
    } else {
      held_x[i] = x_unit(r_begin + unit / kUnitsK, k_begin + unit % kUnitsK * 8u);
    }
  }
}

void stage(uint base) {
  [[unroll]] for (uint i = 0u; i < kLoadsW; ++i) {
    const uint unit = i * GROUP + gl_LocalInvocationIndex;
    tiles[base + unit / kUnitsK * kStrideK + unit % kUnitsK] = held_w[i];
  }
  [[unroll]] for (uint i = 0u; i < kLoadsX; ++i) {
    const uint unit = i * GROUP + gl_LocalInvocationIndex;
    if (kPairsX) {
      [[unroll]] for (uint j = 0u; j < 4u; ++j) {
        const uint word = (i * 4u + j) * GROUP + gl_LocalInvocationIndex;
        const uint r = word % (kTileR / 2u) * 2u;
        tiles[base + kSizeW + word / (kTileR / 2u) * kStrideR + r / 8u][r / 2u % 4u] = held_x[i][j];
      }
      continue;
    }
    const uint inner = kTransposedX ? kUnitsR : kUnitsK;
    const uint stride = kTransposedX ? kStrideR : kStrideK;
    tiles[base + kSizeW + unit / inner * stride + unit % inner] = held_x[i];
  }
}

void main() {
  // Workgroups that run together take tiles from BAND rows of tiles, so that they share both operands in caches.
  const uint number = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
  const uint band = number / (BAND * gl_NumWorkGroups.x) * BAND;
  const uint within = number % (BAND * gl_NumWorkGroups.x);
  const uint height = min(BAND, gl_NumWorkGroups.y - band);
  const uint m_begin = within / height * kTileM;
  const uint r_begin = (tile_begin + band + within % height) * kTileR;
  const uint warp = gl_SubgroupID % (WARPS_M * WARPS_R);
  const uint slice = gl_SubgroupID / (WARPS_M * WARPS_R);
  const uint warp_m = warp % WARPS_M * FRAGMENTS_M * MATRIX_M;
  const uint warp_r = warp / WARPS_M * FRAGMENTS_R * MATRIX_R;

  SUMS sums[kFragments];
  [[unroll]] for (uint i = 0u; i < kFragments; ++i) sums[i] = SUMS(0.0);

  fetch(m_begin, r_begin, 0u);
  stage(0u);
  barrier();
  uint base = 0u;
  for (uint k_next = TILE_K;; k_next += TILE_K) {
    const bool more = k_next < K;
    if (more) fetch(m_begin, r_begin, k_next);
    [[unroll]] for (uint step = 0u; step < TILE_K / WARPS_K; step += MATRIX_K) {
      const uint k = slice * (TILE_K / WARPS_K) + step;
      coopmat<float16_t, gl_ScopeSubgroup, MATRIX_M, MATRIX_K, gl_MatrixUseA> w[FRAGMENTS_M];
      [[unroll]] for (uint i = 0u; i < FRAGMENTS_M; ++i) {
        coopMatLoad(w[i], tiles, base + (warp_m + i * MATRIX_M) * kStrideK + k / 8u, kStrideK,
                    gl_CooperativeMatrixLayoutRowMajor);
      }
      [[unroll]] for (uint j = 0u; j < FRAGMENTS_R; ++j) {
        coopmat<float16_t, gl_ScopeSubgroup, MATRIX_K, MATRIX_R, gl_MatrixUseB> x;
        const uint r = warp_r + j * MATRIX_R;
        if (kTransposedX) {
          coopMatLoad(x, tiles, base + kSizeW + k * kStrideR + r / 8u, kStrideR, gl_CooperativeMatrixLayoutRowMajor);
        } else {
          coopMatLoad(x, tiles, base + kSizeW + r * kStrideK + k / 8u, kStrideK,
                      gl_CooperativeMatrixLayoutColumnMajor);
        }
        [[unroll]] for (uint i = 0u; i < FRAGMENTS_M; ++i) {
          sums[i * FRAGMENTS_R + j] = coopMatMulAdd(w[i], x, sums[i * FRAGMENTS_R + j]);
        }
      }
    }
    if (!more) break;
    if (BUFFERS == 1u) barrier();
    base = (BUFFERS - 1u) * kSize - base;
    stage(base);
    barrier();
  }
  barrier();  // the tiles are done with

  [[unroll]] for (uint other = 1u; other < WARPS_K; ++other) {
    const uint place = warp * kFragments * kFragment;
    if (slice == other) {
      [[unroll]] for (uint i = 0u; i < kFragments; ++i) {
        coopMatStore(sums[i], tiles, place + i * kFragment, kStrideSums, gl_CooperativeMatrixLayoutRowMajor);
      }
    }
    barrier();
    if (slice == 0u) {
      [[unroll]] for (uint i = 0u; i < kFragments; ++i) {
        SUMS more;
        coopMatLoad(more, tiles, place + i * kFragment, kStrideSums, gl_CooperativeMatrixLayoutRowMajor);
        sums[i] += more;
      }
    }
    barrier();
  }
  if (slice != 0u) return;

  // A line of fragments at a time, each subgroup in a corner of its own. What y held before is requested ahead of the
  // writes, which no compiler can tell apart from it. Lines are a loop that stays one, because a program of tens of
  // kilobytes that runs once is waited for; but sums are indexed by constants only, or they would be kept in memory.
  const uint corner = warp * kLines * kStrideOut;
  const uint vector = gl_SubgroupInvocationID % kAcross;
  const uint first_line = gl_SubgroupInvocationID / kAcross;
  vec4 own_bias = vec4(0.0);
  if ((FLAGS & kVectorY) != 0u && !kTransposedY) own_bias = bias_vector(FLAGS, m_begin + warp_m + vector * 4u);
  [[dont_unroll]] for (uint turn = 0u; turn < kTurns; ++turn) {
    const uint m_turn = m_begin + warp_m + (kTransposedY ? turn * MATRIX_M : 0u);
    const uint r_turn = r_begin + warp_r + (kTransposedY ? 0u : turn * MATRIX_R);
    vec4 before[kPasses];
    if ((FLAGS & (kAccumulate | kVectorY)) == (kAccumulate | kVectorY)) {
      [[unroll]] for (uint n = 0u; n < kPasses; ++n) {
        const uint line = first_line + n * kLinesAPass;
        const uint m = m_turn + (kTransposedY ? line : vector * 4u);
        const uint r = r_turn + (kTransposedY ? vector * 4u : line);
        before[n] = m < M && r < R ? y32v[y_index(FLAGS, r, m) / 4u] : vec4(0.0);
      }
    }
    [[unroll]] for (uint each = 0u; each < kTurns; ++each) {
      if (each != turn) continue;
      [[unroll]] for (uint i = 0u; i < kAlong; ++i) {
        if (kTransposedY) {
          coopMatStore(sums[each * FRAGMENTS_R + i], tiles, corner + i * kVectors, kStrideOut,
                       gl_CooperativeMatrixLayoutRowMajor);
        } else {
          coopMatStore(sums[i * FRAGMENTS_R + each], tiles, corner + i * kVectors, kStrideOut,
                       gl_CooperativeMatrixLayoutColumnMajor);
        }
      }
    }
    subgroupBarrier();
    // Where y is by vectors its rows are whole ones, so a vector is inside or outside as one.
    if ((FLAGS & kVectorY) == 0u) {
      for (uint n = gl_SubgroupInvocationID; n < kLines * kAcross * 4u; n += SUBGROUP) {
        const uint line = n / (kAcross * 4u);
        const uint along = n % (kAcross * 4u);
        const uint m = m_turn + (kTransposedY ? line : along);
        const uint r = r_turn + (kTransposedY ? along : line);
        if (m < M && r < R) {
          store_y(FLAGS, r, m, uintBitsToFloat(tiles[corner + line * kStrideOut + along / 4u][along % 4u]));
        }
      }
    } else if ((FLAGS & kAccumulate) != 0u) {
      [[unroll]] for (uint n = 0u; n < kPasses; ++n) {
        const uint line = first_line + n * kLinesAPass;
        const uint m = m_turn + (kTransposedY ? line : vector * 4u);
        const uint r = r_turn + (kTransposedY ? vector * 4u : line);
        const vec4 value = uintBitsToFloat(tiles[corner + line * kStrideOut + vector]);
        if (m < M && r < R) {
          const vec4 bias_here = kTransposedY ? bias_scalar(FLAGS, m) : own_bias;
          y32v[y_index(FLAGS, r, m) / 4u] = before[n] + activated(FLAGS, value + bias_here);
        }
      }
    } else {
      [[unroll]] for (uint n = 0u; n < kPasses; ++n) {
        const uint line = first_line + n * kLinesAPass;
        const uint m = m_turn + (kTransposedY ? line : vector * 4u);
        const uint r = r_turn + (kTransposedY ? vector * 4u : line);
        const vec4 value = uintBitsToFloat(tiles[corner + line * kStrideOut + vector]);
        if (m < M && r < R) {
          const vec4 bias_here = kTransposedY ? bias_scalar(FLAGS, m) : own_bias;
          write_y_vector(FLAGS, y_index(FLAGS, r, m) / 4u, activated(FLAGS, value + bias_here));
        }
      }
    }
    subgroupBarrier();
  }
}
