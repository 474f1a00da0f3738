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
  Point *sums, *parked;  // (teams, points of a part)

  std::int64_t splits() const { return divide_up(pairs, team_pairs); }
  __host__ __device__ std::int64_t teams() const { return (pairs + team_pairs - 1) / team_pairs * heads * near_rows; }
};

template <typename Fft, bool half, bool gelu, typename LoadU, typename LoadGradient, typename Store>
__global__ void __launch_bounds__(Fft::block_threads, Fft::blocks)
    correlate_near(Correlation c, LoadU u, LoadGradient gradient, Store d_u) {
  SHARED_MEMORY(Point, shared);
  Fft fft(shared);
  const bool has_team = item_of_team<Fft>() < c.teams();
  const std::int64_t team = has_team ? item_of_team<Fft>() : 0;
  const std::int64_t part = team % c.near_rows, head = team / c.near_rows % c.heads;
  const std::int64_t begin = team / c.near_rows / c.heads * c.team_pairs;
  const Point* spectrum = c.spectra + (head * c.near_rows + part) * Fft::size + fft.thread();
  Point* sums = c.sums + team * Fft::size + fft.thread();
  Point* parked = c.parked + team * Fft::size + fft.thread();
  // 16 points of a spectrum fit the registers three times; 32 do not.
  constexpr bool keeps = Fft::values == 16;
  Point x[Fft::values], sum[keeps ? Fft::values : 1], u_spectrum[keeps ? Fft::values : 1];
  for (std::int64_t i = 0; i < c.team_pairs; ++i) {
    const bool active = has_team && begin + i < c.pairs;
    const std::int64_t item = active ? (head * c.pairs + begin + i) * c.near_rows + part : 0;
    const bool first_pair = i == 0 && !c.accumulate;
    load_points<Fft, half>(u.row(item, fft.thread()), active, x);
    const auto park = [&](int first, Point* values) {
#pragma unroll
      for (int j = 0; j < Fft::group; ++j) {
        if constexpr (keeps) {
          u_spectrum[first + j] = values[j];
        } else if (active) {
          parked[Fft::place(first + j)] = values[j];
        }
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
    fft.template there_and_back<half>(x, [&](int first, Point* values) {
#pragma unroll
      for (int j = 0; j < Fft::group; ++j) {
        const int place = Fft::place(first + j);
        if constexpr (keeps) {
          sum[first + j] += values[j] * conj(u_spectrum[first + j]);
        } else if (active) {
          const Point product = values[j] * conj(parked[place]);
          sums[place] = first_pair ? product : sums[place] + product;
        }
        values[j] = values[j] * conj(spectrum[place]);
      }
    });
    store_points<Fft, half>(d_u.row(item, fft.thread()), active, x);
  }
  if constexpr (keeps) {
#pragma unroll
    for (int v = 0; v < Fft::values; ++v) {
      Point& all = sums[Fft::place(v)];
      if (has_team) all = c.accumulate ? all + sum[v] : sum[v];
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
  launch_near<Fft>(stream, c.teams(), correlate_near<Fft, half, gelu, LoadU, LoadGradient, Store>, c, u, gradient,
                   d_u);
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
