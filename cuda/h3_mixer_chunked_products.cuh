// The products of the chunked mixer's forward pass (h3_mixer_chunked.cu) on one tile, by one warp, with 16-bit
// operands.
//
// Toeplitz matrices are operands B in registers, one an 8 x 8 tile; tiles of zeros are left out: 40 + 20 products. 32
// for E and 32 for R, both in shared memory.
#pragma once

#include "h3_mixer_chunked_matrices.cuh"

namespace riverhorse::cuda {

template <typename T>
class ChunkProducts {
 public:
  // `tables`: of the taps, one a term, and of the lags.
  __device__ __forceinline__ ChunkProducts(const std::uint32_t* tables, int lane)
      : g_(lane / 4),
        t_(lane % 4),
        keys_at_(unit_offset(lane % 16 + 1, lane / 16)),
        at_(unit_offset(lane % 16, lane / 16)),
        states_at_(static_cast<std::uint32_t>(lane % 16 * row_bytes) + at_) {
    for (int j = 0; j < 9; ++j) {
      const std::uint32_t* own = tables + 8 * j + g_ - 2 * t_ + toeplitz_before;
      for (int term = 0; term < tap_terms<T>; ++term) taps_[term][j] = own[term * toeplitz_size];
      if (j < 8) lags_[j] = own[tap_terms<T> * toeplitz_size];
    }
  }

  // k', from the chunk before (operands 0 to 3) and this one; then w. `begins`: rows with nothing before, or 0.
  __device__ __forceinline__ void shift_keys(std::uint32_t stage, unsigned begins) {
    std::uint32_t keys[8][4];
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      load_matrices(keys[p], stage + (at_ ^ (32 * p)));
      load_matrices(keys[4 + p], stage + (keys_at_ ^ (32 * p)));
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if ((begins >> (g_ + 8 * (j % 2)) & 1) != 0) keys[p][j] = 0;
      }
    }
#pragma unroll
    for (int begin = 0; begin < 4; begin += 2) {  // sums that do not wait for each other, side by side
      float shifted[2][2][4] = {};                // even, odd
#pragma unroll
      for (int term = 0; term < tap_terms<T>; ++term) {
        const std::uint32_t(&tap)[9] = taps_[term];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const int p = begin + i;
            multiply_add<T>(shifted[i][0], keys[p + j], tap[8 - 2 * j], tap[7 - 2 * j]);
            multiply_add<T>(shifted[i][1], keys[p + 1 + j], tap[7 - 2 * j], tap[6 - 2 * j]);
          }
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int p = begin + i;
          multiply_add<T>(shifted[i][0], keys[p + 4][0], keys[p + 4][1], tap[0]);
          multiply_add<T>(shifted[i][1], keys[p][2], keys[p][3], tap[8]);
        }
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int p = begin + i;
        std::uint32_t values[4];
        load_matrices(values, stage + Stage<T>::values + (at_ ^ (32 * p)));
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float2 value = unpack<T>(values[j]);
          const float* sum = shifted[i][j / 2] + j % 2 * 2;
          w_[p][j] = pack<T>(sum[0] * value.x, sum[1] * value.y);
        }
      }
    }
  }

  // E w, to the rows of states.
  __device__ __forceinline__ void project(std::uint32_t states, std::uint32_t e_at) const {
#pragma unroll
    for (int begin = 0; begin < 8; begin += 4) {
      float u[4][4] = {};
      multiply_matrix(u, w_, e_at, begin);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const std::uint32_t to =
            states + static_cast<std::uint32_t>(g_ * state_row_bytes + (((begin + i) ^ g_) << 5) + 8 * t_);
        store_shared(to, make_float2(u[i][0], u[i][1]));
        store_shared(to + 8 * state_row_bytes, make_float2(u[i][2], u[i][3]));
      }
    }
  }

  // w of one row, its tokens in order.
  __device__ __forceinline__ void keep_row(std::uint32_t to, int row) const {
    if (g_ != row % 8) return;
#pragma unroll
    for (int p = 0; p < 4; ++p) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        store_shared(to + static_cast<std::uint32_t>(32 * p + 16 * j + 4 * t_),
                     row < 8 ? w_[p][2 * j] : w_[p][2 * j + 1]);
      }
    }
  }

  // z = Toep(K) w
  __device__ __forceinline__ void mix_inside() {
#pragma unroll
    for (auto& column : z_) {
#pragma unroll
      for (float& sum : column) sum = 0;
    }
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      multiply_add<T>(z_[2 * p], w_[p][0], w_[p][1], lags_[0]);
#pragma unroll
      for (int column = 2 * p + 1; column < 8; ++column) {
        multiply_add<T>(z_[column], w_[p], lags_[column - 2 * p], lags_[column - 2 * p - 1]);
      }
    }
  }

  // z += R s
  __device__ __forceinline__ void add_past(std::uint32_t states, std::uint32_t r_at) {
    std::uint32_t s[4][4];
#pragma unroll
    for (int p = 0; p < 4; ++p) load_matrices(s[p], states + (states_at_ ^ (32 * p)));
#pragma unroll
    for (int begin = 0; begin < 8; begin += 4) multiply_matrix(z_ + begin, s, r_at, begin);
  }

  // y = q z in q's place
  __device__ __forceinline__ void gate(std::uint32_t queries) const {
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      const std::uint32_t place = queries + (at_ ^ (32 * p));
      std::uint32_t q[4], y[4];
      load_matrices(q, place);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float2 query = unpack<T>(q[j]);
        const float* column = z_[2 * p + j / 2] + j % 2 * 2;
        y[j] = pack<T>(column[0] * query.x, column[1] * query.y);
      }
      store_matrices(place, y);
    }
  }

 private:
  // Four columns, from `begin` on, of a matrix in shared memory.
  __device__ __forceinline__ static void multiply_matrix(float (*sums)[4], const std::uint32_t (&a)[4][4],
                                                         std::uint32_t matrix_at, int begin) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint4 b[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        b[i] = load_shared<uint4, true>(matrix_at + static_cast<std::uint32_t>(((begin + i) * 2 + half) * 512));
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) multiply_add<T>(sums[i], a[2 * half], b[i].x, b[i].y);
#pragma unroll
      for (int i = 0; i < 4; ++i) multiply_add<T>(sums[i], a[2 * half + 1], b[i].z, b[i].w);
    }
  }

  int g_, t_;
  std::uint32_t keys_at_, at_, states_at_;         // row lane % 16, unit lane / 16 of each pair of units
  std::uint32_t taps_[tap_terms<T>][9], lags_[8];  // pairs of neighbouring Toeplitz tiles (j + 1, j)
  std::uint32_t w_[4][4];
  float z_[8][4];
};

}  // namespace riverhorse::cuda
