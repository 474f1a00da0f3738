// cross_entropy: a chunk of rows after the other, sized by the memory of its logits. The products are those of
// gemm.h; between them a block a row makes the loss, and of the logits their gradients, in the activation dtype.
//
// Memory is the limit of that kernel, so a row is read once and kept on the chip until its gradients are written:
// half of what a multiprocessor has, registers and shared memory together, holds a row of some 50,000 logits, and
// while one block makes exponentials the other one reads or writes.
#include <algorithm>
#include <cfloat>

#include "encoder.h"
#include "kernel.cuh"
#include "tensor_core.cuh"

namespace riverhorse::cuda {

namespace {

// Small where CUDA is emulated, so that the tests' small shapes are cut too, and fill all places where a row is kept.
#ifdef RIVERHORSE_CUDA_EMULATED
constexpr std::int64_t chunk_bytes = 10000;
constexpr int threads = 64;
constexpr int kept_steps = 1;
constexpr std::size_t most_shared_bytes = 2048;
#else
constexpr std::int64_t chunk_bytes = std::int64_t{512} << 20;  // of the fp32 logits that exist at once
constexpr int threads = 256;
constexpr int kept_steps = 22;  // times 4 of the 128 registers of a thread where two blocks share a multiprocessor
constexpr std::size_t most_shared_bytes = 227 << 10;
#endif
constexpr std::int64_t chunk_multiple = 128;  // rows of the tiles of the products
constexpr int blocks_at_once = 2;             // on a multiprocessor
constexpr std::size_t reserved_bytes = 1536;  // of shared memory, a block: CUDA's 1 KiB, and the sums of warps
constexpr float log2_e = 1.4426950408889634f;

// A thread's logits of a row: every `threads`-th group of `count` neighbours. The first groups are kept in registers,
// the next in shared memory, and what fits in neither is read again each time.
template <int count>
class OwnLogits {
 public:
  using Group = Neighbours<float, count>;

  __device__ OwnLogits(const float* row, int vocabulary, Group* shared, int shared_steps)
      : row_(reinterpret_cast<const Group*>(row)),
        shared_(shared),
        groups_(vocabulary / count),
        shared_steps_(shared_steps) {
    for (int step = 0; step < shared_steps; ++step) {
      const int group = group_of(kept_steps + step);
      if (group >= groups_) break;
      Group* to = shared_ + step * threads + threadIdx.x;
      if constexpr (sizeof(Group) == 16) {
        copy_async(shared_address(to), row_ + group);
      } else {
        *to = row_[group];
      }
    }
    commit_copies();
#pragma unroll
    for (int step = 0; step < kept_steps; ++step) {
      if (group_of(step) < groups_) kept_[step] = row_[group_of(step)];
    }
    wait_for_copies<0>();  // its own only, so that no barrier is needed
  }

  // function(group, the index of its first logit)
  template <typename Function>
  __device__ void for_each(Function&& function) const {
#pragma unroll
    for (int step = 0; step < kept_steps; ++step) {
      if (group_of(step) < groups_) function(kept_[step], group_of(step) * count);
    }
#pragma unroll 2
    for (int step = 0; step < shared_steps_; ++step) {
      const int group = group_of(kept_steps + step);
      if (group < groups_) function(shared_[step * threads + threadIdx.x], group * count);
    }
    for (int group = group_of(kept_steps + shared_steps_); group < groups_; group += threads) {
      function(row_[group], group * count);
    }
  }

 private:
  static __device__ int group_of(int step) { return step * threads + static_cast<int>(threadIdx.x); }

  const Group* row_;
  Group* shared_;
  int groups_, shared_steps_;
  Group kept_[kept_steps];
};

__device__ float block_max(float value) {
  __shared__ float of_warps[threads / warp_size];
  value = warp_max(value);
  if (threadIdx.x % warp_size == 0) of_warps[threadIdx.x / warp_size] = value;
  __syncthreads();
  for (const float each : of_warps) value = fmaxf(value, each);
  return value;
}

// A block a row. `d_logits` may be `logits`, or null.
template <typename T, int count>
__global__ void __launch_bounds__(threads, blocks_at_once)
    score(const float* all_logits, const std::int32_t* targets, int vocabulary, int shared_steps, float* loss,
          std::int32_t* correct, const float* scale, T* all_d_logits) {
  using Group = Neighbours<float, count>;
  SHARED_MEMORY(Group, shared);
  __shared__ float of_warps[threads / warp_size][2];
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * vocabulary;
  const float* row = all_logits + begin;
  const std::int32_t target = targets[blockIdx.x];
  // A target beyond the columns shows as a loss that is not a number. Read before gradients take the logits' place.
  const float of_target = target < 0 ? 0.0f : target < vocabulary ? row[target] : nanf("");
  const OwnLogits<count> logits(row, vocabulary, shared, shared_steps);

  float maximum = -FLT_MAX;
  logits.for_each([&](const Group& group, int) {
#pragma unroll
    for (int i = 0; i < count; ++i) maximum = fmaxf(maximum, group.values[i]);
  });
  maximum = block_max(maximum);

  // Of exp(logit - maximum), and of how many logits before the target are as large as the largest.
  float sums[2] = {};
  const float shift = -log2_e * maximum;
  logits.for_each([&](const Group& group, int index) {
#pragma unroll
    for (int i = 0; i < count; ++i) {
      sums[0] += exp2f(fmaf(group.values[i], log2_e, shift));
      if (group.values[i] == maximum && index + i < target) sums[1] += 1.0f;
    }
  });
  block_sums(sums, of_warps);
  const float total = sums[0];
  if (threadIdx.x == 0) {
    loss[blockIdx.x] = target < 0 ? 0.0f : logf(total) + (maximum - of_target);
    if (correct != nullptr) correct[blockIdx.x] = target >= 0 && of_target == maximum && sums[1] == 0.0f ? 1 : 0;
  }
  if (all_d_logits == nullptr) return;

  const float row_scale = *scale, shift_of_all = shift - log2f(total);
  auto* d_logits = reinterpret_cast<Neighbours<T, count>*>(all_d_logits + begin);
  logits.for_each([&](const Group& group, int index) {
    Neighbours<T, count> gradients;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const float probability = exp2f(fmaf(group.values[i], log2_e, shift_of_all));
      const float gradient = row_scale * (index + i == target ? probability - 1.0f : probability);
      gradients.values[i] = from_float<T>(target < 0 ? 0.0f : gradient);
    }
    d_logits[index / count] = gradients;
  });
}

template <typename T, int count>
void launch_score(cudaStream_t stream, const DeviceLimits& limits, const Tensor& logits, const Tensor& targets,
                  const Tensor& loss, const Tensor& correct, const Tensor& scale, const Tensor& d_logits) {
  const std::int64_t rows = logits.shape[0], vocabulary = logits.shape[1];
  constexpr std::size_t step_bytes = threads * sizeof(Neighbours<float, count>);
  const std::size_t most_bytes =
      std::min((limits.shared_bytes + 1024) / blocks_at_once - reserved_bytes, most_shared_bytes);
  const std::int64_t steps = divide_up(vocabulary / count, threads) - kept_steps;
  const auto shared_steps = std::clamp<std::int64_t>(steps, 0, static_cast<std::int64_t>(most_bytes / step_bytes));
  launch(score<T, count>, grid_of(rows), threads, static_cast<std::size_t>(shared_steps) * step_bytes, stream,
         data<float>(logits), data<std::int32_t>(targets), vocabulary, shared_steps, data<float>(loss),
         data<std::int32_t>(correct), data<float>(scale), data<T>(d_logits));
}

Tensor rows_or_nothing(const Tensor& tensor, std::int64_t begin, std::int64_t count) {
  return tensor ? tensor.slice(begin, count) : Tensor();
}

}  // namespace

void CudaEncoder::record_cross_entropy(const CrossEntropyArgs& args) {
  const std::int64_t rows = args.x.shape[0], width = args.x.shape[1], vocabulary = args.weight.shape[0];
  std::int64_t chunk = std::clamp<std::int64_t>(chunk_bytes / (4 * vocabulary), 1, rows);
  if (chunk > chunk_multiple && chunk < rows) chunk -= chunk % chunk_multiple;
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
    add("cross_entropy", [=, dtype = args.x.dtype, &limits = limits_](cudaStream_t stream) {
      const bool by_four =
          vocabulary % 4 == 0 && at_16_bytes(data<float>(logits)) && at_16_bytes(data<void>(d_logits));
      with_activation(dtype, [&](auto act) {
        using T = decltype(act);
        const auto start = by_four ? launch_score<T, 4> : launch_score<T, 1>;
        start(stream, limits, logits, targets, loss, correct, scale, d_logits);
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
