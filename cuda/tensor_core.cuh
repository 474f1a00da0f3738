// Tensor cores and what feeds them: products of small matrices of 16-bit numbers by one warp, with sums in fp32, and
// the loads and stores of shared memory that fit their layouts. All 32 lanes call together.
//
// T is __half or __nv_bfloat16. A register holds two of them, the one with the smaller index in the low half. With
// g = lane / 4 and t = lane % 4 (PTX ISA, "Matrix fragments for mma.m16n8k16" and "m16n8k8"):
//   A (16 x 16)  a[0]: row g, columns 2t, 2t + 1;  a[1]: row g + 8;  a[2], a[3]: the same of columns 2t + 8, 2t + 9
//   B (16 x 8)   b0: rows 2t, 2t + 1 of column g;  b1: rows 2t + 8, 2t + 9
//   C (16 x 8)   c[0], c[1]: row g, columns 2t, 2t + 1;  c[2], c[3]: row g + 8
// So the sums C of two neighbouring products, packed, are an A. The product with 8 columns of A has a[0], a[1], b0.
//
// For fp32 numbers with 10 bits of mantissa (tf32; "m16n8k8" with .tf32):
//   A (16 x 8)  a[0]: row g, column t;  a[1]: row g + 8;  a[2], a[3]: the same of column t + 4
//   B (8 x 8)   b0: row t of column g;  b1: row t + 4
// Columns of A may stand in any order that the rows of B share: with 2t for t and 2t + 1 for t + 4, a C is an A but
// for the order of its registers.
//
// Shared memory is addressed by bytes, as shared_address() gives them; in the emulator those are offsets in the
// dynamic part, so that only this can be used here.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>

namespace riverhorse::cuda {

template <typename T>
constexpr bool is_f16 = std::is_same_v<T, __half>;

#ifndef RIVERHORSE_CUDA_EMULATED

template <typename T>
__device__ __forceinline__ std::uint32_t pack(float low, float high) {
  std::uint32_t pair;
  if constexpr (is_f16<T>) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  }
  return pair;
}

template <typename T>
__device__ __forceinline__ float2 unpack(std::uint32_t pair) {
  if constexpr (is_f16<T>) {
    __half2 halves;
    std::memcpy(&halves, &pair, sizeof halves);
    return __half22float2(halves);
  } else {
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
  }
}

// c += A B
template <typename T>
__device__ __forceinline__ void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                             std::uint32_t b1) {
  if constexpr (is_f16<T>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}
// The same where A has 8 columns.
template <typename T>
__device__ __forceinline__ void multiply_add(float (&c)[4], std::uint32_t a0, std::uint32_t a1, std::uint32_t b0) {
  if constexpr (is_f16<T>) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(b0));
  } else {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(b0));
  }
}
// Of the operands' mantissas what is beyond 10 bits is cut off.
__device__ __forceinline__ void multiply_add(float (&c)[4], const float (&a)[4], float b0, float b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
        "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)));
}

__device__ __forceinline__ std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

// Four matrices of 8 x 8: lane 8 i + r gives the address of row r of matrix i (16 bytes), and gets in r[i] of row g
// the columns 2t, 2t + 1; transposed: of column g the rows 2t, 2t + 1. `constant`: nothing writes there after the
// last barrier, so that the compiler may move the load.
template <bool constant = false>
__device__ __forceinline__ void load_matrices(std::uint32_t (&r)[4], std::uint32_t address) {
  if constexpr (constant) {
    asm("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
        : "r"(address));
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  }
}
template <bool constant = false>
__device__ __forceinline__ void load_matrices_transposed(std::uint32_t (&r)[4], std::uint32_t address) {
  if constexpr (constant) {
    asm("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
        : "r"(address));
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  }
}

// The address, of which the compiler cannot tell that it is the same each time: a loop's constant loads stay in the
// loop instead of keeping registers through it.
__device__ __forceinline__ std::uint32_t opaque(std::uint32_t address) {
  asm volatile("" : "+r"(address));
  return address;
}
// The offset, which the compiler cannot make again from what it was made of: it stays in its registers.
__device__ __forceinline__ std::int64_t opaque(std::int64_t offset) {
  asm volatile("" : "+l"(offset));
  return offset;
}

// V is float, float2, std::uint32_t or uint4; `constant` as above.
template <typename V, bool constant = false>
__device__ __forceinline__ V load_shared(std::uint32_t address) {
  V value;
  if constexpr (std::is_same_v<V, uint4>) {
    if constexpr (constant) {
      asm("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
          : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
          : "r"(address));
    } else {
      asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                   : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                   : "r"(address)
                   : "memory");
    }
  } else if constexpr (std::is_same_v<V, float2>) {
    asm volatile("ld.shared.v2.f32 {%0,%1}, [%2];" : "=f"(value.x), "=f"(value.y) : "r"(address) : "memory");
  } else if constexpr (std::is_same_v<V, float>) {
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
  } else if constexpr (constant) {
    asm("ld.shared.u32 %0, [%1];" : "=r"(value) : "r"(address));
  } else {
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(value) : "r"(address) : "memory");
  }
  return value;
}
__device__ __forceinline__ void store_shared(std::uint32_t address, uint4 value) {
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(value.x), "r"(value.y), "r"(value.z),
               "r"(value.w)
               : "memory");
}
__device__ __forceinline__ void store_shared(std::uint32_t address, float2 value) {
  asm volatile("st.shared.v2.f32 [%0], {%1,%2};" ::"r"(address), "f"(value.x), "f"(value.y) : "memory");
}
__device__ __forceinline__ void store_shared(std::uint32_t address, float value) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}
__device__ __forceinline__ void store_shared(std::uint32_t address, std::uint32_t value) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
}

// A barrier in shared memory, 8 bytes, by which one warp hands on to another what it has written there: the lanes of
// the one signal, those of the other wait for the `turn`-th signal, from 0 on, and then see all that was written
// before it. Nobody signals twice before the other has waited. One thread makes it, before a barrier of the block.
// Its memory is its own as long as the block lives: plain numbers stored there were lost now and then on an H100.
constexpr int barrier_bytes = 8;
__device__ __forceinline__ void make_barrier(std::uint32_t address) {
  asm volatile("mbarrier.init.shared.b64 [%0], 32;" ::"r"(address) : "memory");
}
__device__ __forceinline__ void signal_barrier(std::uint32_t address) {
  asm volatile("{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }" ::"r"(address) : "memory");
}
__device__ __forceinline__ void wait_at_barrier(std::uint32_t address, int turn) {
  std::uint32_t ready;
  do {
    asm volatile(
        "{ .reg .pred p;\n"
#if __CUDA_ARCH__ >= 900
        "mbarrier.try_wait.parity.shared.b64 p, [%1], %2;\n"
#else
        "mbarrier.test_wait.parity.shared.b64 p, [%1], %2;\n"
#endif
        "selp.u32 %0, 1, 0, p; }"
        : "=r"(ready)
        : "r"(address), "r"(turn & 1)
        : "memory");
  } while (ready == 0);
  __syncwarp();
}

// 16 bytes from global to shared memory, both aligned to 16, that arrive by themselves; with fewer than 16 `bytes`
// (0: nothing is read) the rest becomes zero. They count in groups, which a thread commits and waits for.
__device__ __forceinline__ void copy_async(std::uint32_t to, const void* from, int bytes = 16) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Has the line of that address come into the L2 cache.
__device__ __forceinline__ void prefetch(const void* from) { asm volatile("prefetch.global.L2 [%0];" ::"l"(from)); }
// Until at most `groups` of the groups committed are under way.
template <int groups>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

#else

template <typename T>
std::uint32_t pack(float low, float high) {
  if constexpr (is_f16<T>) {
    return __float2half_rn(low).bits | static_cast<std::uint32_t>(__float2half_rn(high).bits) << 16;
  } else {
    return __float2bfloat16_rn(low).bits | static_cast<std::uint32_t>(__float2bfloat16_rn(high).bits) << 16;
  }
}

template <typename T>
float2 unpack(std::uint32_t pair) {
  const auto low = static_cast<std::uint16_t>(pair), high = static_cast<std::uint16_t>(pair >> 16);
  if constexpr (is_f16<T>) {
    return {__half2float({low}), __half2float({high})};
  } else {
    return {__bfloat162float({low}), __bfloat162float({high})};
  }
}

// `halves`: of the 16 columns of A. Each lane leaves what it holds, and gathers the rows and columns of its sums.
template <typename T, int halves>
void multiply_add_gathered(float (&c)[4], const std::uint32_t (&a)[2 * halves], const std::uint32_t (&b)[halves]) {
  struct Operands {
    float2 a[2 * halves], b[halves];
  } own;
  for (int i = 0; i < 2 * halves; ++i) own.a[i] = unpack<T>(a[i]);
  for (int i = 0; i < halves; ++i) own.b[i] = unpack<T>(b[i]);
  const std::byte* all = emulator::exchange(&own, sizeof own);
  const auto of_lane = [&](int lane) { return reinterpret_cast<const Operands*>(all + emulator::lane_bytes * lane); };
  const int lane = emulator::lane_of_thread(), g = lane / 4, t = lane % 4;
  for (int half = 0; half < halves; ++half) {
    for (int pair = 0; pair < 4; ++pair) {
      const Operands& rows = *of_lane(4 * g + pair);
      for (int i = 0; i < 4; ++i) {
        const float2 x = rows.a[2 * half + i / 2], y = of_lane(4 * (2 * t + i % 2) + pair)->b[half];
        c[i] += x.x * y.x;
        c[i] += x.y * y.y;
      }
    }
  }
}
template <typename T>
void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  multiply_add_gathered<T, 2>(c, a, {b0, b1});
}
template <typename T>
void multiply_add(float (&c)[4], std::uint32_t a0, std::uint32_t a1, std::uint32_t b0) {
  multiply_add_gathered<T, 1>(c, {a0, a1}, {b0});
}

inline void multiply_add(float (&c)[4], const float (&a)[4], float b0, float b1) {
  const auto cut = [](float value) { return __uint_as_float(__float_as_uint(value) & 0xffffe000u); };
  struct Operands {
    float a[4], b[2];
  } own = {{cut(a[0]), cut(a[1]), cut(a[2]), cut(a[3])}, {cut(b0), cut(b1)}};
  const std::byte* all = emulator::exchange(&own, sizeof own);
  const auto of_lane = [&](int lane) { return reinterpret_cast<const Operands*>(all + emulator::lane_bytes * lane); };
  const int lane = emulator::lane_of_thread(), g = lane / 4, t = lane % 4;
  for (int k = 0; k < 8; ++k) {
    const Operands& rows = *of_lane(4 * g + k % 4);
    for (int i = 0; i < 4; ++i) c[i] += rows.a[k / 4 * 2 + i / 2] * of_lane(4 * (2 * t + i % 2) + k % 4)->b[k / 4];
  }
}

inline std::byte* shared_pointer(std::uint32_t address) {
  return static_cast<std::byte*>(emulator::dynamic_shared_memory()) + address;
}
inline std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(static_cast<const std::byte*>(pointer) - shared_pointer(0));
}

inline void prefetch(const void*) {}

inline std::uint32_t opaque(std::uint32_t address) { return address; }
inline std::int64_t opaque(std::int64_t offset) { return offset; }

template <bool constant = false>
void load_matrices(std::uint32_t (&r)[4], std::uint32_t address) {
  const std::byte* all = emulator::exchange(&address, sizeof address);
  const int lane = emulator::lane_of_thread();
  for (int i = 0; i < 4; ++i) {
    std::uint32_t row;
    std::memcpy(&row, all + emulator::lane_bytes * (8 * i + lane / 4), sizeof row);
    std::memcpy(&r[i], shared_pointer(row + 4 * (lane % 4)), 4);
  }
}
template <bool constant = false>
void load_matrices_transposed(std::uint32_t (&r)[4], std::uint32_t address) {
  const std::byte* all = emulator::exchange(&address, sizeof address);
  const int lane = emulator::lane_of_thread();
  for (int i = 0; i < 4; ++i) {
    std::uint16_t pair[2];
    for (int half = 0; half < 2; ++half) {
      std::uint32_t row;
      std::memcpy(&row, all + emulator::lane_bytes * (8 * i + 2 * (lane % 4) + half), sizeof row);
      std::memcpy(&pair[half], shared_pointer(row + 2 * (lane / 4)), 2);
    }
    std::memcpy(&r[i], pair, 4);
  }
}

template <typename V, bool constant = false>
V load_shared(std::uint32_t address) {
  V value;
  std::memcpy(&value, shared_pointer(address), sizeof value);
  return value;
}
template <typename V>
void store_shared(std::uint32_t address, V value) {
  std::memcpy(shared_pointer(address), &value, sizeof value);
}

constexpr int barrier_bytes = sizeof(emulator::Barrier);
inline void make_barrier(std::uint32_t address) { new (shared_pointer(address)) emulator::Barrier; }
inline void signal_barrier(std::uint32_t address) {
  emulator::signal(*reinterpret_cast<emulator::Barrier*>(shared_pointer(address)));
}
inline void wait_at_barrier(std::uint32_t address, int turn) {
  emulator::wait(*reinterpret_cast<emulator::Barrier*>(shared_pointer(address)), turn);
}

inline void copy_async(std::uint32_t to, const void* from, int bytes = 16) {
  emulator::copy_async(shared_pointer(to), from, 16, static_cast<std::size_t>(bytes));
}
inline void commit_copies() { emulator::commit_copies(); }
template <int groups>
void wait_for_copies() {
  emulator::wait_for_copies(groups);
}

#endif

// A finite number rounded to tf32, halves away from zero, or infinity. The instruction for it, which takes care of
// NaN too, is four on an H100.
__device__ __forceinline__ float rounded_to_tf32(float value) {
  return __uint_as_float((__float_as_uint(value) + 0x1000u) & 0xffffe000u);
}

// The counterpart of load_matrices(). By plain stores of 4 bytes: only sm_90 has an instruction for it.
__device__ __forceinline__ void store_matrices(std::uint32_t address, const std::uint32_t (&r)[4]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(r[0]), "r"(r[1]),
               "r"(r[2]), "r"(r[3])
               : "memory");
#else
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int i = 0; i < 4; ++i) {
    const std::uint32_t row = __shfl_sync(0xffffffffu, address, 8 * i + lane / 4);
    store_shared(row + 4 * (lane % 4), r[i]);
  }
#endif
}

}  // namespace riverhorse::cuda
