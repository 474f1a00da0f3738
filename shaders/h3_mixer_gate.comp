// The first part of the FFT way, one pair (h, i, j) a workgroup: w = shift(k_i) v_j to rows for the transform, the
// state at the start of the piece to `initial`, and the state advanced to its end. See h3_mixer_chunk.glsl.
#version 450
#extension GL_GOOGLE_include_directive : require
#define GATE
#include "h3_mixer_chunk.glsl"

void main() {
  uint lane = gl_LocalInvocationID.x;
  uint half_index = lane >> 5;
  uint pair = first_unit + gl_WorkGroupID.x;
  uint key_channel = pair / kHeadDim;
  uint head = key_channel / kHeadDim;
  uint value_channel = head * kHeadDim + pair % kHeadDim;

  vec2 low[8], high[8];
  if (kGroups == 1u) load_powers(lane, head, 0u, low, high);
  load_taps(lane, key_channel);

  for (uint step = gl_WorkGroupID.y; step < sequences; step += gl_NumWorkGroups.y) {
    uint sequence = first_sequence + step;
    uint slot = uint(slots[sequence]);
    uint position = uint(positions[slot]);
    uint v_row = ((2u * channels + value_channel) * batch + sequence) * tokens;
    uint row = step * gl_NumWorkGroups.x + gl_WorkGroupID.x;
    uint state_row = (slot * channels * kHeadDim + pair) * kModes;
    vec2 state[kGroups];
    for (uint i = lane; i < kKeyRing; i += 64u) keys[i] = 0.0;
    barrier();
    load_history(lane, key_channel, sequence, slot, position, first_token);
    for (uint group = 0u; group < kGroups; ++group) {
      uint mode = group * 32u + (lane & 31u);
      state[group] = mode < kModes ? mode_state[state_row + mode] : vec2(0.0);
      if (mode < kModes && half_index == 0u) initial[row * kModes + mode] = state[group];
    }

    for (uint done = 0u; done < token_count; done += 64u) {
      uint count = min(64u, token_count - done);
      uint token = first_token + done + lane;
      float value = lane < count ? float(qkv[v_row + token]) : 0.0;
      keys[token & (kKeyRing - 1u)] = lane < count ? float(qkv[key_row(key_channel, sequence) + token]) : 0.0;
      barrier();
      float w = lane < count ? shift_filter(token) * value : 0.0;
      uint right = (lane + 64u - count) & 63u;
      gated_right[right >> 2][right & 3u] = w;
      if (lane < count) w_out[row * row_stride + done + lane] = w;
      barrier();
      for (uint group = 0u; group < kGroups; ++group) {
        if (kGroups > 1u) {
          load_powers(lane, head, group, low, high);
          if (group > 0u) barrier();
        }
        partial[half_index][lane & 31u] = project_half(half_index, low, high);
        barrier();
        uint mode = group * 32u + (lane & 31u);
        if (mode < kModes) {
          vec2 added = partial[0][lane & 31u] + partial[1][lane & 31u];
          vec2 factor = count == 64u ? powers[(head * kModes + mode) * kPowers + 6u] : decay(head, mode, count);
          state[group] = multiply(factor, state[group]) + multiply(b_in[head * kModes + mode], added);
        }
      }
    }
    uint used_inputs = row_stride / 2u - 1u;  // the transform takes zeros beyond half a row
    for (uint t = token_count + lane; t < used_inputs; t += 64u) w_out[row * row_stride + t] = 0.0;
    for (uint group = 0u; group < kGroups; ++group) {
      uint mode = group * 32u + (lane & 31u);
      if (mode < kModes && half_index == 0u) mode_state[state_row + mode] = state[group];
    }
    barrier();
  }
}
