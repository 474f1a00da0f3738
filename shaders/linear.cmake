# linear: few rows, with subgroup arithmetic or without; many rows; many rows on cooperative matrices
riverhorse_shader(linear_gemv VARIANT f32)
riverhorse_shader(linear_gemv VARIANT f16 DEFINES ACT_F16)
riverhorse_shader(linear_gemv VARIANT f32_subgroup DEFINES SUBGROUPS)
riverhorse_shader(linear_gemv VARIANT f16_subgroup DEFINES SUBGROUPS ACT_F16)
riverhorse_activation_shader(linear_gemm)
riverhorse_shader(linear_coopmat NEWER)
