// One token of the mixer for head_dim 1 and up to 32 modes, in one kernel: from q, k and v, or from the residual
// stream (the projection and the step at once), where a warp makes rows h, D + h and 2 D + h of W (gemv.cuh) and then
// has q, k and v of channel h. Other shapes take a walk of one token (h3_mixer.cu).
//   k' = f_0 k + sum_{j>=1} f_j (key of position P - j);  w = k' v;  s <- a s + b w;  y = q (D w + 2 Re sum_n c_n
//   s_n)
//
// A warp has a channel: its lanes are modes, and places of the ring of keys. The filter is the same for all
// sequences, whose states are requested before anything is waited for: one token is a matter of latency. The key of
// position P is written where that of P - N was, which no one reads.
#include "encoder.h"
#include "filter.cuh"
#include "gemv.cuh"

namespace riverhorse::cuda {

namespace {

using namespace gemv;

// Units of each of three rows of W that a lane requests together.
template <typename Matrix>
constexpr int at_once = Matrix::count > 8 ? 1 : 2;
constexpr int places = 2;             // of the ring a lane: N is at most 64
constexpr int sequences_at_once = 4;  // of a warp, from q, k and v

template <typename T>
struct Step {
  Filter filter;
  const std::int32_t *slots, *positions;
  float *shift, *modes;
  T* y;
  int batch;

  explicit Step(const H3StepArgs& args)
      : filter(args.filter),
        slots(data<std::int32_t>(args.slots)),
        positions(data<std::int32_t>(args.positions)),
        shift(data<float>(args.state.shift)),
        modes(data<float>(args.state.modes)),
        y(data<T>(args.y)),
        batch(static_cast<int>(args.y.shape[0])) {}
};

// A lane's part of a channel's filter.
struct ChannelFilter {
  Decay decay;
  Complex<float> input, output;
  float skip, newest_tap;

  __device__ ChannelFilter(const Filter& filter, int channel, int lane)
      : skip(filter.d[channel]), newest_tap(filter.taps[channel * filter.state]) {
    if (lane >= filter.modes) return;
    const std::int64_t index = channel * filter.modes + lane;
    decay = Decay(filter, index);
    input = filter.input(index);
    output = filter.output(index);
  }
};

// A lane's part of what a channel carries of one sequence.
struct Carried {
  Complex<float> mode;
  float past = 0;  // f_j times the keys before this one
  float *newest = nullptr, *modes = nullptr;

  template <typename T>
  __device__ void request(const Step<T>& step, int sequence, int channel, int lane) {
    const std::int64_t slot = step.slots[sequence];
    const auto state = static_cast<int>(step.filter.state);
    const int place_of_newest = step.positions[slot] % state;
    const std::int64_t row = slot * step.filter.width + channel;
    modes = step.modes + 2 * (row * step.filter.modes + lane);
    if (lane < step.filter.modes) {
      const auto pair = *reinterpret_cast<const float2*>(modes);
      mode = {pair.x, pair.y};
    }
    const float* keys = step.shift + row * state;
    newest = step.shift + row * state + place_of_newest;
#pragma unroll
    for (int i = 0; i < places; ++i) {
      const int place = lane + i * warp_size;
      const int age = place_of_newest >= place ? place_of_newest - place : place_of_newest + state - place;
      if (place < state && age != 0) past += step.filter.taps[channel * state + age] * keys[place];
    }
  }

  // With q, k, v and the sum of `past` over the lanes, which all lanes have.
  template <typename T>
  __device__ void advance(const Step<T>& step, const ChannelFilter& filter, float q, float k, float v, float all_past,
                          int sequence, int channel, int lane) {
    const float w = fmaf(filter.newest_tap, k, all_past) * v;
    mode = filter.decay(mode);
    mode.re = fmaf(filter.input.re, w, mode.re);
    mode.im = fmaf(filter.input.im, w, mode.im);
    const float part = lane < step.filter.modes ? filter.output.re * mode.re - filter.output.im * mode.im : 0.0f;
    if (lane < step.filter.modes) *reinterpret_cast<float2*>(modes) = make_float2(mode.re, mode.im);
    const float z = fmaf(filter.skip, w, 2 * warp_sum(part));
    if (lane != 0) return;
    *newest = k;
    step.y[sequence * step.filter.width + channel] = from_float<T>(q * z);
  }
};

template <typename Matrix>
struct Projection {
  const float* x;
  const float* norm_weight;
  const float* norm_bias;
  float epsilon;
  Matrix weight;
  const float* bias;  // or null
};

template <typename T>
__device__ float rounded(float value) {
  return to_float(from_float<T>(value));
}

template <typename T, typename Matrix, int most_rows>
__global__ void __launch_bounds__(threads, most_rows == 1 ? 4 : 1)
    project_and_step(Projection<Matrix> projection, Step<T> step) {
  using Rows = NormalisedRows<T, Matrix::count>;
  SHARED_MEMORY(float, normalised);
  let_next_begin();
  const auto width = static_cast<int>(step.filter.width);
  const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
  const int own = static_cast<int>(blockIdx.x) * warps + warp;
  const int channel = min(own, width - 1);  // a warp without a channel comes along to the barriers
  using Reader = Weights<Matrix, 3, at_once<Matrix>>;
  Reader weights(projection.weight, width, 3 * width, own, width, width, width, lane, warp_size);
  RowNorm<Rows> row_norm(projection.norm_weight, projection.norm_bias, projection.epsilon, width);
  float bias[3] = {};
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    if (projection.bias != nullptr) bias[i] = projection.bias[i * width + channel];
  }
  const ChannelFilter filter(step.filter, channel, lane);
  Carried carried[most_rows];
#pragma unroll
  for (int row = 0; row < most_rows; ++row) carried[row].request(step, min(row, step.batch - 1), channel, lane);

  wait_for_previous();
  Rows x{normalised, step.batch, width};
  row_norm.template normalise<most_rows>(projection.x, x);
  __syncthreads();
  if (own >= width) return;
  float sums[3][most_rows] = {};
  const int portions = Reader::portions(width, warp_size);
  for (int portion = 0; portion < portions; portion += 2) {
    weights.template multiply<0>(x, portion, sums);
    if (portion + 1 < portions) weights.template multiply<1>(x, portion + 1, sums);
  }
#pragma unroll
  for (int row = 0; row < most_rows; ++row) {
    if (row >= step.batch) break;
    float qkv[3];
#pragma unroll
    for (int i = 0; i < 3; ++i) qkv[i] = rounded<T>(warp_sum(sums[i][row]) + bias[i]);
    carried[row].advance(step, filter, qkv[0], qkv[1], qkv[2], warp_sum(carried[row].past), row, channel, lane);
  }
}

// Grid: channels by the warps of a block, groups of sequences.
template <typename T>
__global__ void __launch_bounds__(threads) step_channels(const T* qkv, Step<T> step) {
  let_next_begin();
  const auto width = static_cast<int>(step.filter.width);
  const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
  const int channel = static_cast<int>(blockIdx.x) * warps + warp;
  if (channel >= width) return;
  const ChannelFilter filter(step.filter, channel, lane);
  const int begin = static_cast<int>(blockIdx.y) * sequences_at_once;
  Carried carried[sequences_at_once];
#pragma unroll
  for (int i = 0; i < sequences_at_once; ++i) {
    carried[i].request(step, min(begin + i, step.batch - 1), channel, lane);
  }
  wait_for_previous();
#pragma unroll
  for (int i = 0; i < sequences_at_once; ++i) {
    if (begin + i >= step.batch) break;
    const T* own = qkv + std::int64_t{begin + i} * 3 * width + channel;
    carried[i].advance(step, filter, to_float(own[0]), to_float(own[width]), to_float(own[2 * width]),
                       warp_sum(carried[i].past), begin + i, channel, lane);
  }
}

bool is_one_kernel(const H3StepArgs& args) {
  const std::int64_t state = args.filter.shift_taps.shape[1], width = args.y.shape[1];
  return args.head_dim == 1 && args.filter.a.shape[1] <= warp_size && state <= places * warp_size &&
         width * state < (std::int64_t{1} << 31);
}

}  // namespace

bool CudaEncoder::fuses_projection(const H3StepArgs& args) const {
  // Several are for tensor cores where these take plain weights.
  const std::int64_t most = is_half(args.y.dtype) && !is_quantised(args.projection->weight.dtype) ? 1 : few_rows;
  return is_one_kernel(args) && args.y.shape[0] <= most && normalised_rows_fit(args.y.shape[1], limits_.shared_bytes);
}

void CudaEncoder::record_h3_step(const H3StepArgs& args) {
  if (!is_one_kernel(args)) return record_h3_step_walk(args);
  const std::int64_t batch = args.y.shape[0], width = args.y.shape[1];
  const auto run = [args, batch, width](Launch turn) {
    with_activation(args.y.dtype, [&](auto type) {
      using T = decltype(type);
      const Step<T> step(args);
      const dim3 grid = grid_of(divide_up(width, warps));
      if (!args.projection) {
        launch_in_turn(step_channels<T>, grid_of(grid.x, divide_up(batch, sequences_at_once)), threads, 0, turn,
                       data<T>(args.qkv), step);
        return;
      }
      const H3Projection& from = *args.projection;
      const auto start = [&](const auto& weight) {
        using Matrix = std::decay_t<decltype(weight)>;
        const Projection<Matrix> projection{.x = data<float>(from.x),
                                            .norm_weight = data<float>(from.norm.weight),
                                            .norm_bias = data<float>(from.norm.bias),
                                            .epsilon = from.norm.epsilon,
                                            .weight = weight,
                                            .bias = data<float>(from.bias)};
        with_most_rows<T, Matrix>(batch, [&](auto most) {
          launch_in_turn(project_and_step<T, Matrix, decltype(most)::value>, grid, threads,
                         static_cast<std::size_t>(batch * width) * sizeof(float), turn, projection, step);
        });
      };
      constexpr int most = most_at_once<T>;
      if (is_quantised(from.weight.dtype)) {
        with_quantised(from.weight.dtype, [&](auto quantised) {
          start(QuantisedMatrix<decltype(quantised)::value>(data<unsigned char>(from.weight), width));
        });
      } else if (width % most == 0 && at_16_bytes(data<void>(from.x)) && at_16_bytes(data<void>(from.weight)) &&
                 at_16_bytes(data<void>(from.norm.weight)) && at_16_bytes(data<void>(from.norm.bias))) {
        start(PlainMatrix<T, most>(data<T>(from.weight), width));
      } else {
        start(PlainMatrix<T, 1>(data<T>(from.weight), width));
      }
    });
  };
  const H3Projection from = args.projection.value_or(H3Projection());
  add_in_turn("h3_step",
              {from.weight, from.bias, from.norm.weight, from.norm.bias, args.filter.a, args.filter.b, args.filter.c,
               args.filter.d, args.filter.shift_taps, args.slots, args.positions, args.state.shift, args.state.modes},
              {args.state.shift, args.state.modes, args.y}, run);
}

}  // namespace riverhorse::cuda
