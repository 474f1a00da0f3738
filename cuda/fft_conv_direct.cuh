// The long convolution with 16-bit activations as products with its Toeplitz matrix, on tensor cores: L^2 flops a
// row, half of a full product's, no transform. Up to some thousand tokens that is the shorter way (choose_direct()).
//
// A block has a head and S = 2^k sequences, whole, in shared memory: row c S + s is chunk c (64 tokens) of
// sequence s.
//   chunk c of y = sum over d from 0 to c of  (chunk c - d of u) Toep_d      Toep_d: lags 64 d - 63 to 64 d + 63
// A warp makes tiles of 32 rows: step d takes the rows d S further up, rows of zeros before the first. So a tile is
// one chunk of 32 sequences or all 32 chunks of one, and both batches and single sequences fill it.
//   * An 8 x 8 tile of a Toeplitz matrix is one register a lane, an entry of the table of lags. A step has 15, of
//     which the next step has 7 too: 8 loads of 4 bytes and 8 of 4 matrices for 64 products.
//   * Of the step d = 0 the tiles above the diagonal are left out.
//   * The adjoint, d_u of the backward pass, goes the other way: rows further down, lags row - column.
//   * Outputs go from registers to memory, by lanes that have first traded words: 16 bytes a lane.
//
// Operands are f16 for both types, sums fp32. u in bf16 becomes f16 times a power of two, from its sequence's
// largest: exact for all that is not 2^-32 of that. The filter is scaled likewise, by head, and rounded to 11 bits.
// What a rounding drops is added to the next lag, in runs of 16, so that a mean of u, or all that is slow, meets the
// error of one lag in 16 and not the sum of 16. What the filter's rounding does to y, relative, in the Euclidean norm
// (rounding y itself to f16 is 2.1e-4, to bf16 1.7e-3), and what filters rounded lag by lag would do:
//   u random, any filter                         2.9e-4   2.1e-4
//   u of mean 10 and deviation 1                 0.8e-4   2.1e-4
//   the same, a filter whose sum is zero         3.4e-4   12e-4
//   u mostly alternating in sign                 4.5e-4   2.2e-4
//   the same, a smooth filter, which removes it  11e-4    7e-4
// A second term of the filter would leave 1e-7 of all these, as transforms do, for twice the products. The test
// fft_conv_direct.errors holds the first three.
#pragma once

#include <optional>

#include "fft_conv.cuh"
#include "rows.cuh"

namespace riverhorse::cuda {

constexpr int direct_warps = 4, direct_threads = direct_warps * warp_size;  // at most
constexpr int direct_tile_rows = 32, direct_chunk = 64, direct_most_rows = 512;
constexpr int direct_blocks = 3;  // of a multiprocessor: 64 KiB of rows each
constexpr int lags_before = 8;    // entries of the table of lags before that of lag 0
constexpr int rounding_run = 16;

// How a call is cut up.
struct DirectPlan {
  std::int32_t batch, heads;
  std::int64_t length;
  int chunks;                 // of a sequence
  int sequences_log, groups;  // sequences of a block; blocks of a head

  __host__ __device__ int sequences() const { return 1 << sequences_log; }
  __host__ __device__ int rows() const { return chunks << sequences_log; }
  __host__ __device__ int tiles() const { return (rows() + direct_tile_rows - 1) / direct_tile_rows; }
  // The last step of a tile; of the adjoint, where the first tiles are the long ones.
  __host__ __device__ int last_step(int tile) const {
    const int last_row = tile * direct_tile_rows + direct_tile_rows - 1;
    return min(chunks - 1, last_row >> sequences_log);
  }
  __host__ __device__ int last_adjoint_step(int tile) const {
    return chunks - 1 - (tile * direct_tile_rows >> sequences_log);
  }
  int warps() const { return std::min(tiles(), direct_warps); }
  __host__ __device__ int rows_of_zeros() const { return max(direct_tile_rows - sequences(), 0); }
  __host__ __device__ int table_entries() const { return chunks * direct_chunk + 2 * lags_before; }
  // In shared memory: rows, after rows of zeros or, of the adjoint, before them; table, scales of the sequences, a
  // number of each warp.
  __host__ __device__ int table_offset() const { return (rows_of_zeros() + tiles() * direct_tile_rows) * row_bytes; }
  __host__ __device__ int scales_offset() const { return table_offset() + 4 * table_entries(); }
  __host__ __device__ int maxima_offset() const { return scales_offset() + 4 * sequences(); }
  std::size_t shared_bytes() const { return static_cast<std::size_t>(maxima_offset() + 4 * direct_warps); }
  // Of 32 x 64 outputs by 64 tokens, all that one block takes and all blocks.
  std::int64_t steps_of_block() const {
    std::int64_t steps = 0;
    for (int tile = 0; tile < tiles(); ++tile) steps += last_step(tile) + 1;
    return steps;
  }
  std::int64_t steps() const { return steps_of_block() * groups * heads; }
};

// The plan with the fewest steps, counted as those of all places for blocks where there are fewer blocks; none for
// rows that are too long.
inline std::optional<DirectPlan> plan_direct(std::int32_t batch, std::int32_t heads, std::int64_t length,
                                             int multiprocessors, std::size_t shared_bytes) {
  std::optional<DirectPlan> best;
  if (length > direct_most_rows * direct_chunk) return best;
  std::int64_t least = 0;
  const auto chunks = static_cast<int>(divide_up(length, direct_chunk));
  for (int log = 0; log == 0 || (chunks << log) <= direct_most_rows; ++log) {
    if (log > 0 && (1 << (log - 1)) >= batch) break;
    const DirectPlan plan{batch, heads, length, chunks, log, static_cast<int>(divide_up(batch, 1 << log))};
    const std::int64_t blocks = std::int64_t{heads} * plan.groups;
    const std::int64_t places = direct_blocks * direct_warps / plan.warps() * multiprocessors;
    const std::int64_t steps = plan.steps_of_block() * std::max(blocks, places);
    if (plan.shared_bytes() <= shared_bytes && (!best || steps <= least)) {
      best = plan;
      least = steps;
    }
  }
  return best;
}

// A plan where products are the shorter way. Both ways' times grow with the multiprocessors alike, so a ratio is all
// that is needed: measured on an H100 with 64 x 2048, a step of 64 products of 16 x 8 x 16 takes 0.63 ns; a point of
// a transform there and back, of which a row has L to 2 L and a filter too, from 4096 tokens on 5.0 to 5.8 ps.
// Batches of one, whose tiles are half above the diagonal, and lengths just above a power of two come out as they
// should.
//
// Backward, products are two kernels of as many steps and take three times the time, transforms 1.7 to 2.8 times
// theirs: measured, 64 x 1024 was quicker by products (0.47 ms, 0.67), 64 x 2048 by transforms (1.39 ms, 1.60).
constexpr std::int64_t points_of_step = 110, points_of_step_backward = 150;
inline std::optional<DirectPlan> choose_direct(DType dtype, std::int32_t batch, std::int32_t heads,
                                               const FftPlan& transform, std::int64_t length, int multiprocessors,
                                               std::size_t shared_bytes, std::int64_t step = points_of_step) {
  if (dtype_size_bytes(dtype) != 2) return {};
  const auto plan = plan_direct(batch, heads, length, multiprocessors, shared_bytes);
  const std::int64_t points = std::int64_t{heads} * (transform.items(batch) + 1) * transform.points();
  return plan && plan->steps() * step < points ? plan : std::nullopt;
}

// Of this block: fewer than direct_threads where it has fewer tiles.
__device__ inline int block_threads() { return static_cast<int>(blockDim.x); }
__device__ inline int block_warps() { return block_threads() / warp_size; }

// The place of this warp among those of the block, there and back in turn: where the work shrinks from place to
// place, all get the same.
__device__ inline int place_in_turn(int turn) {
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  return turn * block_warps() + (turn % 2 == 0 ? warp : block_warps() - 1 - warp);
}

// Rows in device memory: (B, H, L).
template <typename T>
struct DirectRows {
  T* values;
  bool aligned;  // to 16 bytes, each row
  DirectRows(T* from, std::int64_t length) : values(from), aligned(length % 8 == 0 && at_16_bytes(from)) {}
  __device__ T* row(const DirectPlan& plan, std::int64_t sequence, std::int64_t head) const {
    return values + (sequence * plan.heads + head) * plan.length;
  }
};

// Calls function(sequence of the block, unit of the sequence, its offset among the rows): a warp has whole sequences.
template <typename Function>
__device__ void each_unit(const DirectPlan& plan, int s, Function&& function) {
  for (int unit = static_cast<int>(threadIdx.x) % warp_size; unit < 8 * plan.chunks; unit += warp_size) {
    function(unit, unit_offset(((unit >> 3) << plan.sequences_log) + s, unit & 7));
  }
}

// The sequences of a group, zeros where there is none; there after wait_for_copies() and a barrier.
template <typename T>
__device__ void load_rows(const DirectPlan& plan, const DirectRows<const T>& from, std::int64_t head, int group,
                          std::uint32_t rows_at) {
  for (int s = static_cast<int>(threadIdx.x) / warp_size; s < plan.sequences(); s += block_warps()) {
    const std::int64_t sequence = (static_cast<std::int64_t>(group) << plan.sequences_log) + s;
    const T* row = from.row(plan, sequence, head);
    const int count = sequence < plan.batch ? static_cast<int>(plan.length) : 0;
    each_unit(plan, s, [&](int unit, std::uint32_t offset) {
      load_unit(rows_at + offset, row + 8 * unit, count - 8 * unit, from.aligned);
    });
  }
  commit_copies();
}

__device__ inline void clear_rows(std::uint32_t at, int rows) {
  for (int i = static_cast<int>(threadIdx.x); i < 8 * rows; i += block_threads()) {
    store_shared(at + static_cast<std::uint32_t>(16 * i), make_uint4(0, 0, 0, 0));
  }
}

// The power of two that brings numbers of at most `most` to just below 2^15, and its inverse; both are finite.
struct PowerOfTwo {
  float value, inverse;
  __device__ explicit PowerOfTwo(float most) {
    const unsigned exponent = min(268u - (__float_as_uint(most) >> 23), 253u);
    value = __uint_as_float(exponent << 23);
    inverse = __uint_as_float((254u - exponent) << 23);
  }
};

// A lane of four neighbours, the t-th, has words[i] of part i; afterwards word j of part t, which was lane j's.
__device__ inline void trade_words(std::uint32_t (&words)[4]) {
  const unsigned t = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const std::uint32_t other = __shfl_xor_sync(all_lanes, (t & 1) != 0 ? words[i] : words[i + 1], 1);
    ((t & 1) != 0 ? words[i] : words[i + 1]) = other;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const std::uint32_t other = __shfl_xor_sync(all_lanes, (t & 2) != 0 ? words[i] : words[i + 2], 2);
    ((t & 2) != 0 ? words[i] : words[i + 2]) = other;
  }
}

// The table of lags, as make_toeplitz() in h3_mixer_chunked.cuh has it: entry lag + 8 holds the weights of that lag
// and of the one before, of the adjoint the one after. By all threads; `maxima`: of each warp. Returns what to
// multiply sums by.
template <bool adjoint>
__device__ float make_lags(const float* kernel, float skip, const DirectPlan& plan, __half* table, float* maxima) {
  const int thread = static_cast<int>(threadIdx.x), lags = static_cast<int>(plan.length);
  const auto weight = [=](int lag) { return kernel[lag] + (lag == 0 ? skip : 0.0f); };
  float most = 0;
  for (int lag = thread; lag < lags; lag += block_threads()) most = fmaxf(most, fabsf(weight(lag)));
  most = warp_max(most);
  if (thread % warp_size == 0) maxima[thread / warp_size] = most;
  __syncthreads();
  for (int warp = 0; warp < block_warps(); ++warp) most = fmaxf(most, maxima[warp]);
  const PowerOfTwo scale(most);
  const auto store = [=](int lag, __half value) {
    table[2 * (lag + lags_before)] = value;
    table[2 * (lag + lags_before + (adjoint ? -1 : 1)) + 1] = value;
  };
  for (int lag = thread + 1 - lags_before; lag < 0; lag += block_threads()) store(lag, from_float<__half>(0.0f));
  for (int run = thread * rounding_run; run < plan.chunks * direct_chunk; run += block_threads() * rounding_run) {
    float dropped = 0;
#pragma unroll
    for (int i = 0; i < rounding_run; ++i) {
      const float value = (run + i < lags ? scale.value * weight(run + i) : 0.0f) + dropped;
      const __half rounded = from_float<__half>(value);
      dropped = value - to_float(rounded);
      store(run + i, rounded);
    }
  }
  return scale.inverse;
}

// From bf16 to f16 by a power of two, whose inverse goes to scales[sequence]: a warp those that it has loaded.
__device__ inline void rows_to_half(const DirectPlan& plan, std::uint32_t rows_at, float* scales) {
  for (int s = static_cast<int>(threadIdx.x) / warp_size; s < plan.sequences(); s += block_warps()) {
    float most = 0;
    each_unit(plan, s, [&](int, std::uint32_t offset) {
      const auto words = load_shared<uint4>(rows_at + offset);
      for (const std::uint32_t word : {words.x, words.y, words.z, words.w}) {
        const float2 pair = unpack<__nv_bfloat16>(word);
        most = fmaxf(most, fmaxf(fabsf(pair.x), fabsf(pair.y)));
      }
    });
    const PowerOfTwo scale(warp_max(most));
    const auto to_half = [=](std::uint32_t word) {
      const float2 pair = unpack<__nv_bfloat16>(word);
      return pack<__half>(scale.value * pair.x, scale.value * pair.y);
    };
    each_unit(plan, s, [&](int, std::uint32_t offset) {
      const auto words = load_shared<uint4>(rows_at + offset);
      store_shared(rows_at + offset,
                   make_uint4(to_half(words.x), to_half(words.y), to_half(words.z), to_half(words.w)));
    });
    if (threadIdx.x % warp_size == 0) scales[s] = scale.inverse;
  }
}

// sums += the tile's rows times the Toeplitz matrix. `lags_at`: the lane's entry of lag 0.
template <bool adjoint>
__device__ __forceinline__ void multiply_tile(const DirectPlan& plan, int tile, std::uint32_t rows_at,
                                              std::uint32_t lags_at, float (&sums)[2][8][4]) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const auto lags = [=](int i) {
    return load_shared<std::uint32_t, true>(lags_at + static_cast<std::uint32_t>(32 * i));
  };
  int d = adjoint ? plan.last_adjoint_step(tile) : plan.last_step(tile);
  const int row = tile * direct_tile_rows + lane % 16;
  std::uint32_t window[15];  // Toeplitz tiles 8 d - 7 to 8 d + 7
#pragma unroll
  for (int i = 8; i < 15; ++i) window[i] = lags(8 * d + i - 7);
#pragma unroll 1
  for (; d > 0; --d) {
#pragma unroll
    for (int i = 0; i < 8; ++i) window[i] = lags(8 * d + i - 7);
    const int shift = d << plan.sequences_log;
    const std::uint32_t at = unit_offset(adjoint ? row + shift : row - shift, lane / 16);
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      std::uint32_t u[2][4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        load_matrices<true>(u[half], rows_at + (at ^ (32 * p)) + static_cast<std::uint32_t>(16 * row_bytes * half));
      }
#pragma unroll
      for (int column = 0; column < 8; ++column) {
        const int first = adjoint ? 7 + 2 * p - column : 7 + column - 2 * p, second = adjoint ? first + 1 : first - 1;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          multiply_add<__half>(sums[half][column], u[half], window[first], window[second]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 7; ++i) window[i + 8] = window[i];
  }
  window[7] = lags(0);
  const std::uint32_t at = unit_offset(row, lane / 16);
#pragma unroll
  for (int p = 0; p < 4; ++p) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      std::uint32_t u[4];
      load_matrices<true>(u, rows_at + (at ^ (32 * p)) + static_cast<std::uint32_t>(16 * row_bytes * half));
      if constexpr (adjoint) {
#pragma unroll
        for (int column = 0; column <= 2 * p; ++column) {
          multiply_add<__half>(sums[half][column], u, window[7 + 2 * p - column], window[8 + 2 * p - column]);
        }
        multiply_add<__half>(sums[half][2 * p + 1], u[2], u[3], window[7]);
      } else {
        multiply_add<__half>(sums[half][2 * p], u[0], u[1], window[7]);
#pragma unroll
        for (int column = 2 * p + 1; column < 8; ++column) {
          multiply_add<__half>(sums[half][column], u, window[7 + column - 2 * p], window[6 + column - 2 * p]);
        }
      }
    }
  }
}

// y = conv(u, kernel) + skip u, or the adjoint of it.
template <typename T, bool adjoint>
__global__ void __launch_bounds__(direct_threads, 4)
    convolve_direct(DirectPlan plan, DirectRows<const T> u, const float* kernel, const float* skip, bool gelu,
                    DirectRows<T> y) {
  SHARED_MEMORY(unsigned char, memory);
  const int lane = static_cast<int>(threadIdx.x) % warp_size, g = lane / 4, t = lane % 4;
  const auto groups = static_cast<unsigned>(plan.groups);
  const std::int64_t head = blockIdx.x / groups;
  const auto group = static_cast<int>(blockIdx.x % groups);
  const std::uint32_t base = shared_address(memory);
  const int zeros = plan.rows_of_zeros(), tail = plan.tiles() * direct_tile_rows - plan.rows();
  const std::uint32_t rows_at = base + static_cast<std::uint32_t>(adjoint ? 0 : zeros * row_bytes);
  auto* const scales = reinterpret_cast<float*>(memory + plan.scales_offset());

  load_rows(plan, u, head, group, rows_at);
  if (!adjoint) clear_rows(base, zeros);
  clear_rows(rows_at + static_cast<std::uint32_t>(plan.rows() * row_bytes), adjoint ? tail + zeros : tail);
  const float filter_scale = make_lags<adjoint>(kernel + head * plan.length, skip != nullptr ? skip[head] : 0.0f,
                                                plan, reinterpret_cast<__half*>(memory + plan.table_offset()),
                                                reinterpret_cast<float*>(memory + plan.maxima_offset()));
  wait_for_copies<0>();
  if constexpr (!is_f16<T>) rows_to_half(plan, rows_at, scales);
  __syncthreads();

  const std::uint32_t rows_made = opaque(rows_at);
  const std::uint32_t lags_at =
      opaque(base) +
      static_cast<std::uint32_t>(plan.table_offset() + 4 * (lags_before + (adjoint ? 2 * t - g : g - 2 * t)));
  // From the longest tile on.
#pragma unroll 1
  for (int turn = 0;; ++turn) {
    const int place = place_in_turn(turn);
    if (place >= plan.tiles()) break;
    const int tile = adjoint ? place : plan.tiles() - 1 - place;
    float sums[2][8][4] = {};
    multiply_tile<adjoint>(plan, tile, rows_made, lags_at, sums);
#pragma unroll
    for (int part = 0; part < 4; ++part) {  // rows 8 part + g
      const int own = tile * direct_tile_rows + 8 * part + g, s = own & (plan.sequences() - 1);
      const std::int64_t sequence = (static_cast<std::int64_t>(group) << plan.sequences_log) + s;
      // The smaller one first: neither overflows nor vanishes where the product of all three does not.
      const float scale = is_f16<T> ? 1.0f : scales[s];
      const float first_scale = fminf(scale, filter_scale), second_scale = fmaxf(scale, filter_scale);
      const auto output = [&](float sum) {
        const float p = sum * first_scale * second_scale;
        return gelu ? gelu_erf(p) : p;
      };
#pragma unroll
      for (int four = 0; four < 8; four += 4) {
        std::uint32_t words[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* pair = sums[part / 2][four + i] + part % 2 * 2;
          words[i] = pack<T>(output(pair[0]), output(pair[1]));
        }
        trade_words(words);
        const int token = (own >> plan.sequences_log) * direct_chunk + 8 * (four + t);
        if (sequence < plan.batch) {
          store_unit(y.row(plan, sequence, head) + token, make_uint4(words[0], words[1], words[2], words[3]),
                     static_cast<int>(plan.length) - token, y.aligned);
        }
      }
    }
  }
}

template <bool adjoint, typename T>
void launch_direct(cudaStream_t stream, const DirectPlan& plan, const T* u, const float* kernel, const float* skip,
                   bool gelu, T* y) {
  launch(convolve_direct<T, adjoint>, grid_of(std::int64_t{plan.heads} * plan.groups),
         static_cast<unsigned>(plan.warps() * warp_size), plan.shared_bytes(), stream, plan,
         DirectRows<const T>(u, plan.length), kernel, skip, gelu, DirectRows<T>(y, plan.length));
}

// Calls `function` with a value of the type of 16 bits that stores `dtype`.
template <typename Function>
void with_half(DType dtype, Function&& function) {
  if (dtype == DType::f16) {
    function(__half());
  } else {
    function(__nv_bfloat16());
  }
}

}  // namespace riverhorse::cuda
