// What follows a mixer, of one token, in one dispatch: residual += W_out x + b_out; then
// residual += W_2 gelu(W_1 layer_norm(residual) + b_1) + b_2 (ops.h: OutMlpArgs). Three products, each of which needs
// the whole result of the one before: with a barrier between dispatches that takes 2.5 us a time on an H100, in which
// nothing is read; here workgroups wait for numbers, and their weights are on the way meanwhile.
//
// Work is cut into items, those of the first stage first. A workgroup draws the next item from a counter while it does
// one, and does its items in the order of their numbers; an item waits only for what items of lower numbers write. So
// the lowest item that is not done belongs to a workgroup that has begun, has done all its lower ones, and waits for
// nothing: it will be done, however few workgroups run at once, provided that workgroups that have begun make progress
// (VulkanLimits::groups_may_wait). No workgroup waits for one that has not begun.
//
// What passes between items is written in words of 16 bits of value and 16 bits of tag: a word is there when it has
// the tag of this dispatch. So there are no flags, and no order of memory to rely on; a number of 32 bits takes two
// words. The counter's upper half is the tag: the last workgroup to draw in vain begins the next. Each dispatch writes
// every word, so a tag of 65536 dispatches ago is never met.
//
// Teams, rows, the split of K and the norm are those of linear_gemv.glsl, and so is the order of additions: the
// result is that of the three dispatches, bit for bit.
#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_KHR_shader_subgroup_vote : require

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint GROUP = 128u;
layout(constant_id = 1) const uint TEAMS = 4u;        // subgroups of a workgroup, a multiple of both splits
layout(constant_id = 2) const uint LANES = 32u;       // of a subgroup
layout(constant_id = 3) const uint WIDTH = 768u;      // D
layout(constant_id = 4) const uint HIDDEN = 3072u;    // M
layout(constant_id = 5) const uint OUT_SPLIT = 1u;    // teams that share a row of the out projection
layout(constant_id = 6) const uint OUT_ROWS = 1u;     // rows that they take
layout(constant_id = 7) const uint UP_ROWS = 1u;      // rows of fc1 a team
layout(constant_id = 8) const uint DOWN_SPLIT = 1u;   // of fc2, as OUT_SPLIT
layout(constant_id = 9) const uint DOWN_ROWS = 1u;
layout(constant_id = 10) const uint NORM_GROUP = 128u;  // invocations that normalise


layout(push_constant) uniform Push {
  float width;  // D: a division by a constant might be made a product
  float epsilon;
  float step_epsilon;
};

#ifndef H3_STEP
layout(set = 0, binding = 0) readonly buffer X { uvec4 x_units[]; };              // (D) f16
#endif
layout(set = 0, binding = 1) buffer Residual { float residual[]; };               // (D)
layout(set = 0, binding = 2) readonly buffer OutWeight { uvec4 out_units[]; };    // (D, D) f16
layout(set = 0, binding = 3) readonly buffer OutBias { float out_bias[]; };       // (D)
layout(set = 0, binding = 4) readonly buffer Gamma { vec4 gamma[]; };             // (D)
layout(set = 0, binding = 5) readonly buffer Beta { vec4 beta[]; };               // (D)
layout(set = 0, binding = 6) readonly buffer UpWeight { uvec4 up_units[]; };      // (M, D) f16
layout(set = 0, binding = 7) readonly buffer UpBias { float up_bias[]; };         // (M)
layout(set = 0, binding = 8) readonly buffer DownWeight { uvec4 down_units[]; };  // (D, M) f16
layout(set = 0, binding = 9) readonly buffer DownBias { float down_bias[]; };     // (D)
// The residual stream between the products, two words an element; then the hidden row, one a word; then what the
// mixer gives, likewise.
layout(set = 0, binding = 10) volatile coherent buffer Exchange { uint exchange[]; };
layout(set = 0, binding = 10) volatile coherent buffer Exchange2 { uvec2 exchange2[]; };
layout(set = 0, binding = 10) volatile coherent buffer Exchange4 { uvec4 exchange4[]; };
layout(set = 0, binding = 11) coherent buffer Counter { uint counter; };  // 16 bits each: tag - 1, items drawn

#ifdef H3_STEP
layout(constant_id = 11) const uint kStateSize = 64u;  // N
layout(constant_id = 12) const uint kGroups = 1u;      // ceil(n / lanes)
const uint kModes = kStateSize / 2u;
const uint kChannels = TEAMS / 4u;  // of an item of the step

layout(set = 0, binding = 0) readonly buffer StepWeight { uvec4 step_units[]; };      // (3 D, D) f16
layout(set = 0, binding = 12) readonly buffer StepBias { float step_bias[]; };         // (3 D)
layout(set = 0, binding = 13) readonly buffer StepGamma { vec4 step_gamma[]; };        // (D)
layout(set = 0, binding = 14) readonly buffer StepBeta { vec4 step_beta[]; };          // (D)
layout(set = 0, binding = 15) readonly buffer Slots { int slots[]; };                  // (1)
layout(set = 0, binding = 16) readonly buffer Positions { int positions[]; };          // (S)
layout(set = 0, binding = 17) buffer Shift { float shift_state[]; };                   // (S, D, N)
layout(set = 0, binding = 18) buffer ModeState { vec2 mode_state[]; };                 // (S, D, n)
layout(set = 0, binding = 19) readonly buffer A { vec4 a_in[]; };                      // (D, n) high, low
layout(set = 0, binding = 20) readonly buffer B { vec2 b_in[]; };                      // (D, n)
layout(set = 0, binding = 21) readonly buffer C { vec2 c_in[]; };                      // (D, n)
layout(set = 0, binding = 22) readonly buffer D { float d_in[]; };                     // (D)
layout(set = 0, binding = 23) readonly buffer Taps { float taps[]; };                  // (D, N)
#include "h3_step.glsl"

const uint kStepItems = (WIDTH + kChannels - 1u) / kChannels;
shared float shared_taps[kChannels * kStateSize];
shared float projected_sums[kChannels * 3u];
#else
const uint kStepItems = 0u;
#endif

const uint kOutRows = TEAMS / OUT_SPLIT * OUT_ROWS;  // of an item
const uint kUpRows = TEAMS * UP_ROWS;
const uint kDownRows = TEAMS / DOWN_SPLIT * DOWN_ROWS;
const uint kOutItems = (WIDTH + kOutRows - 1u) / kOutRows;
const uint kUpItems = (HIDDEN + kUpRows - 1u) / kUpRows;
const uint kDownItems = (WIDTH + kDownRows - 1u) / kDownRows;
const uint kItems = kStepItems + kOutItems + kUpItems + kDownItems;
const uint kWidthUnits = WIDTH / 8u, kHiddenUnits = HIDDEN / 8u;
// 16-byte units of a row that a lane reads
const uint kOutFlying = (kWidthUnits + LANES * OUT_SPLIT - 1u) / (LANES * OUT_SPLIT);
const uint kDownFlying = (kHiddenUnits + LANES * DOWN_SPLIT - 1u) / (LANES * DOWN_SPLIT);
const uint kUpFlying = (kWidthUnits + LANES - 1u) / LANES;
const uint kQuadsHeld = (WIDTH / 4u + NORM_GROUP - 1u) / NORM_GROUP;
const uint kHiddenHeld = (HIDDEN / 4u + GROUP - 1u) / GROUP;
const uint kWidthHeld = (WIDTH / 4u + GROUP - 1u) / GROUP;
const uint kHiddenQuads = WIDTH / 2u;                  // where the hidden row begins in the exchange
const uint kMixedQuads = kHiddenQuads + HIDDEN / 4u;  // and what the mixer gives

shared uint drawn;
shared float partial[TEAMS * (OUT_ROWS > DOWN_ROWS ? OUT_ROWS : DOWN_ROWS)];
shared float group_parts[2u * TEAMS];
shared uvec4 staged[WIDTH / 4u > HIDDEN / 8u ? WIDTH / 4u : HIDDEN / 8u];

uint tag;
uint team, lane;

vec4 unpack4(uvec2 bits) { return vec4(unpackHalf2x16(bits.x), unpackHalf2x16(bits.y)); }
float dot_onto(vec4 a, vec4 b, float sum) { return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum)))); }
float gelu_tanh(float x) {
  const float twice = 1.5957691216057308 * fma(0.044715 * x * x, x, x);
  return x / (1.0 + exp(min(-twice, 80.0)));
}
bool fresh(uvec4 words) { return all(equal(words & 0xffffu, uvec4(tag))); }
bool fresh(uvec2 words) { return all(equal(words & 0xffffu, uvec2(tag))); }
float float_of(uvec2 words) { return uintBitsToFloat((words.x & 0xffff0000u) | (words.y >> 16u)); }
vec2 floats_of(uvec4 words) { return vec2(float_of(words.xy), float_of(words.zw)); }

// After the products' barrier: of `rows` rows of each set of `split` teams, this invocation's.
float sum_of_row(uint split, uint rows) {
  const uint set = gl_LocalInvocationIndex / rows, within = gl_LocalInvocationIndex % rows;
  float sum = 0.0;
  [[unroll]] for (uint part = 0u; part < split; ++part) sum += partial[(set * split + part) * rows + within];
  return sum;
}

// Four halves into shared memory, in the order of the row.
void stage_halves(uint quad, uvec4 words) {
  staged[quad / 2u][quad % 2u * 2u] = (words.x >> 16u) | (words.y & 0xffff0000u);
  staged[quad / 2u][quad % 2u * 2u + 1u] = (words.z >> 16u) | (words.w & 0xffff0000u);
}

void out_projection(uint item) {
  const uint first = item * kOutRows + team / OUT_SPLIT * OUT_ROWS, part = team % OUT_SPLIT;
  uvec4 flying[OUT_ROWS * kOutFlying], x[kOutFlying];
  [[unroll]] for (uint u = 0u; u < kOutFlying; ++u) {
    const uint unit = min((part + u * OUT_SPLIT) * LANES + lane, kWidthUnits - 1u);
    [[unroll]] for (uint i = 0u; i < OUT_ROWS; ++i) {
      flying[u * OUT_ROWS + i] = out_units[min(first + i, WIDTH - 1u) * kWidthUnits + unit];
    }
#ifndef H3_STEP
    x[u] = x_units[unit];
#endif
  }
  const uint row = item * kOutRows + gl_LocalInvocationIndex;
  const bool there = gl_LocalInvocationIndex < kOutRows && row < WIDTH;
  const float bias = there ? out_bias[row] : 0.0;
  const float before = there ? residual[row] : 0.0;
#ifdef H3_STEP
  {
    uvec4 words[kWidthHeld];
    bool all_there;
    do {
      all_there = true;
      [[unroll]] for (uint i = 0u; i < kWidthHeld; ++i) {
        words[i] = exchange4[kMixedQuads + min(i * GROUP + gl_LocalInvocationIndex, WIDTH / 4u - 1u)];
      }
      [[unroll]] for (uint i = 0u; i < kWidthHeld; ++i) all_there = all_there && fresh(words[i]);
    } while (!subgroupAll(all_there));
    [[unroll]] for (uint i = 0u; i < kWidthHeld; ++i) {
      const uint quad = i * GROUP + gl_LocalInvocationIndex;
      if (quad < WIDTH / 4u) stage_halves(quad, words[i]);
    }
  }
  barrier();
  [[unroll]] for (uint u = 0u; u < kOutFlying; ++u) {
    x[u] = staged[min((part + u * OUT_SPLIT) * LANES + lane, kWidthUnits - 1u)];
  }
#endif
  [[unroll]] for (uint i = 0u; i < OUT_ROWS; ++i) {
    float sum = 0.0;
    [[unroll]] for (uint u = 0u; u < kOutFlying; ++u) {
      if ((part + u * OUT_SPLIT) * LANES + lane < kWidthUnits) {
        const uvec4 w = flying[u * OUT_ROWS + i];
        sum = dot_onto(unpack4(w.xy), unpack4(x[u].xy), sum);
        sum = dot_onto(unpack4(w.zw), unpack4(x[u].zw), sum);
      }
    }
    sum = subgroupAdd(sum);
    if (lane == 0u) partial[team * OUT_ROWS + i] = sum;
  }
  barrier();
  if (there) {
    const uint bits = floatBitsToUint(before + (sum_of_row(OUT_SPLIT, OUT_ROWS) + bias));
    exchange2[row] = uvec2((bits & 0xffff0000u) | tag, (bits << 16u) | tag);
  }
}

float group_sum(uint which, float value) {
  const float sum = subgroupAdd(value);
  if (lane == 0u) group_parts[which * TEAMS + team] = sum;
  barrier();
  float all = 0.0;
  [[unroll]] for (uint part = 0u; part < NORM_GROUP / LANES; ++part) all += group_parts[which * TEAMS + part];
  return all;
}

// Of a row that the first NORM_GROUP invocations hold, zeros beyond its end, its layer norm into shared memory: low
// quads of all units, then high ones.
void normalise(vec4 held[kQuadsHeld], vec4 gammas[kQuadsHeld], vec4 betas[kQuadsHeld], float norm_epsilon) {
  const uint self = gl_LocalInvocationIndex;
  const bool normalises = self < NORM_GROUP;
  float sum = 0.0;
  [[unroll]] for (uint i = 0u; i < kQuadsHeld; ++i) sum += (held[i].x + held[i].y) + (held[i].z + held[i].w);
  const float mean = group_sum(0u, sum) / width;
  float squares = 0.0;
  [[unroll]] for (uint i = 0u; i < kQuadsHeld; ++i) {
    const vec4 v = i * NORM_GROUP + self < WIDTH / 4u && normalises ? held[i] - mean : vec4(0.0);
    squares += dot(v, v);
  }
  const float scale = inversesqrt(group_sum(1u, squares) / width + norm_epsilon);
  [[unroll]] for (uint i = 0u; i < kQuadsHeld; ++i) {
    const uint quad = i * NORM_GROUP + self;
    if (normalises && quad < WIDTH / 4u) {
      staged[quad % 2u * kWidthUnits + quad / 2u] = floatBitsToUint(fma((held[i] - mean) * scale, gammas[i], betas[i]));
    }
  }
  barrier();
}

#ifdef H3_STEP
float tap(uint channel, uint age) { return shared_taps[team / 4u * kStateSize + age]; }

// Four teams a channel: one each for the rows of q, k and v, and one for the state.
void mix(uint item) {
  const uint self = gl_LocalInvocationIndex;
  const uint role = team % 4u;
  const uint wanted = item * kChannels + team / 4u;
  const bool there = wanted < WIDTH;
  const uint channel = min(wanted, WIDTH - 1u);
  uvec4 flying[kUpFlying];
  float bias = 0.0, d = 0.0;
  uint state_row = 0u, shift_row = 0u, newest = 0u;
  if (role < 3u) {
    const uint row = role * WIDTH + channel;
    [[unroll]] for (uint u = 0u; u < kUpFlying; ++u) {
      flying[u] = step_units[row * kWidthUnits + min(u * LANES + lane, kWidthUnits - 1u)];
    }
    bias = step_bias[row];
  } else {
    load_filter(channel, lane, LANES);
    float own_taps[kKeyGroups];
    [[unroll]] for (uint group = 0u; group < kKeyGroups; ++group) {
      own_taps[group] = taps[channel * kStateSize + min(group * LANES + lane, kStateSize - 1u)];
    }
    d = d_in[channel];
    const uint slot = uint(slots[0]);
    newest = uint(positions[slot]) % kStateSize;
    state_row = (slot * WIDTH + channel) * kModes;
    shift_row = (slot * WIDTH + channel) * kStateSize;
    load_state(state_row, shift_row, lane, LANES);
    [[unroll]] for (uint group = 0u; group < kKeyGroups; ++group) {
      const uint age = group * LANES + lane;
      if (age < kStateSize) shared_taps[team / 4u * kStateSize + age] = own_taps[group];
    }
  }
  vec4 held[kQuadsHeld], gammas[kQuadsHeld], betas[kQuadsHeld];
  [[unroll]] for (uint i = 0u; i < kQuadsHeld; ++i) {
    const uint quad = i * NORM_GROUP + self;
    held[i] = vec4(0.0);
    if (self < NORM_GROUP) {
      gammas[i] = step_gamma[min(quad, WIDTH / 4u - 1u)];
      betas[i] = step_beta[min(quad, WIDTH / 4u - 1u)];
      if (quad < WIDTH / 4u) held[i] = vec4(residual[4u * quad], residual[4u * quad + 1u], residual[4u * quad + 2u], residual[4u * quad + 3u]);
    }
  }
  normalise(held, gammas, betas, step_epsilon);
  if (role < 3u) {
    float sum = 0.0;
    [[unroll]] for (uint u = 0u; u < kUpFlying; ++u) {
      const uint unit = u * LANES + lane;
      if (unit < kWidthUnits) {
        sum = dot_onto(unpack4(flying[u].xy), uintBitsToFloat(staged[unit]), sum);
        sum = dot_onto(unpack4(flying[u].zw), uintBitsToFloat(staged[kWidthUnits + unit]), sum);
      }
    }
    sum = subgroupAdd(sum);
    if (lane == 0u) projected_sums[team / 4u * 3u + role] = sum + bias;
  }
  const float past = role == 3u ? subgroupAdd(past_keys(channel, newest, lane, LANES)) : 0.0;
  barrier();
  if (role == 3u) {
    const uint first = team / 4u * 3u;
    const vec3 exact = vec3(projected_sums[first], projected_sums[first + 1u], projected_sums[first + 2u]);
    const vec3 projected = vec3(unpackHalf2x16(packHalf2x16(exact.xy)), unpackHalf2x16(packHalf2x16(exact.zz)).x);
    const float w = (past + tap(channel, 0u) * projected.y) * projected.z;
    const float z = d * w + 2.0 * subgroupAdd(step_modes(state_row, w, there, lane, LANES));
    if (there && lane == 0u) {
      shift_state[shift_row + newest] = projected.y;
      exchange[4u * kMixedQuads + channel] = (packHalf2x16(vec2(0.0, projected.x * z)) & 0xffff0000u) | tag;
    }
  }
}
#endif

void up(uint item) {
  const uint self = gl_LocalInvocationIndex;
  const uint first = (item * TEAMS + team) * UP_ROWS;
  uvec4 flying[UP_ROWS * kUpFlying];
  [[unroll]] for (uint u = 0u; u < kUpFlying; ++u) {
    const uint unit = min(u * LANES + lane, kWidthUnits - 1u);
    [[unroll]] for (uint i = 0u; i < UP_ROWS; ++i) {
      flying[u * UP_ROWS + i] = up_units[min(first + i, HIDDEN - 1u) * kWidthUnits + unit];
    }
  }
  const uint row = first + lane;
  const bool there = lane < UP_ROWS && row < HIDDEN;
  const float bias = there ? up_bias[row] : 0.0;

  const bool normalises = self < NORM_GROUP;
  vec4 held[kQuadsHeld], gammas[kQuadsHeld], betas[kQuadsHeld];
  [[unroll]] for (uint i = 0u; i < kQuadsHeld; ++i) {
    const uint quad = min(i * NORM_GROUP + self, WIDTH / 4u - 1u);
    held[i] = vec4(0.0);
    if (normalises) {
      gammas[i] = gamma[quad];
      betas[i] = beta[quad];
    }
  }
  if (normalises) {
    uvec4 words[2u * kQuadsHeld];
    bool all_there;
    do {
      [[unroll]] for (uint i = 0u; i < kQuadsHeld; ++i) {
        const uint quad = min(i * NORM_GROUP + self, WIDTH / 4u - 1u);
        words[2u * i] = exchange4[2u * quad];
        words[2u * i + 1u] = exchange4[2u * quad + 1u];
      }
      all_there = true;
      [[unroll]] for (uint i = 0u; i < 2u * kQuadsHeld; ++i) all_there = all_there && fresh(words[i]);
    } while (!subgroupAll(all_there));
    [[unroll]] for (uint i = 0u; i < kQuadsHeld; ++i) {
      if (i * NORM_GROUP + self < WIDTH / 4u) held[i] = vec4(floats_of(words[2u * i]), floats_of(words[2u * i + 1u]));
    }
  }
  normalise(held, gammas, betas, epsilon);
  float own = 0.0;
  float sums[UP_ROWS];
  [[unroll]] for (uint i = 0u; i < UP_ROWS; ++i) sums[i] = 0.0;
  [[unroll]] for (uint u = 0u; u < kUpFlying; ++u) {
    const uint unit = u * LANES + lane;
    if (unit < kWidthUnits) {
      const vec4 low = uintBitsToFloat(staged[unit]), high = uintBitsToFloat(staged[kWidthUnits + unit]);
      [[unroll]] for (uint i = 0u; i < UP_ROWS; ++i) {
        const uvec4 w = flying[u * UP_ROWS + i];
        sums[i] = dot_onto(unpack4(w.xy), low, sums[i]);
        sums[i] = dot_onto(unpack4(w.zw), high, sums[i]);
      }
    }
  }
  [[unroll]] for (uint i = 0u; i < UP_ROWS; ++i) {
    const float total = subgroupAdd(sums[i]);
    if (lane == i) own = total;
  }
  if (there) exchange[2u * WIDTH + row] = (packHalf2x16(vec2(0.0, gelu_tanh(own + bias))) & 0xffff0000u) | tag;
}

void down(uint item) {
  const uint self = gl_LocalInvocationIndex;
  const uint first = item * kDownRows + team / DOWN_SPLIT * DOWN_ROWS, part = team % DOWN_SPLIT;
  uvec4 flying[DOWN_ROWS * kDownFlying];
  [[unroll]] for (uint u = 0u; u < kDownFlying; ++u) {
    const uint unit = min((part + u * DOWN_SPLIT) * LANES + lane, kHiddenUnits - 1u);
    [[unroll]] for (uint i = 0u; i < DOWN_ROWS; ++i) {
      flying[u * DOWN_ROWS + i] = down_units[min(first + i, WIDTH - 1u) * kHiddenUnits + unit];
    }
  }
  const uint row = item * kDownRows + self;
  const bool there = self < kDownRows && row < WIDTH;
  const float bias = there ? down_bias[row] : 0.0;
  uvec2 before;  // the residual stream
  {
    uvec4 words[kHiddenHeld];
    bool all_there;
    do {
      before = exchange2[min(row, WIDTH - 1u)];
      [[unroll]] for (uint i = 0u; i < kHiddenHeld; ++i) {
        words[i] = exchange4[kHiddenQuads + min(i * GROUP + self, HIDDEN / 4u - 1u)];
      }
      all_there = fresh(before);
      [[unroll]] for (uint i = 0u; i < kHiddenHeld; ++i) all_there = all_there && fresh(words[i]);
    } while (!subgroupAll(all_there));
    [[unroll]] for (uint i = 0u; i < kHiddenHeld; ++i) {
      const uint quad = i * GROUP + self;
      if (quad < HIDDEN / 4u) stage_halves(quad, words[i]);
    }
  }
  barrier();
  float sums[DOWN_ROWS];
  [[unroll]] for (uint i = 0u; i < DOWN_ROWS; ++i) sums[i] = 0.0;
  [[unroll]] for (uint u = 0u; u < kDownFlying; ++u) {
    const uint unit = (part + u * DOWN_SPLIT) * LANES + lane;
    if (unit < kHiddenUnits) {
      const uvec4 x = staged[unit];
      [[unroll]] for (uint i = 0u; i < DOWN_ROWS; ++i) {
        const uvec4 w = flying[u * DOWN_ROWS + i];
        sums[i] = dot_onto(unpack4(w.xy), unpack4(x.xy), sums[i]);
        sums[i] = dot_onto(unpack4(w.zw), unpack4(x.zw), sums[i]);
      }
    }
  }
  [[unroll]] for (uint i = 0u; i < DOWN_ROWS; ++i) {
    const float sum = subgroupAdd(sums[i]);
    if (lane == 0u) partial[team * DOWN_ROWS + i] = sum;
  }
  barrier();
  if (there) residual[row] = float_of(before) + (sum_of_row(DOWN_SPLIT, DOWN_ROWS) + bias);
}

void main() {
  const uint self = gl_LocalInvocationIndex;
  team = gl_SubgroupID;
  lane = gl_SubgroupInvocationID;
  if (self == 0u) drawn = atomicAdd(counter, 1u);
  barrier();
  uint mine = drawn;
  tag = ((mine >> 16u) + 1u) & 0xffffu;
  uint item = mine & 0xffffu;
  while (item < kItems) {
    uint ahead = 0u;
    if (self == 0u) ahead = atomicAdd(counter, 1u);
    const uint tail = item - kStepItems;
#ifdef H3_STEP
    if (item < kStepItems) {
      mix(item);
    } else
#endif
    if (tail < kOutItems) {
      out_projection(tail);
    } else if (tail < kOutItems + kUpItems) {
      up(tail - kOutItems);
    } else {
      down(tail - kOutItems - kUpItems);
    }
    if (self == 0u) drawn = ahead;
    barrier();
    item = drawn & 0xffffu;
  }
  // Every workgroup draws once in vain; the last of these begins the next run.
  if (self == 0u && item == kItems + gl_NumWorkGroups.x - 1u) atomicExchange(counter, tag << 16u);
}
