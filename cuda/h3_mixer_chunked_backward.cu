// Where the H3 mixer's backward pass on tensor cores (h3_mixer_chunked_backward_pass.cuh) can be had, and its launch.
#include "h3_mixer_chunked_backward.h"
#include "h3_mixer_chunked_backward_group.h"
#include "h3_mixer_chunked_backward_pass.cuh"

namespace riverhorse::cuda {

namespace {

using namespace chunked_backward;

// Of a block: 4, or the 3 that 99 KiB are enough for, which is all that compute capability 8.6 and 8.9 give it.
int warps_that_fit(const DeviceLimits& limits) {
  for (int warps = chunked_warps; warps >= 3; --warps) {
    if (limits.shared_bytes >= static_cast<std::size_t>(place::block_bytes(warps))) return warps;
  }
  return 0;
}
static_assert(place::block_bytes(3) <= 99 << 10);

template <typename T>
void run(const H3MixerBackwardArgs& args, const DeviceLimits& limits, Launch turn) {
  const std::int64_t width = args.d_y.shape[0], batch = args.d_y.shape[1], tokens = args.d_y.shape[2];
  const std::int64_t part = width * batch * tokens;
  const T* q = data<T>(args.qkv);
  T* d_q = data<T>(args.d_qkv);
  const Cut cut(batch, tokens, false);
  const bool aligned = tokens % 8 == 0 && at_16_bytes(q) && at_16_bytes(data<T>(args.d_y)) && at_16_bytes(d_q);
  const int warps = warps_that_fit(limits);
  const ChunkedBackward<T> m{q,
                             q + part,
                             q + 2 * part,
                             data<T>(args.d_y),
                             d_q,
                             d_q + part,
                             d_q + 2 * part,
                             data<float>(args.entry_states),
                             cut,
                             aligned,
                             warps == chunked_warps && cut.tiles > 1 && cut.uneven(),
                             2 * limits.multiprocessors,
                             Filter(args.filter),
                             data<float>(args.filter.powers),
                             data<float>(args.filter.toeplitz),
                             data<float>(args.d_filter.log_a),
                             data<float>(args.d_filter.gain),
                             data<float>(args.d_filter.d),
                             data<float>(args.d_filter.shift_taps)};
#ifdef RIVERHORSE_WARPGROUPS
  if (limits.warpgroups && limits.shared_bytes >= group_shared_bytes && aligned && cut.in_runs) {
    return run_group(m, width, turn);
  }
#endif
  const auto kernel = !aligned || !cut.in_runs ? mix_chunked_backward<T, false, true, true>
                      : cut.packed()           ? mix_chunked_backward<T, true, true, false>
                      : m.in_turn              ? mix_chunked_backward<T, true, false, true>
                                               : mix_chunked_backward<T, true, false, false>;
  launch(kernel, grid_of(width), warps * warp_size, place::block_bytes(warps), turn, m);
}

}  // namespace

bool fits_chunked_backward(const H3MixerBackwardArgs& args, const DeviceLimits& limits) {
  return dtype_size_bytes(args.d_y.dtype) == 2 && args.head_dim == 1 && args.filter.a.shape[1] <= modes &&
         args.filter.shift_taps.shape[1] <= chunk && warps_that_fit(limits) > 0 &&
         (args.entry_states || args.d_y.shape[2] <= H3Filter::superchunk);
}

void run_chunked_backward(const H3MixerBackwardArgs& args, const DeviceLimits& limits, Launch turn) {
  if (args.d_y.dtype == DType::f16) {
    run<__half>(args, limits, turn);
  } else {
    run<__nv_bfloat16>(args, limits, turn);
  }
}

}  // namespace riverhorse::cuda
