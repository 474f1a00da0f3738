// The impulse response of the diagonal SSM, and its gradient:
//   K_l = 2 Re sum_n gain_n a_n^l;   d_gain = 2 sum_l conj(a^l) d_K_l;   d_log_a = 2 conj(gain) sum_l l conj(a^l)
//   d_K_l
// Forward a thread has a lag of a head; backward a warp has a mode of a head, and a lane every 32nd lag. Powers in
// double: rounded ones would drift.
#include "complex.cuh"
#include "encoder.h"
#include "filter.cuh"
#include "kernel.cuh"

namespace riverhorse::cuda {

namespace {

using Number = Complex<double>;
constexpr int warps_in_block = 4;

// A block has 256 neighbouring lags of a head: a^begin of each mode is made once, then a thread multiplies by
// a^offset.
constexpr int lags_in_block = 256;

__global__ void make_kernel(Filter filter, std::int64_t length, float* kernel) {
  __shared__ double starts[warp_size][2];
  __shared__ double steps[warp_size][2];
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * lags_in_block;
  const int thread = static_cast<int>(threadIdx.x);
  for (std::int64_t head = blockIdx.y; head < filter.heads; head += gridDim.y) {
    double sum = 0;
    for (std::int64_t group = 0; group < filter.modes; group += warp_size) {
      const std::int64_t count = min(filter.modes - group, static_cast<std::int64_t>(warp_size));
      if (thread < count) {
        const std::int64_t index = head * filter.modes + group + thread;
        const Number a = filter.exact_a(index);
        const Number start = filter.gain(index) * power(a, begin);
        starts[thread][0] = start.re;
        starts[thread][1] = start.im;
        steps[thread][0] = a.re;
        steps[thread][1] = a.im;
      }
      __syncthreads();
      for (std::int64_t mode = 0; mode < count; ++mode) {
        const Number start(starts[mode][0], starts[mode][1]), a(steps[mode][0], steps[mode][1]);
        sum += 2 * (start * power(a, thread)).re;
      }
      __syncthreads();
    }
    if (begin + thread < length) kernel[head * length + begin + thread] = static_cast<float>(sum);
  }
}

__global__ void kernel_backward(Filter filter, const float* d_kernel, std::int64_t length, float* d_log_a,
                                float* d_gain) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * warps_in_block + threadIdx.x / warp_size;
  if (index >= filter.heads * filter.modes) return;
  const float* row = d_kernel + index / filter.modes * length;
  const Number a = filter.exact_a(index), step = power(a, warp_size);
  Number a_power = power(a, lane), sum, weighted;
  for (std::int64_t lag = lane; lag < length; lag += warp_size) {
    sum += static_cast<double>(row[lag]) * a_power;
    weighted += static_cast<double>(lag) * row[lag] * a_power;
    a_power = a_power * step;
  }
  const Number total(warp_sum(sum.re), warp_sum(sum.im)), all(warp_sum(weighted.re), warp_sum(weighted.im));
  if (lane != 0) return;
  const Number by_log_a = conj(filter.gain(index) * all);
  d_gain[2 * index] = static_cast<float>(2 * total.re);
  d_gain[2 * index + 1] = static_cast<float>(-2 * total.im);
  d_log_a[2 * index] = static_cast<float>(2 * by_log_a.re);
  d_log_a[2 * index + 1] = static_cast<float>(2 * by_log_a.im);
}

}  // namespace

void CudaEncoder::record_ssm_kernel(const SsmKernelArgs& args) {
  add("ssm_kernel", [args](cudaStream_t stream) {
    const Filter filter(args.filter);
    const std::int64_t length = args.kernel.shape[1];
    launch(make_kernel, grid_of(divide_up(length, lags_in_block), std::min<std::int64_t>(filter.heads, 65535)),
           lags_in_block, 0, stream, filter, length, data<float>(args.kernel));
  });
}

void CudaEncoder::record_ssm_kernel_backward(const SsmKernelBackwardArgs& args) {
  add("ssm_kernel_backward", [args](cudaStream_t stream) {
    const Filter filter(args.filter);
    launch(kernel_backward, grid_of(divide_up(filter.heads * filter.modes, warps_in_block)),
           warps_in_block * warp_size, 0, stream, filter, data<float>(args.d_kernel), args.d_kernel.shape[1],
           data<float>(args.d_filter.log_a), data<float>(args.d_filter.gain));
  });
}

}  // namespace riverhorse::cuda
