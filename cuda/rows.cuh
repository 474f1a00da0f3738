// Rows of 64 numbers of 16 bits in shared memory, as the chunked mixer and the direct convolution have them, and how
// they are loaded and stored.
#pragma once

#include <cstring>

#include "kernel.cuh"
#include "tensor_core.cuh"

namespace riverhorse::cuda {

constexpr int row_bytes = 128;

// A row in shared memory is 8 units of 16 bytes, in an order that differs from row to row, so that neither 8 units of
// a row nor one of 8 rows meet in a bank.
__device__ inline std::uint32_t unit_offset(unsigned row, unsigned unit) {
  return row * row_bytes + ((unit ^ (row & 7)) << 4);
}

// The first `count` of the 8 elements of a unit from global to shared memory, and zeros; `aligned`: by an
// asynchronous copy, which takes an address aligned to 16 bytes.
template <typename T>
__device__ __forceinline__ void load_unit(std::uint32_t to, const T* from, int count, bool aligned) {
  if (aligned) {
    copy_async(to, from, 2 * max(min(count, 8), 0));
    return;
  }
  std::uint16_t elements[8];
  for (int i = 0; i < 8; ++i) {
    elements[i] = 0;
    if (i < count) std::memcpy(&elements[i], &from[i], 2);
  }
  uint4 unit;
  std::memcpy(&unit, elements, sizeof unit);
  store_shared(to, unit);
}
template <typename T>
__device__ __forceinline__ void store_unit(T* to, uint4 unit, int count, bool aligned) {
  if (aligned) {
    if (count > 0) __stcs(reinterpret_cast<uint4*>(to), unit);
    return;
  }
  T elements[8];
  std::memcpy(elements, &unit, sizeof unit);
  for (int i = 0; i < 8; ++i) {
    if (i < count) to[i] = elements[i];
  }
}

}  // namespace riverhorse::cuda
