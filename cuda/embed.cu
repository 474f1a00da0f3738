// embed: a block a row.
// embed_backward: the rows are sorted by their id, and a block of threads for each run of equal ids, a thread a
// column, adds the run's rows in their order, several of them on their way at once: runs of frequent ids are long.
#include "encoder.h"
#include "kernel.cuh"
#include "quantised.h"
#include "sort.h"

namespace riverhorse::cuda {

namespace {

constexpr int threads = 256;
constexpr int rows_at_once = 8;  // of a run, on their way from memory

// `count` divides width.
template <typename T, int count>
__global__ void look_up(const std::int32_t* ids, const T* table, float* residual, int vocabulary, int width) {
  let_next_begin();
  wait_for_previous();
  const std::int64_t id = ids[blockIdx.x];
  const bool present = id >= 0 && id < vocabulary;
  const auto* row = reinterpret_cast<const Neighbours<T, count>*>(table + (present ? id : 0) * width);
  auto* out = reinterpret_cast<Neighbours<float, count>*>(residual + static_cast<std::int64_t>(blockIdx.x) * width);
  for (int i = static_cast<int>(threadIdx.x); i < width / count; i += threads) {
    const Neighbours<T, count> group = row[i];
    Neighbours<float, count> values;
#pragma unroll
    for (int c = 0; c < count; ++c) values.values[c] = present ? to_float(group.values[c]) : 0.0f;
    out[i] = values;
  }
}

__global__ void count_up(std::int32_t* numbers, std::int64_t count) {
  for (std::int64_t i = first_element(); i < count; i += element_stride()) numbers[i] = static_cast<std::int32_t>(i);
}

// Where the run of equal ids that begins at `begin` ends: by steps that double, then by halves.
__device__ int end_of_run(const std::int32_t* ids, int begin, int rows) {
  const std::int32_t id = ids[begin];
  std::int64_t step = 1;
  while (begin + step < rows && ids[begin + step] == id) step *= 2;
  std::int64_t same = begin + step / 2, end = min(std::int64_t{rows}, begin + step);
  while (end - same > 1) {
    const std::int64_t middle = (same + end) / 2;
    if (ids[middle] == id) {
      same = middle;
    } else {
      end = middle;
    }
  }
  return static_cast<int>(end);
}

// A block for every sorted row, and as many more as the columns need; that of the first row of a run works. Most runs
// are short, so that their time is that of loads which wait for each other: what can be is requested together.
template <int count>
__global__ void add_runs(const std::int32_t* ids, const std::int32_t* order, int rows, const float* d_residual,
                         float* d_table, int vocabulary, int width) {
  using Group = Neighbours<float, count>;
  const auto begin = static_cast<int>(blockIdx.x);
  const std::int64_t id = ids[begin], before = ids[max(begin - 1, 0)], after = ids[min(begin + 1, rows - 1)];
  const std::int64_t first_row = order[begin];
  const bool first = begin == 0 || before != id, alone = begin + 1 == rows || after != id;
  const int column = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x) * count;
  if (!first || id < 0 || id >= vocabulary || column >= width) return;
  auto* out = reinterpret_cast<Group*>(d_table + id * width + column);
  Group total = *out;
  const Group first_group = *reinterpret_cast<const Group*>(d_residual + first_row * width + column);
  const int end = alone ? begin + 1 : end_of_run(ids, begin, rows);
  double sums[count];
#pragma unroll
  for (int c = 0; c < count; ++c) sums[c] = first_group.values[c];
  for (int i = begin + 1; i < end; i += rows_at_once) {
    Group groups[rows_at_once] = {};
#pragma unroll
    for (int j = 0; j < rows_at_once; ++j) {
      if (i + j >= end) break;
      groups[j] = *reinterpret_cast<const Group*>(d_residual + std::int64_t{order[i + j]} * width + column);
    }
#pragma unroll
    for (const Group& group : groups) {
#pragma unroll
      for (int c = 0; c < count; ++c) sums[c] += group.values[c];
    }
  }
#pragma unroll
  for (int c = 0; c < count; ++c) total.values[c] = static_cast<float>(total.values[c] + sums[c]);
  *out = total;
}

}  // namespace

void CudaEncoder::record_embed(const EmbedArgs& args) {
  if (is_quantised(args.table.dtype)) {
    add_in_turn("embed", {}, {args.residual}, [args](Launch turn) { launch_embed_quantised(turn, args); });
    return;
  }
  add_in_turn("embed", {}, {args.residual}, [args](Launch turn) {
    const std::int64_t vocabulary = args.table.shape[0], width = args.table.shape[1];
    with_activation(args.table.dtype, [&](auto act) {
      using T = decltype(act);
      const bool by_four = width % 4 == 0 && at_16_bytes(data<T>(args.table)) && at_16_bytes(data<T>(args.residual));
      launch_in_turn(by_four ? look_up<T, 4> : look_up<T, 1>, grid_of(args.ids.count()), threads, 0, turn,
                     data<std::int32_t>(args.ids), data<T>(args.table), data<float>(args.residual), vocabulary,
                     width);
    });
  });
}

void CudaEncoder::record_embed_backward(const EmbedBackwardArgs& args) {
  const std::int64_t rows = args.ids.count();
  const std::size_t workspace_bytes = sort_workspace_bytes(rows);
  ScratchScope scope(*this);
  const Tensor numbers = scratch(DType::i32, {rows});
  const Tensor ids = scratch(DType::i32, {rows});
  const Tensor order = scratch(DType::i32, {rows});
  const Tensor workspace = scratch(DType::i32, {divide_up(static_cast<std::int64_t>(workspace_bytes), 4)});
  add("embed_backward", [=](cudaStream_t stream) {
    const std::int64_t vocabulary = args.d_table.shape[0], width = args.d_table.shape[1];
    launch(count_up, element_grid(rows), element_threads, 0, stream, data<std::int32_t>(numbers), rows);
    sort_by_key(data<std::int32_t>(args.ids), data<std::int32_t>(numbers), data<std::int32_t>(ids),
                data<std::int32_t>(order), rows, data<void>(workspace), workspace_bytes, stream);
    const bool by_four =
        width % 4 == 0 && at_16_bytes(data<float>(args.d_residual)) && at_16_bytes(data<float>(args.d_table));
    launch(by_four ? add_runs<4> : add_runs<1>, grid_of(rows, divide_up(width, by_four ? 4 * threads : threads)),
           threads, 0, stream, data<std::int32_t>(ids), data<std::int32_t>(order), rows, data<float>(args.d_residual),
           data<float>(args.d_table), vocabulary, width);
  });
}

}  // namespace riverhorse::cuda
