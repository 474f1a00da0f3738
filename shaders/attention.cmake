# rotary, attention (on cooperative matrices, too) and attention_step
riverhorse_activation_shader(rotary)
riverhorse_activation_shader(attention_write)
riverhorse_activation_shader(attention)
riverhorse_activation_shader(attention_step)
riverhorse_shader(attention_coopmat NEWER)
