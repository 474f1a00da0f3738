// The long convolution of the CUDA backend (cuda/fft_conv.cuh) on the emulator, with as little shared memory as makes
// sequences of some hundred tokens go through device memory, once and twice, against direct sums.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "fft_conv_backward.cuh"

namespace riverhorse::cuda {
namespace {

struct Problem {
  std::int32_t batch, heads;
  std::int64_t length;
  std::vector<float> u, kernel, skip;

  Problem(std::int32_t b, std::int32_t h, std::int64_t l) : batch(b), heads(h), length(l) {
    unsigned state = 1;
    const auto fill = [&](std::vector<float>& values, std::int64_t count, bool sparse) {
      values.assign(static_cast<std::size_t>(count), 0.0f);
      for (std::int64_t i = 0; i < count; ++i) {
        state = state * 1664525u + 1013904223u;
        if (!sparse || i % 1009 == 3) values[i] = static_cast<float>(state >> 8) * 0x1p-23f - 1.0f;
      }
    };
    fill(u, b * h * l, false);
    fill(kernel, h * l, l > 10000);  // so that the direct sum is quick
    fill(skip, h, false);
  }
  template <typename T>
  Rows<T> rows(T* values) const {
    return {values, batch, length, length, heads * length};
  }
  Filters filters() const { return {kernel.data(), skip.data(), length}; }

  // conv(in, kernel) + skip in, or with `adjoint` the correlation.
  std::vector<float> direct(const std::vector<float>& in, bool adjoint) const {
    std::vector<double> sums(in.begin(), in.end());
    for (std::int64_t row = 0; row < batch * heads; ++row) {
      const float* lags = kernel.data() + row % heads * length;
      for (std::int64_t t = 0; t < length; ++t) sums[row * length + t] *= skip[row % heads];
      for (std::int64_t lag = 0; lag < length; ++lag) {
        if (lags[lag] == 0) continue;
        for (std::int64_t t = lag; t < length; ++t) {
          const std::int64_t to = adjoint ? t - lag : t, from = adjoint ? t : t - lag;
          sums[row * length + to] += static_cast<double>(lags[lag]) * in[row * length + from];
        }
      }
    }
    return {sums.begin(), sums.end()};
  }
};

double relative_error(const std::vector<float>& values, const std::vector<float>& expected) {
  double error = 0, size = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    error += std::pow(values[i] - expected[i], 2);
    size += std::pow(expected[i], 2);
  }
  return std::sqrt(error / size);
}

// Room for transforms of 256 points, and for no more.
FftPlan smallest_plan(std::int64_t length) { return {length, FftPlan::near_shared_bytes(least_transform_log)}; }

std::vector<Point> room(std::int64_t count) { return std::vector<Point>(static_cast<std::size_t>(count)); }

void expect_direct_sums(const Problem& problem, int far_passes) {
  const FftPlan plan = smallest_plan(problem.length);
  ASSERT_EQ(plan.far_passes, far_passes);
  const std::int32_t items_of_head = plan.items(problem.batch), items = problem.heads * items_of_head;
  std::vector<Point> spectra = room(problem.heads * plan.points()), points = room(items * plan.points());
  std::vector<float> y(problem.u.size());
  launch_spectra(nullptr, plan, problem.heads, problem.filters(), spectra.data());
  launch_convolution(nullptr, plan, problem.heads, items_of_head, problem.rows(problem.u.data()),
                     problem.rows(y.data()), spectra.data(), points.data());
  EXPECT_LT(relative_error(y, problem.direct(problem.u, false)), 2e-6);

  // Backward of y = conv(u), with y as its gradient; the items one by one, as where they are too many for the
  // cache.
  std::vector<Point> gradient_points = points;
  std::vector<Point> sums = room(problem.heads * plan.points() + 8 * 256);
  std::vector<float> d_u(y.size()), d_kernel(problem.kernel.size()), d_skip(problem.skip.size());
  ConvolutionBackward<float> backward{plan, {}, {}, {}, points.data(), gradient_points.data()};
  Correlation c{problem.heads, 1, plan.near_rows(), 1, false, spectra.data(), sums.data(), nullptr};
  for (std::int32_t item = 0; item < items_of_head; ++item) {
    backward.u = problem.rows(problem.u.data()).part(0, item * plan.rows_of_item(), plan.rows_of_item());
    backward.d_p = problem.rows(std::as_const(y).data()).part(0, item * plan.rows_of_item(), plan.rows_of_item());
    backward.d_u = problem.rows(d_u.data()).part(0, item * plan.rows_of_item(), plan.rows_of_item());
    c.accumulate = item > 0;
    backward.correlate(nullptr, c);
  }
  backward.finish(nullptr, c, {d_kernel.data(), d_skip.data(), problem.length});
  EXPECT_LT(relative_error(d_u, problem.direct(y, true)), 2e-6);
  // A sum over time, and what its products could add up to: a transform's error is a part of that at every lag.
  const auto correlation = [&](std::int64_t head, std::int64_t lag, bool absolute) {
    double sum = 0;
    for (std::int64_t b = 0; b < problem.batch; ++b) {
      const std::int64_t row = (b * problem.heads + head) * problem.length;
      for (std::int64_t t = lag; t < problem.length; ++t) {
        const double product = static_cast<double>(y[row + t]) * problem.u[row + t - lag];
        sum += absolute ? std::abs(product) : product;
      }
    }
    return sum;
  };
  for (std::int64_t head = 0; head < problem.heads; ++head) {
    const double most = 1e-6 * correlation(head, 0, true);
    for (const std::int64_t lag : {std::int64_t{0}, std::int64_t{1}, problem.length / 2, problem.length - 1}) {
      EXPECT_NEAR(d_kernel[head * problem.length + lag], correlation(head, lag, false), most) << "lag " << lag;
    }
  }
  for (std::int64_t head = 0; head < problem.heads; ++head) {
    EXPECT_FLOAT_EQ(d_skip[head], d_kernel[head * problem.length]);
  }
}

TEST(FftConv, OnChip) { expect_direct_sums({3, 2, 250}, 0); }
TEST(FftConv, OnceThroughDeviceMemory) { expect_direct_sums({3, 2, 1009}, 1); }
TEST(FftConv, TwiceThroughDeviceMemory) { expect_direct_sums({3, 1, 70001}, 2); }

// A device with more shared memory does more on chip, and no transform is longer than it must be.
TEST(FftConv, PlansBySharedMemory) {
  const std::size_t h100 = 227 << 10, a100 = 163 << 10, ada = 99 << 10;
  for (const std::size_t bytes : {h100, a100, ada}) {
    for (std::int64_t length = 129; length <= 4096; length += 37) {
      const FftPlan plan(length, bytes);
      EXPECT_EQ(plan.far_passes, 0);
      EXPECT_GE(plan.points(), length);
      EXPECT_LT(plan.points(), std::max<std::int64_t>(2 * length, 257));
    }
  }
  EXPECT_EQ(FftPlan(16384, h100).far_passes, 0);
  EXPECT_EQ(FftPlan(16384, a100).far_passes, 0);
  EXPECT_EQ(FftPlan(16384, ada).far_passes, 1);
  EXPECT_EQ(FftPlan(16385, h100).far_passes, 1);
  EXPECT_EQ(FftPlan(1 << 20, h100).far_passes, 2);
  EXPECT_EQ(FftPlan(1 << 20, h100).points(), 1 << 21);
}

}  // namespace
}  // namespace riverhorse::cuda
