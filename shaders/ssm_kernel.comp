// kernel[h, l] = 2 Re sum_n c_n b_n a_n^l from the powers a^(2^j), by products: a^l = a^base a^offset with l = base +
// offset, offset < 64. A workgroup makes 1024 lags: 16 blocks of 64, one offset an invocation. For each group of 32
// modes, c b a^base of the 16 blocks is made once, in shared memory. At most 17 factors: error below 2e-6.
#version 450

layout(local_size_x = 64) in;

layout(std430, set = 0, binding = 0) readonly buffer Powers { vec2 powers[]; };   // (H, n, power_count)
layout(std430, set = 0, binding = 1) readonly buffer B { vec2 b_in[]; };          // (H, n)
layout(std430, set = 0, binding = 2) readonly buffer C { vec2 c_in[]; };          // (H, n)
layout(std430, set = 0, binding = 3) readonly buffer D { float d_in[]; };         // (H)
layout(std430, set = 0, binding = 4) writeonly buffer Kernel { float kernel[]; }; // (.., row_stride)

layout(push_constant) uniform Push {
  uint first_head;  // the head of the kernel's row 0
  uint heads;       // rows written
  uint modes;
  uint power_count;
  uint lags;
  uint padded_lags;  // zeros from `lags` to here
  uint row_stride;
  uint skip_in_lag_zero;  // 1: D is added to lag 0
};

shared vec2 base_terms[16][32];

vec2 multiply(vec2 x, vec2 y) { return vec2(x.x * y.x - x.y * y.y, x.x * y.y + x.y * y.x); }

void main() {
  uint lane = gl_LocalInvocationID.x;
  uint first_lag = gl_WorkGroupID.x * 1024u;
  for (uint row = gl_WorkGroupID.y; row < heads; row += gl_NumWorkGroups.y) {
    uint head = first_head + row;
    float sums[16];
    for (int i = 0; i < 16; ++i) sums[i] = 0.0;
    for (uint first = 0u; first < modes; first += 32u) {
      uint count = min(32u, modes - first);
      for (uint item = lane; item < 512u; item += 64u) {  // 16 blocks x 32 modes
        uint block = item / 32u;
        uint mode = first + item % 32u;
        vec2 term = vec2(0.0);
        if (mode < modes) {
          uint index = head * modes + mode;
          term = 2.0 * multiply(c_in[index], b_in[index]);
          uint base = (first_lag >> 6) + block;
          for (uint j = 6u; j < power_count; ++j) {
            if (((base >> (j - 6u)) & 1u) != 0u) term = multiply(term, powers[index * power_count + j]);
          }
        }
        base_terms[block][item % 32u] = term;
      }
      barrier();
      for (uint i = 0u; i < count; ++i) {
        uint index = (head * modes + first + i) * power_count;
        vec2 power = vec2(1.0, 0.0);
        for (uint j = 0u; j < 6u; ++j) {
          if (((lane >> j) & 1u) != 0u) power = multiply(power, powers[index + j]);
        }
        for (int block = 0; block < 16; ++block) {
          vec2 term = base_terms[block][i];
          sums[block] += term.x * power.x - term.y * power.y;
        }
      }
      barrier();
    }
    for (uint block = 0u; block < 16u; ++block) {
      uint lag = first_lag + block * 64u + lane;
      if (lag < padded_lags) {
        float skip = lag == 0u && skip_in_lag_zero != 0u ? d_in[head] : 0.0;
        kernel[row * row_stride + lag] = lag < lags ? sums[int(block)] + skip : 0.0;
      }
    }
  }
}
