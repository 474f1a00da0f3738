// grad_norm: the sums of squares of a fixed number of stretches, a block each; then their sum, by one block.
// adamw: one thread an element, after one has made of the settings and the norm what all need.
#include <algorithm>

#include "encoder.h"
#include "kernel.cuh"

namespace riverhorse::cuda {

namespace {

constexpr int norm_threads = 256;
constexpr std::int64_t most_stretches = 1024;
constexpr std::int64_t least_stretch = 4096;

// Thread 0 gets the sum.
__device__ double block_sum(double value) {
  __shared__ double of_warps[norm_threads / warp_size];
  value = warp_sum(value);
  if (threadIdx.x % warp_size == 0) of_warps[threadIdx.x / warp_size] = value;
  __syncthreads();
  double sum = 0;
  if (threadIdx.x == 0) {
    for (const double each : of_warps) sum += each;
  }
  return sum;
}

__global__ void sum_squares(const float* gradients, std::int64_t count, std::int64_t stretch, double* sums) {
  const std::int64_t begin = blockIdx.x * stretch;
  const std::int64_t end = begin + stretch < count ? begin + stretch : count;
  double sum = 0;
  for (std::int64_t i = begin + threadIdx.x; i < end; i += norm_threads) {
    sum += static_cast<double>(gradients[i]) * gradients[i];
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void join_sums(const double* sums, int count, float* norm) {
  double sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += norm_threads) sum += sums[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *norm = static_cast<float>(sqrt(sum));
}

struct Settings {
  AdamwRow row;
  float gradient_scale;  // with the clipping
  float decay;
  bool skips;
};

// By one thread: row and norm may lie in host memory, which must not be read by each of many blocks.
__global__ void settle(const AdamwRow* row, const float* norm, Settings* settings) {
  const double scaled_norm = static_cast<double>(*norm) * row->gradient_scale;
  const double clip = row->max_norm > 0 ? fmin(1.0, row->max_norm / (scaled_norm + 1e-6)) : 1.0;
  settings->row = *row;
  settings->gradient_scale = static_cast<float>(row->gradient_scale * clip);
  settings->decay = row->learning_rate * row->weight_decay;
  settings->skips = !isfinite(scaled_norm) || (row->skip_above > 0 && scaled_norm > row->skip_above);
}

template <typename T>
__global__ void step(const Settings* given, const float* gradients, float* parameters, float* m, float* v, T* rounded,
                     std::int64_t count) {
  const Settings settings = *given;
  const AdamwRow& row = settings.row;
  if (settings.skips) return;
  for (std::int64_t i = first_element(); i < count; i += element_stride()) {
    const float gradient = settings.gradient_scale * gradients[i];
    const float mean = row.beta1 * m[i] + (1.0f - row.beta1) * gradient;
    const float square = row.beta2 * v[i] + (1.0f - row.beta2) * gradient * gradient;
    const float direction = mean / row.correction1 / (sqrtf(square / row.correction2) + row.epsilon);
    // Both changes are added up before they meet the far larger parameter: 1 - decay would keep little of decay.
    const float parameter = parameters[i] - (settings.decay * parameters[i] + row.learning_rate * direction);
    m[i] = mean;
    v[i] = square;
    parameters[i] = parameter;
    if (rounded != nullptr) rounded[i] = from_float<T>(parameter);
  }
}

}  // namespace

void CudaEncoder::record_grad_norm(const GradNormArgs& args) {
  const std::int64_t count = args.gradients.count();
  const std::int64_t stretch = std::max(least_stretch, divide_up(count, most_stretches));
  const std::int64_t stretches = divide_up(count, stretch);
  ScratchScope scope(*this);
  const Tensor sums = scratch(DType::f32, {stretches, 2});  // doubles
  add("grad_norm", [args, count, stretch, stretches, sums](cudaStream_t stream) {
    launch(sum_squares, grid_of(stretches), norm_threads, 0, stream, data<float>(args.gradients), count, stretch,
           data<double>(sums));
    launch(join_sums, 1, norm_threads, 0, stream, data<double>(sums), stretches, data<float>(args.norm));
  });
}

void CudaEncoder::record_adamw(const AdamwArgs& args) {
  ScratchScope scope(*this);
  const Tensor settings = scratch(DType::i32, {sizeof(Settings) / 4});
  add("adamw", [args, settings](cudaStream_t stream) {
    const std::int64_t count = args.parameters.count();
    launch(settle, 1, 1, 0, stream, data<AdamwRow>(args.row), data<float>(args.norm), data<Settings>(settings));
    with_activation(args.rounded.dtype, [&](auto act) {
      launch(step<decltype(act)>, element_grid(count), element_threads, 0, stream, data<Settings>(settings),
             data<float>(args.gradients), data<float>(args.parameters), data<float>(args.m), data<float>(args.v),
             data<decltype(act)>(args.rounded), count);
    });
  });
}

}  // namespace riverhorse::cuda
