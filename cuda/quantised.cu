// Quantised matrices as what they stand for: a whole one, or some rows of one (embed). A thread takes four
// neighbours.
#include "quantised.cuh"
#include "quantised.h"

namespace riverhorse::cuda {

namespace {

constexpr int quads_in_block = static_cast<int>(quantised_block) / 4;

template <DType dtype, typename T>
__global__ void dequantise(QuantisedRows<dtype> matrix, Neighbours<T, 4>* out, std::int64_t rows) {
  const std::int64_t row_quads = std::int64_t{matrix.blocks} * quads_in_block;
  for (std::int64_t i = first_element(); i < rows * row_quads; i += element_stride()) {
    const std::int64_t row = i / row_quads;
    const int quad = static_cast<int>(i % row_quads), block = quad / quads_in_block;
    float values[4];
    read_quants<dtype>(matrix.block(row, block), quad % quads_in_block * 4, values);
    const float scale = matrix.scale(row, block);
    Neighbours<T, 4> group;
#pragma unroll
    for (int c = 0; c < 4; ++c) group.values[c] = from_float<T>(scale * values[c]);
    out[i] = group;
  }
}

constexpr int embed_threads = 256;

// A block a row of the residual stream.
template <DType dtype>
__global__ void look_up(const std::int32_t* ids, QuantisedRows<dtype> table, float* residual, int vocabulary) {
  let_next_begin();
  wait_for_previous();
  const std::int64_t id = ids[blockIdx.x];
  const bool present = id >= 0 && id < vocabulary;
  const int row_quads = table.blocks * quads_in_block;
  float* out = residual + std::int64_t{blockIdx.x} * row_quads * 4;
  for (int quad = static_cast<int>(threadIdx.x); quad < row_quads; quad += embed_threads) {
    float values[4] = {}, scale = 0.0f;
    if (present) {
      read_quants<dtype>(table.block(id, quad / quads_in_block), quad % quads_in_block * 4, values);
      scale = table.scale(id, quad / quads_in_block);
    }
#pragma unroll
    for (int c = 0; c < 4; ++c) out[4 * quad + c] = scale * values[c];
  }
}

}  // namespace

void launch_dequantise(cudaStream_t stream, const Tensor& matrix, const Tensor& out) {
  const std::int64_t rows = matrix.shape[0], width = matrix.shape[1];
  with_quantised(matrix.dtype, [&](auto quantised) {
    constexpr DType dtype = decltype(quantised)::value;
    with_activation(out.dtype, [&](auto type) {
      using T = decltype(type);
      launch(dequantise<dtype, T>, element_grid(rows * width / 4), element_threads, 0, stream,
             QuantisedRows<dtype>(data<unsigned char>(matrix), width), data<Neighbours<T, 4>>(out), rows);
    });
  });
}

void launch_embed_quantised(Launch turn, const EmbedArgs& args) {
  with_quantised(args.table.dtype, [&](auto quantised) {
    constexpr DType dtype = decltype(quantised)::value;
    launch_in_turn(look_up<dtype>, grid_of(args.ids.count()), embed_threads, 0, turn, data<std::int32_t>(args.ids),
                   QuantisedRows<dtype>(data<unsigned char>(args.table), args.table.shape[1]),
                   data<float>(args.residual), static_cast<int>(args.table.shape[0]));
  });
}

}  // namespace riverhorse::cuda
