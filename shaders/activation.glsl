// ACT, the element of activation tensors: float, or float16_t with -DACT_F16 (16-bit storage only; all arithmetic
// is in fp32).
#ifndef ACTIVATION_GLSL
#define ACTIVATION_GLSL
#ifdef ACT_F16
#extension GL_EXT_shader_16bit_storage : require
#define ACT float16_t
#define ACT_BYTES 2
#else
#define ACT float
#define ACT_BYTES 4
#endif
#endif
