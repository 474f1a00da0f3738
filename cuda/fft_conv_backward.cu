// Recording the backward pass of the long convolution.
#include "encoder.h"
#include "fft_conv_backward.cuh"

namespace riverhorse::cuda {

void CudaEncoder::record_fft_conv_backward(const FftConvBackwardArgs& args) {
  const std::int64_t heads = args.u.shape[1], length = args.u.shape[2];
  const Rows rows{args.u.shape[0], length, length, heads * length};
  const FftPlan plan(length, limits_.shared_bytes);
  const FftGroup group(plan, heads, rows.pairs());
  // Enough teams for about half of the threads that a device can hold, if there are as many pairs.
  std::int64_t threads = 0, teams_of_block = 0;
  bool on_chip = false;
  with_transform(plan.near_log, [&](auto tag) {
    using Fft = typename decltype(tag)::type;
    threads = Fft::threads;
    teams_of_block = Fft::teams;
    on_chip = keeps_on_chip<Fft>();
  });
  const std::int64_t parts = group.heads * plan.near_rows();
  const std::int64_t splits = std::min(divide_up(1024 * limits_.multiprocessors, parts * threads), group.pairs);
  const std::int64_t team_pairs = divide_up(group.pairs, splits);
  const std::int64_t teams = divide_up(splits * parts, teams_of_block) * teams_of_block;
  const Shape team_points{teams, plan.points() / plan.near_rows(), 2};

  ScratchScope scope(*this);
  const Tensor spectra = group.spectra(*this, plan);
  const Tensor points = group.points(*this, plan), gradient_points = group.points(*this, plan);
  const Tensor sums = scratch(DType::f32, team_points);
  const Tensor parked = on_chip ? Tensor() : scratch(DType::f32, team_points);
  add("fft_conv_backward", [=](cudaStream_t stream) {
    with_activation(args.u.dtype, [&](auto type) {
      using T = decltype(type);
      const Filters filters{data<float>(args.kernel), data<float>(args.skip), length};
      const Pairs<const T> u{data<T>(args.u), rows}, d_y{data<T>(args.d_y), rows};
      const Pairs<T> d_u{data<T>(args.d_u), rows};
      for (std::int64_t head = 0; head < heads; head += group.heads) {
        const std::int64_t some = std::min(group.heads, heads - head);
        launch_spectra(stream, plan, some, filters.part(head), data<Point>(spectra));
        ConvolutionBackward<T> backward{
            plan, u, d_y, d_u, args.gelu_erf, data<Point>(points), data<Point>(gradient_points)};
        Correlation c{some,  group.pairs,          plan.near_rows(),  team_pairs,
                      false, data<Point>(spectra), data<Point>(sums), data<Point>(parked)};
        for (std::int64_t pair = 0; pair < rows.pairs(); pair += group.pairs) {
          backward.u = u.part(head, pair, group.pairs);
          backward.d_y = d_y.part(head, pair, group.pairs);
          backward.d_u = d_u.part(head, pair, group.pairs);
          c.pairs = backward.u.rows.pairs();
          c.accumulate = pair > 0;
          backward.correlate(stream, c);
        }
        c.pairs = std::min(group.pairs, rows.pairs());
        float* d_skip = data<float>(args.d_skip);
        backward.finish(
            stream, c,
            {data<float>(args.d_kernel) + head * length, d_skip != nullptr ? d_skip + head : nullptr, length});
      }
    });
  });
}

}  // namespace riverhorse::cuda
