#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
// Draws one token a row, as src/cpu/sample.cpp defines it. Several workgroups a row look for the largest logit, each
// in a piece of the row; the last to finish draws the token alone. Without a temperature nothing is left to do then.
//
// No sort: what top-k and top-p keep is a prefix of the ranking, so it is described by a key and an index: keep
// those with a larger key, and of those with this very key the ones up to that index. Keys are the adjusted logits
// as integers of the same order. The key is found by radix selection (four passes over a 256-bin histogram, of
// counts for top-k and of weights for top-p), the index among equals and the drawn token by sums over contiguous
// pieces of the row. Logits are read again in every pass; they stay in the cache.
layout(local_size_x_id = 0) in;

layout(push_constant) uniform Push {
  uint vocabulary;        // V
  uint has_counts;
  uint has_bias;
  uint history_capacity;  // K, 0: none
};
layout(binding = 0, std430) readonly buffer Logits { float logits[]; };      // (B, V)
layout(binding = 1, std430) readonly buffer Slots { int slots[]; };          // (B)
layout(binding = 2, std430) buffer Sampler { uint sampler_rows[]; };         // (S, 16) SamplerRow
layout(binding = 2, std430) buffer SamplerQuads { uvec4 sampler_quads[]; };  // the same, four words at a time
layout(binding = 3, std430) buffer Counts { int counts[]; };                 // (S, V) or anything
layout(binding = 4, std430) readonly buffer Biases { float biases[]; };      // (S, V) or anything
layout(binding = 5, std430) writeonly buffer Tokens { int tokens[]; };       // (B)
layout(binding = 6, std430) writeonly buffer History { int history[]; };     // (S, K) or anything
layout(binding = 7, std430) coherent buffer Bests { uvec2 bests[]; };        // (B, pieces) key and index
#define LAST_GROUP_BINDING 8
#include "last_group.glsl"

const uint most_pieces = 32;  // what the recording side allows
const uint at_once = 4;       // loads of each array under way in an invocation
const uint bin_copies = 4;  // of the histogram, so that neighbours collide less
shared uint bins[256 * bin_copies];
shared uint sums[16];
shared uint partial_key[gl_WorkGroupSize.x];
shared uint partial_index[gl_WorkGroupSize.x];
shared uint found[3];

const uint none = 0xffffffffu;
const uint key_of_minus_infinity = 0x007fffffu;

// The row of this workgroup.
uint row_begin;    // in logits
uint slot_begin;   // in counts and biases
uint limit;        // candidates
float temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
int top_k;
uint draws;
float best_x;
float weight_scale;  // 2^30 / sum of exponentials
// What is kept so far.
uint least_key = 0;
uint last_index = none;
uint least_weight = 0;

// Nearest to numerator / denominator: GLSL's own division may be off by 2.5 units in the last place.
float divide(float numerator, float denominator) {
  precise float quotient = numerator / denominator;
  precise float rest = fma(-quotient, denominator, numerator);
  precise float better = quotient + rest / denominator;
  return isinf(quotient) || isnan(better) ? quotient : better;
}

// exp for arguments up to 0, to about one unit in the last place on every device.
float exponential(float argument) {
  if (!(argument > -87.0)) return 0.0;
  const float whole = roundEven(argument * 1.44269504);
  precise float rest = fma(-whole, 0.693359375, argument);
  rest = fma(-whole, -2.12194440e-4, rest);
  precise float series = 1.98412698e-4;
  series = fma(series, rest, 1.38888889e-3);
  series = fma(series, rest, 8.33333333e-3);
  series = fma(series, rest, 4.16666667e-2);
  series = fma(series, rest, 1.66666667e-1);
  series = fma(series, rest, 0.5);
  series = fma(series, rest, 1.0);
  series = fma(series, rest, 1.0);
  return ldexp(series, int(whole));
}

// Larger key: larger x. NaN counts as -infinity, +infinity as the largest number, -0 as 0.
uint key_of(float x) {
  uint bits = floatBitsToUint(x);
  const uint magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) bits = 0xff800000u;
  if (bits == 0x7f800000u) bits = 0x7f7fffffu;
  if (bits == 0x80000000u) bits = 0;
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

float x_of(uint key) { return uintBitsToFloat((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key); }

float bias_at(uint index) { return has_bias != 0 ? biases[slot_begin + index] : 0.0; }
int count_at(uint index) { return has_counts != 0 ? counts[slot_begin + index] : 0; }

uint adjusted_key(float logit, float bias, int count) {
  precise float x = logit + bias;
  if (count > 0) {
    if (x > 0.0) {
      x = divide(x, repetition_penalty);
    } else {
      x = x * repetition_penalty;
    }
    x = x - presence_penalty;
    precise float penalty = frequency_penalty * float(count);
    x = x - penalty;
  }
  return key_of(x);
}

uint key_at(uint index) { return adjusted_key(logits[row_begin + index], bias_at(index), count_at(index)); }

float exponential_of(uint key) {
  return key <= key_of_minus_infinity ? 0.0 : exponential(divide(x_of(key) - best_x, temperature));
}

uint weight_of(uint key) {
  const float value = exponential_of(key) * weight_scale;
  return value >= 8388608.0 ? uint(value) : uint(floor(value + 0.5));
}

bool kept(uint key, uint index) { return key > least_key || (key == least_key && index <= last_index); }

// A fraction in 16 fractional bits; `if_nan` when it is not a number.
uint fixed_point(float fraction, uint if_nan) {
  if ((floatBitsToUint(fraction) & 0x7fffffffu) > 0x7f800000u) return if_nan;
  return uint(floor(clamp(fraction, 0.0, 1.0) * 65536.0 + 0.5));
}

uint scaled(uint weight, uint fraction) { return (weight >> 16) * fraction + (((weight & 65535u) * fraction) >> 16); }

uint sum_over_group(uint value) {
  const uint self = gl_LocalInvocationID.x;
  barrier();
  partial_key[self] = value;
  barrier();
  for (uint width = gl_WorkGroupSize.x / 2; width > 0; width /= 2) {
    if (self < width) partial_key[self] += partial_key[self + width];
    barrier();
  }
  return partial_key[0];
}

float sum_over_group(float value) {
  const uint self = gl_LocalInvocationID.x;
  barrier();
  partial_key[self] = floatBitsToUint(value);
  barrier();
  for (uint width = gl_WorkGroupSize.x / 2; width > 0; width /= 2) {
    if (self < width) {
      partial_key[self] =
          floatBitsToUint(uintBitsToFloat(partial_key[self]) + uintBitsToFloat(partial_key[self + width]));
    }
    barrier();
  }
  return uintBitsToFloat(partial_key[0]);
}

// Of `count` keys in shared memory the largest, and the lowest index that has it.
uvec2 best_of(uint first, uint step, uint count) {
  uint key = 0;
  uint index = none;
  [[unroll]] for (uint i = 0; i < count; ++i) key = max(key, partial_key[first + i * step]);
  [[unroll]] for (uint i = 0; i < count; ++i) {
    if (partial_key[first + i * step] == key) index = min(index, partial_index[first + i * step]);
  }
  return uvec2(key, index);
}

void load_logits(uint first, out float values[at_once]) {
  [[unroll]] for (uint j = 0; j < at_once; ++j) {
    values[j] = logits[row_begin + min(first + j * gl_WorkGroupSize.x, vocabulary - 1)];
  }
}

// The best of the row's logits from `begin` to `end`; the first `values` have been requested already. Two levels of
// at most 32 in shared memory: a barrier takes longer than some reads.
uvec2 best_of_piece(uint begin, uint end, float values[at_once]) {
  const uint self = gl_LocalInvocationID.x;
  uvec2 best = uvec2(0, none);
  for (uint tile = begin; tile < end; tile += at_once * gl_WorkGroupSize.x) {
    if (tile != begin) load_logits(tile + self, values);
    float bias[at_once];
    int count[at_once];
    [[unroll]] for (uint j = 0; j < at_once; ++j) {
      const uint i = min(tile + self + j * gl_WorkGroupSize.x, vocabulary - 1);
      bias[j] = bias_at(i);
      count[j] = count_at(i);
    }
    [[unroll]] for (uint j = 0; j < at_once; ++j) {
      const uint i = tile + self + j * gl_WorkGroupSize.x;
      const uint key = i < min(end, limit) ? adjusted_key(values[j], bias[j], count[j]) : 0;
      if (key > best.x) best = uvec2(key, i);
    }
  }
  partial_key[self] = best.x;
  partial_index[self] = best.y;
  barrier();
  if (self < 32) {
    best = best_of(self, 32, gl_WorkGroupSize.x / 32);
    partial_key[self] = best.x;
    partial_index[self] = best.y;
  }
  barrier();
  return best_of(0, 1, 32);
}

// The best of the row's pieces.
uvec2 best_of_row(uint pieces) {
  const uint self = gl_LocalInvocationID.x;
  if (self < most_pieces) {
    const uvec2 best = self < pieces ? bests[gl_WorkGroupID.x * pieces + self] : uvec2(0, none);
    partial_key[self] = best.x;
    partial_index[self] = best.y;
  }
  barrier();
  return best_of(0, 1, most_pieces);
}

// Of the kept ones by falling key: the key at which the running sum (of weights, or of ones) first exceeds `target`,
// and the sum of all with larger keys.
uvec2 select_key(bool weighted, uint target) {
  const uint self = gl_LocalInvocationID.x;
  uint prefix = 0;
  uint before = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    barrier();
    for (uint i = self; i < 256 * bin_copies; i += gl_WorkGroupSize.x) bins[i] = 0;
    barrier();
    for (uint i = self; i < limit; i += gl_WorkGroupSize.x) {
      const uint key = key_at(i);
      if (shift < 24 && (key >> (shift + 8)) != prefix) continue;
      if (!kept(key, i)) continue;
      const uint amount = weighted ? weight_of(key) : 1u;
      if (amount != 0) atomicAdd(bins[((key >> shift) & 255u) * bin_copies + (self % bin_copies)], amount);
    }
    barrier();
    if (self < 16) {
      uint sum = 0;
      for (uint i = 0; i < 16 * bin_copies; ++i) sum += bins[self * 16 * bin_copies + i];
      sums[self] = sum;
    }
    barrier();
    if (self == 0) {
      uint block = 15;
      while (block > 0 && before + sums[block] <= target) before += sums[block--];
      uint bin = block * 16 + 15;
      for (; bin > block * 16; --bin) {
        uint sum = 0;
        for (uint i = 0; i < bin_copies; ++i) sum += bins[bin * bin_copies + i];
        if (before + sum > target) break;
        before += sum;
      }
      found[0] = bin;
      found[1] = before;
    }
    barrier();
    prefix = (prefix << 8) | found[0];
    before = found[1];
  }
  return uvec2(prefix, before);
}

// What index i counts for in find_index: as one of those with key least_key, or by its final weight.
uint amount_at(bool weighted, uint index) {
  const uint key = key_at(index);
  if (!kept(key, index)) return 0;
  if (!weighted) return key == least_key ? 1 : 0;
  const uint weight = weight_of(key);
  return weight >= least_weight ? weight : 0;
}

// The first index at which the running sum over indices exceeds `target`, or `target_of_sum` scaled by the whole sum:
// target = high word of random * sum. `none` if it never does.
uint find_index(bool weighted, uint target, bool scale_target) {
  const uint self = gl_LocalInvocationID.x;
  const uint piece = (limit + gl_WorkGroupSize.x - 1) / gl_WorkGroupSize.x;
  const uint piece_end = min((self + 1) * piece, limit);
  uint sum = 0;
  for (uint i = self * piece; i < piece_end; ++i) sum += amount_at(weighted, i);
  barrier();
  partial_key[self] = sum;
  barrier();
  // Inclusive prefix sums over the pieces.
  for (uint step = 1; step < gl_WorkGroupSize.x; step *= 2) {
    const uint add = self >= step ? partial_key[self - step] : 0;
    barrier();
    partial_key[self] += add;
    barrier();
  }
  const uint total = partial_key[gl_WorkGroupSize.x - 1];
  if (scale_target) {
    uint low;
    umulExtended(target, total, target, low);
  }
  if (self == 0) found[0] = none;
  barrier();
  const uint begin_sum = self > 0 ? partial_key[self - 1] : 0;
  if (begin_sum <= target && target < partial_key[self]) {
    found[0] = self * piece;
    found[1] = begin_sum;
  }
  barrier();
  const uint begin = found[0];
  uint running = found[1];
  barrier();
  if (begin == none) return none;
  // Within the piece: amounts into shared memory, then one invocation walks over them.
  for (uint tile = 0; tile < piece; tile += gl_WorkGroupSize.x) {
    const uint index = begin + tile + self;
    partial_index[self] = tile + self < piece && index < limit ? amount_at(weighted, index) : 0;
    if (self == 0) found[2] = none;
    barrier();
    if (self == 0) {
      const uint count = min(gl_WorkGroupSize.x, piece - tile);
      for (uint i = 0; i < count; ++i) {
        running += partial_index[i];
        if (running > target) {
          found[2] = begin + tile + i;
          break;
        }
      }
    }
    barrier();
    const uint result = found[2];
    barrier();
    if (result != none) return result;
  }
  return none;
}

// Word 0 of Philox4x32-10 with counter (draw, 0, 0, 0).
uint philox(uint draw, uint key_low, uint key_high) {
  uvec4 c = uvec4(draw, 0, 0, 0);
  for (int round = 0; round < 10; ++round) {
    uint high0, low0, high1, low1;
    umulExtended(0xD2511F53u, c.x, high0, low0);
    umulExtended(0xCD9E8D57u, c.z, high1, low1);
    c = uvec4(high1 ^ c.y ^ key_low, low1, high0 ^ c.w ^ key_high, low0);
    key_low += 0x9E3779B9u;
    key_high += 0xBB67AE85u;
  }
  return c.x;
}

uint draw_token(uvec2 best, uint key_low, uint key_high) {
  if (!(temperature > 0.0) || best.x <= key_of_minus_infinity) return best.y;
  const uint self = gl_LocalInvocationID.x;
  best_x = x_of(best.x);
  if (top_k > 0 && uint(top_k) < limit) {
    const uvec2 selected = select_key(false, uint(top_k) - 1);
    least_key = selected.x;
    last_index = find_index(false, uint(top_k) - selected.y - 1, false);
  }

  float exponentials = 0.0;
  for (uint i = self; i < limit; i += gl_WorkGroupSize.x) {
    const uint key = key_at(i);
    if (kept(key, i)) exponentials += exponential_of(key);
  }
  weight_scale = divide(1073741824.0, sum_over_group(exponentials));

  const uint top_share = fixed_point(top_p, 65536);
  if (top_share < 65536) {
    uint weights = 0;
    for (uint i = self; i < limit; i += gl_WorkGroupSize.x) {
      const uint key = key_at(i);
      if (kept(key, i)) weights += weight_of(key);
    }
    const uint nucleus = max(1u, scaled(sum_over_group(weights), top_share));
    const uvec2 selected = select_key(true, nucleus - 1);
    const uint weight = max(1u, weight_of(selected.x));
    if (selected.x > least_key) last_index = none;
    least_key = selected.x;
    last_index = find_index(false, (nucleus - selected.y + weight - 1) / weight - 1, false);
  }
  least_weight = scaled(weight_of(best.x), fixed_point(min_p, 0));

  const uint token = find_index(true, philox(draws, key_low, key_high), true);
  return token == none ? best.y : token;
}

void main() {
  const uint batch_index = gl_WorkGroupID.x;
  const uint pieces = gl_NumWorkGroups.y;
  const uint piece = (vocabulary + pieces - 1) / pieces;
  const uint begin = gl_WorkGroupID.y * piece;
  const uint slot = uint(slots[batch_index]);
  row_begin = batch_index * vocabulary;
  slot_begin = slot * vocabulary;
  // Requested while the slot is not known yet.
  float values[at_once];
  load_logits(begin + gl_LocalInvocationID.x, values);

  const uvec4 first_quad = sampler_quads[slot * 4];
  const uvec4 second_quad = sampler_quads[slot * 4 + 1];
  const uvec4 third_quad = sampler_quads[slot * 4 + 2];
  temperature = uintBitsToFloat(first_quad.x);
  top_k = int(first_quad.y);
  top_p = uintBitsToFloat(first_quad.z);
  min_p = uintBitsToFloat(first_quad.w);
  repetition_penalty = uintBitsToFloat(second_quad.x);
  presence_penalty = uintBitsToFloat(second_quad.y);
  frequency_penalty = uintBitsToFloat(second_quad.z);
  const int vocabulary_limit = int(second_quad.w);
  limit = vocabulary_limit > 0 ? min(uint(vocabulary_limit), vocabulary) : vocabulary;
  draws = third_quad.z;

  uvec2 best = best_of_piece(begin, min(begin + piece, vocabulary), values);
  if (pieces > 1) {
    if (gl_LocalInvocationID.x == 0) bests[batch_index * pieces + gl_WorkGroupID.y] = best;
    if (!last_group(batch_index, pieces)) return;
    best = best_of_row(pieces);
  }
  const uint token = draw_token(best, third_quad.x, third_quad.y);
  if (gl_LocalInvocationID.x == 0) {
    tokens[batch_index] = int(token);
    if (has_counts != 0) atomicAdd(counts[slot_begin + token], 1);
    if (history_capacity > 0) history[slot * history_capacity + draws % history_capacity] = int(token);
    sampler_rows[slot * 16 + 10] = draws + 1;
  }
}
