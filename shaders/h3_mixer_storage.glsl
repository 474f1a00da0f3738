// The activation dtype of the mixer's shaders: ACT_F16 is defined where q, k, v and y are stored as f16.
#ifdef ACT_F16
#extension GL_EXT_shader_16bit_storage : require
#define ACT float16_t
#else
#define ACT float
#endif
