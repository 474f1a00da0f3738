// Sorting on the device.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace riverhorse::cuda {

// Bytes of workspace that sort_by_key needs for `count` pairs.
std::size_t sort_workspace_bytes(std::int64_t count);

// Pairs in rising order of their keys; equal keys stay in their order. In and out do not overlap. Launches on
// `stream`.
void sort_by_key(const std::int32_t* keys, const std::int32_t* values, std::int32_t* sorted_keys,
                 std::int32_t* sorted_values, std::int64_t count, void* workspace, std::size_t workspace_bytes,
                 cudaStream_t stream);

}  // namespace riverhorse::cuda
