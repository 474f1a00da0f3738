// Storage shared by the attention and rotary shaders: qkv (B, L, 3 D), the cache (S, capacity, D), and how their
// activation dtype is read and written. ACT_F16 is defined where it is f16.
#ifndef ATTENTION_STORAGE_GLSL
#define ATTENTION_STORAGE_GLSL

#ifdef ACT_F16
#extension GL_EXT_shader_16bit_storage : require
#define ACT float16_t
#define ACT_VECTOR uvec2
#define TO_VECTOR(bits) vec4(unpackHalf2x16((bits).x), unpackHalf2x16((bits).y))
#else
#define ACT float
#define ACT_VECTOR vec4
#define TO_VECTOR(value) (value)
#endif

#define DECLARE_QKV(qualifier)                                                    \
  layout(set = 0, binding = 0) qualifier buffer Qkv { ACT qkv[]; };               \
  layout(set = 0, binding = 0) qualifier buffer QkvVectors { ACT_VECTOR qkv_vectors[]; };

layout(set = 0, binding = 1) readonly buffer Slots { int slots[]; };          // (B)
layout(set = 0, binding = 2) readonly buffer Positions { int positions[]; };  // (S)

#define DECLARE_CACHE(qualifier)                                                               \
  layout(set = 0, binding = 3) qualifier buffer CacheK { ACT cache_k[]; };                     \
  layout(set = 0, binding = 3) qualifier buffer CacheKVectors { ACT_VECTOR cache_k_vectors[]; }; \
  layout(set = 0, binding = 4) qualifier buffer CacheV { ACT cache_v[]; };                     \
  layout(set = 0, binding = 4) qualifier buffer CacheVVectors { ACT_VECTOR cache_v_vectors[]; };

layout(push_constant) uniform Push {
  uint B;
  uint L;
  uint D;
  uint heads;
  uint width;        // of a head, D / heads
  uint capacity;     // tokens a slot of the cache holds
  uint block_begin;  // first block of queries of this dispatch
  uint splits;       // parts the keys are cut into
  float scale;       // 1 / sqrt(width)
};

#endif
