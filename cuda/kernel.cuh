// What kernels share: launching, activations of any dtype, sums over a warp.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "base/dtype.h"
#include "core.h"

namespace riverhorse::cuda {

constexpr int warp_size = 32;
constexpr unsigned all_lanes = 0xffffffffu;

constexpr std::int64_t divide_up(std::int64_t value, std::int64_t divisor) { return (value + divisor - 1) / divisor; }
inline dim3 grid_of(std::int64_t x, std::int64_t y = 1, std::int64_t z = 1) {
  return {static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z)};
}

// Dynamic shared memory, as SHARED_MEMORY(float, values): a pointer of that name. More than 48 KiB are asked for by
// launch(). One a kernel.
#ifdef RIVERHORSE_CUDA_EMULATED
#define SHARED_MEMORY(type, name) type* const name = static_cast<type*>(emulator::dynamic_shared_memory())
#else
#define SHARED_MEMORY(type, name)                                 \
  extern __shared__ __align__(16) unsigned char dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(dynamic_shared)
#endif

#ifndef RIVERHORSE_CUDA_EMULATED
inline void allow_shared_memory(const void* kernel, std::size_t shared_bytes) {
  constexpr std::size_t without_asking = 48 << 10;
  if (shared_bytes <= without_asking) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
        "asking for shared memory");
}
#endif

// Errors: those of check().
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream,
            Arguments&&... arguments) {
#ifdef RIVERHORSE_CUDA_EMULATED
  emulator::launch(grid, block, shared_bytes, stream, [=] { kernel(static_cast<Parameters>(arguments)...); });
#else
  allow_shared_memory(reinterpret_cast<const void*>(kernel), shared_bytes);
  cudaLaunchConfig_t configuration{};
  configuration.gridDim = grid;
  configuration.blockDim = block;
  configuration.dynamicSmemBytes = shared_bytes;
  configuration.stream = stream;
  check(cudaLaunchKernelEx(&configuration, kernel, static_cast<Parameters>(arguments)...), "launching a kernel");
#endif
}

// Kernels one after the other whose beginnings and ends overlap (programmatic dependent launch): one that is launched
// `early` may begin as soon as every block of the kernel before it has called let_next_begin(), and must call
// wait_for_previous() before it touches anything that a kernel before it writes, or writes anything itself. What it
// reads before, weights above all, is then on its way while the kernel before it ends. wait_for_previous() comes back
// when that kernel has finished and so, as it waited itself, all before it.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
__device__ inline void let_next_begin() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
__device__ inline void wait_for_previous() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
#else
__device__ inline void let_next_begin() {}
__device__ inline void wait_for_previous() {}
#endif

// launch() of a kernel that calls both.
template <typename... Parameters, typename... Arguments>
void launch_in_turn(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes, Launch turn,
                    Arguments&&... arguments) {
#ifdef RIVERHORSE_CUDA_EMULATED
  launch(kernel, grid, block, shared_bytes, turn.stream, std::forward<Arguments>(arguments)...);
#else
  allow_shared_memory(reinterpret_cast<const void*>(kernel), shared_bytes);
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t configuration{};
  configuration.gridDim = grid;
  configuration.blockDim = block;
  configuration.dynamicSmemBytes = shared_bytes;
  configuration.stream = turn.stream;
  configuration.attrs = &early;
  configuration.numAttrs = turn.early ? 1 : 0;
  check(cudaLaunchKernelEx(&configuration, kernel, static_cast<Parameters>(arguments)...), "launching a kernel");
#endif
}

// Whether 16 bytes can be read there at once.
inline bool at_16_bytes(const void* address) { return reinterpret_cast<std::uintptr_t>(address) % 16 == 0; }

// Elementwise kernels: one thread an element, a grid that need not cover them all.
constexpr int element_threads = 256;
inline dim3 element_grid(std::int64_t count) {
  return grid_of(std::min<std::int64_t>(divide_up(count, element_threads), 1 << 16));
}
__device__ inline std::int64_t first_element() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ inline std::int64_t element_stride() { return static_cast<std::int64_t>(gridDim.x) * blockDim.x; }

// Activations: computed in float, stored as T.
__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(__half value) { return __half2float(value); }
__device__ inline float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
template <typename T>
__device__ T from_float(float value);
template <>
__device__ inline float from_float<float>(float value) {
  return value;
}
template <>
__device__ inline __half from_float<__half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

// `count` neighbours in memory, loaded and stored as one.
template <typename T, int count>
struct alignas(sizeof(T) * count) Neighbours {
  T values[count];
};

// Calls `function` with a value of the type that stores `dtype`; the checks of the encoder let no other dtype get
// here.
template <typename Function>
void with_activation(DType dtype, Function&& function) {
  if (dtype == DType::f16) {
    function(__half());
  } else if (dtype == DType::bf16) {
    function(__nv_bfloat16());
  } else {
    function(float());
  }
}

// Every lane gets the sum, in an order that depends on nothing else.
template <typename T>
__device__ T warp_sum(T value) {
  for (int distance = warp_size / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(all_lanes, value, distance);
  }
  return value;
}

__device__ inline float warp_max(float value) {
  for (int distance = warp_size / 2; distance > 0; distance /= 2) {
    value = fmaxf(value, __shfl_xor_sync(all_lanes, value, distance));
  }
  return value;
}

// Every thread of the block gets the sums over all of them, in an order that depends on nothing else. The shared
// memory `of_warps` has a row a warp, and must not be given again before another barrier has passed.
template <int count>
__device__ void block_sums(float (&values)[count], float (*of_warps)[count]) {
  const int warp = static_cast<int>(threadIdx.x) / warp_size, warps = static_cast<int>(blockDim.x) / warp_size;
#pragma unroll
  for (int i = 0; i < count; ++i) {
    values[i] = warp_sum(values[i]);
    if (threadIdx.x % warp_size == 0) of_warps[warp][i] = values[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < count; ++i) {
    values[i] = of_warps[0][i];
    for (int other = 1; other < warps; ++other) values[i] += of_warps[other][i];
  }
}

}  // namespace riverhorse::cuda
