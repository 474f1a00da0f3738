# -------- the SSM: its filter, the mixer in three ways, long convolutions
riverhorse_shader(discretize)
riverhorse_shader(discretize_lags)
riverhorse_shader(discretize_taps)
riverhorse_shader(ssm_kernel)
foreach(stem h3_mixer h3_mixer_gate h3_mixer_output h3_mixer_shift h3_step fft_conv_pack fft_conv_output)
  riverhorse_activation_shader(${stem})
endforeach()
riverhorse_shader(fft_conv_product)
