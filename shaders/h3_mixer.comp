// The whole H3 mixer in one pass: see h3_mixer_chunk.glsl. head_dim > 1 loops over i inside a chunk; the states of the
// pairs (i, j) then live in memory between chunks, and the keys' history is read again, because only one fits.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "h3_mixer_chunk.glsl"

void main() {
  uint lane = gl_LocalInvocationID.x;
  uint half_index = lane >> 5;
  uint unit = first_unit + gl_WorkGroupID.x;
  uint head = unit / kHeadDim;
  uint j = unit % kHeadDim;
  uint heads = channels / kHeadDim;
  uint out_channel = dim_major != 0u ? j * heads + head : unit;

  for (uint i = lane; i < 16u; i += 64u) lags[i] = toeplitz[head * 16u + i];
  gated[lane] = 0.0;

  vec2 low[8], high[8];
  if (kGroups == 1u) load_powers(lane, head, 0u, low, high);

  for (uint step = gl_WorkGroupID.y; step < sequences; step += gl_NumWorkGroups.y) {
    uint sequence = first_sequence + step;
    uint slot = uint(slots[sequence]);
    uint position = uint(positions[slot]);
    uint v_row = ((2u * channels + unit) * batch + sequence) * tokens;
    uint y_row = (out_channel * batch + sequence) * tokens;
    vec2 state[kGroups];
    for (uint i = lane; i < kKeyRing; i += 64u) keys[i] = 0.0;
    barrier();

    // head_dim 1: q, k and v of a chunk are asked for a chunk ahead, so that memory answers while the sums run.
    uint own_rows[3] = uint[3]((unit * batch + sequence) * tokens, key_row(unit, sequence), v_row);
    float ahead[3] = float[3](0.0, 0.0, 0.0);
    if (kHeadDim == 1u && lane < token_count) {
      for (int i = 0; i < 3; ++i) ahead[i] = float(qkv[own_rows[i] + first_token + lane]);
    }

    for (uint done = 0u; done < token_count; done += 64u) {
      uint chunk_begin = first_token + done;
      uint count = min(64u, token_count - done);
      bool first = done == 0u;
      bool last = done + 64u >= token_count;
      uint token = chunk_begin + lane;
      float value = ahead[2];
      float query = ahead[0];
      float key = ahead[1];
      if (kHeadDim == 1u) {
        bool more = done + 64u + lane < token_count;
        for (int i = 0; i < 3; ++i) ahead[i] = more ? float(qkv[own_rows[i] + token + 64u]) : 0.0;
      } else {
        value = lane < count ? float(qkv[v_row + token]) : 0.0;
      }
      float sum = 0.0;

      for (uint i = 0u; i < kHeadDim; ++i) {
        uint key_channel = head * kHeadDim + i;
        uint state_row = (slot * channels * kHeadDim + key_channel * kHeadDim + j) * kModes;
        if (kHeadDim > 1u) {
          query = 0.0;
          key = 0.0;
        }
        if (kHeadDim > 1u && lane < count) {
          query = float(qkv[(key_channel * batch + sequence) * tokens + token]);
          key = float(qkv[key_row(key_channel, sequence) + token]);
        }
        if (first || kHeadDim > 1u) {
          load_taps(lane, key_channel);
          load_history(lane, key_channel, sequence, slot, position, chunk_begin);
          for (uint group = 0u; group < kGroups; ++group) {
            uint mode = group * 32u + (lane & 31u);
            state[group] = mode < kModes ? mode_state[state_row + mode] : vec2(0.0);
          }
        }
        keys[token & (kKeyRing - 1u)] = key;
        float past = 0.0;
        for (uint group = 0u; group < kGroups; ++group) {
          // What the state adds: entry[i] = 2 c a^{8i} s, then its product with a^{r+1}, summed over the modes.
          if (kGroups > 1u) {
            load_powers(lane, head, group, low, high);
            if (group > 0u) barrier();
          }
          uint mode = group * 32u + (lane & 31u);
          vec2 weighted = vec2(0.0);
          if (mode < kModes) weighted = 2.0 * multiply(c_in[head * kModes + mode], state[group]);
          uint pair = (lane & 31u) >> 1;
          for (uint r = 0u; r < 4u; ++r) {
            uint index = half_index * 4u + r;
            vec2 product = multiply(half_index == 0u ? high[r] : high[4u + r], weighted);
            vec2 power = half_index == 0u ? low[r] : low[4u + r];
            if ((lane & 1u) == 0u) {
              entry[index][pair].xy = product;
              low_powers[index][pair].xy = power;
            } else {
              entry[index][pair].zw = product;
              low_powers[index][pair].zw = power;
            }
          }
          barrier();
          for (uint p = 0u; p < 16u; ++p) {
            vec4 g = entry[lane >> 3][p];
            vec4 a = low_powers[lane & 7u][p];
            past += g.x * a.x - g.y * a.y + g.z * a.z - g.w * a.w;
          }
        }
        // keys, taps and lags are visible since the barrier above.
        float w = lane < count ? shift_filter(token) * value : 0.0;
        gated[64u + lane] = w;
        uint right = (lane + 64u - count) & 63u;  // the padding of a short chunk wraps to the left end, as zeros
        gated_right[right >> 2][right & 3u] = w;
        barrier();

        float z = past;
        uint lag_blocks = (lane | 31u) / 4u + 1u;  // later lags meet zeros only
        for (uint block = 0u; block < lag_blocks; ++block) {
          vec4 kernel = lags[block];
          uint at = 64u + lane - 4u * block;
          z += kernel.x * gated[at];
          z += kernel.y * gated[at - 1u];
          z += kernel.z * gated[at - 2u];
          z += kernel.w * gated[at - 3u];
        }
        sum += query * z;

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
            if ((last || kHeadDim > 1u) && half_index == 0u) mode_state[state_row + mode] = state[group];
          }
        }
        if (kHeadDim > 1u) groupMemoryBarrier();  // a barrier follows before the next chunk reads it
      }
      if (lane < count) y[y_row + token] = ACT(sum);
    }
    if (write_shift != 0u) write_shift_state(lane, unit, sequence, slot, position);
    barrier();
  }
}
