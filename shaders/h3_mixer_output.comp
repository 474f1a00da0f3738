// The last part of the FFT way: z = (convolution, D included) + what the initial state adds, y_j = sum_i q_i z_ij.
// A workgroup makes 1024 tokens of one output channel, as ssm_kernel.comp makes lags:
//   2 Re sum_n c_n a_n^{t+1} s_n with t + 1 = base + offset, c a^base s of 16 blocks in shared memory.
// A state of zeros (a text's start) adds nothing and is skipped.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "h3_mixer_storage.glsl"

layout(local_size_x = 64) in;

layout(std430, set = 0, binding = 0) readonly buffer Qkv { ACT qkv[]; };            // (3 D, B, L)
layout(std430, set = 0, binding = 1) readonly buffer Rows { float conv_rows[]; };   // (rows, row_stride)
layout(std430, set = 0, binding = 2) readonly buffer Initial { vec2 initial[]; };   // (rows, n)
layout(std430, set = 0, binding = 3) readonly buffer Powers { vec2 powers[]; };     // (H, n, 17)
layout(std430, set = 0, binding = 4) readonly buffer C { vec2 c_in[]; };            // (H, n)
layout(std430, set = 0, binding = 5) writeonly buffer Y { ACT y[]; };               // (D, B, L)

layout(push_constant) uniform Push {
  uint channels;
  uint batch;
  uint tokens;          // L
  uint first_head;      // of the rows
  uint group_heads;     // heads in the rows
  uint first_sequence;  // of the rows
  uint sequences;
  uint first_token;
  uint token_count;
  uint head_dim;
  uint modes;
  uint dim_major;
  uint row_stride;
};

const uint kPowers = 17u;
shared vec2 base_terms[16][32];
shared uint state_is_set;

vec2 multiply(vec2 x, vec2 y) { return vec2(x.x * y.x - x.y * y.y, x.x * y.y + x.y * y.x); }

void main() {
  uint lane = gl_LocalInvocationID.x;
  uint first = gl_WorkGroupID.x * 1024u;
  uint j = gl_WorkGroupID.y % head_dim;
  uint local_head = gl_WorkGroupID.y / head_dim;
  uint head = first_head + local_head;
  uint heads = channels / head_dim;
  uint out_channel = dim_major != 0u ? j * heads + head : head * head_dim + j;
  for (uint step = gl_WorkGroupID.z; step < sequences; step += gl_NumWorkGroups.z) {
    uint sequence = first_sequence + step;
    float sums[16];
    for (int i = 0; i < 16; ++i) sums[i] = 0.0;
    for (uint i = 0u; i < head_dim; ++i) {
      uint row = ((step * group_heads + local_head) * head_dim + i) * head_dim + j;
      float past[16];
      for (int block = 0; block < 16; ++block) past[block] = 0.0;
      if (lane == 0u) state_is_set = 0u;
      barrier();
      for (uint mode = lane; mode < modes; mode += 64u) {
        if (any(notEqual(initial[row * modes + mode], vec2(0.0)))) state_is_set = 1u;
      }
      barrier();
      uint used_modes = state_is_set != 0u ? modes : 0u;
      for (uint first_mode = 0u; first_mode < used_modes; first_mode += 32u) {
        for (uint item = lane; item < 512u; item += 64u) {
          uint mode = first_mode + item % 32u;
          vec2 term = vec2(0.0);
          if (mode < modes) {
            uint index = head * modes + mode;
            term = 2.0 * multiply(c_in[index], initial[row * modes + mode]);
            uint base = (first >> 6) + item / 32u;
            for (uint bit = 6u; bit < kPowers; ++bit) {
              if (((base >> (bit - 6u)) & 1u) != 0u) term = multiply(term, powers[index * kPowers + bit]);
            }
          }
          base_terms[item / 32u][item % 32u] = term;
        }
        barrier();
        uint count = min(32u, modes - first_mode);
        for (uint m = 0u; m < count; ++m) {
          uint index = (head * modes + first_mode + m) * kPowers;
          vec2 power = powers[index];  // a^{lane + 1}
          for (uint bit = 0u; bit < 6u; ++bit) {
            if (((lane >> bit) & 1u) != 0u) power = multiply(power, powers[index + bit]);
          }
          for (int block = 0; block < 16; ++block) {
            vec2 term = base_terms[block][m];
            past[block] += term.x * power.x - term.y * power.y;
          }
        }
        barrier();
      }
      uint q_row = ((head * head_dim + i) * batch + sequence) * tokens + first_token;
      for (uint block = 0u; block < 16u; ++block) {
        uint token = first + block * 64u + lane;
        if (token < token_count) {
          sums[int(block)] += float(qkv[q_row + token]) * (conv_rows[row * row_stride + token] + past[int(block)]);
        }
      }
      barrier();
    }
    uint y_row = (out_channel * batch + sequence) * tokens + first_token;
    for (uint block = 0u; block < 16u; ++block) {
      uint token = first + block * 64u + lane;
      if (token < token_count) y[y_row + token] = ACT(sums[int(block)]);
    }
  }
}
