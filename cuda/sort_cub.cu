#include <cub/device/device_radix_sort.cuh>

#include "core.h"
#include "sort.h"

namespace riverhorse::cuda {

std::size_t sort_workspace_bytes(std::int64_t count) {
  std::size_t bytes = 0;
  const std::int32_t* in = nullptr;
  std::int32_t* out = nullptr;
  check(cub::DeviceRadixSort::SortPairs(nullptr, bytes, in, out, in, out, count), "sizing a sort");
  return bytes;
}

void sort_by_key(const std::int32_t* keys, const std::int32_t* values, std::int32_t* sorted_keys,
                 std::int32_t* sorted_values, std::int64_t count, void* workspace, std::size_t workspace_bytes,
                 cudaStream_t stream) {
  check(cub::DeviceRadixSort::SortPairs(workspace, workspace_bytes, keys, sorted_keys, values, sorted_values, count,
                                        0, 32, stream),
        "sorting");
}

}  // namespace riverhorse::cuda
