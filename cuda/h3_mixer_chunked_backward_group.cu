// The launch of the mixer's backward pass by the warps of a block together (h3_mixer_chunked_backward_group.cuh).
#include "h3_mixer_chunked_backward_group.cuh"

namespace riverhorse::cuda::chunked_backward {

template <typename T>
void run_group(const ChunkedBackward<T>& m, std::int64_t width, Launch turn) {
  const auto kernel = m.cut.packed() ? mix_chunked_backward_group<T, true, false>
                      : m.in_turn    ? mix_chunked_backward_group<T, false, true>
                                     : mix_chunked_backward_group<T, false, false>;
  launch_in_turn(kernel, grid_of(width), team_threads, group_place::block_bytes, turn, m);
}

template void run_group(const ChunkedBackward<__half>&, std::int64_t, Launch);
template void run_group(const ChunkedBackward<__nv_bfloat16>&, std::int64_t, Launch);

}  // namespace riverhorse::cuda::chunked_backward
