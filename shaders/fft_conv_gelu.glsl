// The exact GELU, p (1 + erf(p / sqrt 2)) / 2; GLSL has no erf.
// erfc(x) = exp(-x^2) t P(t) with t = 1 / (1 + x/2), 0 <= x: P interpolates exp(x^2) erfc(x) / t at the Chebyshev nodes
// of t for x <= 9 (degree 8; relative error with f32 rounding 3.5e-7). Beyond, exp(-x^2) is zero in f32.
float erfc_of_positive(float x) {
  float t = 1.0 / (1.0 + 0.5 * x);
  float sum = -0.058865346014499664;
  sum = sum * t + 0.2837103605270386;
  sum = sum * t - 0.48566529154777527;
  sum = sum * t + 0.27658143639564514;
  sum = sum * t - 0.025764213874936104;
  sum = sum * t + 0.20237667858600616;
  sum = sum * t + 0.24317310750484467;
  sum = sum * t + 0.28236624598503113;
  sum = sum * t + 0.28208693861961365;
  return sum * t * exp(-x * x);
}

float gelu_erf(float p) {
  float tail = 0.5 * p * erfc_of_positive(min(abs(p) * 0.7071067811865476, 12.0));
  return p > 0.0 ? p - tail : tail;
}
