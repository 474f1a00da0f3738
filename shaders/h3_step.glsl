// One token of one channel pair of the H3 mixer, by the lanes of a team: what h3_step.comp and
// h3_step_projected.comp share.
//   k'_i = f_0 k_i + sum_{j>=1} f_j (key of position P - j)     the lanes share the taps
//   s_n <- a_n s_n + b_n w,  w = k'_i v_j                       a lane has modes lane, lane + lanes, ...
//   z = D w + 2 Re sum_n c_n s_n
// a is used as high + low: the rounding of a alone would grow with the length of the memory.
// The key of position P is written where that of P - N was, which no one reads.
//
// Before the include: kStateSize, kModes, kGroups (ceil(n / lanes)), and the buffers slots, positions, shift_state
// (S, D, N), mode_state (S, D d, n), a_in (H, n) high and low, b_in, c_in (H, n), d_in (H), taps (D, N).
const uint kKeyGroups = 2u * kGroups;  // ceil(N / lanes), or one more
vec2 mode_values[kGroups], mode_b[kGroups], mode_c[kGroups];
vec4 mode_a[kGroups];
float key_values[kKeyGroups];  // in the order of memory

float tap(uint channel, uint age);  // f_age; defined by who includes this

vec2 multiply(vec2 x, vec2 y) { return vec2(x.x * y.x - x.y * y.y, x.x * y.y + x.y * y.x); }

void load_filter(uint head, uint lane, uint lanes) {
  [[unroll]] for (uint group = 0u; group < kGroups; ++group) {
    const uint mode = group * lanes + lane;
    const uint index = head * kModes + min(mode, kModes - 1u);
    mode_a[group] = a_in[index];
    mode_b[group] = b_in[index];
    mode_c[group] = c_in[index];
    if (mode >= kModes) mode_c[group] = vec2(0.0);
  }
}

void load_state(uint state_row, uint shift_row, uint lane, uint lanes) {
  [[unroll]] for (uint group = 0u; group < kGroups; ++group) {
    mode_values[group] = mode_state[state_row + min(group * lanes + lane, kModes - 1u)];
  }
  [[unroll]] for (uint group = 0u; group < kKeyGroups; ++group) {
    key_values[group] = shift_state[shift_row + min(group * lanes + lane, kStateSize - 1u)];
  }
}

// This lane's part of sum_{j>=1} f_j (key of position P - j); `newest` is P mod N.
float past_keys(uint channel, uint newest, uint lane, uint lanes) {
  float part = 0.0;
  [[unroll]] for (uint group = 0u; group < kKeyGroups; ++group) {
    const uint place = group * lanes + lane;
    const uint age = newest >= place ? newest - place : newest + kStateSize - place;
    if (place < kStateSize && age != 0u) part += tap(channel, age) * key_values[group];
  }
  return part;
}

// Steps the modes, writes them if told to, and returns this lane's part of Re sum_n c_n s_n.
float step_modes(uint state_row, float w, bool write, uint lane, uint lanes) {
  float part = 0.0;
  [[unroll]] for (uint group = 0u; group < kGroups; ++group) {
    const vec2 rest = multiply(mode_a[group].zw, mode_values[group]) + mode_b[group] * w;
    const vec2 value = multiply(mode_a[group].xy, mode_values[group]) + rest;
    part += mode_c[group].x * value.x - mode_c[group].y * value.y;
    const uint mode = group * lanes + lane;
    if (write && mode < kModes) mode_state[state_row + mode] = value;
  }
  return part;
}
