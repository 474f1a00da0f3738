// The backward pass of p = conv(u, kernel) + skip u, by the same transforms (fft_conv.cuh):
//   d_u_s = sum_{t >= s} d_p_t kernel_{t-s} + skip d_p_s;  d_kernel_l = sum_{t >= l} d_p_t u_{t-l};
//   d_skip = sum_t d_p_t u_t
// are products of spectra, G conj(K) and G conj(U), of which what wraps around is imaginary too; of two rows in one
// transform, the real part of the inverse of G conj(U) is the sum of d_kernel over both. So it is added up as a
// spectrum, and one inverse a head ends it. The items of a head are shared among a few teams, whose sums are added in
// order.
#pragma once

#include "fft_conv.cuh"

namespace riverhorse::cuda {

// Where the inverse of the sums goes.
struct KernelGradients {
  float *d_kernel, *d_skip;
  std::int64_t length;
  struct Row {
    float *d_kernel, *d_skip;  // `d_skip`: null but where the row begins
    std::int64_t length;
    __device__ void store(std::int64_t n, float sum) const {
      if (n >= length) return;
      d_kernel[n] += sum;
      if (n == 0 && d_skip != nullptr) *d_skip += sum;  // the skip is one more weight of lag 0
    }
  };
  __device__ Row row(Item item, std::int64_t from) const {
    float* own_skip = d_skip != nullptr && from == 0 ? d_skip + item.head : nullptr;
    return {d_kernel + item.head * length + from, own_skip, length - from};
  }
  __host__ __device__ static std::int32_t sequences() { return 1; }
};

// A team has one of the `near_rows` parts of a head, and up to `team_items` of its items.
struct Correlation {
  std::int32_t heads, items_of_head, near_rows, team_items;
  bool accumulate;  // `sums` hold those of other items
  const Point* spectra;
  Point *sums, *parked;  // (teams of all blocks, points of a part); `parked` only where keeps_on_chip() is false

  __host__ __device__ std::int32_t splits() const { return (items_of_head + team_items - 1) / team_items; }
  __host__ __device__ std::int32_t teams() const { return splits() * heads * near_rows; }
};

// With 16 points a thread, their sums fit 128 registers, and the spectrum of u, which waits for that of the gradient,
// fits shared memory. With 32 both wait in scratch memory, which is to say in the cache.
template <typename Fft>
__host__ __device__ constexpr bool keeps_on_chip() {
  return Fft::values == 16;
}
template <typename Fft>
constexpr std::size_t correlation_shared_bytes() {
  return Fft::shared_bytes + (keeps_on_chip<Fft>() ? sizeof(Point) * Fft::size * Fft::teams : 0);
}

// Of all teams of all blocks, those of this thread.
template <typename Fft>
__device__ Point* team_points(const Fft& fft, Point* points) {
  return points + std::int64_t{index_of_team<Fft>()} * Fft::size + fft.thread();
}

template <typename Fft, bool real, typename LoadU, typename LoadGradient, typename Store>
__global__ void __launch_bounds__(Fft::block_threads, 512 / Fft::block_threads)
    correlate_near(Correlation c, LoadU u, LoadGradient gradient, Store d_u) {
  SHARED_MEMORY(Point, shared);
  Fft fft(shared, real);
  constexpr bool on_chip = keeps_on_chip<Fft>();
  const std::int32_t team = index_of_team<Fft>(), own_team = team < c.teams() ? team : 0;
  const std::int32_t near_rows = real ? 1 : c.near_rows;  // whole rows have one part
  const std::int32_t part = own_team % near_rows, head = own_team / near_rows % c.heads;
  const std::int32_t begin = own_team / near_rows / c.heads * c.team_items;
  const std::int32_t end = team < c.teams() ? min(begin + c.team_items, c.items_of_head) : begin;
  const Point* spectrum = c.spectra + std::int64_t{head * near_rows + part} * Fft::size + fft.thread();
  Point* parked = on_chip ? shared + Fft::shared_points + threadIdx.x / Fft::threads * Fft::size + fft.thread()
                          : team_points(fft, c.parked);
  Point x[Fft::values], sum[on_chip ? Fft::values : 1];
  for (std::int32_t place = begin; place < begin + c.team_items; ++place) {
    const bool active = place < end;
    const Item item{active ? (head * c.items_of_head + place) * near_rows + part : 0, head, active ? place : 0};
    load_points<Fft>(u.row(item, fft.thread()), active, x);
    fft.template forward<real>(x, [&](int first, const Point* values) {
#pragma unroll
      for (int j = 0; j < Fft::group; ++j) parked[Fft::place(first + j)] = values[j];
    });
    fft.synchronize();
    load_points<Fft>(gradient.row(item, fft.thread()), active, x);
    const bool adds = place > begin || c.accumulate;
    fft.template there_and_back<real>(x, [&](int first, Point* values) {
      if constexpr (on_chip) {
#pragma unroll
        for (int j = 0; j < Fft::group; ++j) sum[first + j] += values[j] * conj(parked[Fft::place(first + j)]);
      } else {
        Point* sums = team_points(fft, c.sums);
        // All loads before the first store: the compiler cannot know that they are of other places.
        Point product[Fft::group];
#pragma unroll
        for (int j = 0; j < Fft::group; ++j) product[j] = values[j] * conj(parked[Fft::place(first + j)]);
        if (adds) {
#pragma unroll
          for (int j = 0; j < Fft::group; ++j) product[j] += sums[Fft::place(first + j)];
        }
#pragma unroll
        for (int j = 0; j < Fft::group; ++j) sums[Fft::place(first + j)] = product[j];
      }
#pragma unroll
      for (int j = 0; j < Fft::group; ++j) values[j] = values[j] * conj(spectrum[Fft::place(first + j)]);
    });
    store_points<Fft, real>(d_u.row(item, fft.thread()), active, x);
  }
  if constexpr (on_chip) {
    Point* sums = team_points(fft, c.sums);
    if (c.accumulate) {
#pragma unroll
      for (int v = 0; v < Fft::values; ++v) sum[v] += sums[Fft::place(v)];
    }
#pragma unroll
    for (int v = 0; v < Fft::values; ++v) sums[Fft::place(v)] = sum[v];
  }
}

// The sums of all `splits` of a part of a head, transformed back.
template <typename Fft, bool real, typename Store>
__global__ void __launch_bounds__(Fft::block_threads, Fft::blocks)
    finish_sums(std::int32_t items, std::int32_t splits, float scale, const Point* sums, Store store) {
  SHARED_MEMORY(Point, shared);
  Fft fft(shared, real);
  const bool active = index_of_team<Fft>() < items;
  const Item item = item_of(active ? index_of_team<Fft>() : 0, 1);
  const Point* own = sums + std::int64_t{item.index} * Fft::size + fft.thread();
  Point x[Fft::values];
  fft.template inverse<real>(x, [&](int first, Point* values) {
    for (std::int64_t split = 0; split < splits; ++split) {
#pragma unroll
      for (int j = 0; j < Fft::group; ++j) {
        if (active) values[j] += scale * own[split * items * Fft::size + Fft::place(first + j)];
      }
    }
  });
  store_points<Fft, real>(store.row(item, fft.thread()), active, x);
}

template <typename Fft, bool real, typename LoadU, typename LoadGradient, typename Store>
void launch_correlation(cudaStream_t stream, const Correlation& c, const LoadU& u, const LoadGradient& gradient,
                        const Store& d_u) {
  launch(correlate_near<Fft, real, LoadU, LoadGradient, Store>, grid_of(divide_up(c.teams(), Fft::teams)),
         Fft::block_threads, correlation_shared_bytes<Fft>(), stream, c, u, gradient, d_u);
}

template <typename T>
struct ConvolutionBackward {
  FftPlan plan;
  Rows<const T> u, d_p;
  Rows<T> d_u;
  Point *points, *gradient_points;

  // Of the heads and sequences that the members have.
  void correlate(cudaStream_t stream, const Correlation& c) const {
    if (plan.far_passes == 0) {
      with_transform(plan.near_log, [&](auto tag) {
        using Fft = typename decltype(tag)::type;
        launch_correlation<Fft, true>(stream, c, u, d_p, d_u);
      });
      return;
    }
    split_far_passes(stream, plan, c.heads, c.items_of_head, u, points);
    split_far_passes(stream, plan, c.heads, c.items_of_head, d_p, gradient_points);
    with_transform(plan.near_log, [&](auto tag) {
      using Fft = typename decltype(tag)::type;
      const Scratch parts{points, Fft::size}, gradient_parts{gradient_points, Fft::size};
      launch_correlation<Fft, false>(stream, c, parts, gradient_parts, gradient_parts);
    });
    join_far_passes(stream, plan, c.heads, c.items_of_head, gradient_points, d_u);
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
    if (plan.far_passes > 0) join_far_passes(stream, plan, c.heads, 1, points, gradients);
  }
};

}  // namespace riverhorse::cuda
