// Philox4x32-10 on the device: see cpu/philox.h.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace riverhorse::cuda {

struct PhiloxWords {
  std::uint32_t words[4];
};

__device__ __forceinline__ PhiloxWords philox(PhiloxWords counter, std::uint32_t key_low, std::uint32_t key_high) {
  std::uint32_t(&c)[4] = counter.words;
  for (int round = 0; round < 10; ++round) {
    const std::uint32_t high0 = __umulhi(0xD2511F53u, c[0]), low0 = 0xD2511F53u * c[0];
    const std::uint32_t high1 = __umulhi(0xCD9E8D57u, c[2]), low1 = 0xCD9E8D57u * c[2];
    c[0] = high1 ^ c[1] ^ key_low;
    c[1] = low1;
    c[2] = high0 ^ c[3] ^ key_high;
    c[3] = low0;
    key_low += 0x9E3779B9u;
    key_high += 0xBB67AE85u;
  }
  return counter;
}

}  // namespace riverhorse::cuda
