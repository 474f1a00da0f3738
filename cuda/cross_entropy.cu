// cross_entropy: a chunk of rows after the other, sized by the memory of its logits. The products are those of
// gemm.h; between them a block a row makes the loss, and of the logits their gradients, in the activation dtype.
//
// Memory is the limit of that kernel, so a row is read once and kept on the chip until its gradients are written:
// half of what a multiprocessor has, registers and shared memory together, holds a row of some 50,000 logits, and
// while one block makes exponentials the other one reads or writes. The time that this leaves over is that of
// instructions, so that these are few: exponentials take the place of the logits, and what only the target needs, one
// thread does.
#include <algorithm>
#include <cfloat>
#include <type_traits>

#include "encoder.h"
#include "kernel.cuh"
#include "tensor_core.cuh"

namespace riverhorse::cuda {

namespace {

// Small where CUDA is emulated, so that the tests' small shapes are cut too, and fill all places where a row is kept.
#ifdef RIVERHORSE_CUDA_EMULATED
constexpr std::int64_t chunk_bytes = 10000;
constexpr std::int64_t half_chunk_bytes = chunk_bytes;
constexpr int threads = 64;
template <typename Logit>
constexpr int kept_steps = 1;
constexpr std::size_t most_shared_bytes = 2048;
#else
// Of the logits that exist at once: 4,096 rows of 50,264 in fp32, three times as many in 16 bits, which hold their
// gradients too. With fewer rows the gradient of the weights is read and written more often, and the products are
// slower; more rows save little for the memory that they take.
constexpr std::int64_t chunk_bytes = std::int64_t{800} << 20;
constexpr std::int64_t half_chunk_bytes = std::int64_t{1200} << 20;
constexpr int threads = 256;
// Groups of a thread in registers, 4 each: of 128 where two blocks share a multiprocessor, of 80 where three do.
template <typename Logit>
constexpr int kept_steps = sizeof(Logit) == 4 ? 22 : 12;
constexpr std::size_t most_shared_bytes = 227 << 10;
#endif
constexpr std::int64_t chunk_multiple = 128;  // rows of the tiles of the products
template <typename Logit>
constexpr int blocks_at_once = sizeof(Logit) == 4 ? 2 : 3;  // on a multiprocessor
constexpr std::size_t reserved_bytes = 1536;  // of shared memory, a block: CUDA's 1 KiB, and the sums of warps
constexpr float log2_e = 1.4426950408889634f;

// exp(logit - maximum), with `shift` = -log2_e maximum; 0 where that is below 2^-126, which exp2f would take three
// more instructions to tell.
__device__ float exponential(float logit, float shift) {
  const float exponent = fmaf(logit, log2_e, shift);
#ifdef RIVERHORSE_CUDA_EMULATED
  return exp2f(exponent);
#else
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(exponent));
  return result;
#endif
}

// `count` logits as they are kept: of 16 bits two in a word, which takes one register.
template <typename Logit, int count>
using LogitGroup = std::conditional_t<sizeof(Logit) == 2 && count % 2 == 0, Neighbours<std::uint32_t, count / 2>,
                                      Neighbours<Logit, count>>;

template <typename Logit, int count>
__device__ Neighbours<float, count> widened(const LogitGroup<Logit, count>& group) {
  Neighbours<float, count> wide;
  if constexpr (sizeof(Logit) == 2 && count % 2 == 0) {
#pragma unroll
    for (int i = 0; i < count; i += 2) {
      const float2 pair = unpack<Logit>(group.values[i / 2]);
      wide.values[i] = pair.x;
      wide.values[i + 1] = pair.y;
    }
  } else {
#pragma unroll
    for (int i = 0; i < count; ++i) wide.values[i] = to_float(group.values[i]);
  }
  return wide;
}

// A thread's logits of a row: every `threads`-th group of `count` neighbours. The first groups are kept in registers,
// the next in shared memory, and what fits in neither is read again each time.
template <typename Logit, int count>
class OwnLogits {
 public:
  using Group = LogitGroup<Logit, count>;
  using Floats = Neighbours<float, count>;

  __device__ OwnLogits(const Logit* row, int vocabulary, Group* shared, int shared_steps)
      : row_(reinterpret_cast<const Group*>(row)),
        shared_(shared),
        groups_(vocabulary / count),
        shared_steps_(shared_steps) {
    for (int step = 0; step < shared_steps; ++step) {
      const int group = group_of(kept_count + step);
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
    for (int step = 0; step < kept_count; ++step) {
      kept_[step] = group_of(step) < groups_ ? row_[group_of(step)] : Group{};
    }
    wait_for_copies<0>();  // its own only, so that no barrier is needed
  }

  struct Largest {
    float value;
    int index;  // of the first logit of the first group that has it
  };
  __device__ Largest largest() {
    Largest largest = {-FLT_MAX, 0};
    for_each<false>([&](const Group& group, int index, bool) {
      const Floats logits = widened<Logit, count>(group);
      float value = logits.values[0];
#pragma unroll
      for (int i = 1; i < count; ++i) value = fmaxf(value, logits.values[i]);
      if (value > largest.value) largest = {value, index};
    });
    return largest;
  }

  // Returns the sum of the exponentials, and puts those of fp32 in the place of the logits.
  __device__ float exponentiate(float shift) {
    float sum = 0;
    for_each<replaces>([&](Group& group, int, bool) {
      const Floats made = exponentials(group, shift);
#pragma unroll
      for (const float value : made.values) sum += value;
      if constexpr (replaces) group = made;
    });
    return sum;
  }

  // function(group, the index of its first logit), of exponentials
  template <typename Function>
  __device__ void for_each_exponentiated(float shift, Function&& function) {
    for_each<false>([&](const Group& group, int index, bool is_kept) {
      if constexpr (replaces) {
        function(is_kept ? group : exponentials(group, shift), index);
      } else {
        function(exponentials(group, shift), index);
      }
    });
  }

 private:
  static constexpr bool replaces = std::is_same_v<Logit, float>;
  static constexpr int kept_count = kept_steps<Logit>;

  static __device__ Floats exponentials(const Group& group, float shift) {
    Floats made = widened<Logit, count>(group);
#pragma unroll
    for (float& value : made.values) value = exponential(value, shift);
    return made;
  }

  // function(group, the index of its first logit, whether it is kept). What it changes stays in the groups that are.
  template <bool changes, typename Function>
  __device__ void for_each(Function&& function) {
#pragma unroll
    for (int step = 0; step < kept_count; ++step) {
      if (group_of(step) < groups_) function(kept_[step], group_of(step) * count, true);
    }
#pragma unroll 2
    for (int step = 0; step < shared_steps_; ++step) {
      const int index = group_of(kept_count + step);
      if (index >= groups_) break;
      Group& kept = shared_[step * threads + threadIdx.x];
      Group group = kept;
      function(group, index * count, true);
      if constexpr (changes) kept = group;
    }
    for (int index = group_of(kept_count + shared_steps_); index < groups_; index += threads) {
      Group group = row_[index];
      function(group, index * count, false);
    }
  }

  static __device__ int group_of(int step) { return step * threads + static_cast<int>(threadIdx.x); }

  const Group* row_;
  Group* shared_;
  int groups_, shared_steps_;
  Group kept_[kept_count];
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
template <typename Logit, typename T, int count>
__global__ void __launch_bounds__(threads, blocks_at_once<Logit>)
    score(const Logit* all_logits, const std::int32_t* targets, int vocabulary, int shared_steps, float* loss,
          std::int32_t* correct, const float* scale, T* all_d_logits) {
  using Group = LogitGroup<Logit, count>;
  SHARED_MEMORY(Group, shared);
  __shared__ float of_warps[threads / warp_size][2];
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * vocabulary;
  const Logit* row = all_logits + begin;
  auto* d_logits = reinterpret_cast<Neighbours<T, count>*>(all_d_logits + begin);
  const std::int32_t target = targets[blockIdx.x];
  if (target < 0) {
    if (threadIdx.x == 0) loss[blockIdx.x] = 0;
    if (threadIdx.x == 0 && correct != nullptr) correct[blockIdx.x] = 0;
    Neighbours<T, count> zeros;
    for (T& zero : zeros.values) zero = from_float<T>(0.0f);
    for (int i = static_cast<int>(threadIdx.x); all_d_logits != nullptr && i < vocabulary / count; i += threads) {
      d_logits[i] = zeros;
    }
    return;
  }

  // Read before gradients take the logits' place. A target beyond the columns shows as a loss that is not a number.
  const bool within = target < vocabulary;
  const int place = target % count;
  const float of_target = within ? to_float(row[target]) : nanf("");
  float largest_before = -FLT_MAX;  // in the group of the target
#pragma unroll
  for (int i = 1; i < count; ++i) {
    if (within && i <= place) largest_before = fmaxf(largest_before, to_float(row[target - i]));
  }
  OwnLogits<Logit, count> logits(row, vocabulary, shared, shared_steps);
  const auto own = logits.largest();
  const float maximum = block_max(own.value), shift = -log2_e * maximum;
  // Of the exponentials, and of the threads with a logit as large as the largest in a group before that of the
  // target.
  float sums[2] = {logits.exponentiate(shift), own.value == maximum && own.index + count <= target ? 1.0f : 0.0f};
  block_sums(sums, of_warps);
  const float total = sums[0];

  const bool has_target = static_cast<int>(threadIdx.x) == target / count % threads;
  if (has_target) {
    loss[blockIdx.x] = logf(total) + (maximum - of_target);
    const bool first_largest = of_target == maximum && largest_before < maximum && sums[1] == 0.0f;
    if (correct != nullptr) correct[blockIdx.x] = first_largest ? 1 : 0;
  }
  if (all_d_logits == nullptr) return;

  const float row_scale = *scale, factor = row_scale / total;
  logits.for_each_exponentiated(shift, [&](const Neighbours<float, count>& group, int index) {
    Neighbours<T, count> gradients;
#pragma unroll
    for (int i = 0; i < count; ++i) gradients.values[i] = from_float<T>(factor * group.values[i]);
    d_logits[index / count] = gradients;
  });
  if (has_target && within) {
    all_d_logits[begin + target] = from_float<T>(row_scale * (exponential(of_target, shift) / total - 1.0f));
  }
}

template <typename Logit, typename T, int count>
void launch_score(cudaStream_t stream, const DeviceLimits& limits, const Tensor& logits, const Tensor& targets,
                  const Tensor& loss, const Tensor& correct, const Tensor& scale, const Tensor& d_logits) {
  const std::int64_t rows = logits.shape[0], vocabulary = logits.shape[1];
  constexpr std::size_t step_bytes = threads * sizeof(LogitGroup<Logit, count>);
  const std::size_t most_bytes =
      std::min((limits.shared_bytes + 1024) / blocks_at_once<Logit> - reserved_bytes, most_shared_bytes);
  const std::int64_t steps = divide_up(vocabulary / count, threads) - kept_steps<Logit>;
  const auto shared_steps = std::clamp<std::int64_t>(steps, 0, static_cast<std::int64_t>(most_bytes / step_bytes));
  launch(score<Logit, T, count>, grid_of(rows), threads, static_cast<std::size_t>(shared_steps) * step_bytes, stream,
         data<Logit>(logits), data<std::int32_t>(targets), vocabulary, shared_steps, data<float>(loss),
         data<std::int32_t>(correct), data<float>(scale), data<T>(d_logits));
}

template <typename Logit, typename T>
void score_by_groups(cudaStream_t stream, const DeviceLimits& limits, const Tensor& logits, const Tensor& targets,
                     const Tensor& loss, const Tensor& correct, const Tensor& scale, const Tensor& d_logits) {
  constexpr int most = 16 / sizeof(Logit);
  const bool whole =
      logits.shape[1] % most == 0 && at_16_bytes(data<Logit>(logits)) && at_16_bytes(data<void>(d_logits));
  const auto start = whole ? launch_score<Logit, T, most> : launch_score<Logit, T, 1>;
  start(stream, limits, logits, targets, loss, correct, scale, d_logits);
}

// Of a chunk: as many as memory allows, but all chunks about the same.
std::int64_t chunk_rows(std::int64_t rows, std::int64_t vocabulary, DType dtype) {
  const std::int64_t bytes = is_half(dtype) ? half_chunk_bytes : chunk_bytes;
  std::int64_t most = std::max<std::int64_t>(bytes / (vocabulary * dtype_size_bytes(dtype)), 1);
  if (rows <= most) return rows;
  if (most <= chunk_multiple) return most;
  most -= most % chunk_multiple;
  const std::int64_t share = divide_up(rows, divide_up(rows, most));
  return divide_up(share, chunk_multiple) * chunk_multiple;
}

Tensor rows_or_nothing(const Tensor& tensor, std::int64_t begin, std::int64_t count) {
  return tensor ? tensor.slice(begin, count) : Tensor();
}

}  // namespace

void CudaEncoder::record_cross_entropy(const CrossEntropyArgs& args) {
  const std::int64_t rows = args.x.shape[0], width = args.x.shape[1], vocabulary = args.weight.shape[0];
  const DType dtype = dtype_of_logits(args);
  const std::int64_t chunk = chunk_rows(rows, vocabulary, dtype);
  ScratchScope scope(*this);
  const Tensor all_logits = scratch(dtype, {chunk, vocabulary});
  const bool in_place = args.x.dtype == dtype;
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
    add("cross_entropy", [=, x_dtype = args.x.dtype, &limits = limits_](cudaStream_t stream) {
      with_activation(x_dtype, [&](auto act) {
        using T = decltype(act);
        const auto start = dtype == DType::f32 ? score_by_groups<float, T> : score_by_groups<T, T>;
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
                               .accumulate = begin > 0 || !args.overwrite});
  }
}

}  // namespace riverhorse::cuda
