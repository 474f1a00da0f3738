// The mixer's backward pass for compute capability 9.0 (h3_mixer_chunked_backward_group.cuh).
#pragma once

#include "h3_mixer_chunked_backward_filter.cuh"

namespace riverhorse::cuda::chunked_backward {

constexpr std::size_t group_shared_bytes = (228 / 2 - 1) << 10;  // of a block, at most: so a multiprocessor has two

// Of aligned rows in runs (TileRows), `width` channels. Errors: those of launch_in_turn().
template <typename T>
void run_group(const ChunkedBackward<T>& m, std::int64_t width, Launch turn);

}  // namespace riverhorse::cuda::chunked_backward
