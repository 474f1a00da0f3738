// Products by the four warps of a block together, which compute capability 9.0 has (wgmma): 64 rows, 16 of each warp,
// with sums in fp32. All 128 threads of the block call together. Twice the rate of tensor_core.cuh's, operands on the
// right from shared memory without a load, and asynchronous: what is asked for runs beside what follows.
//
// T is __half or __nv_bfloat16. Sums c[j] of columns 8 j to 8 j + 7, and rows a, lie as C and A of tensor_core.cuh.
// Operands in shared memory lie in cores of 8 x 8 numbers, 8 rows of 16 bytes that follow each other. `K`: the
// dimension that is summed over, 16 a call; `other`: rows of the left or columns of the right operand.
#pragma once

#include "tensor_core.cuh"

namespace riverhorse::cuda {

// How an operand's cores lie: bytes from one to the next along either dimension, and whether the numbers of a core's
// 16 bytes follow K.
struct Cores {
  int other_stride, k_stride;
  bool along_k;
};

#ifndef RIVERHORSE_CUDA_EMULATED

// PTX ISA, "Matrix descriptor", without swizzling. Addresses are below 2^18, and a multiple of 16.
template <Cores cores>
__device__ __forceinline__ std::uint64_t describe(std::uint32_t address) {
  constexpr std::uint32_t high = cores.other_stride >> 4, low = static_cast<std::uint32_t>(cores.k_stride >> 4) << 16;
  return static_cast<std::uint64_t>(high) << 32 | (low + (address >> 4));
}

// 8 bytes from global to shared memory as copy_async() does 16; unless they are `there`, zeros.
__device__ __forceinline__ void copy_pair_async(std::uint32_t to, const void* from, bool there) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(from), "r"(there ? 8 : 0) : "memory");
}

// As signal_barrier(), once all copies that the lane has begun are there.
__device__ __forceinline__ void signal_after_copies(std::uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
}

// A barrier of `threads` threads of a block, whole warps: `barrier` is 1 to 15, as __syncthreads() has 0.
template <int threads>
__device__ __forceinline__ void sync_some(int barrier) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "n"(threads) : "memory");
}

#define RIVERHORSE_SUMS_1(how, c) how((c)[0]), how((c)[1]), how((c)[2]), how((c)[3])
#define RIVERHORSE_SUMS_4(how, c, j)                                                                \
  RIVERHORSE_SUMS_1(how, c[j]), RIVERHORSE_SUMS_1(how, c[j + 1]), RIVERHORSE_SUMS_1(how, c[j + 2]), \
      RIVERHORSE_SUMS_1(how, c[j + 3])
#define RIVERHORSE_SUMS_8(how, c, j) RIVERHORSE_SUMS_4(how, c, j), RIVERHORSE_SUMS_4(how, c, j + 4)
#define RIVERHORSE_NAMES_16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define RIVERHORSE_NAMES_32                                                                                    \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28," \
  "%29,%30,%31"
#define RIVERHORSE_NAMES_64                                                                                       \
  RIVERHORSE_NAMES_32                                                                                             \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58," \
  "%59,%60,%61,%62,%63"

// Sums of 64 columns += rows times the right operand at `address`; without `add_to`, = instead of +=. The registers
// of `a` and `c` must not change before wait_for_products().
template <typename T, Cores cores, bool add_to = true>
__device__ __forceinline__ void multiply_add_group(float (&c)[8][4], const std::uint32_t (&a)[4],
                                                   std::uint32_t address) {
#define RIVERHORSE_PRODUCT(type, how, add)                                                          \
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" RIVERHORSE_NAMES_32 \
               "}, {%32,%33,%34,%35}, %36, " add ", 1, 1, %37;"                                     \
               : RIVERHORSE_SUMS_8(how, c, 0)                                                       \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(describe<cores>(address)),         \
                 "n"(cores.along_k ? 0 : 1))
  if constexpr (is_f16<T> && add_to) {
    RIVERHORSE_PRODUCT("f16", "+f", "1");
  } else if constexpr (is_f16<T>) {
    RIVERHORSE_PRODUCT("f16", "=f", "0");
  } else if constexpr (add_to) {
    RIVERHORSE_PRODUCT("bf16", "+f", "1");
  } else {
    RIVERHORSE_PRODUCT("bf16", "=f", "0");
  }
#undef RIVERHORSE_PRODUCT
}

// The same for sums of 32 columns, `first` to `first` + 3 of `c`, of a right operand of 64. An accumulator should
// have products of one width only: of a part of it and of all they wait for each other.
template <typename T, Cores cores, bool add_to, int first>
__device__ __forceinline__ void multiply_add_half(float (&c)[8][4], const std::uint32_t (&a)[4],
                                                  std::uint32_t address) {
  const std::uint64_t right = describe<cores>(address + cores.other_stride * first);
#define RIVERHORSE_PRODUCT(type, how, add)                                                          \
  asm volatile("wgmma.mma_async.sync.aligned.m64n32k16.f32." type "." type " {" RIVERHORSE_NAMES_16 \
               "}, {%16,%17,%18,%19}, %20, " add ", 1, 1, %21;"                                     \
               : RIVERHORSE_SUMS_4(how, c, first)                                                   \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(right), "n"(cores.along_k ? 0 : 1))
  if constexpr (is_f16<T> && add_to) {
    RIVERHORSE_PRODUCT("f16", "+f", "1");
  } else if constexpr (is_f16<T>) {
    RIVERHORSE_PRODUCT("f16", "=f", "0");
  } else if constexpr (add_to) {
    RIVERHORSE_PRODUCT("bf16", "+f", "1");
  } else {
    RIVERHORSE_PRODUCT("bf16", "=f", "0");
  }
#undef RIVERHORSE_PRODUCT
}

// The same with the left operand, 64 rows for all four warps, in shared memory too; 64 or 128 columns.
template <typename T, int blocks, Cores left_cores, Cores right_cores>
__device__ __forceinline__ void multiply_add_group(float (&c)[blocks][4], std::uint32_t left, std::uint32_t right) {
  static_assert(blocks == 8 || blocks == 16);
#define RIVERHORSE_OPERANDS                                                                            \
  "l"(describe<left_cores>(left)), "l"(describe<right_cores>(right)), "n"(left_cores.along_k ? 0 : 1), \
      "n"(right_cores.along_k ? 0 : 1)
#define RIVERHORSE_PRODUCT(type)                                                                       \
  if constexpr (blocks == 8) {                                                                         \
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" RIVERHORSE_NAMES_32  \
                 "}, %32, %33, 1, 1, 1, %34, %35;"                                                     \
                 : RIVERHORSE_SUMS_8("+f", c, 0)                                                       \
                 : RIVERHORSE_OPERANDS);                                                               \
  } else {                                                                                             \
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" RIVERHORSE_NAMES_64 \
                 "}, %64, %65, 1, 1, 1, %66, %67;"                                                     \
                 : RIVERHORSE_SUMS_8("+f", c, 0), RIVERHORSE_SUMS_8("+f", c, 8)                        \
                 : RIVERHORSE_OPERANDS);                                                               \
  }
  if constexpr (is_f16<T>) {
    RIVERHORSE_PRODUCT("f16")
  } else {
    RIVERHORSE_PRODUCT("bf16")
  }
#undef RIVERHORSE_PRODUCT
#undef RIVERHORSE_OPERANDS
}

// Before products whose registers other instructions wrote.
__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until at most `groups` of the groups committed are under way.
template <int groups>
__device__ __forceinline__ void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(groups) : "memory");
}
// After the wait: the compiler sees the sums change here.
template <int blocks>
__device__ __forceinline__ void receive_sums(float (&c)[blocks][4]) {
#pragma unroll
  for (int j = 0; j < blocks; ++j) asm volatile("" : RIVERHORSE_SUMS_1("+f", c[j])::"memory");
}
// What this thread has stored to shared memory is there for products after a barrier.
__device__ __forceinline__ void show_stores_to_products() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

#else

// The number at (`other`, `k`) of an operand.
template <typename T, Cores cores>
float operand_at(std::uint32_t address, int other, int k) {
  const int inside = cores.along_k ? other % 8 * 16 + k % 8 * 2 : k % 8 * 16 + other % 8 * 2;
  const int offset = other / 8 * cores.other_stride + k / 8 * cores.k_stride + inside;
  std::uint16_t bits;
  std::memcpy(&bits, shared_pointer(address + static_cast<std::uint32_t>(offset)), sizeof bits);
  return unpack<T>(bits).x;
}

template <typename T, Cores cores, bool add_to = true, int first = 0, int blocks = 8>
void multiply_add_group(float (&c)[8][4], const std::uint32_t (&a)[4], std::uint32_t address) {
  float2 own[4];
  for (int i = 0; i < 4; ++i) own[i] = unpack<T>(a[i]);
  const std::byte* all = emulator::exchange(own, sizeof own);
  const int lane = emulator::lane_of_thread(), g = lane / 4, t = lane % 4;
  float rows[2][16];
  for (int pair = 0; pair < 4; ++pair) {
    const auto* of_lane = reinterpret_cast<const float2*>(all + emulator::lane_bytes * (4 * g + pair));
    for (int i = 0; i < 4; ++i) {
      rows[i % 2][8 * (i / 2) + 2 * pair] = of_lane[i].x;
      rows[i % 2][8 * (i / 2) + 2 * pair + 1] = of_lane[i].y;
    }
  }
  for (int j = first; j < first + blocks; ++j) {
    for (int half = 0; half < 2; ++half) {
      float column[16];
      for (int k = 0; k < 16; ++k) column[k] = operand_at<T, cores>(address, 8 * j + 2 * t + half, k);
      for (int row = 0; row < 2; ++row) {
        float& sum = c[j][2 * row + half];
        if (!add_to) sum = 0;
        for (int k = 0; k < 16; ++k) sum += rows[row][k] * column[k];
      }
    }
  }
}

template <typename T, Cores cores, bool add_to, int first>
void multiply_add_half(float (&c)[8][4], const std::uint32_t (&a)[4], std::uint32_t address) {
  multiply_add_group<T, cores, add_to, first, 4>(c, a, address);
}

template <typename T, int blocks, Cores left_cores, Cores right_cores>
void multiply_add_group(float (&c)[blocks][4], std::uint32_t left, std::uint32_t right) {
  const int lane = emulator::lane_of_thread(), g = lane / 4, t = lane % 4;
  const int first_row = static_cast<int>(threadIdx.x) / 32 % 4 * 16 + g;
  for (int k = 0; k < 16; ++k) {
    const float rows[2] = {operand_at<T, left_cores>(left, first_row, k),
                           operand_at<T, left_cores>(left, first_row + 8, k)};
    for (int j = 0; j < blocks; ++j) {
      for (int half = 0; half < 2; ++half) {
        const float value = operand_at<T, right_cores>(right, 8 * j + 2 * t + half, k);
        for (int row = 0; row < 2; ++row) c[j][2 * row + half] += rows[row] * value;
      }
    }
  }
}

template <int threads>
void sync_some(int barrier) {
  emulator::sync_some(static_cast<unsigned>(barrier), threads);
}

inline void copy_pair_async(std::uint32_t to, const void* from, bool there) {
  emulator::copy_async(shared_pointer(to), from, 8, there ? 8 : 0);
}

inline void signal_after_copies(std::uint32_t barrier) {
  commit_copies();
  wait_for_copies<0>();
  signal_barrier(barrier);
}

inline void begin_products() {}
inline void commit_products() {}
template <int groups>
void wait_for_products() {}
template <int blocks>
void receive_sums(float (&)[blocks][4]) {}
inline void show_stores_to_products() {}

#endif

}  // namespace riverhorse::cuda
