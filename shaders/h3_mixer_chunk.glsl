// The chunked H3 mixer, T = 64 tokens a chunk, one token an invocation. Included by two shaders:
//   h3_mixer.comp       one workgroup an output channel (h, j): y_j = sum_i q_i z_ij, everything in one pass;
//   h3_mixer_gate.comp  one workgroup a pair (h, i, j), for the FFT way: w and the final state only.
//
// A workgroup walks its chunks in order. Inside a chunk, with s the state at its start (t counts from its start):
//   k'_t = sum_j f_j k_{t-j}                       the last N - 1 keys stay in a ring in shared memory
//   w_t  = k'_t v_t
//   z_t  = sum_{l<=t} K_l w_{t-l}                  toeplitz row, D included
//        + sum_n Re(2 c_n a_n^{t+1} s_n)           what the past adds
//   s_n <- a_n^r s_n + b_n sum_t a_n^{r-1-t} w_t   r tokens, 64 but in the last chunk
// The last two are two-level, t = 8 i + r: a^{t+1} = a^{8i} a^{r+1}. So 16 powers a mode suffice, not 64, and they fit
// beside everything else in 16 KiB. Of 64 invocations, m and m + 32 share mode m of a group of 32: each makes four of
// the eight a^{8i} s, and sums four of the eight blocks of w.
//
// A token after t is never read for t: causality holds bit for bit. The last, shorter chunk puts w at the right end of
// the chunk, so that the powers fit as they are. Sums run in a fixed order: results do not vary from run to run.
#extension GL_GOOGLE_include_directive : require
#include "h3_mixer_storage.glsl"

// Sizes known to the compiler where they are usual, else zero and taken from the push constants: few pipelines.
layout(constant_id = 0) const uint kFixedStateSize = 64u;  // N, or 0
layout(constant_id = 1) const uint kFixedHeadDim = 1u;     // d, or 0
layout(constant_id = 2) const uint kGroups = 1u;           // ceil(n / 32)
layout(constant_id = 3) const uint kKeyRing = 128u;        // power of two >= 64 + N

layout(local_size_x = 64) in;

layout(std430, set = 0, binding = 0) readonly buffer Qkv { ACT qkv[]; };               // (3 D, B, L)
layout(std430, set = 0, binding = 1) readonly buffer Slots { int slots[]; };           // (B)
layout(std430, set = 0, binding = 2) readonly buffer Positions { int positions[]; };   // (S)
layout(std430, set = 0, binding = 3) buffer Shift { float shift_state[]; };            // (S, D, N)
layout(std430, set = 0, binding = 4) coherent buffer ModeState { vec2 mode_state[]; };          // (S, D d, n)
layout(std430, set = 0, binding = 5) readonly buffer Powers { vec2 powers[]; };        // (H, n, 17)
layout(std430, set = 0, binding = 6) readonly buffer B { vec2 b_in[]; };               // (H, n)
layout(std430, set = 0, binding = 7) readonly buffer Taps { vec2 taps[]; };            // (D, N)
#ifdef GATE
layout(std430, set = 0, binding = 8) writeonly buffer W { float w_out[]; };            // (rows, row_stride)
layout(std430, set = 0, binding = 9) writeonly buffer Initial { vec2 initial[]; };     // (rows, n)
#else
layout(std430, set = 0, binding = 8) writeonly buffer Y { ACT y[]; };                  // (D, B, L)
layout(std430, set = 0, binding = 9) readonly buffer C { vec2 c_in[]; };               // (H, n)
layout(std430, set = 0, binding = 10) readonly buffer Toeplitz { vec4 toeplitz[]; };   // (H, 16)
#endif

layout(push_constant) uniform Push {
  uint channels;         // D
  uint batch;            // B
  uint tokens;           // L, the row stride of q, k, v, y
  uint first_unit;       // of this dispatch: output channels h d + j, or pairs (h d + i) d + j
  uint first_sequence;   // of this dispatch
  uint sequences;        // of this dispatch
  uint first_token;      // of this dispatch
  uint token_count;      // of this dispatch
  uint write_shift;      // 1: the last N keys are written to the shift state
  uint dim_major;        // 1: output channel j H + h, else h d + j
  uint row_stride;       // of w_out
  uint state_size;       // N
  uint head_dims;        // d
};

#define kStateSize (kFixedStateSize != 0u ? kFixedStateSize : state_size)
#define kHeadDim (kFixedHeadDim != 0u ? kFixedHeadDim : head_dims)
#define kModes (kStateSize / 2u)
#define kTapBlocks ((kStateSize + 3u) / 4u)

const uint kPowers = 17u;
// Rows of 17 vec4 (a pair of modes each), not 16: eight rows read at once then touch 32 different banks.
shared vec4 low_powers[8][17];   // a^{r+1}, r < 8, of the current group
shared float keys[kKeyRing];     // the key of token t at t mod kKeyRing
shared vec4 shared_taps[kKeyRing / 4u];
shared float gated[128];         // 64 zeros, then w
shared vec4 gated_right[16];     // w, the last token at the right end
shared vec2 partial[2][32];
#ifndef GATE
shared vec4 entry[8][17];        // 2 c a^{8i} s, of the current group
shared vec4 lags[16];
#endif

vec2 multiply(vec2 x, vec2 y) { return vec2(x.x * y.x - x.y * y.y, x.x * y.y + x.y * y.x); }

uint key_row(uint channel, uint sequence) { return ((channels + channel) * batch + sequence) * tokens; }

// The N - 1 keys before token `chunk_begin`: from the row itself, or from the carried state before its start.
void load_history(uint lane, uint channel, uint sequence, uint slot, uint position, uint chunk_begin) {
  uint row = key_row(channel, sequence);
  for (uint back = lane + 1u; back < kStateSize; back += 64u) {
    float key;
    if (back <= chunk_begin) {
      key = float(qkv[row + chunk_begin - back]);
    } else {
      uint age = back - chunk_begin;  // 1: the last key before this call
      key = shift_state[(slot * channels + channel) * kStateSize + (position + kStateSize - age) % kStateSize];
    }
    keys[(chunk_begin - back) & (kKeyRing - 1u)] = key;
  }
}

void load_taps(uint lane, uint channel) {
  for (uint block = lane; block < kTapBlocks; block += 64u) {
    uint index = channel * (kStateSize / 2u) + 2u * block;
    vec2 second = 4u * block + 2u < kStateSize ? taps[index + 1u] : vec2(0.0);
    shared_taps[block] = vec4(taps[index], second);
  }
}

// k'_t of token t: its own N last keys. Taps beyond N are zero; what they meet in the ring is finite or poisons k
// itself, because the ring is cleared first.
float shift_filter(uint token) {
  float sum = 0.0;
  for (uint block = 0u; block < kTapBlocks; ++block) {
    vec4 f = shared_taps[block];
    uint first = token - 4u * block;
    sum += f.x * keys[first & (kKeyRing - 1u)];
    sum += f.y * keys[(first - 1u) & (kKeyRing - 1u)];
    sum += f.z * keys[(first - 2u) & (kKeyRing - 1u)];
    sum += f.w * keys[(first - 3u) & (kKeyRing - 1u)];
  }
  return sum;
}

// The powers of this invocation's mode of `group`: a^{k+1} in low, a^{8k} in high. Modes beyond n get zeros.
void load_powers(uint lane, uint head, uint group, out vec2 low[8], out vec2 high[8]) {
  uint mode = group * 32u + (lane & 31u);
  uint index = (head * kModes + min(mode, kModes - 1u)) * kPowers;
  vec2 p1 = powers[index], p2 = powers[index + 1u], p4 = powers[index + 2u], p8 = powers[index + 3u];
  vec2 p16 = powers[index + 4u], p32 = powers[index + 5u];
  vec2 p3 = multiply(p2, p1), p24 = multiply(p16, p8), p48 = multiply(p32, p16);
  low = vec2[8](p1, p2, p3, p4, multiply(p4, p1), multiply(p4, p2), multiply(p4, p3), p8);
  high = vec2[8](vec2(1.0, 0.0), p8, p16, p24, p32, multiply(p32, p8), p48, multiply(p32, p24));
}

// sum_t a^{63-t} w over this invocation's half of the (right-aligned) chunk.
vec2 project_half(uint half_index, vec2 low[8], vec2 high[8]) {
  vec2 total = vec2(0.0);
  for (uint i = 0u; i < 4u; ++i) {
    uint block = half_index * 4u + i;
    vec4 x = gated_right[2u * block];
    vec4 y4 = gated_right[2u * block + 1u];
    vec2 sum = low[6] * x.x + low[5] * x.y + low[4] * x.z + low[3] * x.w;
    sum += low[2] * y4.x + low[1] * y4.y + low[0] * y4.z + vec2(y4.w, 0.0);
    total += multiply(half_index == 0u ? high[7u - i] : high[3u - i], sum);
  }
  return total;
}

// a^r for r <= 64 tokens.
vec2 decay(uint head, uint mode, uint count) {
  uint index = (head * kModes + mode) * kPowers;
  vec2 power = vec2(1.0, 0.0);
  for (uint j = 0u; j < 7u; ++j) {
    if (((count >> j) & 1u) != 0u) power = multiply(power, powers[index + j]);
  }
  return power;
}

// The newest min(N, L) keys, each at its position mod N.
void write_shift_state(uint lane, uint channel, uint sequence, uint slot, uint position) {
  uint row = key_row(channel, sequence);
  uint begin = tokens > kStateSize ? tokens - kStateSize : 0u;
  for (uint token = begin + lane; token < tokens; token += 64u) {
    shift_state[(slot * channels + channel) * kStateSize + (position + token) % kStateSize] = float(qkv[row + token]);
  }
}
