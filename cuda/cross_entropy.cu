// cross_entropy: a chunk of rows after the other, sized by the memory of its logits. The products are those of
// gemm.h; between them a block a row makes the loss, and of the logits their gradients, in the activation dtype.
#include <algorithm>
#include <cfloat>

#include "encoder.h"
#include "kernel.cuh"

namespace riverhorse::cuda {

namespace {

constexpr int threads = 512;
constexpr int warps = threads / warp_size;
// Of the fp32 logits that exist at once. Few where CUDA is emulated, so that the tests' small shapes are cut too.
#ifdef RIVERHORSE_CUDA_EMULATED
constexpr std::int64_t chunk_bytes = 10000;
#else
constexpr std::int64_t chunk_bytes = std::int64_t{512} << 20;
#endif

// Of some of a row's logits: the largest, the first index that has it, and the sum of exp(logit - maximum). Shared
// memory holds these, so members have no initial values.
struct Softmax {
  float maximum;
  std::int32_t index;
  float total;

  __device__ void add(float logit, std::int32_t at) {
    if (logit > maximum) {
      total = total * expf(maximum - logit) + 1.0f;
      maximum = logit;
      index = at;
    } else {
      total += expf(logit - maximum);
      if (logit == maximum && at < index) index = at;
    }
  }
  __device__ void add(const Softmax& other) {
    const float larger = fmaxf(maximum, other.maximum);
    total = total * expf(maximum - larger) + other.total * expf(other.maximum - larger);
    if (other.maximum > maximum || (other.maximum == maximum && other.index < index)) index = other.index;
    maximum = larger;
  }
};

__device__ Softmax softmax_of_row(const float* logits, int vocabulary) {
  __shared__ Softmax of_warps[warps];
  Softmax softmax = {-FLT_MAX, INT32_MAX, 0};
  for (int i = static_cast<int>(threadIdx.x); i < vocabulary; i += threads) softmax.add(logits[i], i);
  for (int distance = warp_size / 2; distance > 0; distance /= 2) {
    const float maximum = __shfl_xor_sync(all_lanes, softmax.maximum, distance);
    const std::int32_t index = __shfl_xor_sync(all_lanes, softmax.index, distance);
    const float total = __shfl_xor_sync(all_lanes, softmax.total, distance);
    softmax.add({maximum, index, total});
  }
  if (threadIdx.x % warp_size == 0) of_warps[threadIdx.x / warp_size] = softmax;
  __syncthreads();
  softmax = of_warps[0];
  for (int warp = 1; warp < warps; ++warp) softmax.add(of_warps[warp]);
  return softmax;
}

// A block a row. `d_logits` may be `logits`, or null.
template <typename T>
__global__ void score(const float* all_logits, const std::int32_t* targets, int vocabulary, float* loss,
                      std::int32_t* correct, const float* scale, T* all_d_logits) {
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * vocabulary;
  const float* logits = all_logits + begin;
  const std::int32_t target = targets[blockIdx.x];
  const Softmax softmax = softmax_of_row(logits, vocabulary);
  if (threadIdx.x == 0) {
    // A target beyond the columns shows as a loss that is not a number.
    const float of_target = target < 0 ? 0.0f : target < vocabulary ? logits[target] : nanf("");
    loss[blockIdx.x] = target < 0 ? 0.0f : logf(softmax.total) + (softmax.maximum - of_target);
    if (correct != nullptr) correct[blockIdx.x] = softmax.index == target ? 1 : 0;
  }
  if (all_d_logits == nullptr) return;
  __syncthreads();  // the gradients may take the place of the logits
  const float row_scale = *scale, inverse = 1.0f / softmax.total;
  for (int i = static_cast<int>(threadIdx.x); i < vocabulary; i += threads) {
    const float probability = expf(logits[i] - softmax.maximum) * inverse;
    const float gradient = row_scale * (i == target ? probability - 1.0f : probability);
    all_d_logits[begin + i] = from_float<T>(target < 0 ? 0.0f : gradient);
  }
}

Tensor rows_or_nothing(const Tensor& tensor, std::int64_t begin, std::int64_t count) {
  return tensor ? tensor.slice(begin, count) : Tensor();
}

}  // namespace

void CudaEncoder::record_cross_entropy(const CrossEntropyArgs& args) {
  const std::int64_t rows = args.x.shape[0], width = args.x.shape[1], vocabulary = args.weight.shape[0];
  const std::int64_t chunk = std::clamp<std::int64_t>(chunk_bytes / (4 * vocabulary), 1, rows);
  ScratchScope scope(*this);
  const Tensor all_logits = scratch(DType::f32, {chunk, vocabulary});
  const bool in_place = args.x.dtype == DType::f32;
  const Tensor all_d_logits = !args.d_x || in_place ? all_logits : scratch(args.x.dtype, {chunk, vocabulary});
  // Copies: these may lie in host memory, which every warp of a block would read.
  const Tensor all_targets = scratch(DType::i32, {rows});
  const Tensor scale = args.d_x ? scratch(DType::f32, {1}) : Tensor();
  record_copy({.in = args.targets, .out = all_targets});
  if (scale) record_copy({.in = args.scale, .out = scale});

  for (std::int64_t begin = 0; begin < rows; begin += chunk) {
    const std::int64_t count = std::min(chunk, rows - begin);
    const Tensor x = args.x.slice(begin, count);
    const Tensor logits = all_logits.slice(0, count);
    const Tensor d_logits = args.d_x ? all_d_logits.slice(0, count) : Tensor();
    multiply("cross_entropy",
             {.m = count, .n = vocabulary, .k = width, .a = x, .b = args.weight, .b_transposed = true, .c = logits});
    const Tensor targets = all_targets.slice(begin, count), loss = args.loss.slice(begin, count);
    const Tensor correct = rows_or_nothing(args.correct, begin, count);
    add("cross_entropy", [=, dtype = args.x.dtype](cudaStream_t stream) {
      with_activation(dtype, [&](auto act) {
        using T = decltype(act);
        launch(score<T>, grid_of(count), threads, 0, stream, data<float>(logits), data<std::int32_t>(targets),
               vocabulary, data<float>(loss), data<std::int32_t>(correct), data<float>(scale), data<T>(d_logits));
      });
    });
    if (!args.d_x) continue;
    multiply("cross_entropy", {.m = count,
                               .n = width,
                               .k = vocabulary,
                               .a = d_logits,
                               .b = args.weight,
                               .c = args.d_x.slice(begin, count)});
    multiply("cross_entropy", {.m = vocabulary,
                               .n = width,
                               .k = count,
                               .a = d_logits,
                               .a_transposed = true,
                               .b = x,
                               .c = args.d_weight,
                               .accumulate = true});
  }
}

}  // namespace riverhorse::cuda
