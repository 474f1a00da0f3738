// (1 + tanh u) / 2 = 1 / (1 + exp(-2 u)): one exponential, and no cancellation where tanh u is near -1.
#include "cpu/gelu.h"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/gelu.cpp"
#include <hwy/foreach_target.h>
//
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace riverhorse::cpu {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

void gelu_here(float* values, std::int64_t count) {
  const hn::CappedTag<double, 8> d;
  const hn::Rebind<float, decltype(d)> singles;
  constexpr double factor = -2 * 0.7978845608028654;  // sqrt(2 / pi)
  constexpr double largest = 700;                     // whose exponential is a number
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto x = hn::PromoteTo(d, hn::LoadU(singles, values + i));
    const auto cubic = hn::MulAdd(hn::Mul(hn::Set(d, 0.044715), hn::Mul(x, x)), x, x);
    const auto power = hn::Min(hn::Mul(hn::Set(d, factor), cubic), hn::Set(d, largest));
    const auto y = hn::Div(x, hn::Add(hn::Set(d, 1.0), hn::Exp(d, power)));
    hn::StoreU(hn::DemoteTo(singles, y), singles, values + i);
  }
  for (; i < count; ++i) {
    const double x = values[i];
    values[i] = static_cast<float>(x / (1 + std::exp(std::fmin(factor * (x + 0.044715 * x * x * x), largest))));
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace riverhorse::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace riverhorse::cpu {

HWY_EXPORT(gelu_here);

void gelu_tanh(float* values, std::int64_t count) { HWY_DYNAMIC_DISPATCH(gelu_here)(values, count); }

}  // namespace riverhorse::cpu
#endif
