#include "cpu/attention_row.h"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/attention_row.cpp"
#include <hwy/foreach_target.h>
//
#include <hwy/cache_control.h>
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace riverhorse::cpu {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using Doubles = hn::CappedTag<double, 8>;
using Vector = hn::Vec<Doubles>;
using Singles = hn::Rebind<float, Doubles>;

HWY_INLINE Vector load(const float* values) { return hn::PromoteTo(Doubles(), hn::LoadU(Singles(), values)); }

// Rows of one head lie far apart, where the processor does not look for the next one.
HWY_INLINE void fetch_ahead(const float* row, const AttentionRow& shape, std::int64_t s) {
  constexpr std::int64_t ahead = 8, line = 16;
  if (s + ahead >= shape.count) return;
  for (std::int64_t i = 0; i < shape.width; i += line) hwy::Prefetch(row + ahead * shape.stride + i);
}

SoftmaxSum weights_here(const AttentionRow& row, double* weights) {
  const Doubles d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  double maximum = -HUGE_VAL;
  for (std::int64_t s = 0; s < row.count; ++s) {
    const float* key = row.keys + s * row.stride;
    fetch_ahead(key, row, s);
    Vector even = hn::Zero(d), odd = hn::Zero(d);
    std::int64_t i = 0;
    for (; i + 2 * lanes <= row.width; i += 2 * lanes) {
      even = hn::MulAdd(load(row.query + i), load(key + i), even);
      odd = hn::MulAdd(load(row.query + i + lanes), load(key + i + lanes), odd);
    }
    double product = hn::GetLane(hn::SumOfLanes(d, hn::Add(even, odd)));
    for (; i < row.width; ++i) product += static_cast<double>(row.query[i]) * key[i];
    weights[s] = row.scale * product;
    if (!(weights[s] <= maximum)) maximum = weights[s];  // or not a number, which then stays and reaches y
  }
  const Vector highest = hn::Set(d, maximum);
  Vector sums = hn::Zero(d);
  std::int64_t s = 0;
  for (; s + lanes <= row.count; s += lanes) {
    const Vector weight = hn::Exp(d, hn::Sub(hn::LoadU(d, weights + s), highest));
    hn::StoreU(weight, d, weights + s);
    sums = hn::Add(sums, weight);
  }
  double total = hn::GetLane(hn::SumOfLanes(d, sums));
  for (; s < row.count; ++s) {
    weights[s] = std::exp(weights[s] - maximum);
    total += weights[s];
  }
  return {maximum, total};
}

// Columns [begin, begin + vectors lanes): their sums stay in registers.
template <int vectors>
HWY_INLINE void sum_columns(const AttentionRow& row, const double* weights, double total, std::int64_t begin,
                            float* y) {
  const Doubles d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  Vector sums[vectors];
  for (Vector& sum : sums) sum = hn::Zero(d);
  for (std::int64_t s = 0; s < row.count; ++s) {
    const float* value = row.values + s * row.stride + begin;
    if (begin == 0) fetch_ahead(value, row, s);
    const Vector weight = hn::Set(d, weights[s]);
    for (int i = 0; i < vectors; ++i) sums[i] = hn::MulAdd(weight, load(value + i * lanes), sums[i]);
  }
  const Vector divisor = hn::Set(d, total);
  for (int i = 0; i < vectors; ++i) {
    hn::StoreU(hn::DemoteTo(Singles(), hn::Div(sums[i], divisor)), Singles(), y + begin + i * lanes);
  }
}

void values_here(const AttentionRow& row, const double* weights, double total, float* y) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(Doubles()));
  std::int64_t i = 0;
  for (; i + 8 * lanes <= row.width; i += 8 * lanes) sum_columns<8>(row, weights, total, i, y);
  for (; i + lanes <= row.width; i += lanes) sum_columns<1>(row, weights, total, i, y);
  for (; i < row.width; ++i) {
    double sum = 0;
    for (std::int64_t s = 0; s < row.count; ++s) sum += weights[s] * row.values[s * row.stride + i];
    y[i] = static_cast<float>(sum / total);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace riverhorse::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace riverhorse::cpu {

HWY_EXPORT(weights_here);
HWY_EXPORT(values_here);

SoftmaxSum attention_weights(const AttentionRow& row, double* weights) {
  return HWY_DYNAMIC_DISPATCH(weights_here)(row, weights);
}

void attention_values(const AttentionRow& row, const double* weights, double total, float* y) {
  HWY_DYNAMIC_DISPATCH(values_here)(row, weights, total, y);
}

}  // namespace riverhorse::cpu
#endif
