// Rows of 64 numbers in shared memory, as the chunked mixer and the direct convolution have them, and how they are
// loaded and stored.
#pragma once

#include <cstring>

#include "kernel.cuh"
#include "tensor_core.cuh"

namespace riverhorse::cuda {

constexpr int row_bytes = 128;  // of 16-bit numbers

// A row of numbers T in shared memory is units of 16 bytes in an order that differs from row to row, so that neither
// 8 units of a row nor 32 bytes of 4 rows (16-bit numbers: 16 bytes of 8 rows) meet in a bank.
template <typename T = std::uint16_t>
__device__ inline std::uint32_t unit_offset(unsigned row, unsigned unit) {
  constexpr unsigned words = sizeof(T) / 2;
  return row * words * row_bytes + ((unit ^ ((row & 7) * words)) << 4);
}
template <typename T>
constexpr int unit_size = 16 / static_cast<int>(sizeof(T));

// The first `count` of the elements of a unit from global to shared memory, and zeros; `aligned`: by an asynchronous
// copy, which takes an address aligned to 16 bytes.
template <typename T>
__device__ __forceinline__ void load_unit(std::uint32_t to, const T* from, int count, bool aligned) {
  if (aligned) {
    copy_async(to, from, static_cast<int>(sizeof(T)) * max(min(count, unit_size<T>), 0));
    return;
  }
  uint4 unit = {};
  T elements[unit_size<T>];
  std::memcpy(elements, &unit, sizeof unit);
  for (int i = 0; i < unit_size<T>; ++i) {
    if (i < count) elements[i] = from[i];
  }
  std::memcpy(&unit, elements, sizeof unit);
  store_shared(to, unit);
}
template <typename T>
__device__ __forceinline__ void store_unit(T* to, uint4 unit, int count, bool aligned) {
  if (aligned) {
    if (count > 0) __stcs(reinterpret_cast<uint4*>(to), unit);
    return;
  }
  T elements[unit_size<T>];
  std::memcpy(elements, &unit, sizeof unit);
  for (int i = 0; i < unit_size<T>; ++i) {
    if (i < count) to[i] = elements[i];
  }
}

}  // namespace riverhorse::cuda
