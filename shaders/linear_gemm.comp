// y = activation(x W^T + bias) for many rows: a tiled product in f32, for every device.
//
// A workgroup makes TILE_M x TILE_R of y. Tiles of W and x, TILE_K deep, are brought through registers into one of
// two shared buffers (k-major, so that an invocation reads its rows as vectors) while the other one is multiplied:
// one barrier a step. An invocation holds THREAD_M x THREAD_R sums, as blocks of four rows of W and of x that lie
// TILE / (THREAD / 4) apart, so that neighbours read neighbouring vectors.
#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "linear_storage.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint GROUP = 128u;   // = (TILE_M / THREAD_M) (TILE_R / THREAD_R)
layout(constant_id = 1) const uint TILE_M = 64u;
layout(constant_id = 2) const uint TILE_R = 64u;
layout(constant_id = 3) const uint TILE_K = 8u;
layout(constant_id = 4) const uint THREAD_M = 8u;  // multiples of 4
layout(constant_id = 5) const uint THREAD_R = 4u;
layout(constant_id = 6) const uint FLAGS = 0u;

// Padded by one vector: stores of neighbouring k then fall into different banks.
const uint kStrideM = TILE_M / 4u + 1u;
const uint kStrideR = TILE_R / 4u + 1u;
const uint kLoadsW = TILE_M * TILE_K / 4u / GROUP;  // vectors an invocation brings
const uint kLoadsX = TILE_R * TILE_K / 4u / GROUP;
const uint kBlocksM = THREAD_M / 4u;
const uint kBlocksR = THREAD_R / 4u;
const uint kThreadsM = TILE_M / THREAD_M;

shared vec4 tile_w[2u * TILE_K * kStrideM];
shared vec4 tile_x[2u * TILE_K * kStrideR];

const bool kTransposedX = (FLAGS & kXTransposed) != 0u;
const bool kTransposedY = (FLAGS & kYTransposed) != 0u;

// Rows of W and x beyond the edges are read as the last ones, and what comes of them is not written: only along K is
// there a zero.

// W[m, k .. k + 3].
vec4 weight_vector(uint m, uint k) {
  m = min(m, M - 1u);
  if ((FLAGS & kVectorWeight) != 0u) {
    if ((FLAGS & kWholeK) == 0u && k >= K) return vec4(0.0);
#ifdef ACT_F16
    return unpack4(weight16x4[(m * K + k) / 4u]);
#else
    return weight32v[(m * K + k) / 4u];
#endif
  }
  vec4 v = vec4(0.0);
  [[unroll]] for (uint i = 0u; i < 4u; ++i) {
    if (k + i < K) v[i] = load_weight(m * K + k + i);
  }
  return v;
}

// x[r, k .. k + 3]; where x is transposed x[r .. r + 3, k].
vec4 x_vector(uint r, uint k) {
  const bool beyond = (FLAGS & kWholeK) == 0u && k >= K;
  if ((FLAGS & kVectorX) != 0u) {
    if (beyond) return vec4(0.0);
    const uint index = kTransposedX ? k * R + min(r, R - 4u) : min(r, R - 1u) * K + k;
#ifdef ACT_F16
    if ((FLAGS & kXIsF32) == 0u) return unpack4(x16x4[index / 4u]);
#endif
    return x32v[index / 4u];
  }
  vec4 v = vec4(0.0);
  [[unroll]] for (uint i = 0u; i < 4u; ++i) {
    if (kTransposedX) {
      if (!beyond) v[i] = load_x(FLAGS, k * R + min(r + i, R - 1u));
    } else {
      if (k + i < K) v[i] = load_x(FLAGS, min(r, R - 1u) * K + k + i);
    }
  }
  return v;
}

vec4 held_w[kLoadsW];
vec4 held_x[kLoadsX];

void fetch(uint m_begin, uint r_begin, uint k_begin) {
  [[unroll]] for (uint i = 0u; i < kLoadsW; ++i) {
    const uint unit = i * GROUP + gl_LocalInvocationIndex;
    held_w[i] = weight_vector(m_begin + unit / (TILE_K / 4u), k_begin + unit % (TILE_K / 4u) * 4u);
  }
  [[unroll]] for (uint i = 0u; i < kLoadsX; ++i) {
    const uint unit = i * GROUP + gl_LocalInvocationIndex;
    if (kTransposedX) {
      held_x[i] = x_vector(r_begin + unit % (TILE_R / 4u) * 4u, k_begin + unit / (TILE_R / 4u));
    } else {
      held_x[i] = x_vector(r_begin + unit / (TILE_K / 4u), k_begin + unit % (TILE_K / 4u) * 4u);
    }
  }
}

void stage(uint buffer_index) {
  const uint base_w = buffer_index * TILE_K * kStrideM;
  const uint base_x = buffer_index * TILE_K * kStrideR;
  [[unroll]] for (uint i = 0u; i < kLoadsW; ++i) {
    const uint unit = i * GROUP + gl_LocalInvocationIndex;
    const uint m = unit / (TILE_K / 4u);
    const uint k = unit % (TILE_K / 4u) * 4u;
    [[unroll]] for (uint j = 0u; j < 4u; ++j) tile_w[base_w + (k + j) * kStrideM + m / 4u][m % 4u] = held_w[i][j];
  }
  [[unroll]] for (uint i = 0u; i < kLoadsX; ++i) {
    const uint unit = i * GROUP + gl_LocalInvocationIndex;
    if (kTransposedX) {
      tile_x[base_x + unit / (TILE_R / 4u) * kStrideR + unit % (TILE_R / 4u)] = held_x[i];
    } else {
      const uint r = unit / (TILE_K / 4u);
      const uint k = unit % (TILE_K / 4u) * 4u;
      [[unroll]] for (uint j = 0u; j < 4u; ++j) tile_x[base_x + (k + j) * kStrideR + r / 4u][r % 4u] = held_x[i][j];
    }
  }
}

void main() {
  const uint m_begin = gl_WorkGroupID.x * TILE_M;
  const uint r_begin = (tile_begin + gl_WorkGroupID.y) * TILE_R;
  const uint thread_m = gl_LocalInvocationIndex % kThreadsM;
  const uint thread_r = gl_LocalInvocationIndex / kThreadsM;

  vec4 sums[kBlocksM * THREAD_R];  // four rows of W each
  [[unroll]] for (uint i = 0u; i < kBlocksM * THREAD_R; ++i) sums[i] = vec4(0.0);

  fetch(m_begin, r_begin, 0u);
  stage(0u);
  barrier();
  uint current = 0u;
  for (uint k_begin = 0u; k_begin < K; k_begin += TILE_K) {
    const bool more = k_begin + TILE_K < K;
    if (more) fetch(m_begin, r_begin, k_begin + TILE_K);
    // Unrolled by four only: whole tiles make programs that some compilers take seconds for.
    for (uint k_outer = 0u; k_outer < TILE_K; k_outer += 4u) {
      [[unroll]] for (uint k_inner = 0u; k_inner < 4u; ++k_inner) {
        const uint k = current * TILE_K + k_outer + k_inner;
        vec4 w[kBlocksM];
        vec4 x[kBlocksR];
        [[unroll]] for (uint i = 0u; i < kBlocksM; ++i) {
          w[i] = tile_w[k * kStrideM + i * (TILE_M / 4u / kBlocksM) + thread_m];
        }
        [[unroll]] for (uint j = 0u; j < kBlocksR; ++j) {
          x[j] = tile_x[k * kStrideR + j * (TILE_R / 4u / kBlocksR) + thread_r];
        }
        [[unroll]] for (uint i = 0u; i < kBlocksM; ++i) {
          [[unroll]] for (uint j = 0u; j < THREAD_R; ++j) {
            sums[i * THREAD_R + j] = fma(w[i], vec4(x[j / 4u][j % 4u]), sums[i * THREAD_R + j]);
          }
        }
      }
    }
    if (more) stage(1u - current);
    barrier();
    current = 1u - current;
  }

  [[unroll]] for (uint i = 0u; i < kBlocksM; ++i) {
    const uint m = m_begin + i * (TILE_M / kBlocksM) + thread_m * 4u;
    [[unroll]] for (uint block = 0u; block < kBlocksR; ++block) {
      const uint r = r_begin + block * (TILE_R / kBlocksR) + thread_r * 4u;
      const uint first = i * THREAD_R + block * 4u;
      if ((FLAGS & kVectorY) == 0u) {
        [[unroll]] for (uint j = 0u; j < 4u; ++j) {
          [[unroll]] for (uint c = 0u; c < 4u; ++c) {
            if (m + c < M && r + j < R) store_y(FLAGS, r + j, m + c, sums[first + j][c]);
          }
        }
        continue;
      }
      // Rows of y are whole vectors here, so a vector is inside or outside as one. What y held before is requested
      // ahead of the writes, which no compiler can tell apart from it.
      vec4 before[4];
      if ((FLAGS & kAccumulate) != 0u) {
        [[unroll]] for (uint j = 0u; j < 4u; ++j) {
          const uint m_here = kTransposedY ? m + j : m;
          const uint r_here = kTransposedY ? r : r + j;
          before[j] = m_here < M && r_here < R ? y32v[y_index(FLAGS, r_here, m_here) / 4u] : vec4(0.0);
        }
      }
      [[unroll]] for (uint j = 0u; j < 4u; ++j) {
        const uint m_here = kTransposedY ? m + j : m;
        const uint r_here = kTransposedY ? r : r + j;
        if (m_here >= M || r_here >= R) continue;
        vec4 value = sums[first + j];
        if (kTransposedY) value = vec4(sums[first][j], sums[first + 1u][j], sums[first + 2u][j], sums[first + 3u][j]);
        value = activated(FLAGS, value + (kTransposedY ? bias_scalar(FLAGS, m_here) : bias_vector(FLAGS, m_here)));
        if ((FLAGS & kAccumulate) != 0u) value += before[j];
        write_y_vector(FLAGS, y_index(FLAGS, r_here, m_here) / 4u, value);
      }
    }
  }
}
