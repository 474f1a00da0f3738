// Complex numbers on the device.
#pragma once

#include <cuda_runtime.h>

namespace riverhorse::cuda {

// Aligned, so that one load or store moves it.
template <typename Real>
struct alignas(2 * sizeof(Real)) Complex {
  Real re = 0, im = 0;

  __host__ __device__ Complex(Real real = 0, Real imaginary = 0) : re(real), im(imaginary) {}
  __device__ Complex& operator+=(Complex other) {
    re += other.re;
    im += other.im;
    return *this;
  }
};

template <typename Real>
__device__ Complex<Real> operator+(Complex<Real> a, Complex<Real> b) {
  return {a.re + b.re, a.im + b.im};
}
template <typename Real>
__device__ Complex<Real> operator-(Complex<Real> a, Complex<Real> b) {
  return {a.re - b.re, a.im - b.im};
}
template <typename Real>
__device__ Complex<Real> operator*(Complex<Real> a, Complex<Real> b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
template <typename Real>
__device__ Complex<Real> operator*(Real a, Complex<Real> b) {
  return {a * b.re, a * b.im};
}
template <typename Real>
__device__ Complex<Real> conj(Complex<Real> a) {
  return {a.re, -a.im};
}
template <typename Real>
__device__ Real norm(Complex<Real> a) {
  return a.re * a.re + a.im * a.im;
}
template <typename Real>
__device__ Complex<Real> operator/(Complex<Real> a, Complex<Real> b) {
  return (Real(1) / norm(b)) * (a * conj(b));
}

// Of an array of (re, im).
__device__ inline Complex<float> load_complex(const float* values, long long index) {
  return {values[2 * index], values[2 * index + 1]};
}

// base^exponent, by squaring.
template <typename Real>
__device__ Complex<Real> power(Complex<Real> base, long long exponent) {
  Complex<Real> result(1);
  for (; exponent > 0; exponent >>= 1) {
    if ((exponent & 1) != 0) result = result * base;
    base = base * base;
  }
  return result;
}

}  // namespace riverhorse::cuda
