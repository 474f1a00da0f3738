// Causal convolution with a learned filter, y = p or gelu_erf(p), p = conv(u, kernel) + skip u, by transforms
// (fft_conv.cuh) or, where that is shorter, by products (fft_conv_direct.cuh).
#include "encoder.h"
#include "fft_conv_direct.cuh"

namespace riverhorse::cuda {

namespace {

template <typename T>
struct Outputs {
  Rows<T> y;
  bool gelu;
  struct OutputRow {
    Row<T> y;
    bool gelu;
    __device__ void store(std::int64_t n, float p) const { y.store(n, gelu ? gelu_erf(p) : p); }
  };
  __device__ OutputRow row(Item item, std::int64_t from) const { return {y.row(item, from), gelu}; }
  __host__ __device__ std::int32_t sequences() const { return y.sequences(); }
  Outputs part(std::int32_t head, std::int32_t sequence, std::int32_t sequences) const {
    return {y.part(head, sequence, sequences), gelu};
  }
};

}  // namespace

void CudaEncoder::record_fft_conv(const FftConvArgs& args) {
  const auto batch = static_cast<std::int32_t>(args.u.shape[0]), heads = static_cast<std::int32_t>(args.u.shape[1]);
  const std::int64_t length = args.u.shape[2];
  const FftPlan plan(length, limits_.shared_bytes);
  if (const auto direct =
          choose_direct(args.u.dtype, batch, heads, plan, length, limits_.multiprocessors, limits_.shared_bytes)) {
    add("fft_conv.direct", [=](cudaStream_t stream) {
      with_half(args.u.dtype, [&](auto type) {
        using T = decltype(type);
        launch_direct<false>(stream, *direct, data<const T>(args.u), data<float>(args.kernel), data<float>(args.skip),
                             args.gelu_erf, data<T>(args.y));
      });
    });
    return;
  }
  const FftGroup group(plan, heads, batch);
  ScratchScope scope(*this);
  const Tensor spectra = group.spectra(*this, plan), points = group.points(*this, plan);
  add("fft_conv.fft", [=](cudaStream_t stream) {
    with_activation(args.u.dtype, [&](auto type) {
      using T = decltype(type);
      const Filters filters{data<float>(args.kernel), data<float>(args.skip), length};
      const Rows<const T> u{data<T>(args.u), batch, length, length, heads * length};
      const Outputs<T> y{{data<T>(args.y), batch, length, length, heads * length}, args.gelu_erf};
      launch_groups(stream, plan, group, heads, filters, u, y, data<Point>(spectra), data<Point>(points));
    });
  });
}

}  // namespace riverhorse::cuda
