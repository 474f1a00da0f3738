// Recording the backward pass of the long convolution: by products where those are shorter, else by transforms.
// Through a gelu, p is made again and everything done in f32.
#include "encoder.h"
#include "fft_conv_backward.cuh"
#include "fft_conv_direct_backward.cuh"

namespace riverhorse::cuda {

namespace {

// d_p from p and d_y, in its place.
template <typename T>
__global__ void gelu_backward(std::int64_t count, const T* d_y, float* p) {
  for (std::int64_t i = first_element(); i < count; i += element_stride()) {
    p[i] = to_float(d_y[i]) * gelu_erf_derivative(p[i]);
  }
}

}  // namespace

void CudaEncoder::record_fft_conv_backward_gelu(const FftConvBackwardArgs& args) {
  ScratchScope scope(*this);
  const Tensor u = scratch(DType::f32, args.u.shape), p = scratch(DType::f32, args.u.shape);
  record_copy({args.u, u});
  record_fft_conv({.u = u, .kernel = args.kernel, .skip = args.skip, .y = p});
  add("fft_conv_backward", [=](cudaStream_t stream) {
    with_activation(args.u.dtype, [&](auto type) {
      using T = decltype(type);
      launch(gelu_backward<T>, element_grid(p.count()), element_threads, 0, stream, p.count(), data<T>(args.d_y),
             data<float>(p));
    });
  });
  FftConvBackwardArgs inner = args;
  inner.u = u;
  inner.gelu_erf = false;
  inner.d_y = inner.d_u = p;  // in place: whoever reads a number of d_p later writes that of d_u
  record_fft_conv_backward(inner);
  record_copy({p, args.d_u});
}

void CudaEncoder::record_fft_conv_backward(const FftConvBackwardArgs& args) {
  if (args.gelu_erf) return record_fft_conv_backward_gelu(args);
  const auto batch = static_cast<std::int32_t>(args.u.shape[0]), heads = static_cast<std::int32_t>(args.u.shape[1]);
  const std::int64_t length = args.u.shape[2];
  const FftPlan plan(length, limits_.shared_bytes);
  if (const auto direct = choose_direct(args.u.dtype, batch, heads, plan, length, limits_.multiprocessors,
                                        limits_.shared_bytes, points_of_step_backward)) {
    const DirectCorrelation correlation(*direct, limits_.multiprocessors);
    if (correlation.shared_bytes() <= limits_.shared_bytes) {
      ScratchScope scope(*this);
      const Tensor sums = scratch(DType::f32, {correlation.splits, heads, length});
      add("fft_conv_backward.direct", [=](cudaStream_t stream) {
        with_half(args.u.dtype, [&](auto type) {
          using T = decltype(type);
          launch_direct_correlation(stream, correlation, data<const T>(args.u), data<const T>(args.d_y),
                                    data<float>(sums), data<float>(args.d_kernel), data<float>(args.d_skip));
          launch_direct<true>(stream, *direct, data<const T>(args.d_y), data<float>(args.kernel),
                              data<float>(args.skip), false, data<T>(args.d_u));
        });
      });
      return;
    }
  }
  const FftGroup group(plan, heads, batch);
  const std::int32_t group_items = plan.items(group.sequences);
  // Enough teams for about half of the threads that a device can hold, if there are as many items.
  std::int64_t threads = 0, teams_of_block = 0;
  bool on_chip = false;
  with_transform(plan.near_log, [&](auto tag) {
    using Fft = typename decltype(tag)::type;
    threads = Fft::threads;
    teams_of_block = Fft::teams;
    on_chip = keeps_on_chip<Fft>();
  });
  const std::int64_t parts = std::int64_t{group.heads} * plan.near_rows();
  const std::int64_t splits =
      std::min<std::int64_t>(divide_up(1024 * limits_.multiprocessors, parts * threads), group_items);
  const auto team_items = static_cast<std::int32_t>(divide_up(group_items, splits));
  const std::int64_t teams = divide_up(splits * parts, teams_of_block) * teams_of_block;
  const Shape team_points{teams, plan.points() / plan.near_rows(), 2};

  ScratchScope scope(*this);
  const Tensor spectra = group.spectra(*this, plan);
  const Tensor points = group.points(*this, plan), gradient_points = group.points(*this, plan);
  const Tensor sums = scratch(DType::f32, team_points);
  const Tensor parked = on_chip ? Tensor() : scratch(DType::f32, team_points);
  add("fft_conv_backward.fft", [=](cudaStream_t stream) {
    with_activation(args.u.dtype, [&](auto type) {
      using T = decltype(type);
      const Filters filters{data<float>(args.kernel), data<float>(args.skip), length};
      const Rows<const T> u{data<T>(args.u), batch, length, length, heads * length};
      Rows<const T> d_p = u;
      d_p.values = data<T>(args.d_y);
      const Rows<T> d_u{data<T>(args.d_u), batch, length, length, heads * length};
      for (std::int32_t head = 0; head < heads; head += group.heads) {
        const std::int32_t some = std::min(group.heads, heads - head);
        launch_spectra(stream, plan, some, filters.part(head), data<Point>(spectra));
        ConvolutionBackward<T> backward{plan, u, d_p, d_u, data<Point>(points), data<Point>(gradient_points)};
        Correlation c{some,  group_items,          plan.near_rows(),  team_items,
                      false, data<Point>(spectra), data<Point>(sums), data<Point>(parked)};
        for (std::int32_t sequence = 0; sequence < batch; sequence += group.sequences) {
          backward.u = u.part(head, sequence, group.sequences);
          backward.d_p = d_p.part(head, sequence, group.sequences);
          backward.d_u = d_u.part(head, sequence, group.sequences);
          c.items_of_head = plan.items(backward.u.batch);
          c.accumulate = sequence > 0;
          backward.correlate(stream, c);
        }
        c.items_of_head = plan.items(std::min(group.sequences, batch));
        float* d_skip = data<float>(args.d_skip);
        backward.finish(
            stream, c,
            {data<float>(args.d_kernel) + head * length, d_skip != nullptr ? d_skip + head : nullptr, length});
      }
    });
  });
}

}  // namespace riverhorse::cuda
