// linear with quantised weights.
//
// Up to 8 rows of x are linear_gemv.cu's. 9 to 16 rows in 16 bits are a product on tensor cores that reads W once, as
// it is stored: 16 rows of x by 8 outputs a warp, whose quants are small integers and so exact in 16 bits. The 32
// columns of a block are two products onto sums of their own, which the block's scales take to the sums of the row in
// fp32: nothing of W is rounded. The four lanes of an output each hold a quarter of a block, in the order of memory;
// that x is read in the same order is all that a product asks. The warps of a block share its outputs where there are
// few of these, along K. More rows read W from scratch memory, dequantised.
#include "encoder.h"
#include "kernel.cuh"
#include "linear_epilogue.cuh"
#include "quantised.cuh"
#include "tensor_core.cuh"

namespace riverhorse::cuda {

namespace {

constexpr int most_rows = 16;
constexpr int row_groups = 2;  // of 8
constexpr int warps_in_block = 8;
constexpr int threads = warps_in_block * warp_size;
constexpr int tile_outputs = 8;
constexpr int blocks_ahead = 4;  // of a row, that a warp requests at once

// Four quants as two pairs of T. `bytes`: unsigned, by `zero` too large, which is 128 or 8.
template <typename T, int zero>
__device__ __forceinline__ void pairs_of(std::uint32_t bytes, std::uint32_t (&pairs)[2]) {
#ifndef RIVERHORSE_CUDA_EMULATED
  if constexpr (is_f16<T>) {
    // The bytes as the low bits of 1024 + byte, and that less 1024 + zero.
    const std::uint32_t low = __byte_perm(bytes, 0x64646464u, 0x4140), high = __byte_perm(bytes, 0x64646464u, 0x4342);
    constexpr std::uint32_t offset = 0x64006400u + zero * 0x10001u;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(pairs[0]) : "r"(low), "r"(offset));
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(pairs[1]) : "r"(high), "r"(offset));
  } else
#endif
  {
    float values[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {  // likewise, of 2^23
      values[i] = __uint_as_float(0x4b000000u | ((bytes >> (8 * i)) & 255u)) - (0x1p23f + static_cast<float>(zero));
    }
    pairs[0] = pack<T>(values[0], values[1]);
    pairs[1] = pack<T>(values[2], values[3]);
  }
}

// A quarter of a block: 8 quants, four for either product, and the 8 numbers of a row of x that they meet.
template <DType dtype>
struct Quarter;

template <>
struct Quarter<DType::q8> {  // columns 8 t to 8 t + 7
  static constexpr int zero = 128;
  uint2 bits;
  __device__ void load(const unsigned char* block, int t) { bits = reinterpret_cast<const uint2*>(block)[t]; }
  __device__ std::uint32_t bytes(int half) const { return (half == 0 ? bits.x : bits.y) ^ 0x80808080u; }
  static __device__ uint4 load_x(const void* block, int t) { return reinterpret_cast<const uint4*>(block)[t]; }
};

template <>
struct Quarter<DType::q4> {  // columns 4 t to 4 t + 3, and the same 16 further on
  static constexpr int zero = 8;
  std::uint32_t bits;
  __device__ void load(const unsigned char* block, int t) { bits = reinterpret_cast<const std::uint32_t*>(block)[t]; }
  __device__ std::uint32_t bytes(int half) const { return (bits >> (4 * half)) & 0x0f0f0f0fu; }
  static __device__ uint4 load_x(const void* block, int t) {
    const uint2 low = reinterpret_cast<const uint2*>(block)[t], high = reinterpret_cast<const uint2*>(block)[t + 4];
    return make_uint4(low.x, low.y, high.x, high.y);
  }
};

// function(c, index in y) for the sums of a lane that are results: those of the first warp of a tile, of rows of x
// and outputs that are there.
template <typename T, typename Y, typename Function>
__device__ __forceinline__ void for_own_results(const Epilogue<T, Y>& epilogue, int part, int g,
                                                const std::int64_t (&outputs)[2], Function&& function) {
#pragma unroll
  for (int c = 0; c < 2 * row_groups; ++c) {
    const std::int64_t row = g + c / 2 * 8, output = outputs[c % 2];
    if (part == 0 && row < epilogue.rows && output < epilogue.outputs) function(c, epilogue.index(row, output));
  }
}

// `split` warps share a tile.
template <DType dtype, typename T, typename Y>
__global__ void __launch_bounds__(threads)
    multiply_half(const T* x, QuantisedRows<dtype> weight, int split, Epilogue<T, Y> epilogue) {
  let_next_begin();
  const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
  const int g = lane / 4, t = lane % 4, part = warp % split;
  const std::int64_t tile = std::int64_t{blockIdx.x} * (warps_in_block / split) + warp / split;
  const std::int64_t last = epilogue.outputs - 1;
  const std::int64_t own_output = min(tile * tile_outputs + g, last);
  const std::int64_t outputs[2] = {tile * tile_outputs + 2 * t, tile * tile_outputs + 2 * t + 1};
  const std::int64_t inputs = std::int64_t{weight.blocks} * quantised_block;

  // Of the blocks from `first` on, which are requested while those before them are multiplied, the first ones before
  // the kernel's turn has come.
  Quarter<dtype> quarters[blocks_ahead];
  float scales[blocks_ahead][2];
  const auto request = [&](int first) {
#pragma unroll
    for (int i = 0; i < blocks_ahead; ++i) {
      const int block = min(first + i * split, weight.blocks - 1);
      quarters[i].load(weight.block(own_output, block), t);
#pragma unroll
      for (int c = 0; c < 2; ++c) scales[i][c] = weight.scale(min(outputs[c], last), block);
    }
  };
  request(part);
  float bias[2] = {};
  for (int c = 0; c < 2; ++c) {
    if (part == 0 && outputs[c] <= last) bias[c] = epilogue.bias_of(outputs[c]);
  }
  wait_for_previous();
  float before[2 * row_groups] = {};
  for_own_results(epilogue, part, g, outputs, [&](int c, std::int64_t i) { before[c] = epilogue.before(i); });

  float sums[4] = {};
  for (int first = part; first < weight.blocks; first += blocks_ahead * split) {
    uint4 rows[blocks_ahead][row_groups];
#pragma unroll
    for (int i = 0; i < blocks_ahead; ++i) {
      const int block = first + i * split;
#pragma unroll
      for (int r = 0; r < row_groups; ++r) {
        const std::int64_t row = g + 8 * r;
        rows[i][r] = row < epilogue.rows && block < weight.blocks
                         ? Quarter<dtype>::load_x(x + row * inputs + block * quantised_block, t)
                         : make_uint4(0, 0, 0, 0);
      }
    }
    Quarter<dtype> own_quarters[blocks_ahead];
    float own_scales[blocks_ahead][2];
#pragma unroll
    for (int i = 0; i < blocks_ahead; ++i) {
      own_quarters[i] = quarters[i];
      own_scales[i][0] = scales[i][0];
      own_scales[i][1] = scales[i][1];
    }
    if (first + blocks_ahead * split < weight.blocks) request(first + blocks_ahead * split);
#pragma unroll
    for (int i = 0; i < blocks_ahead; ++i) {
      float of_block[4] = {};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        std::uint32_t pairs[2], a[4] = {};
        pairs_of<T, Quarter<dtype>::zero>(own_quarters[i].bytes(half), pairs);
#pragma unroll
        for (int r = 0; r < row_groups; ++r) {
          a[r] = half == 0 ? rows[i][r].x : rows[i][r].z;
          a[2 + r] = half == 0 ? rows[i][r].y : rows[i][r].w;
        }
        multiply_add<T>(of_block, a, pairs[0], pairs[1]);
      }
#pragma unroll
      for (int c = 0; c < 4; ++c) sums[c] += own_scales[i][c % 2] * of_block[c];
    }
  }

  if (split > 1) {
    __shared__ float parts[warps_in_block][4][warp_size];
#pragma unroll
    for (int c = 0; c < 4; ++c) parts[warp][c][lane] = sums[c];
    __syncthreads();
    if (part != 0) return;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      for (int other = 1; other < split; ++other) sums[c] += parts[warp + other][c][lane];
    }
  }
  for_own_results(epilogue, part, g, outputs,
                  [&](int c, std::int64_t i) { epilogue.store(i, sums[c], bias[c % 2], before[c]); });
}

template <DType dtype, typename T, typename Y>
void launch_product(Launch turn, const LinearArgs& args, std::int64_t rows, int multiprocessors) {
  const QuantisedRows<dtype> weight(data<unsigned char>(args.weight), args.weight.shape[1]);
  const Epilogue<T, Y> epilogue(args, rows);
  // Warps share a tile until there are enough of them to keep memory busy.
  constexpr int warps_wanted = 16;  // a multiprocessor
  const std::int64_t tiles = divide_up(epilogue.outputs, tile_outputs);
  int split = 1;
  while (split < warps_in_block && tiles * split < std::int64_t{warps_wanted} * multiprocessors &&
         weight.blocks > split * blocks_ahead) {
    split *= 2;
  }
  launch_in_turn(multiply_half<dtype, T, Y>, grid_of(divide_up(tiles, warps_in_block / split)), threads, 0, turn,
                 data<T>(args.x), weight, split, epilogue);
}

}  // namespace

void CudaEncoder::record_linear_quantised(const LinearArgs& args, std::int64_t rows) {
  const DType act = activation_dtype(args);
  ScratchScope scope(*this);
  const auto aligned = [](const Tensor& tensor) { return tensor.offset_bytes % 16 == 0; };
  LinearArgs own = args;
  if (args.norm && !(aligned(args.x) && aligned(args.norm->weight) && aligned(args.norm->bias))) {
    own.x = record_norm_of_linear(args);
    own.norm.reset();
  } else if (!aligned(args.x)) {
    own.x = scratch(args.x.dtype, args.x.shape);
    record_copy({.in = args.x, .out = own.x});
  }
  if (multiplies_few_rows(own, rows)) return record_linear_gemv(own, rows);
  if (args.x_transposed || !is_half(act) || rows > most_rows) {
    own.weight = scratch(act, args.weight.shape);
    record_copy({.in = args.weight, .out = own.weight});
    return record_linear(own);
  }
  if (own.norm) {
    own.x = record_norm_of_linear(own);
    own.norm.reset();
  }
  add_in_turn("linear", {own.weight, own.bias}, {own.y},
              [own, rows, multiprocessors = limits_.multiprocessors](Launch turn) {
                with_types(own, [&](auto type, auto y_type) {
                  using T = decltype(type);
                  using Y = decltype(y_type);
                  with_quantised(own.weight.dtype, [&](auto quantised) {
                    if constexpr (sizeof(T) == 2) {
                      launch_product<decltype(quantised)::value, T, Y>(turn, own, rows, multiprocessors);
                    }
                  });
                });
              });
}

}  // namespace riverhorse::cuda
