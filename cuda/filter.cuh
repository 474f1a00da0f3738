// The filter of an H3 layer, as kernels read it.
#pragma once

#include <cstdint>

#include "backend/ops.h"
#include "complex.cuh"
#include "core.h"

namespace riverhorse::cuda {

struct Filter {
  const float *a, *b, *c, *d, *taps;
  std::int64_t heads, modes, width, state;  // H, n, D, N

  explicit Filter(const H3Filter& filter)
      : a(data<float>(filter.a)),
        b(data<float>(filter.b)),
        c(data<float>(filter.c)),
        d(data<float>(filter.d)),
        taps(data<float>(filter.shift_taps)),
        heads(filter.a.shape[0]),
        modes(filter.a.shape[1]),
        width(filter.shift_taps.shape[0]),
        state(filter.shift_taps.shape[1]) {}

  // `index`: head * modes + mode.
  __device__ Complex<double> exact_a(std::int64_t index) const {
    const float* parts = a + 4 * index;
    return {static_cast<double>(parts[0]) + parts[2], static_cast<double>(parts[1]) + parts[3]};
  }
  __device__ Complex<float> input(std::int64_t index) const { return {b[2 * index], b[2 * index + 1]}; }
  __device__ Complex<float> output(std::int64_t index) const { return {c[2 * index], c[2 * index + 1]}; }
  // c b
  __device__ Complex<double> gain(std::int64_t index) const {
    const Complex<double> in(b[2 * index], b[2 * index + 1]), out(c[2 * index], c[2 * index + 1]);
    return out * in;
  }
};

// One mode's step, a s in fp32 with an a of more than fp32: an error in a itself would grow with the text.
struct Decay {
  float re = 0, im = 0, re_rest = 0, im_rest = 0;

  __device__ Decay() {}
  __device__ Decay(const Filter& filter, std::int64_t index)
      : re(filter.a[4 * index]),
        im(filter.a[4 * index + 1]),
        re_rest(filter.a[4 * index + 2]),
        im_rest(filter.a[4 * index + 3]) {}
  __device__ Complex<float> operator()(Complex<float> s) const {
    return {fmaf(re, s.re, fmaf(-im, s.im, fmaf(re_rest, s.re, -im_rest * s.im))),
            fmaf(re, s.im, fmaf(im, s.re, fmaf(re_rest, s.im, im_rest * s.re)))};
  }
  // conj(a) s
  __device__ Complex<float> conjugate(Complex<float> s) const {
    return {fmaf(re, s.re, fmaf(im, s.im, fmaf(re_rest, s.re, im_rest * s.im))),
            fmaf(re, s.im, fmaf(-im, s.re, fmaf(re_rest, s.im, -im_rest * s.re)))};
  }
};

}  // namespace riverhorse::cuda
