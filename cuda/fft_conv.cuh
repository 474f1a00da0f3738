// Causal convolutions with filters of any length by transforms, of which fft_conv, its backward pass and the mixer
// are made.
//
// Up to the length that fits shared memory one kernel does all: load, transform, product, inverse, store. A row is
// one transform of as many points, by the right-angle convolution (fft.cuh), so that nothing wraps around into its
// real part.
//
// For longer ones, passes of 32 points in registers go through device memory before and after it, which split a
// transform of 32 m points into 32 of m; the points lie in scratch memory, in groups of rows that fit the cache.
// There rows b and b + 1 of a head, which share its real filter, are the real and the imaginary part of one
// transform, which has twice the length so that nothing wraps around. By the right-angle convolution 8 x 32768
// took 3.34 ms on an H100, and so 3.01.
#pragma once

#include <bit>

#include "fft.cuh"
#include "gelu.cuh"

namespace riverhorse::cuda {

// How transforms for rows of `length` are cut: 32^far_passes of 2^near_log points each. With far passes an item has
// two rows.
struct FftPlan {
  int near_log = least_transform_log, far_passes = 0;

  FftPlan(std::int64_t length, std::size_t shared_bytes) {
    int most = least_transform_log;
    while (most < most_transform_log && near_shared_bytes(most + 1) <= shared_bytes) ++most;
    int log = static_cast<int>(std::bit_width(static_cast<std::uint64_t>(length - 1)));
    if (log > most) ++log;
    while (log - 5 * far_passes > most) ++far_passes;
    near_log = std::max(near_log, log - 5 * far_passes);
  }
  int log() const { return near_log + 5 * far_passes; }
  std::int64_t points() const { return std::int64_t{1} << log(); }
  std::int32_t rows_of_item() const { return far_passes > 0 ? 2 : 1; }
  std::int32_t items(std::int32_t sequences) const { return (sequences + rows_of_item() - 1) / rows_of_item(); }
  std::int32_t near_rows() const { return 1 << (5 * far_passes); }

  static std::size_t near_shared_bytes(int log) {
    std::size_t bytes = 0;
    with_transform(log, [&](auto tag) { bytes = decltype(tag)::type::shared_bytes; });
    return bytes;
  }
};

// What a transform works on: the row of a sequence and head, or with far passes those of sequences 2 `place` and
// 2 `place` + 1, or a part of them; `index` is its place among all. Counts of rows fit 32 bits: encoders hold tensors
// below 2^31 rows.
struct Item {
  std::int32_t index, head, place;
};
__device__ inline Item item_of(std::int32_t index, std::int32_t items_of_head, std::int32_t parts = 1) {
  const std::int32_t whole = index / parts;
  return {index, whole / items_of_head, whole % items_of_head};
}

// What kernels load from and store to: row(item, from) has the points of an item of one row, counted from that one;
// real numbers here, complex ones in Scratch. sequences() is how many rows a head has.
template <typename T>
struct Row {
  T* values;
  std::int64_t length;  // how many there are
  __device__ float operator()(std::int64_t n) const { return n < length ? to_float(values[n]) : 0.0f; }
  __device__ void store(std::int64_t n, float value) const {
    if (n < length) values[n] = from_float<T>(value);
  }
};

// Rows of one length by head and sequence.
template <typename T>
struct Rows {
  T* values;
  std::int32_t batch;
  std::int64_t length, head_stride, batch_stride;

  __device__ Row<T> row(Item item, std::int64_t from) const {
    return {values + item.head * head_stride + item.place * batch_stride + from, length - from};
  }
  __host__ __device__ std::int32_t sequences() const { return batch; }
  // From that head and sequence on, with at most so many sequences.
  Rows part(std::int32_t head, std::int32_t sequence, std::int32_t sequences) const {
    Rows some = *this;
    some.values += head * head_stride + sequence * batch_stride;
    some.batch = std::min(sequences, batch - sequence);
    return some;
  }
};

// Two rows as real and imaginary part; without a second one that is zero.
template <typename Row>
struct RowPair {
  Row first, second;
  bool has_second;
  __device__ Point operator()(std::int64_t n) const { return {first(n), has_second ? second(n) : 0.0f}; }
  __device__ void store(std::int64_t n, Point value) const {
    first.store(n, value.re);
    if (has_second) second.store(n, value.im);
  }
};
template <typename Rows>
__device__ auto pair_of(const Rows& rows, Item item, std::int64_t from) {
  const std::int32_t first = 2 * item.place;
  const bool has_second = first + 1 < rows.sequences();
  using Row = decltype(rows.row(item, from));
  return RowPair<Row>{rows.row({item.index, item.head, first}, from),
                      rows.row({item.index, item.head, has_second ? first + 1 : first}, from), has_second};
}

struct Scratch {
  Point* values;
  std::int64_t points;  // of an item
  struct Row {
    Point* values;
    __device__ Point operator()(std::int64_t n) const { return values[n]; }
    __device__ void store(std::int64_t n, Point value) const { values[n] = value; }
  };
  __device__ Row row(Item item, std::int64_t from) const { return {values + item.index * points + from}; }
};

// The skip is one more weight of lag 0.
struct Filters {
  const float *kernel, *skip;
  std::int64_t length;
  struct Row {
    const float* kernel;
    float skip;
    std::int64_t length;
    __device__ float operator()(std::int64_t n) const {
      return n < length ? kernel[n] + (n == 0 ? skip : 0.0f) : 0.0f;
    }
  };
  __device__ Row row(Item item, std::int64_t from) const {
    const float own_skip = skip != nullptr && from == 0 ? skip[item.head] : 0.0f;
    return {kernel + item.head * length + from, own_skip, length - from};
  }
  __host__ __device__ static std::int32_t sequences() { return 1; }
  Filters part(std::int64_t head) const {
    return {kernel + head * length, skip != nullptr ? skip + head : nullptr, length};
  }
};

// ------------------------------------------------------------------------------------------------ on chip

// The team's place among all; points beyond the last are zero, so that every thread gets to every barrier.
template <typename Fft>
__device__ std::int32_t index_of_team() {
  return static_cast<std::int32_t>(blockIdx.x * Fft::teams + threadIdx.x / Fft::threads);
}

template <typename Fft, typename Row>
__device__ void load_points(const Row& row, bool active, Point (&x)[Fft::values]) {
#pragma unroll
  for (int v = 0; v < Fft::values; ++v) x[v] = active ? Point(row(Fft::place(v))) : Point();
}

// `real`: to rows of real numbers, else to parts in scratch memory.
template <typename Fft, bool real, typename Row>
__device__ void store_points(const Row& row, bool active, const Point (&x)[Fft::values]) {
#pragma unroll
  for (int v = 0; v < Fft::values; ++v) {
    if (!active) continue;
    if constexpr (real) {
      row.store(Fft::place(v), x[v].re);
    } else {
      row.store(Fft::place(v), x[v]);
    }
  }
}

// Spectra of filters, times `scale`; in place where `load` reads what is written.
template <typename Fft, bool real, typename Load>
__global__ void __launch_bounds__(Fft::block_threads, Fft::blocks)
    make_spectra(std::int32_t items, Load load, float scale, Point* spectra) {
  SHARED_MEMORY(Point, shared);
  Fft fft(shared, real);
  const bool active = index_of_team<Fft>() < items;
  const Item item = item_of(active ? index_of_team<Fft>() : 0, 1);
  Point x[Fft::values];
  load_points<Fft>(load.row(item, fft.thread()), active, x);
  Point* own = spectra + std::int64_t{item.index} * Fft::size + fft.thread();
  fft.template forward<real>(x, [&](int first, const Point* values) {
#pragma unroll
    for (int j = 0; j < Fft::group; ++j) {
      if (active) own[Fft::place(first + j)] = scale * values[j];
    }
  });
}

// An item is a row or one of the `parts` of a pair of rows; the `items_of_head` share its spectrum. A team has
// `turns` items, for which it makes its roots once.
template <typename Fft, bool real, typename Load, typename Store>
__global__ void __launch_bounds__(Fft::block_threads, Fft::blocks)
    convolve_near(std::int32_t items, std::int32_t turns, std::int32_t items_of_head, std::int32_t parts, Load load,
                  Store store, const Point* spectra) {
  SHARED_MEMORY(Point, shared);
  Fft fft(shared, real);
  const std::int32_t near_rows = real ? 1 : parts;  // whole rows have one part
  const std::int32_t begin = index_of_team<Fft>() * turns;
#pragma unroll 1
  for (std::int32_t index = begin; index < begin + turns; ++index) {
    const bool active = index < items;
    const Item item = item_of(active ? index : 0, items_of_head, near_rows);
    const std::int64_t row = std::int64_t{item.head} * near_rows + item.index % near_rows;
    const Point* spectrum = spectra + row * Fft::size + fft.thread();
    Point x[Fft::values];
    load_points<Fft>(load.row(item, fft.thread()), active, x);
    fft.template there_and_back<real>(x, [&](int first, Point* values) {
#pragma unroll
      for (int j = 0; j < Fft::group; ++j) values[j] = values[j] * spectrum[Fft::place(first + j)];
    });
    store_points<Fft, real>(store.row(item, fft.thread()), active, x);
  }
}

template <typename Fft, typename... Parameters, typename... Arguments>
void launch_near(cudaStream_t stream, std::int64_t items, void (*kernel)(Parameters...), Arguments&&... arguments) {
  launch(kernel, grid_of(divide_up(items, Fft::teams)), Fft::block_threads, Fft::shared_bytes, stream,
         std::forward<Arguments>(arguments)...);
}

// ----------------------------------------------------------------------------------- through device memory

// The pass with points 2^stride_log apart of transforms of 2^log points; a thread has 32 of them.
constexpr int far_threads = 128;
struct FarPass {
  int log, stride_log;
  Item item;
  std::int64_t begin;
  Point root;
  __device__ FarPass(int log_of_points, int log_of_stride, std::int64_t index, std::int32_t items_of_head)
      : log(log_of_points),
        stride_log(log_of_stride),
        item(item_of(static_cast<std::int32_t>(index >> (log_of_points - 5)), items_of_head)) {
    const std::int64_t within = index & ((std::int64_t{1} << (log - 5)) - 1), stride = std::int64_t{1} << stride_log;
    const std::int64_t low = within & (stride - 1);
    begin = ((within >> stride_log) << (stride_log + 5)) + low;
    root = unit_root(low, 32 * stride);
  }
  __device__ std::int64_t step(int j) const { return static_cast<std::int64_t>(j) << stride_log; }
};

// `pairs`: the first pass, of pairs of rows, whose second half is zeros.
template <bool pairs, typename Load>
__global__ void __launch_bounds__(far_threads, 4)
    split_far(std::int64_t items, std::int32_t items_of_head, int log, int stride_log, Load load, Point* points) {
  const std::int64_t index = first_element();
  if (index >= items << (log - 5)) return;
  const FarPass pass(log, stride_log, index, items_of_head);
  const auto row = [&] {
    if constexpr (pairs) {
      return pair_of(load, pass.item, pass.begin);
    } else {
      return load.row(pass.item, pass.begin);
    }
  }();
  Point* own = points + (static_cast<std::int64_t>(pass.item.index) << log) + pass.begin;
  Point x[32];
#pragma unroll
  for (int j = 0; j < (pairs ? 16 : 32); ++j) x[j] = row(pass.step(j));
  split<32, pairs>(x);
  twiddle<32>(x, pass.root);
#pragma unroll
  for (int j = 0; j < 32; ++j) own[pass.step(j)] = x[reversed_bits(j, 32)];
}

template <bool pairs, typename Store>
__global__ void __launch_bounds__(far_threads, 4) join_far(std::int64_t items, std::int32_t items_of_head, int log,
                                                           int stride_log, const Point* points, Store store) {
  const std::int64_t index = first_element();
  if (index >= items << (log - 5)) return;
  const FarPass pass(log, stride_log, index, items_of_head);
  const auto row = [&] {
    if constexpr (pairs) {
      return pair_of(store, pass.item, pass.begin);
    } else {
      return store.row(pass.item, pass.begin);
    }
  }();
  const Point* own = points + (static_cast<std::int64_t>(pass.item.index) << log) + pass.begin;
  Point x[32];
#pragma unroll
  for (int j = 0; j < 32; ++j) x[reversed_bits(j, 32)] = own[pass.step(j)];
  twiddle<32>(x, conj(pass.root));
  join<32, pairs>(x);
#pragma unroll
  for (int j = 0; j < (pairs ? 16 : 32); ++j) row.store(pass.step(j), x[j]);
}

inline dim3 far_grid(const FftPlan& plan, std::int64_t items) {
  return grid_of(divide_up(items << (plan.log() - 5), far_threads));
}

// From the rows of `load` to parts for the kernels on chip, in `points`; and back.
template <typename Load>
void split_far_passes(cudaStream_t stream, const FftPlan& plan, std::int32_t heads, std::int32_t items_of_head,
                      const Load& load, Point* points) {
  const std::int64_t items = std::int64_t{heads} * items_of_head;
  const int log = plan.log();
  launch(split_far<true, Load>, far_grid(plan, items), far_threads, 0, stream, items, items_of_head, log, log - 5,
         load, points);
  for (int pass = 1; pass < plan.far_passes; ++pass) {
    launch(split_far<false, Scratch>, far_grid(plan, items), far_threads, 0, stream, items, items_of_head, log,
           log - 5 * (pass + 1), Scratch{points, plan.points()}, points);
  }
}

template <typename Store>
void join_far_passes(cudaStream_t stream, const FftPlan& plan, std::int32_t heads, std::int32_t items_of_head,
                     Point* points, const Store& store) {
  const std::int64_t items = std::int64_t{heads} * items_of_head;
  const int log = plan.log();
  for (int pass = plan.far_passes - 1; pass > 0; --pass) {
    launch(join_far<false, Scratch>, far_grid(plan, items), far_threads, 0, stream, items, items_of_head, log,
           log - 5 * (pass + 1), points, Scratch{points, plan.points()});
  }
  launch(join_far<true, Store>, far_grid(plan, items), far_threads, 0, stream, items, items_of_head, log, log - 5,
         points, store);
}

// ------------------------------------------------------------------------------------------------ all of it

// Of the filters of `heads` heads, divided by the number of points: the inverse does not.
template <typename Load>
void launch_spectra(cudaStream_t stream, const FftPlan& plan, std::int32_t heads, const Load& load, Point* spectra) {
  const float scale = 1.0f / static_cast<float>(plan.points());
  if (plan.far_passes > 0) split_far_passes(stream, plan, heads, 1, load, spectra);
  with_transform(plan.near_log, [&](auto tag) {
    using Fft = typename decltype(tag)::type;
    if (plan.far_passes == 0) {
      launch_near<Fft>(stream, heads, make_spectra<Fft, true, Load>, heads, load, scale, spectra);
    } else {
      const std::int64_t items = std::int64_t{heads} * plan.near_rows();
      launch_near<Fft>(stream, items, make_spectra<Fft, false, Scratch>, items, Scratch{spectra, Fft::size}, scale,
                       spectra);
    }
  });
}

// How many heads, and sequences of each, are worked on at a time: all where nothing goes through device memory, else
// as many as have parts of 24 MiB together, which a cache of some 50 MiB keeps besides the spectra.
struct FftGroup {
  std::int32_t heads, sequences;

  FftGroup(const FftPlan& plan, std::int32_t all_heads, std::int32_t batch) : heads(all_heads), sequences(batch) {
    if (plan.far_passes == 0) return;
    const auto most = static_cast<std::int32_t>((24 << 20) / (std::int64_t{sizeof(Point)} * plan.points()));
    const std::int32_t items = std::clamp(most, 1, plan.items(batch));
    sequences = items * plan.rows_of_item();
    heads = std::clamp(most / items, 1, all_heads);
  }
  Tensor spectra(Encoder& encoder, const FftPlan& plan) const {
    return encoder.scratch(DType::f32, {heads, plan.points(), 2});
  }
  // The parts of the rows; empty where nothing goes through device memory.
  Tensor points(Encoder& encoder, const FftPlan& plan) const {
    return plan.far_passes == 0
               ? Tensor()
               : encoder.scratch(DType::f32, {std::int64_t{heads} * plan.items(sequences), plan.points(), 2});
  }
};

// Items of a team: up to 4 where that leaves eight rounds of blocks even to 128 multiprocessors.
template <typename Fft>
std::int32_t turns_of(std::int64_t items) {
  constexpr std::int64_t enough_teams = 8 * 128 * Fft::blocks * Fft::teams;
  return static_cast<std::int32_t>(std::clamp<std::int64_t>(items / enough_teams, 1, 4));
}

// `points` holds the parts of all items, where the plan has any; else it is null.
template <typename Load, typename Store>
void launch_convolution(cudaStream_t stream, const FftPlan& plan, std::int32_t heads, std::int32_t items_of_head,
                        const Load& load, const Store& store, const Point* spectra, Point* points) {
  if (plan.far_passes > 0) split_far_passes(stream, plan, heads, items_of_head, load, points);
  with_transform(plan.near_log, [&](auto tag) {
    using Fft = typename decltype(tag)::type;
    const std::int32_t rows = plan.near_rows();
    const std::int64_t items = std::int64_t{heads} * items_of_head * rows;
    const std::int32_t turns = turns_of<Fft>(items);
    if (plan.far_passes == 0) {
      launch_near<Fft>(stream, divide_up(items, turns), convolve_near<Fft, true, Load, Store>, items, turns,
                       items_of_head, rows, load, store, spectra);
    } else {
      const Scratch parts{points, Fft::size};
      launch_near<Fft>(stream, divide_up(items, turns), convolve_near<Fft, false, Scratch, Scratch>, items, turns,
                       items_of_head, rows, parts, parts, spectra);
    }
  });
  if (plan.far_passes > 0) join_far_passes(stream, plan, heads, items_of_head, points, store);
}

// All heads, group by group.
template <typename Load, typename Store>
void launch_groups(cudaStream_t stream, const FftPlan& plan, const FftGroup& group, std::int32_t heads,
                   const Filters& filters, const Load& load, const Store& store, Point* spectra, Point* points) {
  for (std::int32_t head = 0; head < heads; head += group.heads) {
    const std::int32_t some = std::min(group.heads, heads - head);
    launch_spectra(stream, plan, some, filters.part(head), spectra);
    for (std::int32_t sequence = 0; sequence < load.sequences(); sequence += group.sequences) {
      const Load part = load.part(head, sequence, group.sequences);
      launch_convolution(stream, plan, some, plan.items(part.sequences()), part,
                         store.part(head, sequence, group.sequences), spectra, points);
    }
  }
}

}  // namespace riverhorse::cuda
