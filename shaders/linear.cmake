# linear: few rows, alone or with the mixer's step behind them, with subgroup arithmetic or without; many rows; many
# rows on cooperative matrices
foreach(stem linear_gemv h3_step_projected)
  riverhorse_shader(${stem} VARIANT f32)
  riverhorse_shader(${stem} VARIANT f16 DEFINES ACT_F16)
  riverhorse_shader(${stem} VARIANT f32_subgroup DEFINES SUBGROUPS)
  riverhorse_shader(${stem} VARIANT f16_subgroup DEFINES SUBGROUPS ACT_F16)
endforeach()
riverhorse_activation_shader(linear_gemm)
riverhorse_shader(linear_coopmat NEWER)
