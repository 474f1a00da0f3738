// The backward pass of the long convolution, by the same transforms (fft_conv.cuh). With d_p = act'(p) d_y,
//   d_u_s = sum_{t >= s} d_p_t kernel_{t-s} + skip d_p_s;  d_kernel_l = sum_{t >= l} d_p_t u_{t-l};
//   d_skip = sum_t d_p_t u_t
// are products of spectra, G conj(K) and G conj(U). Of two rows in one transform, the real part of the inverse of
// G conj(U) is the sum of d_kernel over both, so it is added up over pairs of rows as a spectrum, and one inverse a
// head ends it. The sequences of a head are shared among a few teams, whose sums are added in order.
#pragma once

#include "fft_conv.cuh"

namespace riverhorse::cuda {

// d_p from p.
template <typename T>
struct GeluGradient {
  RowPair<const T> d_y;
  __device__ Point operator()(std::int64_t n, Point p) const {
    const Point gradient = d_y(n);
    if (n >= d_y.length) return {};
    return {gradient.re * gelu_erf_derivative(p.re), gradient.im * gelu_erf_derivative(p.im)};
  }
};

// Where p goes that went through device memory: d_p to the same place.
template <typename T>
struct GeluGradients {
  Pairs<const T> d_y;
  Scratch d_p;
  struct Row {
    GeluGradient<T> gradient;
    Scratch::Row d_p;
    __device__ void store(std::int64_t n, Point p) const { d_p.store(n, gradient(n, p)); }
  };
  __device__ Row row(std::int64_t item, std::int64_t from) const {
    return {{d_y.row(item, from)}, d_p.row(item, from)};
  }
};

// Where the inverse of the sums goes; an item is a head.
struct KernelGradients {
  float *d_kernel, *d_skip;
  std::int64_t length;
  struct Row {
    float *d_kernel, *d_skip;  // `d_skip`: null but where the row begins
    std::int64_t length;
    __device__ void store(std::int64_t n, Point sum) const {
      if (n >= length) return;
      d_kernel[n] += sum.re;
      if (n == 0 && d_skip != nullptr) *d_skip += sum.re;  // the skip is one more weight of lag 0
    }
  };
  __device__ Row row(std::int64_t head, std::int64_t from) const {
    return {d_kernel + head * length + from, d_skip != nullptr && from == 0 ? d_skip + head : nullptr, length - from};
  }
};

// A team has one of the `near_rows` parts of a head, and up to `team_pairs` pairs of its rows.
struct Correlation {
  std::int64_t heads, pairs, near_rows, team_pairs;
  bool accumulate;  // `sums` hold those of other pairs
  const Point* spectra;
  Point *sums, *parked;  // (teams of all blocks, points of a part); `parked` only where keeps_on_chip() is false

  __host__ __device__ std::int64_t splits() const { return (pairs + team_pairs - 1) / team_pairs; }
  __host__ __device__ std::int64_t teams() const { return splits() * heads * near_rows; }
};

// With 16 points a thread, their sums fit the registers, and the spectrum of u, which waits for that of the gradient,
// fits shared memory. With 32 both wait in scratch memory, which is to say in the cache.
template <typename Fft>
__host__ __device__ constexpr bool keeps_on_chip() {
  return Fft::values == 16;
}
template <typename Fft>
constexpr std::size_t correlation_shared_bytes() {
  return Fft::shared_bytes + (keeps_on_chip<Fft>() ? sizeof(Point) * Fft::size * Fft::teams : 0);
}

template <typename Fft, bool half, bool gelu, typename LoadU, typename LoadGradient, typename Store>
__global__ void __launch_bounds__(Fft::block_threads, Fft::blocks)
    correlate_near(Correlation c, LoadU u, LoadGradient gradient, Store d_u) {
  SHARED_MEMORY(Point, shared);
  Fft fft(shared);
  constexpr bool on_chip = keeps_on_chip<Fft>();
  const std::int64_t team = item_of_team<Fft>(), own_team = team < c.teams() ? team : 0;
  const std::int64_t part = own_team % c.near_rows, head = own_team / c.near_rows % c.heads;
  const std::int64_t begin = own_team / c.near_rows / c.heads * c.team_pairs;
  const std::int64_t end = team < c.teams() ? min(begin + c.team_pairs, c.pairs) : begin;
  const Point* spectrum = c.spectra + (head * c.near_rows + part) * Fft::size + fft.thread();
  Point* sums = c.sums + team * Fft::size + fft.thread();
  Point* parked = (on_chip ? shared + Fft::padded_size * Fft::teams + threadIdx.x / Fft::threads * Fft::size
                           : c.parked + team * Fft::size) +
                  fft.thread();
  Point x[Fft::values], sum[on_chip ? Fft::values : 1];
  for (std::int64_t pair = begin; pair < begin + c.team_pairs; ++pair) {
    const bool active = pair < end;
    const std::int64_t item = active ? (head * c.pairs + pair) * c.near_rows + part : 0;
    load_points<Fft, half>(u.row(item, fft.thread()), active, x);
    const auto park = [&](int first, Point* values) {
#pragma unroll
      for (int j = 0; j < Fft::group; ++j) {
        parked[Fft::place(first + j)] = values[j];
        if constexpr (gelu) values[j] = values[j] * spectrum[Fft::place(first + j)];
      }
    };
    if constexpr (gelu) {
      fft.template there_and_back<half>(x, park);
      const auto row = gradient.row(item, fft.thread());
#pragma unroll
      for (int v = 0; v < Fft::values; ++v) {
        x[v] = active && v < Fft::values / 2 ? row(Fft::place(v), x[v]) : Point();
      }
    } else {
      fft.template forward<half>(x, park);
      load_points<Fft, half>(gradient.row(item, fft.thread()), active, x);
      fft.synchronize();
    }
    const bool adds = pair > begin || c.accumulate;
    fft.template there_and_back<half>(x, [&](int first, Point* values) {
      if constexpr (on_chip) {
#pragma unroll
        for (int j = 0; j < Fft::group; ++j) sum[first + j] += values[j] * conj(parked[Fft::place(first + j)]);
      } else if (adds) {
#pragma unroll
        for (int j = 0; j < Fft::group; ++j) {
          sums[Fft::place(first + j)] += values[j] * conj(parked[Fft::place(first + j)]);
        }
      } else {
#pragma unroll
        for (int j = 0; j < Fft::group; ++j) {
          sums[Fft::place(first + j)] = values[j] * conj(parked[Fft::place(first + j)]);
        }
      }
#pragma unroll
      for (int j = 0; j < Fft::group; ++j) values[j] = values[j] * conj(spectrum[Fft::place(first + j)]);
    });
    store_points<Fft, half>(d_u.row(item, fft.thread()), active, x);
  }
  if constexpr (on_chip) {
#pragma unroll
    for (int v = 0; v < Fft::values; ++v) {
      if (c.accumulate) sum[v] += sums[Fft::place(v)];
      sums[Fft::place(v)] = sum[v];
    }
  }
}

// The sums of all `splits` of a part of a head, transformed back.
template <typename Fft, bool half, typename Store>
__global__ void __launch_bounds__(Fft::block_threads, Fft::blocks)
    finish_sums(std::int64_t items, std::int64_t splits, float scale, const Point* sums, Store store) {
  SHARED_MEMORY(Point, shared);
  Fft fft(shared);
  const std::int64_t item = item_of_team<Fft>();
  const bool active = item < items;
  const Point* own = sums + (active ? item : 0) * Fft::size + fft.thread();
  Point x[Fft::values];
  fft.template inverse<half>(x, [&](int first, Point* values) {
    for (std::int64_t split = 0; split < splits; ++split) {
#pragma unroll
      for (int j = 0; j < Fft::group; ++j) {
        if (active) values[j] += scale * own[split * items * Fft::size + Fft::place(first + j)];
      }
    }
  });
  store_points<Fft, half>(store.row(active ? item : 0, fft.thread()), active, x);
}

template <typename Fft, bool half, bool gelu, typename LoadU, typename LoadGradient, typename Store>
void launch_correlation(cudaStream_t stream, const Correlation& c, const LoadU& u, const LoadGradient& gradient,
                        const Store& d_u) {
  launch(correlate_near<Fft, half, gelu, LoadU, LoadGradient, Store>, grid_of(divide_up(c.teams(), Fft::teams)),
         Fft::block_threads, correlation_shared_bytes<Fft>(), stream, c, u, gradient, d_u);
}

// d_y, and with gelu what makes d_p of it.
template <typename T>
struct Gradients {
  Pairs<const T> d_y;
  __device__ GeluGradient<T> row(std::int64_t item, std::int64_t from) const { return {d_y.row(item, from)}; }
};

template <typename T>
struct ConvolutionBackward {
  FftPlan plan;
  Pairs<const T> u, d_y;
  Pairs<T> d_u;
  bool gelu;
  Point *points, *gradient_points;

  // Of the heads and pairs that the members have.
  void correlate(cudaStream_t stream, const Correlation& c) const {
    if (plan.far_passes == 0) {
      with_transform(plan.near_log, [&](auto tag) {
        using Fft = typename decltype(tag)::type;
        if (gelu) {
          launch_correlation<Fft, true, true>(stream, c, u, Gradients<T>{d_y}, d_u);
        } else {
          launch_correlation<Fft, true, false>(stream, c, u, d_y, d_u);
        }
      });
      return;
    }
    const std::int64_t items = c.heads * c.pairs;
    const Scratch whole{gradient_points, plan.points()};
    split_far_passes(stream, plan, items, u, points);
    with_transform(plan.near_log, [&](auto tag) {
      using Fft = typename decltype(tag)::type;
      const Scratch parts{points, Fft::size}, gradient_parts{gradient_points, Fft::size};
      if (gelu) {
        const std::int64_t rows = items * c.near_rows;
        launch_near<Fft>(stream, rows, convolve_near<Fft, false, Scratch, Scratch>, rows, c.pairs, c.near_rows, parts,
                         gradient_parts, c.spectra);
        join_far_passes(stream, plan, items, gradient_points, GeluGradients<T>{d_y, whole});
        split_far_passes(stream, plan, items, whole, gradient_points);
      } else {
        split_far_passes(stream, plan, items, d_y, gradient_points);
      }
      launch_correlation<Fft, false, false>(stream, c, parts, gradient_parts, gradient_parts);
    });
    join_far_passes(stream, plan, items, gradient_points, d_u);
  }

  void finish(cudaStream_t stream, const Correlation& c, const KernelGradients& gradients) const {
    const float scale = 1.0f / static_cast<float>(plan.points());
    const std::int64_t items = c.heads * c.near_rows;
    with_transform(plan.near_log, [&](auto tag) {
      using Fft = typename decltype(tag)::type;
      if (plan.far_passes == 0) {
        launch_near<Fft>(stream, items, finish_sums<Fft, true, KernelGradients>, items, c.splits(), scale, c.sums,
                         gradients);
      } else {
        launch_near<Fft>(stream, items, finish_sums<Fft, false, Scratch>, items, c.splits(), scale, c.sums,
                         Scratch{points, Fft::size});
      }
    });
    if (plan.far_passes > 0) join_far_passes(stream, plan, c.heads, points, gradients);
  }
};

}  // namespace riverhorse::cuda
