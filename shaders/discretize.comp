// One discrete mode an invocation: (log_dt, A, B) -> a, b and the powers a^(2^j), in two-float arithmetic.
//   bilinear: a = (1 + z/2) / (1 - z/2), b = B dt / (1 - z/2);   zoh: a = exp z, b = B (a - 1) / A;   z = dt A
#version 450
#extension GL_GOOGLE_include_directive : require
#include "discretize_df64.glsl"

layout(local_size_x = 64) in;

layout(std430, set = 0, binding = 0) readonly buffer LogDt { float log_dt[]; };           // (H)
layout(std430, set = 0, binding = 1) readonly buffer InvAReal { float inv_a_real[]; };    // (m, n)
layout(std430, set = 0, binding = 2) readonly buffer AImag { float a_imag[]; };           // (m, n)
layout(std430, set = 0, binding = 3) readonly buffer BIn { vec2 b_in[]; };                // (m, n)
layout(std430, set = 0, binding = 4) writeonly buffer AOut { vec4 a_out[]; };             // (H, n)
layout(std430, set = 0, binding = 5) writeonly buffer BOut { vec2 b_out[]; };             // (H, n)
layout(std430, set = 0, binding = 6) writeonly buffer Powers { vec2 powers[]; };          // (H, n, power_count)

layout(push_constant) uniform Push {
  uint heads;
  uint ssm_rows;  // m
  uint modes;     // n
  uint zoh;
  uint power_count;
};

void main() {
  uint index = gl_GlobalInvocationID.x;
  if (index >= heads * modes) return;
  uint head = index / modes;
  uint row = (head % ssm_rows) * modes + index % modes;

  vec2 dt = df_exp(vec2(log_dt[head], 0.0));
  Complex pole = Complex(-df_exp(vec2(inv_a_real[row], 0.0)), vec2(a_imag[row], 0.0));
  Complex z = complex_scale(pole, dt);
  Complex weight = complex_of(b_in[row]);
  Complex one = complex_of(vec2(1.0, 0.0));
  Complex a, b;
  if (zoh != 0u) {
    Complex turn = df_cis(z.im);
    a = complex_scale(turn, df_exp(z.re));
    Complex change = Complex(df_sub(a.re, vec2(1.0, 0.0)), a.im);
    b = complex_div(complex_mul(weight, change), pole);
  } else {
    Complex half_z = Complex(df_scale(z.re, 0.5), df_scale(z.im, 0.5));
    Complex denominator = Complex(df_sub(one.re, half_z.re), -half_z.im);
    a = complex_div(Complex(df_add(one.re, half_z.re), half_z.im), denominator);
    b = complex_div(complex_scale(weight, dt), denominator);
  }
  a_out[index] = vec4(a.re.x, a.im.x, a.re.y, a.im.y);
  b_out[index] = complex_high(b);
  Complex power = a;
  for (uint j = 0u; j < power_count; ++j) {
    powers[index * power_count + j] = complex_high(power);
    power = complex_mul(power, power);
  }
}
