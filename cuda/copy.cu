// copy, with conversion; advance; zero.
#include "encoder.h"
#include "kernel.cuh"
#include "quantised.h"

namespace riverhorse::cuda {

namespace {

template <typename In, typename Out>
__global__ void convert(const In* in, Out* out, std::int64_t count) {
  for (std::int64_t i = first_element(); i < count; i += element_stride()) out[i] = from_float<Out>(to_float(in[i]));
}

template <typename In>
__global__ void add_to(const In* in, float* out, std::int64_t count) {
  for (std::int64_t i = first_element(); i < count; i += element_stride()) out[i] += to_float(in[i]);
}

__global__ void advance_positions(const std::int32_t* slots, std::int32_t* positions, int batch,
                                  std::int32_t tokens) {
  let_next_begin();
  wait_for_previous();
  for (std::int64_t b = first_element(); b < batch; b += element_stride()) positions[slots[b]] += tokens;
}

}  // namespace

void CudaEncoder::record_copy(const CopyArgs& args) {
  if (is_quantised(args.in.dtype)) {
    add("copy", [args](cudaStream_t stream) { launch_dequantise(stream, args.in, args.out); });
    return;
  }
  add("copy", [args](cudaStream_t stream) {
    const std::int64_t count = args.in.count();
    if (args.in.dtype == args.out.dtype) {
      check(
          cudaMemcpyAsync(data<void>(args.out), data<void>(args.in), args.in.size_bytes(), cudaMemcpyDefault, stream),
          "copy");
      return;
    }
    with_activation(args.in.dtype, [&](auto in) {
      with_activation(args.out.dtype, [&](auto out) {
        launch(convert<decltype(in), decltype(out)>, element_grid(count), element_threads, 0, stream,
               data<decltype(in)>(args.in), data<decltype(out)>(args.out), count);
      });
    });
  });
}

bool kernels_know_turns() {
#ifdef RIVERHORSE_CUDA_EMULATED
  return true;
#else
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, advance_positions), "asking what a kernel was compiled for");
  return attributes.ptxVersion >= 90;
#endif
}

void CudaEncoder::record_advance(const AdvanceArgs& args) {
  add_in_turn("advance", {}, {args.positions}, [args](Launch turn) {
    launch_in_turn(advance_positions, element_grid(args.slots.count()), element_threads, 0, turn,
                   data<std::int32_t>(args.slots), data<std::int32_t>(args.positions), args.slots.count(),
                   args.tokens);
  });
}

void CudaEncoder::record_accumulate(const AccumulateArgs& args) {
  add("accumulate", [args](cudaStream_t stream) {
    const std::int64_t count = args.in.count();
    with_activation(args.in.dtype, [&](auto in) {
      launch(add_to<decltype(in)>, element_grid(count), element_threads, 0, stream, data<decltype(in)>(args.in),
             data<float>(args.out), count);
    });
  });
}

void CudaEncoder::record_copy_columns(const CopyColumnsArgs& args) {
  add("copy_columns", [args](cudaStream_t stream) {
    const auto bytes = [&](std::int64_t elements) {
      return static_cast<std::size_t>(elements * dtype_size_bytes(args.in.dtype));
    };
    check(
        cudaMemcpy2DAsync(data<std::byte>(args.out) + bytes(args.out_first), bytes(args.out.shape[1]),
                          data<std::byte>(args.in) + bytes(args.in_first), bytes(args.in.shape[1]),
                          bytes(args.columns), static_cast<std::size_t>(args.in.shape[0]), cudaMemcpyDefault, stream),
        "copy_columns");
  });
}

void CudaEncoder::record_zero(const ZeroArgs& args) {
  add("zero", [args](cudaStream_t stream) {
    check(cudaMemsetAsync(data<void>(args.tensor), 0, args.tensor.size_bytes(), stream), "zero");
  });
}

}  // namespace riverhorse::cuda
