#include <algorithm>
#include <numeric>
#include <vector>

#include "sort.h"

namespace riverhorse::cuda {

std::size_t sort_workspace_bytes(std::int64_t) { return 1; }

void sort_by_key(const std::int32_t* keys, const std::int32_t* values, std::int32_t* sorted_keys,
                 std::int32_t* sorted_values, std::int64_t count, void*, std::size_t, cudaStream_t stream) {
  emulator::enqueue(stream, [=] {
    std::vector<std::int64_t> order(static_cast<std::size_t>(count));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return keys[a] < keys[b]; });
    for (std::int64_t i = 0; i < count; ++i) {
      sorted_keys[i] = keys[order[static_cast<std::size_t>(i)]];
      sorted_values[i] = values[order[static_cast<std::size_t>(i)]];
    }
  });
}

}  // namespace riverhorse::cuda
