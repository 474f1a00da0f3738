// Fourier transforms on chip. A team of threads holds the points in registers and exchanges them through shared
// memory.
//
// size = r_0 r_1 ...: pass i of the forward transform has transforms of r_i points, which lie `stride` apart, in a
// thread's registers, then twiddles (decimation in frequency). The inverse goes the same passes backwards (decimation
// in time), so that points need never be put in the order of their frequencies: after the forward transform place
//   k_0 size / r_0 + k_1 size / (r_0 r_1) + ... has frequency k_0 + k_1 r_0 + k_2 r_0 r_1 + ...
// and products of spectra work in any order. A pass writes to the places that it read from, so that one barrier an
// exchange is enough.
//
// Linear convolutions of reals on chip take the right-angle convolution (Crandall and Fagin, Discrete weighted
// transforms and large-integer arithmetic, 1994), one row a transform and no point of zeros: of N points x_n e^(-2 pi
// i n / 4 N), what wraps around comes back times -i, so that with the weights taken off again the real part of a
// circular convolution is the first N numbers of the linear one, and its imaginary part the rest. The weights are a
// constant each of a thread's points, in the butterflies of the first pass, and one of the thread, in its twiddles.
#pragma once

#include "complex.cuh"
#include "kernel.cuh"

namespace riverhorse::cuda {

using Point = Complex<float>;

// cos(2 pi i / 128), i from 0 to 64.
__device__ constexpr float cosine_of_128th(int i) {
  constexpr float cosines[] = {1.0f,         0.998795456f, 0.995184727f, 0.989176510f, 0.980785280f, 0.970031253f,
                               0.956940336f, 0.941544065f, 0.923879533f, 0.903989293f, 0.881921264f, 0.857728610f,
                               0.831469612f, 0.803207531f, 0.773010453f, 0.740951125f, 0.707106781f, 0.671558955f,
                               0.634393284f, 0.595699304f, 0.555570233f, 0.514102744f, 0.471396737f, 0.427555093f,
                               0.382683432f, 0.336889853f, 0.290284677f, 0.242980180f, 0.195090322f, 0.146730474f,
                               0.098017140f, 0.049067674f, 0.0f};
  return i <= 32 ? cosines[i] : -cosines[64 - i];
}

// e^(-2 pi i n / 128), n from 0 to 96, known when compiling.
__device__ inline Point root_of_128th(int n) {
  const float cosine = n <= 64 ? cosine_of_128th(n) : cosine_of_128th(128 - n);
  return {cosine, -cosine_of_128th(n < 32 ? 32 - n : n - 32)};
}

// x e^(-2 pi i n / 32), or with `inverse` the conjugate root; n from 0 to 15, known when compiling.
template <bool inverse>
__device__ inline Point times_root(Point x, int n) {
  if (n == 0) return x;
  if (n == 8) return inverse ? Point(-x.im, x.re) : Point(x.im, -x.re);
  const Point root = root_of_128th(4 * n);
  return x * (inverse ? conj(root) : root);
}

__device__ constexpr int reversed_bits(int index, int radix) {
  int result = 0;
  for (int bit = 1; bit < radix; bit *= 2) result = 2 * result + ((index & bit) != 0 ? 1 : 0);
  return result;
}

// The transform of `radix` points in registers; result k is at reversed_bits(k). `half`: x[radix / 2] and on are
// taken as zero.
template <int radix, bool half = false>
__device__ inline void split(Point* x) {
  constexpr int middle = radix / 2;
#pragma unroll
  for (int i = 0; i < middle; ++i) {
    const Point a = x[i];
    if constexpr (half) {
      x[middle + i] = times_root<false>(a, i * (32 / radix));
    } else {
      const Point b = x[middle + i];
      x[i] = a + b;
      x[middle + i] = times_root<false>(a - b, i * (32 / radix));
    }
  }
  if constexpr (middle > 1) {
    split<middle>(x);
    split<middle>(x + middle);
  }
}

// Its inverse times `radix`. `half`: x[radix / 2] and on are not wanted.
template <int radix, bool half = false>
__device__ inline void join(Point* x) {
  constexpr int middle = radix / 2;
  if constexpr (middle > 1) {
    join<middle>(x);
    join<middle>(x + middle);
  }
#pragma unroll
  for (int i = 0; i < middle; ++i) {
    const Point a = x[i], b = times_root<true>(x[middle + i], i * (32 / radix));
    x[i] = a + b;
    if constexpr (!half) x[middle + i] = a - b;
  }
}

// With weights e^(-2 pi i j / (4 radix)) of points j and i + radix / 2, and these times the root of the butterfly's
// difference.
template <int radix>
struct Weights {
  static constexpr int middle = radix / 2, step = 32 / radix;
  Point first, second, first_of_difference, second_of_difference;
  __device__ explicit Weights(int i)
      : first(root_of_128th(step * i)),
        second(root_of_128th(step * (middle + i))),
        first_of_difference(root_of_128th(step * 5 * i)),
        second_of_difference(root_of_128th(step * (middle + 5 * i))) {}
};

// The transform of real points times their weights.
template <int radix>
__device__ inline void split_real(Point* x) {
  constexpr int middle = radix / 2;
#pragma unroll
  for (int i = 0; i < middle; ++i) {
    const Weights<radix> weights(i);
    const float a = x[i].re, b = x[middle + i].re;
    x[i] = a * weights.first + b * weights.second;
    x[middle + i] = a * weights.first_of_difference - b * weights.second_of_difference;
  }
  split<middle>(x);
  split<middle>(x + middle);
}

// The inverse times `radix`, of which only the real parts, weights taken off, are made.
template <int radix>
__device__ inline void join_real(Point* x) {
  constexpr int middle = radix / 2;
  join<middle>(x);
  join<middle>(x + middle);
  const auto real = [](Point value, Point weight) { return value.re * weight.re + value.im * weight.im; };
#pragma unroll
  for (int i = 0; i < middle; ++i) {
    const Weights<radix> weights(i);
    const Point a = x[i], b = x[middle + i];
    x[i].re = real(a, weights.first) + real(b, weights.first_of_difference);
    x[middle + i].re = real(a, weights.second) - real(b, weights.second_of_difference);
  }
}

// x of result k, at reversed_bits(k), times w^k, with `weighted` also times `weight`. Powers by few products each: no
// error builds up.
template <int radix, bool weighted = false>
__device__ inline void twiddle(Point* x, Point w, Point weight = Point(1)) {
  const Point squared = w * w, fourth = squared * squared;
  const Point powers[] = {Point(1), w, squared, squared * w};
  Point high = weight;
#pragma unroll
  for (int k = 0; k < radix; k += 4) {
    const bool has_high = weighted || k > 0;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      Point& value = x[reversed_bits(k + r, radix)];
      if (!has_high && r > 0) value = value * powers[r];
      if (has_high) value = value * (r == 0 ? high : high * powers[r]);
    }
    high = has_high ? high * fourth : fourth;
  }
}

// e^(-2 pi i low / count); count is a power of two, low < 2^24.
__device__ inline Point unit_root(std::int64_t low, std::int64_t count) {
  float sine, cosine;
  sincospif(-2.0f * static_cast<float>(low) / static_cast<float>(count), &sine, &cosine);
  return {cosine, sine};
}

// Of one team. The first radix is the largest and the number of points of a thread: point j of it is at
// thread + j `threads` before the forward and after the inverse transform.
template <int... radices>
class Transform {
 public:
  static constexpr int passes = sizeof...(radices);
  static constexpr int size = (radices * ...);
  __host__ __device__ static constexpr int radix(int pass) {
    const int list[] = {radices...};
    return list[pass];
  }
  __host__ __device__ static constexpr int stride(int pass) {
    int stride = size;
    for (int i = 0; i <= pass; ++i) stride /= radix(i);
    return stride;
  }
  static constexpr int values = radix(0);
  static constexpr int threads = size / values;
  static constexpr int block_threads = threads < 128 ? 128 : threads;
  static constexpr int teams = block_threads / threads;
  // At least, of a multiprocessor: up to 80 registers a thread with 16 points, 128 with 32.
  static constexpr int blocks = (values == 16 ? 768 : 512) / block_threads;
  static constexpr int padded_size = size + size / 16;  // in shared memory
  static constexpr int shared_points = padded_size * teams + passes * block_threads;
  static constexpr std::size_t shared_bytes = sizeof(Point) * shared_points;

  // `shared` is the block's; `real`: of real points.
  __device__ Transform(Point* shared, bool real)
      : shared_(shared + static_cast<int>(threadIdx.x) / threads * padded_size),
        roots_(shared + padded_size * teams + threadIdx.x),
        thread_(static_cast<int>(threadIdx.x) % threads) {
    make_roots<0>();
    if (real) roots_[(passes - 1) * block_threads] = unit_root(thread_, 4 * size);
  }

  // Value v of this thread is at thread() + place(v) in a spectrum, and of the points.
  __device__ int thread() const { return thread_; }
  __device__ static constexpr int place(int v) { return v * threads; }

  __device__ static void synchronize() {
    if constexpr (threads <= warp_size) {
      __syncwarp();
    } else {
      __syncthreads();
    }
  }

  // From the points x to their spectrum and, without a factor 1 / size, back. In between `use`(v, values) is called
  // with values v to v + group of the spectrum, in place, a group after the other so that few are in registers.
  // `real`: the points are real, and of what comes back only the real parts are made.
  static constexpr int group = radix(passes - 1);
  template <bool real, int pass = 0, typename Use>
  __device__ void there_and_back(Point (&x)[values], const Use& use) {
    if constexpr (pass + 1 < passes) {
      split_pass<real, pass>(x);
      synchronize();
      there_and_back<real, pass + 1>(x, use);
      synchronize();
      join_pass<real, pass>(x);
    } else {
#pragma unroll
      for (int first = 0; first < values; first += group) {
        split_last(x, first);
        use(first, x + first);
        join_last(x, first);
      }
    }
  }

  // To the spectrum only; the next transform needs a barrier before it.
  template <bool real, int pass = 0, typename Use>
  __device__ void forward(Point (&x)[values], const Use& use) {
    if constexpr (pass + 1 < passes) {
      split_pass<real, pass>(x);
      synchronize();
      forward<real, pass + 1>(x, use);
    } else {
#pragma unroll
      for (int first = 0; first < values; first += group) {
        split_last(x, first);
        use(first, x + first);
      }
    }
  }

  // From a spectrum, which `make`(v, values) writes.
  template <bool real, int pass = 0, typename Make>
  __device__ void inverse(Point (&x)[values], const Make& make) {
    if constexpr (pass + 1 < passes) {
      inverse<real, pass + 1>(x, make);
      synchronize();
      join_pass<real, pass>(x);
    } else {
#pragma unroll
      for (int first = 0; first < values; first += group) {
        make(first, x + first);
        join_last(x, first);
      }
    }
  }

 private:
  template <bool real, int pass>
  __device__ void split_pass(Point (&x)[values]) {
    constexpr int r = radix(pass);
#pragma unroll
    for (int first = 0; first < values; first += r) {
      if constexpr (pass > 0) {
#pragma unroll
        for (int j = 0; j < r; ++j) x[first + j] = at<pass>(first, j);
      }
      if constexpr (real && pass == 0) {
        split_real<r>(x);
        twiddle<r, true>(x, roots_[0], roots_[(passes - 1) * block_threads]);
      } else {
        split<r>(x + first);
        twiddle<r>(x + first, roots_[pass * block_threads]);
      }
#pragma unroll
      for (int j = 0; j < r; ++j) at<pass>(first, j) = x[first + reversed_bits(j, r)];
    }
  }
  template <bool real, int pass>
  __device__ void join_pass(Point (&x)[values]) {
    constexpr int r = radix(pass);
#pragma unroll
    for (int first = 0; first < values; first += r) {
#pragma unroll
      for (int j = 0; j < r; ++j) x[first + reversed_bits(j, r)] = at<pass>(first, j);
      if constexpr (real && pass == 0) {
        twiddle<r, true>(x, conj(roots_[0]), conj(roots_[(passes - 1) * block_threads]));
        join_real<r>(x);
      } else {
        twiddle<r>(x + first, conj(roots_[pass * block_threads]));
        join<r>(x + first);
      }
      if constexpr (pass > 0) {
#pragma unroll
        for (int j = 0; j < r; ++j) at<pass>(first, j) = x[first + j];
      }
    }
  }
  __device__ void split_last(Point (&x)[values], int first) {
#pragma unroll
    for (int j = 0; j < group; ++j) x[first + j] = at<passes - 1>(first, j);
    split<group>(x + first);
  }
  __device__ void join_last(Point (&x)[values], int first) {
    join<group>(x + first);
#pragma unroll
    for (int j = 0; j < group; ++j) at<passes - 1>(first, j) = x[first + j];
  }
  // Point j of those that the thread has in registers from `first` on in that pass. Every 16 points are followed by
  // an empty place, so that neither neighbours nor points a stride apart meet in a bank.
  template <int pass>
  __device__ Point& at(int first, int j) const {
    constexpr int step = stride(pass);
    static_assert(threads % step == 0 && (step % 16 == 0 || 16 % step == 0));
    const int index = thread_ + first / radix(pass) * threads;
    const int begin = index / step * (step * radix(pass)) + index % step, offset = step * j;
    return shared_[begin + begin / 16 + offset + offset / 16];
  }
  template <int pass>
  __device__ void make_roots() {
    if constexpr (pass + 1 < passes) {
      constexpr int step = stride(pass);
      roots_[pass * block_threads] = unit_root(thread_ % step, step * radix(pass));
      make_roots<pass + 1>();
    }
  }

  Point* shared_;
  // The thread's first power of each pass's twiddles, and its weight. In registers the compiler would make all powers
  // ahead of time, keep them from one transform to the next, and spill.
  Point* roots_;
  int thread_;
};

// Calls `function` with a Tag of the transform of 2^log points.
constexpr int least_transform_log = 8, most_transform_log = 14;
template <typename T>
struct Tag {
  using type = T;
};
template <typename Function>
void with_transform(int log, Function&& function) {
  switch (log) {
    case 8: return function(Tag<Transform<16, 16>>());
    case 9: return function(Tag<Transform<32, 16>>());
    case 10: return function(Tag<Transform<16, 8, 8>>());
    case 11: return function(Tag<Transform<16, 16, 8>>());
    case 12: return function(Tag<Transform<16, 16, 16>>());
    case 13: return function(Tag<Transform<32, 16, 16>>());
    default: return function(Tag<Transform<32, 32, 16>>());
  }
}

}  // namespace riverhorse::cuda
