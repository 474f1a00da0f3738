// Rows of a weight W (M, K) times a few rows of x (R, K), as a generation step has them: the core of linear_gemv.cu
// and h3_step.cu. W is read once and x is small, so that all depends on how much of W is on its way at any time.
//
// A warp takes `rows_at_once` rows of W together, or a part of each; its lanes stride along K, 16 bytes at a time. Of
// each row two portions are on their way, and the first two are requested before the kernel's turn has come
// (kernel.cuh): they do not depend on what the kernel before it makes. Where there is a norm, every block normalises
// x once for itself, in shared memory.
//
// The order of additions depends on K and the device, not on how many rows of x there are: a row of y has the same
// bits whichever others it is computed with.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernel.cuh"
#include "norm.h"
#include "quantised.cuh"

namespace riverhorse::cuda::gemv {

constexpr int few_rows = 8;  // of x, at most; of plain weights in 16 bits one (linear_batch.cu)
constexpr int warps = 4;     // of a block
constexpr int threads = warps * warp_size;

// `count` elements at once: 16 bytes, or one element where rows are not aligned.
template <typename T>
constexpr int most_at_once = 16 / static_cast<int>(sizeof(T));

// Weights are read once a token, and are not to push x out of the caches.
template <typename Unit>
__device__ __forceinline__ Unit load_once(const Unit* from) {
#ifndef RIVERHORSE_CUDA_EMULATED
  if constexpr (sizeof(Unit) == sizeof(uint4)) {
    uint4 bits;
    // Volatile, so that it stays before wait_for_previous().
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
                 : "l"(from));
    Unit unit;
    std::memcpy(&unit, &bits, sizeof unit);
    return unit;
  }
#endif
  return *from;
}

// The rows of x, (rows, inputs), rows that are not there repeating the last.
template <typename T, int count>
struct PlainRows {
  static constexpr int group = count < most_at_once<T> ? count : most_at_once<T>;  // elements at once
  const T* x;
  int rows, inputs;

  // The elements from `begin` on of a unit.
  template <int which>
  __device__ void get(int row, int, int unit, int begin, float (&values)[group]) const {
    const T* from = x + min(row, rows - 1) * inputs + unit * count;
    const auto elements = *reinterpret_cast<const Neighbours<T, group>*>(from + begin);
#pragma unroll
    for (int i = 0; i < group; ++i) values[i] = to_float(elements.values[i]);
  }
  template <int which>
  __device__ void request_next() {}
};

// One row of x: what a lane reads of it is requested as that of W is, two portions of `at_once` units, and is kept
// where a row has no more. Lanes without a unit read the last.
template <typename T, int count, int at_once>
class HeldRow {
 public:
  static constexpr int group = count < most_at_once<T> ? count : most_at_once<T>;

  __device__ HeldRow(const T* x, int inputs, int begin, int stride, int portions)
      : x_(x), units_(inputs / count), begin_(begin), stride_(stride), portions_(portions) {
    request(held_[0]);
    request(held_[1]);
  }

  template <int which>
  __device__ void get(int, int u, int, int begin, float (&values)[group]) const {
#pragma unroll
    for (int i = 0; i < group; ++i) values[i] = to_float(held_[which][u][begin / group].values[i]);
  }
  // When the portion `which` has been multiplied.
  template <int which>
  __device__ void request_next() {
    if (portions_ > 2) request(held_[which]);
  }

 private:
  using Group = Neighbours<T, group>;
  using Portion = Group[at_once][count / group];

  __device__ __forceinline__ void request(Portion& to) {
#pragma unroll
    for (int u = 0; u < at_once; ++u) {
      const int unit = min(begin_ + (portion_ * at_once + u) * stride_, units_ - 1);
#pragma unroll
      for (int i = 0; i < count / group; ++i) {
        to[u][i] = reinterpret_cast<const Group*>(x_)[unit * (count / group) + i];
      }
    }
    if (++portion_ == portions_) portion_ = 0;
  }

  const T* x_;
  int units_, begin_, stride_, portions_;
  int portion_ = 0;  // of the next request
  Portion held_[2];
};

// layer_norm(x) in shared memory. A unit of 8 elements lies in two halves of the row, a larger one in as many parts
// as it has fours, so that lanes that read neighbouring units read neighbouring 16 bytes.
template <typename T, int count>
struct NormalisedRows {
  static constexpr int group = count == 1 ? 1 : 4;  // elements at once
  static constexpr int groups_in_unit = count / group;
  static constexpr int held = 4;  // groups a thread: rows of up to 2048 are requested at once

  float* values;
  int rows, inputs;

  template <int which>
  __device__ void get(int row, int, int unit, int begin, float (&out)[group]) const {
    const float* base = values + min(row, rows - 1) * inputs;
    const auto four =
        reinterpret_cast<const Neighbours<float, group>*>(base)[begin / group * (inputs / count) + unit];
#pragma unroll
    for (int i = 0; i < group; ++i) out[i] = four.values[i];
  }
  template <int which>
  __device__ void request_next() {}
};

// gamma and beta, of which a thread requests its first groups as the kernel begins.
template <typename Rows>
class RowNorm {
 public:
  using Group = Neighbours<float, Rows::group>;

  __device__ RowNorm(const float* weight, const float* bias, float epsilon, int inputs)
      : weight_(reinterpret_cast<const Group*>(weight)),
        bias_(reinterpret_cast<const Group*>(bias)),
        epsilon_(epsilon),
        groups_(inputs / Rows::group) {
#pragma unroll
    for (int i = 0; i < Rows::held; ++i) {
      const int group = own_group(i);
      if (group >= groups_) continue;
      weights_[i] = weight_[group];
      biases_[i] = bias_[group];
    }
  }

  // By the whole block, which may read the rows when all have returned and passed a barrier. The variance is a sum of
  // squared distances from the mean, never a difference.
  template <int most_rows>
  __device__ void normalise(const float* x, const Rows& rows) {
    __shared__ float of_warps[2][warps][most_rows];
    if constexpr (most_rows == 1) {
      if (groups_ <= Rows::held * threads) return normalise_held(reinterpret_cast<const Group*>(x), rows, of_warps);
    }
    const auto width = static_cast<float>(rows.inputs);
    float sums[most_rows] = {}, squares[most_rows] = {};
#pragma unroll
    for (int row = 0; row < most_rows; ++row) {
      if (row >= rows.rows) break;
      const auto* from = reinterpret_cast<const Group*>(x + row * rows.inputs);
      for (int begin = 0; begin < groups_; begin += Rows::held * threads) {
        Group values[Rows::held];
#pragma unroll
        for (int i = 0; i < Rows::held; ++i) {
          values[i] = {};
          if (begin + own_group(i) < groups_) values[i] = from[begin + own_group(i)];
        }
#pragma unroll
        for (int i = 0; i < Rows::held; ++i) {
          if (begin + own_group(i) >= groups_) continue;
          *place(rows, row, begin + own_group(i)) = values[i];
          for (const float value : values[i].values) sums[row] += value;
        }
      }
    }
    block_sums(sums, of_warps[0]);
#pragma unroll
    for (int row = 0; row < most_rows; ++row) {
      if (row >= rows.rows) break;
      const float mean = sums[row] / width;
#pragma unroll 4
      for (int group = own_group(0); group < groups_; group += threads) {
        for (const float value : place(rows, row, group)->values) squares[row] += (value - mean) * (value - mean);
      }
    }
    block_sums(squares, of_warps[1]);
#pragma unroll
    for (int row = 0; row < most_rows; ++row) {
      if (row >= rows.rows) break;
      const float mean = sums[row] / width, scale = rsqrtf(squares[row] / width + epsilon_);
#pragma unroll
      for (int i = 0; i < Rows::held; ++i) {
        if (own_group(i) < groups_) finish(place(rows, row, own_group(i)), mean, scale, weights_[i], biases_[i]);
      }
      for (int group = own_group(Rows::held); group < groups_; group += threads) {
        finish(place(rows, row, group), mean, scale, weight_[group], bias_[group]);
      }
    }
  }

 private:
  // One row, of which no thread has more groups than it can keep in registers: the same sums.
  __device__ void normalise_held(const Group* from, const Rows& rows, float (*of_warps)[warps][1]) {
    const auto width = static_cast<float>(rows.inputs);
    Group values[Rows::held] = {};
#pragma unroll
    for (int i = 0; i < Rows::held; ++i) {
      if (own_group(i) < groups_) values[i] = from[own_group(i)];
    }
    float sum[1] = {}, square[1] = {};
#pragma unroll
    for (const Group& group : values) {
      for (const float value : group.values) sum[0] += value;
    }
    block_sums(sum, of_warps[0]);
    const float mean = sum[0] / width;
#pragma unroll
    for (int i = 0; i < Rows::held; ++i) {
      if (own_group(i) >= groups_) continue;
      for (const float value : values[i].values) square[0] += (value - mean) * (value - mean);
    }
    block_sums(square, of_warps[1]);
    const float scale = rsqrtf(square[0] / width + epsilon_);
#pragma unroll
    for (int i = 0; i < Rows::held; ++i) {
      if (own_group(i) >= groups_) continue;
      finish(&values[i], mean, scale, weights_[i], biases_[i]);
      *place(rows, 0, own_group(i)) = values[i];
    }
  }

  __device__ static int own_group(int i) { return static_cast<int>(threadIdx.x) + i * threads; }
  __device__ Group* place(const Rows& rows, int row, int group) const {
    constexpr int parts = Rows::groups_in_unit;
    auto* groups = reinterpret_cast<Group*>(rows.values + row * rows.inputs);
    return groups + group % parts * (groups_ / parts) + group / parts;
  }
  __device__ static void finish(Group* group, float mean, float scale, const Group& weight, const Group& bias) {
    Group values = *group;
#pragma unroll
    for (int i = 0; i < Rows::group; ++i) {
      values.values[i] = (values.values[i] - mean) * scale * weight.values[i] + bias.values[i];
    }
    *group = values;
  }

  const Group* weight_;
  const Group* bias_;
  float epsilon_;
  int groups_;
  Group weights_[Rows::held], biases_[Rows::held];
};

// W of activations' type. A lane reads a unit at once. add() is sums[r][row] += unit r, of as many rows of W, times
// what it meets of each row of x; of that a group at a time is read and serves all of them.
template <typename T, int elements>
struct PlainMatrix {
  static constexpr int count = elements;
  using Unit = Neighbours<T, count>;

  const Unit* units;
  int row_units;

  PlainMatrix(const T* weight, std::int64_t inputs)
      : units(reinterpret_cast<const Unit*>(weight)), row_units(static_cast<int>(inputs / count)) {}

  __device__ Unit load(std::int64_t row, int unit) const { return load_once(units + row * row_units + unit); }
  template <int which, typename Rows, int rows_at_once, int most_rows>
  __device__ static __forceinline__ void add(const Unit* const (&units)[rows_at_once], const Rows& x, int u, int unit,
                                             float (&sums)[rows_at_once][most_rows]) {
#pragma unroll
    for (int row = 0; row < most_rows; ++row) {
#pragma unroll
      for (int begin = 0; begin < count; begin += Rows::group) {
        float values[Rows::group];
        x.template get<which>(row, u, unit, begin, values);
#pragma unroll
        for (int r = 0; r < rows_at_once; ++r) {
#pragma unroll
          for (int i = 0; i < Rows::group; ++i) sums[r][row] += to_float(units[r]->values[begin + i]) * values[i];
        }
      }
    }
  }
};

// W quantised: a unit is 16 bytes of quants, in q4 a block, in q8 half a block, and the block's scale.
template <DType dtype>
struct QuantisedMatrix {
  static constexpr int count = dtype == DType::q4 ? 32 : 16;
  static constexpr int units_in_block = static_cast<int>(quantised_block) / count;
  struct Unit {
    uint4 quants;
    __half scale;
  };

  QuantisedRows<dtype> rows;

  QuantisedMatrix(const unsigned char* weight, std::int64_t inputs) : rows(weight, inputs) {}

  __device__ Unit load(std::int64_t row, int unit) const {
    Unit loaded;
    loaded.quants = load_once(reinterpret_cast<const uint4*>(rows.block(row, 0)) + unit);
    loaded.scale = rows.scale_bits(row, unit / units_in_block);
    return loaded;
  }
  // Quants are unpacked once for all rows of x.
  template <int which, typename Rows, int rows_at_once, int most_rows>
  __device__ static __forceinline__ void add(const Unit* const (&units)[rows_at_once], const Rows& x, int u, int unit,
                                             float (&sums)[rows_at_once][most_rows]) {
    static_assert(Rows::group % 4 == 0);
    float products[rows_at_once][most_rows] = {};
#pragma unroll
    for (int begin = 0; begin < count; begin += Rows::group) {
      float quants[rows_at_once][Rows::group];
#pragma unroll
      for (int r = 0; r < rows_at_once; ++r) {
        const uint4& bits = units[r]->quants;
        const std::uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
        for (int i = 0; i < Rows::group; i += 4) {
          float four[4];
          numbers_of<dtype>(words[(begin + i) / 4 % 4], (begin + i) / 16, four);
#pragma unroll
          for (int c = 0; c < 4; ++c) quants[r][i + c] = four[c];
        }
      }
#pragma unroll
      for (int row = 0; row < most_rows; ++row) {
        float values[Rows::group];
        x.template get<which>(row, u, unit, begin, values);
#pragma unroll
        for (int r = 0; r < rows_at_once; ++r) {
#pragma unroll
          for (int i = 0; i < Rows::group; ++i) products[r][row] += quants[r][i] * values[i];
        }
      }
    }
#pragma unroll
    for (int r = 0; r < rows_at_once; ++r) {
#pragma unroll
      for (int row = 0; row < most_rows; ++row) sums[r][row] += to_float(units[r]->scale) * products[r][row];
    }
  }
};

// What a warp reads of W, portion by portion: for each turn of the warp, `rows_at_once` rows, their units begin,
// begin + stride, ... `at_once` of them a portion.
template <typename Matrix, int rows_at_once, int at_once>
class Weights {
 public:
  static constexpr int count = Matrix::count;
  using Unit = typename Matrix::Unit;

  // Rows first + i row_step of the first turn, `turn_step` more of each that follows; below `end` of the first of
  // them. There are `rows` in all, of which the last is read in place of those that are not there.
  __device__ Weights(const Matrix& matrix, int inputs, int rows, int first, int turn_step, int end, int row_step,
                     int begin, int stride)
      : matrix_(matrix),
        units_(inputs / count),
        last_(rows - 1),
        row_step_(row_step),
        turn_step_(turn_step),
        end_(end),
        begin_(begin),
        stride_(stride),
        row_(first) {
    request(portions_[0]);
    request(portions_[1]);
  }

  // Portions that a row has, the same for all lanes.
  __device__ static int portions(int inputs, int stride) {
    return (inputs / count + stride * at_once - 1) / (stride * at_once);
  }

  // sums[i][row] += the next portion of the turn's row i times that of x; `which`: 0 and 1 in turn.
  template <int which, int most_rows, typename Rows>
  __device__ __forceinline__ void multiply(Rows& x, int portion, float (&sums)[rows_at_once][most_rows]) {
#pragma unroll
    for (int u = 0; u < at_once; ++u) {
      const int unit = begin_ + (portion * at_once + u) * stride_;
      if (unit >= units_) break;
      const Unit* units[rows_at_once];
#pragma unroll
      for (int r = 0; r < rows_at_once; ++r) units[r] = &portions_[which][r][u];
      Matrix::template add<which>(units, x, u, unit, sums);
    }
    x.template request_next<which>();
    request(portions_[which]);
  }

 private:
  using Portion = Unit[rows_at_once][at_once];

  __device__ __forceinline__ void request(Portion& to) {
#pragma unroll
    for (int r = 0; r < rows_at_once; ++r) {
      const int row = rows_at_once == 1 ? row_ : min(row_ + r * row_step_, last_);
#pragma unroll
      for (int u = 0; u < at_once; ++u) {
        const int unit = begin_ + (portion_ * at_once + u) * stride_;
        if (row_ < end_ && unit < units_) to[r][u] = matrix_.load(row, unit);
      }
    }
    if ((++portion_) * at_once * stride_ >= units_) {
      portion_ = 0;
      row_ += turn_step_;
    }
  }

  Matrix matrix_;
  int units_, last_, row_step_, turn_step_, end_, begin_, stride_;
  int row_, portion_ = 0;  // of the next request
  Portion portions_[2];
};

// sums[lane * count / 32] over the lanes, to each lane; the bits are those of warp_sum(). At each distance lanes have
// half of the sums that are left, and give the others away.
template <int count>
__device__ float spread_warp_sums(float (&sums)[count]) {
  static_assert(count <= warp_size && (count & (count - 1)) == 0);
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
#pragma unroll
  for (int distance = warp_size / 2, left = count; distance > 0; distance /= 2) {
    if (left == 1) {
      sums[0] += __shfl_xor_sync(all_lanes, sums[0], distance);
      continue;
    }
    left /= 2;
    const bool upper = (lane & distance) != 0;
#pragma unroll
    for (int i = 0; i < count / 2; ++i) {
      if (i >= left) break;
      const float other = __shfl_xor_sync(all_lanes, upper ? sums[i] : sums[left + i], distance);
      sums[i] = (upper ? sums[left + i] : sums[i]) + other;
    }
  }
  return sums[0];
}

// Calls `function` with how many rows a kernel is made for, at least `rows`: each row that it is made for costs reads
// of x, also where it is none. One, two, four or all; all where elements are read one by one; and one of plain
// weights in 16 bits, of which tensor cores take more.
template <typename T, typename Matrix, typename Function>
void with_most_rows(std::int64_t rows, const Function& function) {
  constexpr bool plain = std::is_same_v<Matrix, PlainMatrix<T, Matrix::count>>;
  if constexpr (Matrix::count == 1) {
    function(std::integral_constant<int, few_rows>());
  } else if constexpr (plain && sizeof(T) == 2) {
    function(std::integral_constant<int, 1>());
  } else if (rows == 1) {
    function(std::integral_constant<int, 1>());
  } else if (rows == 2) {
    function(std::integral_constant<int, 2>());
  } else if (rows <= 4) {
    function(std::integral_constant<int, 4>());
  } else {
    function(std::integral_constant<int, few_rows>());
  }
}

// How blocks share the work, decided from the shape of W and the device alone.
inline bool normalised_rows_fit(std::int64_t inputs, std::size_t shared_bytes) {
  constexpr std::size_t most_bytes = 96 << 10;  // so that two blocks fit a multiprocessor
  return few_rows * static_cast<std::size_t>(inputs) * sizeof(float) <= std::min(shared_bytes - 2048, most_bytes);
}

}  // namespace riverhorse::cuda::gemv
