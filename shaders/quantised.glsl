// Quantised matrices (src/base/quantised.h): a row of K weights is its quants, then a scale for each 32 of them, then
// zeros up to 16 bytes. -DWEIGHT_Q8 or -DWEIGHT_Q4.
#ifndef QUANTISED_GLSL
#define QUANTISED_GLSL

#ifdef WEIGHT_Q4
const uint kUnit = 32u;  // weights of 16 bytes
#else
const uint kUnit = 16u;
#endif

// In units of 16 bytes.
uint quantised_row_units(uint K) { return (K / kUnit * 16u + K / 16u + 15u) / 16u; }

// Weights 4 q .. 4 q + 3 of a unit, but for the scale. In q4 the low halves of all bytes come before the high halves.
vec4 unit_quad(uvec4 bits, uint q) {
#ifdef WEIGHT_Q4
  const uint word = bits[q % 4u] >> (q / 4u * 4u);
  return vec4(word & 15u, word >> 8u & 15u, word >> 16u & 15u, word >> 24u & 15u) - 8.0;
#else
  // The bytes become the last bits of floats of 2^23, which is faster than to convert them (on an H100, by 1 us of a
  // mixer's step of 2048 channels).
  const uint word = bits[q] ^ 0x80808080u;
  const uvec4 bytes = uvec4(word & 255u, word >> 8u & 255u, word >> 16u & 255u, word >> 24u);
  return uintBitsToFloat(bytes | 0x4b000000u) - 8388736.0;  // 2^23 + 128
#endif
}

// Of a unit of a row: the word that holds the scale of its block, and which half it is.
uint scale_block(uint unit) {
#ifdef WEIGHT_Q4
  return unit;
#else
  return unit / 2u;
#endif
}
uint scale_word(uint row, uint unit, uint K) {
  return row * quantised_row_units(K) * 4u + K / kUnit * 4u + scale_block(unit) / 2u;
}
float scale_of(uint word, uint unit) {
  const vec2 halves = unpackHalf2x16(word);
  return (scale_block(unit) & 1u) == 0u ? halves.x : halves.y;
}

#endif
