// Two-float arithmetic ("double-float"): a real number is vec2(high, low), high the nearest float of the sum; about
// 2^-46 relative. A complex number is a Complex of two of them.
//
// Everything rests on error-free transformations, which a compiler destroys by contracting a * b + c or by
// reassociating; hence `precise` on every variable, and a product that needs no fused multiply-add: Vulkan does not
// promise that fma() rounds once. Operands are cut by masking bits, which no floating-point rule can simplify away.

struct Complex {
  vec2 re;
  vec2 im;
};

vec2 two_sum(float a, float b) {  // exact: a + b = high + low
  precise float high = a + b;
  precise float part = high - a;
  precise float low = (a - (high - part)) + (b - part);
  return vec2(high, low);
}

vec2 quick_two_sum(float a, float b) {  // the same for |a| >= |b|
  precise float high = a + b;
  precise float low = b - (high - a);
  return vec2(high, low);
}

vec2 two_product(float a, float b) {  // exact: the four partial products have at most 24 bits each
  float a_high = uintBitsToFloat(floatBitsToUint(a) & 0xfffff000u);
  float b_high = uintBitsToFloat(floatBitsToUint(b) & 0xfffff000u);
  precise float a_low = a - a_high;
  precise float b_low = b - b_high;
  precise float high = a * b;
  precise float cross_ab = a_high * b_low;
  precise float cross_ba = a_low * b_high;
  precise float square = a_high * b_high;
  precise float least = a_low * b_low;
  precise float low = ((square - high) + cross_ab + cross_ba) + least;
  return vec2(high, low);
}

vec2 df_add(vec2 a, vec2 b) {
  vec2 s = two_sum(a.x, b.x);
  vec2 t = two_sum(a.y, b.y);
  precise float low = s.y + t.x;
  s = quick_two_sum(s.x, low);
  low = s.y + t.y;
  return quick_two_sum(s.x, low);
}

vec2 df_sub(vec2 a, vec2 b) { return df_add(a, -b); }

vec2 df_mul(vec2 a, vec2 b) {
  vec2 p = two_product(a.x, b.x);
  precise float cross_ab = a.x * b.y;
  precise float cross_ba = a.y * b.x;
  precise float low = p.y + (cross_ab + cross_ba);
  return quick_two_sum(p.x, low);
}

vec2 df_scale(vec2 a, float power_of_two) { return a * power_of_two; }

vec2 df_div(vec2 a, vec2 b) {  // three quotient digits, each of the remainder that the digits before left
  float first = a.x / b.x;
  vec2 rest = df_sub(a, df_mul(b, vec2(first, 0.0)));
  float second = rest.x / b.x;
  rest = df_sub(rest, df_mul(b, vec2(second, 0.0)));
  float third = rest.x / b.x;
  vec2 q = quick_two_sum(first, second);
  return df_add(q, vec2(third, 0.0));
}

// 1 / k! for k = 0 ... 17.
const vec2 inverse_factorial[18] = vec2[18](
    vec2(1.0, 0.0), vec2(1.0, 0.0), vec2(0.5, 0.0), vec2(0.1666666716337204, -4.967053879312289e-09),
    vec2(0.0416666679084301, -1.2417634698280722e-09), vec2(0.008333333767950535, -4.34617203337595e-10),
    vec2(0.0013888889225199819, -3.3631094437103215e-11), vec2(0.00019841270113829523, -2.725596874933456e-12),
    vec2(2.4801587642286904e-05, -3.40699609366682e-13), vec2(2.7557318844628753e-06, 3.793571224297229e-14),
    vec2(2.755731998149713e-07, -7.575112209051195e-15), vec2(2.5052107943679403e-08, 4.4176230446483665e-16),
    vec2(2.0876755879584152e-09, 1.1082839147459852e-16), vec2(1.6059044372074283e-10, -5.352526511562726e-18),
    vec2(1.147074536050896e-11, 2.372207689231238e-19), vec2(7.647163609812713e-13, 1.2200710471178288e-20),
    vec2(4.7794772561329454e-14, 7.62544404448643e-22), vec2(2.8114573589663704e-15, -1.0462084739763658e-22));

// exp(x): x = k ln 2 + r, |r| <= 0.35, Taylor to r^14 (remainder below 2e-19). Below 2^-126 the result is zero.
vec2 df_exp(vec2 x) {
  float k = round(x.x * 1.4426950408889634);
  if (k < -125.0) return vec2(0.0);
  k = min(k, 127.0);
  vec2 r = df_sub(x, two_product(k, 0.6931471824645996));
  r = df_sub(r, two_product(k, -1.9046542121259336e-09));
  r = df_sub(r, vec2(k * -8.78318373858934e-17, 0.0));
  vec2 sum = inverse_factorial[14];
  for (int i = 13; i >= 0; --i) sum = df_add(df_mul(sum, r), inverse_factorial[i]);
  return df_scale(sum, uintBitsToFloat(uint(int(k) + 127) << 23));
}

// (cos x, sin x): x = k pi/2 + r, |r| <= pi/4. The reduction is exact to about 2^-46 |x|, the precision of x itself.
Complex df_cis(vec2 x) {
  float k = round(x.x * 0.6366197723675814);
  vec2 r = df_sub(x, two_product(k, 1.5707963705062866));
  r = df_sub(r, two_product(k, -4.371138828673793e-08));
  r = df_sub(r, two_product(k, -1.7151245100058819e-15));
  vec2 square = df_mul(r, r);
  vec2 cosine = inverse_factorial[16];
  vec2 sine = inverse_factorial[17];
  for (int i = 14; i >= 0; i -= 2) {
    cosine = df_sub(inverse_factorial[i], df_mul(cosine, square));
    sine = df_sub(inverse_factorial[i + 1], df_mul(sine, square));
  }
  sine = df_mul(sine, r);
  int quadrant = int(k) & 3;
  if (quadrant == 0) return Complex(cosine, sine);
  if (quadrant == 1) return Complex(-sine, cosine);
  if (quadrant == 2) return Complex(-cosine, -sine);
  return Complex(sine, -cosine);
}

Complex complex_add(Complex a, Complex b) { return Complex(df_add(a.re, b.re), df_add(a.im, b.im)); }

Complex complex_mul(Complex a, Complex b) {
  return Complex(df_sub(df_mul(a.re, b.re), df_mul(a.im, b.im)), df_add(df_mul(a.re, b.im), df_mul(a.im, b.re)));
}

Complex complex_scale(Complex a, vec2 factor) { return Complex(df_mul(a.re, factor), df_mul(a.im, factor)); }

Complex complex_div(Complex a, Complex b) {
  vec2 norm = df_add(df_mul(b.re, b.re), df_mul(b.im, b.im));
  Complex product = complex_mul(a, Complex(b.re, -b.im));
  return Complex(df_div(product.re, norm), df_div(product.im, norm));
}

Complex complex_of(vec2 value) { return Complex(vec2(value.x, 0.0), vec2(value.y, 0.0)); }
vec2 complex_high(Complex value) { return vec2(value.re.x, value.im.x); }
