// rotary: a block a row. Its threads make the row's angles, one a pair of channels, then turn q and k of all heads.
//
// Angles are counted in turns and reduced to less than half a turn in double: positions go to thousands of turns.
// Sine and cosine of the rest are fp32.
#include "encoder.h"
#include "kernel.cuh"

namespace riverhorse::cuda {

namespace {

constexpr int threads = 256;

template <typename T>
__global__ void rotate(T* qkv, const std::int32_t* slots, const std::int32_t* positions, int tokens, int width,
                       int heads, int half, bool inverse) {
  SHARED_MEMORY(float2, turns);  // (half) sine, cosine
  let_next_begin();
  wait_for_previous();
  const auto sequence = static_cast<int>(blockIdx.x) / tokens, token = static_cast<int>(blockIdx.x) % tokens;
  const std::int64_t position = (slots != nullptr ? positions[slots[sequence]] : 0) + std::int64_t{token};
  for (int j = static_cast<int>(threadIdx.x); j < half; j += threads) {
    constexpr double turn = 6.283185307179586;
    const double angle = static_cast<double>(position) * (pow(10000.0, -static_cast<double>(j) / half) / turn);
    const auto rest = static_cast<float>(angle - rint(angle));
    sincospif(inverse ? -2.0f * rest : 2.0f * rest, &turns[j].x, &turns[j].y);
  }
  __syncthreads();

  const int head_width = width / heads;
  T* q_and_k = qkv + static_cast<std::int64_t>(blockIdx.x) * 3 * width;
  for (int i = static_cast<int>(threadIdx.x); i < 2 * heads * half; i += threads) {
    const int j = i % half;
    T* pair = q_and_k + i / half * head_width + j;
    const float sine = turns[j].x, cosine = turns[j].y;
    const float x1 = to_float(pair[0]), x2 = to_float(pair[half]);
    pair[0] = from_float<T>(x1 * cosine - x2 * sine);
    pair[half] = from_float<T>(x1 * sine + x2 * cosine);
  }
}

}  // namespace

void CudaEncoder::record_rotary(const RotaryArgs& args) {
  const std::int64_t rows = args.qkv.shape[0] * args.qkv.shape[1];
  const int half = args.rotary_dim / 2;
  if (half == 0) return;
  add_in_turn("rotary", {}, {args.qkv}, [args, rows, half](Launch turn) {
    with_activation(args.qkv.dtype, [&](auto act) {
      launch_in_turn(rotate<decltype(act)>, grid_of(rows), threads, static_cast<std::size_t>(half) * sizeof(float2),
                     turn, data<decltype(act)>(args.qkv), data<std::int32_t>(args.slots),
                     data<std::int32_t>(args.positions), args.qkv.shape[1], args.qkv.shape[2] / 3, args.heads, half,
                     args.inverse);
    });
  });
}

}  // namespace riverhorse::cuda
