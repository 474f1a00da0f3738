// Rotary position embedding, in place, on q and k of qkv (B, L, 3 D): the pairs (j, j + rotary_dim / 2) of a head
// turn by position * 10000^(-2 j / rotary_dim).
//
// The angle is counted in turns, as 64-bit fixed point fractions: position times turns per token modulo one is then
// exact integer arithmetic, however large the position, where an fp32 product would be off by 0.01 radians at
// 131072. Turns per token are ratio^j / (2 pi), by products of the powers ratio^(2^i) that the host made. Sine and
// cosine are polynomials on an eighth of a turn, because the built-in ones may err by 2^-11.
#version 450
#extension GL_GOOGLE_include_directive : require
#ifdef ACT_F16
#extension GL_EXT_shader_16bit_storage : require
#define ACT float16_t
#else
#define ACT float
#endif

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint GROUP = 128u;

layout(set = 0, binding = 0) buffer Qkv { ACT qkv[]; };                       // (B, L, 3 D)
layout(set = 0, binding = 1) readonly buffer Slots { int slots[]; };          // (B)
layout(set = 0, binding = 2) readonly buffer Positions { int positions[]; };  // (S)

layout(push_constant) uniform Push {
  uvec2 powers[8];  // ratio^(2^i) as 0.64 fixed point (low word, high word); ratio = 10000^(-2 / rotary_dim)
  uint L;
  uint D;
  uint heads;
  uint width;       // of a head
  uint half_dim;    // rotary_dim / 2: pairs a head
  uint total;       // B L 2 heads half_dim
};

// The high 64 bits of the product, without the carries from the lowest words: off by less than 2^-62.
uvec2 multiply_fractions(uvec2 a, uvec2 b) {
  uint high, low, cross_high, cross_low, other_high, other_low;
  umulExtended(a.y, b.y, high, low);
  umulExtended(a.y, b.x, cross_high, cross_low);
  umulExtended(a.x, b.y, other_high, other_low);
  uint carry;
  low = uaddCarry(low, cross_high, carry);
  high += carry;
  low = uaddCarry(low, other_high, carry);
  high += carry;
  return uvec2(low, high);
}

// (cos, sin) of a fraction of a turn: turn / 2^32.
vec2 cos_sin(uint turn) {
  const uint quadrant = (turn + 0x20000000u) >> 30u;
  const int within = int(turn - (quadrant << 30u));                  // [-2^29, 2^29): an eighth of a turn each way
  const float x = float(within) * 1.4629180792671596e-09;            // 2 pi / 2^32
  const float z = x * x;
  const float sine = fma(x * z, fma(z, fma(z, -1.9515295891e-4, 8.3321608736e-3), -1.6666654611e-1), x);
  const float cosine = fma(z * z, fma(z, fma(z, 2.443315711809948e-5, -1.388731625493765e-3), 4.166664568298827e-2),
                           fma(z, -0.5, 1.0));
  const vec2 turned = (quadrant & 1u) != 0u ? vec2(-sine, cosine) : vec2(cosine, sine);
  return (quadrant & 2u) != 0u ? -turned : turned;
}

void main() {
  const uint stride = gl_NumWorkGroups.x * GROUP;
  for (uint index = gl_WorkGroupID.x * GROUP + gl_LocalInvocationIndex; index < total; index += stride) {
    const uint j = index % half_dim;
    const uint head = index / half_dim % heads;
    const uint which = index / (half_dim * heads) % 2u;  // q, k
    const uint row = index / (half_dim * heads * 2u);
    const uint position = uint(positions[slots[row / L]]) + row % L;

    uvec2 turns = uvec2(0x9391054au, 0x28be60dbu);  // 1 / (2 pi) as a fraction
    for (uint i = 0u; i < 8u; ++i) {
      if ((j >> i & 1u) != 0u) turns = multiply_fractions(turns, powers[i]);
    }
    // position * turns modulo 1, to 32 bits, rounded
    uint low_high, low_low;
    umulExtended(position, turns.x, low_high, low_low);
    const uint turn = position * turns.y + low_high + (low_low >> 31u);

    const vec2 rotation = cos_sin(turn);
    const uint first = row * 3u * D + which * D + head * width + j;
    const uint second = first + half_dim;
    const float x = float(qkv[first]);
    const float y = float(qkv[second]);
    qkv[first] = ACT(x * rotation.x - y * rotation.y);
    qkv[second] = ACT(x * rotation.y + y * rotation.x);
  }
}
