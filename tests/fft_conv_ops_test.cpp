// The long convolution of the CUDA backend in 16 bits beyond the case table: that short and middle lengths go the
// direct way (cuda/fft_conv_direct.cuh), and how large its errors are where the rounding of a filter shows.
#include <fmt/core.h>

#include <cmath>

#include "backend/op_cases_build.h"
#include "ops_devices.h"

namespace riverhorse::test {

namespace {

using op_cases_detail::Random;
using Values = std::vector<float>;

struct Convolution {
  std::int64_t batch, heads, length;
  DType dtype;
  Values u, kernel;  // u: numbers of `dtype`

  Values on(Device& device) const {
    const Tensor y = device.allocate_tensor(dtype, {batch, heads, length});
    const FftConvArgs args{.u = put_as(device, dtype, {batch, heads, length}, u),
                           .kernel = put_floats(device, {heads, length}, kernel),
                           .skip = {},
                           .gelu_erf = false,
                           .y = y};
    device.run([&](Encoder& encoder) { encoder.fft_conv(args); });
    return fetch_as_floats(device, y);
  }

  // Of y, relative, in the Euclidean norm: first of the device, then of the exact sums when rounded.
  std::pair<double, double> errors(Device& device) const {
    const Values y = on(device);
    double difference = 0, rounding = 0, norm = 0;
    for (std::int64_t row = 0; row < batch * heads; ++row) {
      const float *in = u.data() + row * length, *lags = kernel.data() + row % heads * length;
      for (std::int64_t t = 0; t < length; ++t) {
        double sum = 0;
        for (std::int64_t lag = 0; lag <= t; ++lag) sum += static_cast<double>(lags[lag]) * in[t - lag];
        difference += std::pow(y[static_cast<std::size_t>(row * length + t)] - sum, 2);
        rounding += std::pow(rounded_to(dtype, static_cast<float>(sum)) - sum, 2);
        norm += sum * sum;
      }
    }
    return {std::sqrt(difference / norm), std::sqrt(rounding / norm)};
  }
};

enum class FilterSum { any, zero };

Convolution make_convolution(DType dtype, FilterSum filter_sum, double mean, double u_scale, double kernel_scale) {
  Convolution c{3, 6, 520, dtype, {}, {}};
  Random random(test_seed);
  for (std::int64_t i = 0; i < c.batch * c.heads * c.length; ++i) {
    c.u.push_back(rounded_to(dtype, static_cast<float>(u_scale * (mean + random.normal()))));
  }
  for (std::int64_t head = 0; head < c.heads; ++head) {
    Values lags;
    double sum = 0, fall = 0;
    for (std::int64_t lag = 0; lag < c.length; ++lag) {
      const double envelope = std::exp(-8.0 * static_cast<double>(lag) / static_cast<double>(c.length));
      lags.push_back(static_cast<float>(envelope * random.normal()));
      sum += lags.back();
      fall += envelope;
    }
    for (std::int64_t lag = 0; lag < c.length; ++lag) {
      const double envelope = std::exp(-8.0 * static_cast<double>(lag) / static_cast<double>(c.length));
      const double less = filter_sum == FilterSum::zero ? sum / fall * envelope : 0;
      c.kernel.push_back(static_cast<float>(kernel_scale * (lags[static_cast<std::size_t>(lag)] - less)));
    }
  }
  return c;
}

// Rounding the filter adds at most 3.6e-4 to the rounding of y: with the mean gone through, as with none. Lags that
// were each rounded to the nearest would add 1e-3 where the filter takes a mean of ten deviations away.
void errors(Device& device, DType dtype) {
  struct Kind {
    const char* name;
    FilterSum filter_sum;
    double mean, u_scale, kernel_scale;
  };
  const double beyond_f16 = dtype == DType::bf16 ? 1e20 : 1.0;
  for (const Kind& kind : {Kind{"random", FilterSum::any, 0, 1, 1}, Kind{"mean", FilterSum::any, 10, 1, 1},
                           Kind{"mean, filter of sum 0", FilterSum::zero, 10, 1, 1},
                           Kind{"large u, small filter", FilterSum::any, 0, beyond_f16, 1e-9},
                           Kind{"small u, large filter", FilterSum::any, 0, 1 / beyond_f16, 1e3 * beyond_f16}}) {
    const auto [error, of_rounding] =
        make_convolution(dtype, kind.filter_sum, kind.mean, kind.u_scale, kind.kernel_scale).errors(device);
    if (kind.kernel_scale == 1) {
      std::printf("[  NOTE    ] %s, %s: y %.2e, of which rounding y alone %.2e\n",
                  std::string(dtype_name(dtype)).c_str(), kind.name, error, of_rounding);
    }
    EXPECT_LE(error, std::hypot(of_rounding, 3.6e-4)) << kind.name;
  }
}

// Sums over the past alone, so that another future leaves them the same bit for bit: a transform rounds otherwise.
void past_stays(Device& device, DType dtype) {
  Convolution c = make_convolution(dtype, FilterSum::any, 0, 1, 1);
  const std::int64_t changed = 300;
  const Values before = c.on(device);
  for (std::size_t i = 0; i < c.u.size(); ++i) {
    if (static_cast<std::int64_t>(i) % c.length >= changed) c.u[i] = rounded_to(dtype, 3 - 2 * c.u[i]);
  }
  const Values after = c.on(device);
  std::int64_t different_past = 0, different_future = 0;
  for (std::size_t i = 0; i < c.u.size(); ++i) {
    const bool past = static_cast<std::int64_t>(i) % c.length < changed;
    (past ? different_past : different_future) += before[i] != after[i] ? 1 : 0;
  }
  EXPECT_EQ(different_past, 0);
  EXPECT_GT(different_future, 0);
}

}  // namespace

void register_fft_conv_tests() {
  for (const DType dtype : {DType::f16, DType::bf16}) {
    const auto register_for = [&](const char* name, void (*test)(Device&, DType)) {
      register_for_devices("fft_conv_direct", std::string(name) + "_" + std::string(dtype_name(dtype)),
                           [=](Device& device) {
                             if (device.info().backend != BackendKind::cuda)
                               GTEST_SKIP() << "a test of CUDA's kernels";
                             test(device, dtype);
                           });
    };
    register_for("errors", errors);
    register_for("past_stays", past_stays);
  }
}

}  // namespace riverhorse::test
