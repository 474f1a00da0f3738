// One token of the mixer: the recurrence of h3_mixer.cpp, in double as there, of one token and without a copy of
// anything. A decode step reads the filter and the state of every channel, 1.8 KB of it at N = 64, so that this has
// to be as fast as memory is. Compiled once for each set of instructions (Highway's foreach_target).
#include "cpu/h3_step.h"

#include <algorithm>
#include <vector>

#include "cpu/cpu_encoder.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/h3_step.cpp"
#include <hwy/foreach_target.h>
//
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace riverhorse::cpu {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using Doubles = hn::CappedTag<double, 8>;
using Vector = hn::Vec<Doubles>;
using Singles = hn::Rebind<float, Doubles>;

// sum of taps[i] keys[-i], i < count
HWY_INLINE double sum_backwards(const float* taps, const float* keys, std::int64_t count) {
  const Doubles d;
  const Singles singles;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  Vector sums = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const Vector tap = hn::PromoteTo(d, hn::LoadU(singles, taps + i));
    const Vector key = hn::PromoteTo(d, hn::LoadU(singles, keys - i - (lanes - 1)));
    sums = hn::MulAdd(tap, hn::Reverse(d, key), sums);
  }
  double sum = hn::GetLane(hn::SumOfLanes(d, sums));
  for (; i < count; ++i) sum += static_cast<double>(taps[i]) * keys[-i];
  return sum;
}

// k' of one channel, whose key goes into the ring.
HWY_INLINE double shift(const float* taps, float* ring, std::int64_t state, std::int64_t position, float key) {
  const std::int64_t newest = position % state;
  ring[newest] = key;
  const double recent = sum_backwards(taps, ring + newest, newest + 1);
  if (position < state) return recent;  // what lies behind is of no text
  return recent + sum_backwards(taps + newest + 1, ring + state - 1, state - 1 - newest);
}

struct Modes {
  const float* a;  // (n, 4)
  const float* b;  // (n, 2)
  const float* c;  // (n, 2)
  double d;
  std::int64_t count;
};

// One input; `state` (n, 2) becomes what it is after it.
HWY_INLINE double advance(const Modes& modes, double input, float* state) {
  const Doubles d;
  const Singles singles;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const Vector w = hn::Set(d, input);
  Vector sums = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + lanes <= modes.count; i += lanes) {
    hn::Vec<Singles> re, im, re_rest, im_rest;
    hn::LoadInterleaved4(singles, modes.a + 4 * i, re, im, re_rest, im_rest);
    const Vector a_re = hn::Add(hn::PromoteTo(d, re), hn::PromoteTo(d, re_rest));
    const Vector a_im = hn::Add(hn::PromoteTo(d, im), hn::PromoteTo(d, im_rest));
    hn::LoadInterleaved2(singles, state + 2 * i, re, im);
    const Vector s_re = hn::PromoteTo(d, re), s_im = hn::PromoteTo(d, im);
    hn::LoadInterleaved2(singles, modes.b + 2 * i, re, im);
    const Vector next_re = hn::MulAdd(a_re, s_re, hn::NegMulAdd(a_im, s_im, hn::Mul(hn::PromoteTo(d, re), w)));
    const Vector next_im = hn::MulAdd(a_re, s_im, hn::MulAdd(a_im, s_re, hn::Mul(hn::PromoteTo(d, im), w)));
    hn::LoadInterleaved2(singles, modes.c + 2 * i, re, im);
    sums = hn::MulAdd(hn::PromoteTo(d, re), next_re, hn::NegMulAdd(hn::PromoteTo(d, im), next_im, sums));
    hn::StoreInterleaved2(hn::DemoteTo(singles, next_re), hn::DemoteTo(singles, next_im), singles, state + 2 * i);
  }
  double sum = hn::GetLane(hn::SumOfLanes(d, sums));
  for (; i < modes.count; ++i) {
    const double a_re = static_cast<double>(modes.a[4 * i]) + modes.a[4 * i + 2];
    const double a_im = static_cast<double>(modes.a[4 * i + 1]) + modes.a[4 * i + 3];
    const double s_re = state[2 * i], s_im = state[2 * i + 1];
    const double next_re = a_re * s_re - a_im * s_im + modes.b[2 * i] * input;
    const double next_im = a_re * s_im + a_im * s_re + modes.b[2 * i + 1] * input;
    sum += modes.c[2 * i] * next_re - modes.c[2 * i + 1] * next_im;
    state[2 * i] = static_cast<float>(next_re);
    state[2 * i + 1] = static_cast<float>(next_im);
  }
  return modes.d * input + 2 * sum;
}

// Heads [begin, end) of one sequence. `shifted`: room for head_dim numbers.
void step_heads(const H3Step& step, const float* qkv, float* y, std::int64_t slot, std::int64_t position,
                std::int64_t begin, std::int64_t end, double* shifted) {
  const std::int64_t dim = step.head_dim;
  for (std::int64_t head = begin; head < end; ++head) {
    const std::int64_t first = head * dim;  // channel
    const float* queries = qkv + first;
    const float* keys = queries + step.width;
    const float* values = keys + step.width;
    const std::int64_t mode = head * step.mode_count;
    const Modes modes{step.a + 4 * mode, step.b + 2 * mode, step.c + 2 * mode, step.d[head], step.mode_count};
    for (std::int64_t i = 0; i < dim; ++i) {
      shifted[i] = shift(step.shift_taps + (first + i) * step.state,
                         step.shift + (slot * step.width + first + i) * step.state, step.state, position, keys[i]);
    }
    for (std::int64_t j = 0; j < dim; ++j) {
      double sum = 0;
      for (std::int64_t i = 0; i < dim; ++i) {
        const std::int64_t pair = (slot * step.width + first + i) * dim + j;
        sum += queries[i] * advance(modes, shifted[i] * values[j], step.modes + 2 * step.mode_count * pair);
      }
      y[step.order == HeadOrder::head_major ? first + j : j * step.heads + head] = static_cast<float>(sum);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace riverhorse::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace riverhorse::cpu {

HWY_EXPORT(step_heads);

void CpuEncoder::record_h3_step(const H3StepArgs& args) {
  require_f32("h3_step", {&args.qkv, &args.y});
  add("h3_step", [args] {
    check_positions("h3_step", args.slots, args.positions);
    const H3Filter& filter = args.filter;
    const std::int64_t batch = args.y.shape[0], width = args.y.shape[1], heads = filter.a.shape[0];
    const H3Step step{floats(filter.a),
                      floats(filter.b),
                      floats(filter.c),
                      floats(filter.d),
                      floats(filter.shift_taps),
                      floats(args.state.shift),
                      floats(args.state.modes),
                      args.head_dim,
                      heads,
                      width,
                      filter.a.shape[1],
                      filter.shift_taps.shape[1],
                      args.head_order};
    constexpr std::int64_t stretch = 64;  // heads
    const std::int64_t stretches = (heads + stretch - 1) / stretch;
    const float* qkv = floats(args.qkv);
    float* y = floats(args.y);
    const std::int32_t* slots = integers(args.slots);
    const std::int32_t* positions = integers(args.positions);
#pragma omp parallel for schedule(static)
    for (std::int64_t index = 0; index < batch * stretches; ++index) {
      const std::int64_t sequence = index / stretches, begin = index % stretches * stretch;
      const std::int64_t slot = slots[sequence];
      std::vector<double> shifted(static_cast<std::size_t>(args.head_dim));
      HWY_DYNAMIC_DISPATCH(step_heads)
      (step, qkv + sequence * 3 * width, y + sequence * width, slot, positions[slot], begin,
       std::min(heads, begin + stretch), shifted.data());
    }
  });
}

}  // namespace riverhorse::cpu
#endif
