// embed: a block a row.
// embed_backward: the rows are sorted by their id, and a block of threads for each run of equal ids, a thread a
// column, adds the run's rows in their order.
#include "encoder.h"
#include "kernel.cuh"
#include "sort.h"

namespace riverhorse::cuda {

namespace {

constexpr int threads = 256;

template <typename T>
__global__ void look_up(const std::int32_t* ids, const T* table, float* residual, int vocabulary, int width) {
  const std::int64_t id = ids[blockIdx.x];
  const bool present = id >= 0 && id < vocabulary;
  float* out = residual + static_cast<std::int64_t>(blockIdx.x) * width;
  for (int i = static_cast<int>(threadIdx.x); i < width; i += threads) {
    out[i] = present ? to_float(table[id * width + i]) : 0.0f;
  }
}

__global__ void count_up(std::int32_t* numbers, std::int64_t count) {
  for (std::int64_t i = first_element(); i < count; i += element_stride()) numbers[i] = static_cast<std::int32_t>(i);
}

// A block for every sorted row; the first of a run works.
__global__ void add_runs(const std::int32_t* ids, const std::int32_t* order, int rows, const float* d_residual,
                         float* d_table, int vocabulary, int width) {
  const auto begin = static_cast<int>(blockIdx.x);
  const std::int64_t id = ids[begin];
  const bool first = begin == 0 || ids[begin - 1] != id;
  const int column = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
  if (!first || id < 0 || id >= vocabulary || column >= width) return;
  double sum = 0;
  for (int i = begin; i < rows && ids[i] == id; ++i) {
    sum += d_residual[std::int64_t{order[i]} * width + column];
  }
  float* out = d_table + id * width + column;
  *out = static_cast<float>(*out + sum);
}

}  // namespace

void CudaEncoder::record_embed(const EmbedArgs& args) {
  add("embed", [args](cudaStream_t stream) {
    with_activation(args.table.dtype, [&](auto act) {
      launch(look_up<decltype(act)>, grid_of(args.ids.count()), threads, 0, stream, data<std::int32_t>(args.ids),
             data<decltype(act)>(args.table), data<float>(args.residual), args.table.shape[0], args.table.shape[1]);
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
    launch(add_runs, grid_of(rows, divide_up(width, threads)), threads, 0, stream, data<std::int32_t>(ids),
           data<std::int32_t>(order), rows, data<float>(args.d_residual), data<float>(args.d_table), vocabulary,
           width);
  });
}

}  // namespace riverhorse::cuda
