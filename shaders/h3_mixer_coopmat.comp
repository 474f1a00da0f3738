// The whole H3 mixer in one pass on cooperative matrices: f16 operands, f32 sums and states, 16 x 16 x 16; head_dim 1
// and N up to 64. h3_mixer_chunk.glsl has the formulas, chunks of 64 tokens as here.
//
// Sixteen chunks of a sequence are the rows of a tile, and each step of the chunked way is a product:
//   k' = [keys of the chunk before, keys of the chunk] Toeplitz(taps), w = k' v
//   u = w E, E[t, n] = a_n^{63-t}
//   z = w Toeplitz(lags) + s R, R[n, t] = 2 c_n a_n^{t+1}, y = q z
// with a row or column each for the real and the imaginary part of a mode. Between the last two the states s go from
// chunk to chunk, in f32, an invocation a mode. A workgroup makes its channel's matrices once and walks over tiles; each
// of its four subgroups makes 16 of the 64 columns of every product. Of a Toeplitz matrix all blocks along a diagonal
// are one. A later token meets zeros there: if finite, it cannot change earlier outputs, not by a bit.
//
// The last chunk of a sequence may be short: then the state behind it is summed in plain arithmetic from w.
//
// On an H100 (768 channels, N = 64) 1 x 1024 tokens take 0.0164 ms, with plain arithmetic (h3_mixer.comp) 0.0414;
// 1 x 16,384, in a traced prefill, 0.111 and 0.689. Eight sequences of 64 take 0.0694: a tile's latency is 0.0086, and
// some 0.006 go to the matrices of a channel. A copy of as many bytes as of 1 x 1024 would take 0.002.
#version 450
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint GROUP = 128u;   // four subgroups of 32 or 64
layout(constant_id = 1) const uint ALIGNED = 0u;   // 1: every sequence of q, k, v and y begins and ends at 16 bytes

layout(std430, set = 0, binding = 0) readonly buffer Qkv { float16_t qkv[]; };         // (3 D, B, L)
layout(std430, set = 0, binding = 0) readonly buffer QkvUnits { uvec4 qkv_units[]; };
layout(std430, set = 0, binding = 1) readonly buffer Slots { int slots[]; };           // (B)
layout(std430, set = 0, binding = 2) readonly buffer Positions { int positions[]; };   // (S)
layout(std430, set = 0, binding = 3) buffer Shift { float shift_state[]; };            // (S, D, N)
layout(std430, set = 0, binding = 4) buffer ModeState { vec2 mode_state[]; };          // (S, D, n)
layout(std430, set = 0, binding = 5) readonly buffer Powers { vec2 powers[]; };        // (D, n, 17)
layout(std430, set = 0, binding = 6) readonly buffer B { vec2 b_in[]; };               // (D, n)
layout(std430, set = 0, binding = 7) readonly buffer Taps { float taps[]; };           // (D, N)
layout(std430, set = 0, binding = 8) writeonly buffer Y { float16_t y[]; };            // (D, B, L)
layout(std430, set = 0, binding = 8) writeonly buffer YUnits { uvec4 y_units[]; };
layout(std430, set = 0, binding = 9) readonly buffer C { vec2 c_in[]; };               // (D, n)
layout(std430, set = 0, binding = 10) readonly buffer Toeplitz { float toeplitz[]; };  // (D, 64)

layout(push_constant) uniform Push {  // as in h3_mixer_chunk.glsl
  uint channels;
  uint batch;
  uint tokens;
  uint first_unit;
  uint first_sequence;
  uint sequences;
  uint first_token;
  uint token_count;
  uint write_shift;
  uint dim_major;
  uint row_stride;
  uint state_size;
  uint head_dims;
};

const uint kChunk = 64u;
const uint kRows = 16u;
const uint kTile = kRows * kChunk;
// Units are eight f16 or four f32. Rows of 64 f16, of 16 and of 64 f32, padded by a unit: eight rows of a matrix then
// lie in different banks.
const uint kRow = kChunk / 8u + 1u;
const uint kBlockRow = 3u;
const uint kSumRow = kChunk / 4u + 1u;
const uint kTileUnits = kRows * kChunk / 8u;
const uint kBlock = 16u * kBlockRow;
// Shared memory. Sums for the states take the place of the keys, and the states that of the values.
const uint kSums = 0u;
const uint kKeys = 0u;  // the chunk before the tile, then the tile's
const uint kValues = kRows * kSumRow;
const uint kStates = kValues;
const uint kQueries = kValues + kRows * kRow;
const uint kW = kQueries + kRows * kRow;
const uint kE = kW + kRows * kRow;   // [mode][token]
const uint kR = kE + kChunk * kRow;  // [mode][token]
const uint kTaps = kR + kChunk * kRow;  // five blocks, from the diagonal on
const uint kLags = kTaps + 5u * kBlock;  // four
// Lines of taps and lags that the blocks are made of, with zeros around them, where w will be.
const uint kLine = 16u + kChunk + 16u;

shared uvec4 tiles[kLags + 4u * kBlock];

#define SUMS coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator>
#define HALVES coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator>
#define LEFT coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA>
#define RIGHT coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseB>

vec2 multiply(vec2 x, vec2 y) { return vec2(x.x * y.x - x.y * y.y, x.x * y.y + x.y * y.x); }

float line_value(uint line, uint at) {
  const uint i = line * kLine + at;
  return uintBitsToFloat(tiles[kW + i / 4u][i % 4u]);
}

// Row i of a block of a Toeplitz matrix, eight columns from `column` on; lags count from `lag` at its corner.
uvec4 toeplitz_unit(uint line, uint lag, uint i, uint column) {
  const uint at = 16u + lag + column - i;
  uvec4 unit;
  [[unroll]] for (uint j = 0u; j < 4u; ++j) {
    unit[j] = packHalf2x16(vec2(line_value(line, at + 2u * j), line_value(line, at + 2u * j + 1u)));
  }
  return unit;
}

void make_matrices(uint self, uint channel) {
  const uint modes = state_size / 2u;
  for (uint i = self; i < 2u * kLine; i += GROUP) {
    const uint lag = i % kLine - 16u;  // beyond the end where negative
    float value = 0.0;
    if (i < kLine) {
      if (lag < state_size) value = taps[channel * state_size + lag];
    } else if (lag < kChunk) {
      value = toeplitz[channel * kChunk + lag];
    }
    tiles[kW + i / 4u][i % 4u] = floatBitsToUint(value);
  }

  // Powers of a mode, eight tokens at a time: a^{8 i} and a^1 .. a^8.
  const uint mode = self % 32u;
  const uint own = channel * modes + min(mode, modes - 1u);
  const vec2 p1 = powers[own * 17u], p2 = powers[own * 17u + 1u], p4 = powers[own * 17u + 2u];
  const vec2 p8 = powers[own * 17u + 3u], p16 = powers[own * 17u + 4u], p32 = powers[own * 17u + 5u];
  const vec2 p3 = multiply(p2, p1);
  const vec2 low[8] = vec2[8](p1, p2, p3, p4, multiply(p4, p1), multiply(p4, p2), multiply(p4, p3), p8);
  const vec2 twice_c = mode < modes ? 2.0 * c_in[own] : vec2(0.0);
  for (uint i = self / 32u; i < 8u; i += GROUP / 32u) {
    vec2 high = vec2(mode < modes ? 1.0 : 0.0, 0.0);
    if ((i & 1u) != 0u) high = multiply(high, p8);
    if ((i & 2u) != 0u) high = multiply(high, p16);
    if ((i & 4u) != 0u) high = multiply(high, p32);
    const vec2 weight = multiply(twice_c, high);
    uvec4 r_re, r_im, e_re, e_im;
    [[unroll]] for (uint j = 0u; j < 4u; ++j) {
      const vec2 r0 = multiply(weight, low[2u * j]), r1 = multiply(weight, low[2u * j + 1u]);
      r_re[j] = packHalf2x16(vec2(r0.x, r1.x));
      r_im[j] = packHalf2x16(vec2(-r0.y, -r1.y));
      const vec2 e0 = multiply(high, low[6u - 2u * j]);
      const vec2 e1 = j == 3u ? high : multiply(high, low[(5u - 2u * j) & 7u]);
      e_re[j] = packHalf2x16(vec2(e0.x, e1.x));
      e_im[j] = packHalf2x16(vec2(e0.y, e1.y));
    }
    tiles[kR + 2u * mode * kRow + i] = r_re;
    tiles[kR + (2u * mode + 1u) * kRow + i] = r_im;
    tiles[kE + 2u * mode * kRow + 7u - i] = e_re;
    tiles[kE + (2u * mode + 1u) * kRow + 7u - i] = e_im;
  }
  barrier();
  for (uint i = self; i < 9u * 32u; i += GROUP) {
    const uint block = i / 32u;
    const uint line = block < 5u ? 0u : 1u;
    const uint lag = 16u * (block - 5u * line);
    tiles[kTaps + block * kBlock + i % 32u / 2u * kBlockRow + i % 2u] =
        toeplitz_unit(line, lag, i % 32u / 2u, i % 2u * 8u);
  }
  barrier();
}

// Eight tokens of a row of q, k or v, zeros from `end` on.
uvec4 load_unit(uint row, uint token, uint end) {
  if (token >= end) return uvec4(0u);
  if (ALIGNED != 0u) return qkv_units[(row + token) / 8u];
  float v[8];
  [[unroll]] for (uint i = 0u; i < 8u; ++i) v[i] = token + i < end ? float(qkv[row + token + i]) : 0.0;
  uvec4 unit;
  [[unroll]] for (uint j = 0u; j < 4u; ++j) unit[j] = packHalf2x16(vec2(v[2u * j], v[2u * j + 1u]));
  return unit;
}

void store_unit(uint row, uint token, uint end, uvec4 unit) {
  if (token >= end) return;
  if (ALIGNED != 0u) {
    y_units[(row + token) / 8u] = unit;
    return;
  }
  [[unroll]] for (uint i = 0u; i < 8u; ++i) {
    if (token + i < end) y[row + token + i] = float16_t(unpackHalf2x16(unit[i / 2u])[i % 2u]);
  }
}

// Eight keys before the first token of this dispatch, from `back` tokens before it on.
uvec4 load_history(uint row, uint back, uint shift_row, uint position) {
  if (first_token >= kChunk) return load_unit(row, first_token - back, first_token);
  uvec4 unit;
  [[unroll]] for (uint j = 0u; j < 4u; ++j) {
    vec2 keys = vec2(0.0);
    [[unroll]] for (uint i = 0u; i < 2u; ++i) {
      const uint age = back - 2u * j - i;
      if (age < state_size) keys[i] = shift_state[shift_row + (position + state_size - age) % state_size];
    }
    unit[j] = packHalf2x16(keys);
  }
  return unit;
}

// The state behind the `count` tokens of the short chunk in this row of w, from the one before it.
vec2 end_short_chunk(vec2 state, uint own, uint row, uint count) {
  vec2 power = vec2(1.0, 0.0);
  for (uint j = 0u; j < 6u; ++j) {
    if (((count >> j) & 1u) != 0u) power = multiply(power, powers[own * 17u + j]);
  }
  const vec2 a = powers[own * 17u];
  vec2 sum = vec2(0.0);
  for (uint t = 0u; t < count; ++t) {
    const vec2 pair = unpackHalf2x16(tiles[kW + row * kRow + t / 8u][t / 2u % 4u]);
    sum = multiply(a, sum) + vec2(t % 2u == 0u ? pair.x : pair.y, 0.0);
  }
  return multiply(power, state) + multiply(b_in[own], sum);
}

void main() {
  const uint self = gl_LocalInvocationIndex;
  const uint block = gl_SubgroupID;  // of columns
  const uint channel = first_unit + gl_WorkGroupID.x;
  const uint modes = state_size / 2u;
  const uint end = first_token + token_count;
  const uint own_row = self / 8u;
  const uint own_unit = self % 8u;
  const bool moves = self < kTileUnits;
  const uint mode = min(self, modes - 1u);
  const uint own_mode = channel * modes + mode;
  make_matrices(self, channel);

  vec2 step_power = vec2(0.0), step_input = vec2(0.0);
  if (self < modes) {
    step_power = powers[own_mode * 17u + 6u];
    step_input = b_in[own_mode];
  }

  for (uint step = gl_WorkGroupID.y; step < sequences; step += gl_NumWorkGroups.y) {
    const uint sequence = first_sequence + step;
    const uint slot = uint(slots[sequence]);
    const uint position = uint(positions[slot]);
    const uint q_row = (channel * batch + sequence) * tokens;
    const uint k_row = ((channels + channel) * batch + sequence) * tokens;
    const uint v_row = ((2u * channels + channel) * batch + sequence) * tokens;
    const uint shift_row = (slot * channels + channel) * state_size;
    const uint state_at = (slot * channels + channel) * modes + mode;

    vec2 state = vec2(0.0);
    if (self < modes) state = mode_state[state_at];
    // A tile's units are asked for a tile ahead, so that memory answers while the products run.
    uvec4 query = uvec4(0u), key = uvec4(0u), value = uvec4(0u), before = uvec4(0u);
    if (moves) {
      const uint token = first_token + self * 8u;
      query = load_unit(q_row, token, end);
      key = load_unit(k_row, token, end);
      value = load_unit(v_row, token, end);
      if (own_row == kRows - 1u) before = load_history(k_row, kChunk - own_unit * 8u, shift_row, position);
    }

    for (uint done = 0u; done < token_count; done += kTile) {
      if (moves) {
        tiles[kKeys + (own_row + 1u) * kRow + own_unit] = key;
        tiles[kValues + own_row * kRow + own_unit] = value;
        tiles[kQueries + own_row * kRow + own_unit] = query;
        if (own_row == kRows - 1u) {
          tiles[kKeys + own_unit] = before;
          before = key;
        }
      }
      barrier();
      const uint next = first_token + done + kTile + self * 8u;
      if (moves) {
        query = load_unit(q_row, next, end);
        key = load_unit(k_row, next, end);
        value = load_unit(v_row, next, end);
      }

      SUMS shifted = SUMS(0.0);
      [[unroll]] for (uint i = 0u; i < 5u; ++i) {
        const uint from = block + i;  // of eight blocks of keys: four of the chunk before, four of the chunk
        LEFT keys;
        RIGHT tap;
        coopMatLoad(keys, tiles, kKeys + from / 4u * kRow + from % 4u * 2u, kRow, gl_CooperativeMatrixLayoutRowMajor);
        coopMatLoad(tap, tiles, kTaps + (4u - i) * kBlock, kBlockRow, gl_CooperativeMatrixLayoutRowMajor);
        shifted = coopMatMulAdd(keys, tap, shifted);
      }
      HALVES own;
      coopMatLoad(own, tiles, kValues + block * 2u, kRow, gl_CooperativeMatrixLayoutRowMajor);
      own = HALVES(shifted * SUMS(own));
      coopMatStore(own, tiles, kW + block * 2u, kRow, gl_CooperativeMatrixLayoutRowMajor);
      barrier();

      SUMS inputs = SUMS(0.0);
      SUMS z = SUMS(0.0);
      [[unroll]] for (uint i = 0u; i < 4u; ++i) {
        LEFT w;
        RIGHT right;
        coopMatLoad(w, tiles, kW + i * 2u, kRow, gl_CooperativeMatrixLayoutRowMajor);
        coopMatLoad(right, tiles, kE + block * 16u * kRow + i * 2u, kRow, gl_CooperativeMatrixLayoutColumnMajor);
        inputs = coopMatMulAdd(w, right, inputs);
        if (i <= block) {
          coopMatLoad(right, tiles, kLags + (block - i) * kBlock, kBlockRow, gl_CooperativeMatrixLayoutRowMajor);
          z = coopMatMulAdd(w, right, z);
        }
      }
      coopMatStore(inputs, tiles, kSums + block * 4u, kSumRow, gl_CooperativeMatrixLayoutRowMajor);
      barrier();

      if (self < 32u) {
        const uint left = token_count - done;
        vec2 added[kRows];
        [[unroll]] for (uint i = 0u; i < kRows; ++i) {
          const uvec4 sums = tiles[kSums + i * kSumRow + self / 2u];
          added[i] = multiply(step_input, uintBitsToFloat((self & 1u) == 0u ? sums.xy : sums.zw));
        }
        [[unroll]] for (uint i = 0u; i < kRows; ++i) {
          tiles[kStates + i * kRow + self / 4u][self % 4u] = packHalf2x16(state);
          if ((i + 1u) * kChunk <= left) state = multiply(step_power, state) + added[i];
        }
        if (left < kTile && left % kChunk != 0u && self < modes) {
          state = end_short_chunk(state, own_mode, left / kChunk, left % kChunk);
        }
      }
      barrier();

      [[unroll]] for (uint i = 0u; i < 4u; ++i) {
        LEFT states;
        RIGHT right;
        coopMatLoad(states, tiles, kStates + i * 2u, kRow, gl_CooperativeMatrixLayoutRowMajor);
        coopMatLoad(right, tiles, kR + i * 16u * kRow + block * 2u, kRow, gl_CooperativeMatrixLayoutRowMajor);
        z = coopMatMulAdd(states, right, z);
      }
      coopMatLoad(own, tiles, kQueries + block * 2u, kRow, gl_CooperativeMatrixLayoutRowMajor);
      own = HALVES(z * SUMS(own));
      coopMatStore(own, tiles, kQueries + block * 2u, kRow, gl_CooperativeMatrixLayoutRowMajor);
      barrier();
      if (moves) {
        store_unit(q_row, first_token + done + self * 8u, end, tiles[kQueries + own_row * kRow + own_unit]);
      }
    }
    if (self < modes) mode_state[state_at] = state;
    if (write_shift != 0u) {  // the newest keys, each at its position mod N
      const uint begin = tokens > state_size ? tokens - state_size : 0u;
      for (uint token = begin + self; token < tokens; token += GROUP) {
        shift_state[shift_row + (position + token) % state_size] = float(qkv[k_row + token]);
      }
    }
  }
}
