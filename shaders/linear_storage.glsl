// Storage shared by the linear shaders: bindings, loads and stores of the activation dtype, the epilogue.
//
// ACT_F16 is defined where weights and activations are stored as f16; else they are f32. Arithmetic is always f32.
// One binding is declared under several element types; a pipeline uses the one that its constants select.
#ifndef LINEAR_STORAGE_GLSL
#define LINEAR_STORAGE_GLSL

#extension GL_EXT_control_flow_attributes : require
#ifdef ACT_F16
#extension GL_EXT_shader_16bit_storage : require
#endif

// flags, a specialisation constant of every linear shader
const uint kVectorWeight = 1u;       // K is a multiple of the 16-byte unit: rows of W start aligned
const uint kVectorX = 2u;            // the same for x
const uint kNorm = 4u;               // x' = layer_norm(x)
const uint kXIsF32 = 8u;
const uint kXTransposed = 16u;       // x is (K, R)
const uint kYIsF32 = 32u;
const uint kYTransposed = 64u;       // y is (M, R)
const uint kBias = 128u;
const uint kGelu = 256u;
const uint kAccumulate = 512u;       // y += ...
const uint kVectorY = 1024u;         // four neighbours of y are stored at once
const uint kWholeK = 4096u;          // K is a multiple of the tile's depth (2048: linear_gemv.glsl)
const uint kWholeTiles = 8192u;      // M and R are multiples of the tile's sides

layout(push_constant) uniform Push {
  uint K;
  uint M;            // rows of the bound weight
  uint R;            // rows of x
  uint y_columns;    // row stride of y: M of the whole weight
  uint y_column;     // where the bound weight's rows start in y
  uint tile_begin;   // first tile of x rows of this dispatch
  float epsilon;
};

layout(set = 0, binding = 0) readonly buffer X32 { float x32[]; };             // (R, K) or (K, R)
layout(set = 0, binding = 0) readonly buffer X32v { vec4 x32v[]; };
layout(set = 0, binding = 1) readonly buffer Bias { float bias[]; };           // (M), from y_column on
layout(set = 0, binding = 2) buffer Y32 { float y32[]; };                      // (R, y_columns) or (y_columns, R)
layout(set = 0, binding = 2) buffer Y32v { vec4 y32v[]; };
#ifdef ACT_F16
layout(set = 0, binding = 0) readonly buffer X16 { float16_t x16[]; };
layout(set = 0, binding = 0) readonly buffer X16x2 { uint x16x2[]; };
layout(set = 0, binding = 0) readonly buffer X16x4 { uvec2 x16x4[]; };
layout(set = 0, binding = 0) readonly buffer X16x8 { uvec4 x16x8[]; };
layout(set = 0, binding = 2) buffer Y16 { float16_t y16[]; };
layout(set = 0, binding = 2) buffer Y16x4 { uvec2 y16x4[]; };
layout(set = 0, binding = 3) readonly buffer W16 { float16_t weight16[]; };    // (M, K)
layout(set = 0, binding = 3) readonly buffer W16x4 { uvec2 weight16x4[]; };
layout(set = 0, binding = 3) readonly buffer W16x8 { uvec4 weight16x8[]; };
#else
layout(set = 0, binding = 3) readonly buffer W32 { float weight32[]; };
layout(set = 0, binding = 3) readonly buffer W32v { vec4 weight32v[]; };
#endif

#ifdef ACT_F16
vec4 unpack4(uvec2 bits) { return vec4(unpackHalf2x16(bits.x), unpackHalf2x16(bits.y)); }
uvec2 pack4(vec4 v) { return uvec2(packHalf2x16(v.xy), packHalf2x16(v.zw)); }
#endif

float load_x(uint flags, uint index) {
#ifdef ACT_F16
  if ((flags & kXIsF32) == 0u) return float(x16[index]);
#endif
  return x32[index];
}

float load_weight(uint index) {
#ifdef ACT_F16
  return float(weight16[index]);
#else
  return weight32[index];
#endif
}

// x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), written with one exponential that cannot overflow.
float gelu_tanh(float x) {
  const float twice = 1.5957691216057308 * fma(0.044715 * x * x, x, x);
  return x / (1.0 + exp(min(-twice, 80.0)));
}

// Where y[row, m] lies (m counted in the bound weight).
uint y_index(uint flags, uint row, uint m) {
  const uint column = y_column + m;
  return (flags & kYTransposed) != 0u ? column * R + row : row * y_columns + column;
}

// The biases of outputs m .. m + 3, of which the first ones are there; and that of output m, four times.
vec4 bias_vector(uint flags, uint m) {
  vec4 v = vec4(0.0);
  if ((flags & kBias) == 0u) return v;
  [[unroll]] for (uint i = 0u; i < 4u; ++i) {
    if (m + i < M) v[i] = bias[y_column + m + i];
  }
  return v;
}
vec4 bias_scalar(uint flags, uint m) { return vec4((flags & kBias) != 0u ? bias[y_column + m] : 0.0); }

vec4 activated(uint flags, vec4 v) {
  if ((flags & kGelu) == 0u) return v;
  return vec4(gelu_tanh(v.x), gelu_tanh(v.y), gelu_tanh(v.z), gelu_tanh(v.w));
}

// Bias, activation and accumulation of one element.
void store_y(uint flags, uint row, uint m, float value) {
  const uint index = y_index(flags, row, m);
  if ((flags & kBias) != 0u) value += bias[y_column + m];
  if ((flags & kGelu) != 0u) value = gelu_tanh(value);
  if ((flags & kAccumulate) != 0u) {
    y32[index] += value;
    return;
  }
#ifdef ACT_F16
  if ((flags & kYIsF32) == 0u) {
    y16[index] = float16_t(value);
    return;
  }
#endif
  y32[index] = value;
}

void write_y_vector(uint flags, uint index, vec4 value) {
#ifdef ACT_F16
  if ((flags & kYIsF32) == 0u) {
    y16x4[index] = pack4(value);
    return;
  }
#endif
  y32v[index] = value;
}

#endif
