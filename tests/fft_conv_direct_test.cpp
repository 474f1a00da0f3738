// The long convolution of the CUDA backend by products (cuda/fft_conv_direct.cuh) on the emulator: when it is chosen,
// how it is cut up, and sums over more sequences than a block holds.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "fft_conv_direct_backward.cuh"

namespace riverhorse::cuda {
namespace {

constexpr int h100_multiprocessors = 132;
constexpr std::size_t h100_shared_bytes = 227 << 10;

std::optional<DirectPlan> choose_on_h100(DType dtype, std::int32_t batch, std::int32_t heads, std::int64_t length) {
  return choose_direct(dtype, batch, heads, FftPlan(length, h100_shared_bytes), length, h100_multiprocessors,
                       h100_shared_bytes);
}

TEST(FftConvDirect, ChosenWhereItIsShorter) {
  for (const DType dtype : {DType::f16, DType::bf16}) {
    for (const std::int64_t length : {1, 64, 256, 1000, 1024, 2048}) {
      EXPECT_TRUE(choose_on_h100(dtype, 64, 768, length)) << length;
    }
    EXPECT_TRUE(choose_on_h100(dtype, 1, 768, 1024));
    for (const std::int64_t length : {8192, 32768, 32769, 1 << 20}) {
      EXPECT_FALSE(choose_on_h100(dtype, 32, 768, length)) << length;
    }
  }
  EXPECT_FALSE(choose_on_h100(DType::f32, 64, 768, 1024));
}

// Blocks fit: as many on a multiprocessor as the kernel is made for; few heads are shared among many blocks; no
// sequence is left out.
TEST(FftConvDirect, PlansBySharedMemory) {
  for (const std::int32_t batch : {1, 2, 8, 17, 64, 65}) {
    for (const std::int64_t length : {1, 63, 64, 65, 1000, 1024, 2047, 2048}) {
      for (const std::int32_t heads : {1, 768}) {
        const auto plan = plan_direct(batch, heads, length, h100_multiprocessors, h100_shared_bytes);
        ASSERT_TRUE(plan);
        EXPECT_LE(direct_blocks * (plan->shared_bytes() + 1024), 228u << 10) << batch << " x " << length;
        EXPECT_GE(plan->groups * plan->sequences(), batch);
        EXPECT_GE(plan->chunks * direct_chunk, length);
        const DirectCorrelation correlation(*plan, h100_multiprocessors);
        EXPECT_LE(2 * (correlation.shared_bytes() + 1024), 228u << 10) << batch << " x " << length;
        EXPECT_GE(correlation.rows.groups * correlation.rows.sequences(), batch);
        EXPECT_LE(correlation.splits, correlation.rows.groups);
      }
    }
  }
  EXPECT_EQ(plan_direct(64, 768, 1024, h100_multiprocessors, h100_shared_bytes)->sequences(), 32);
  EXPECT_LE(plan_direct(64, 1, 1024, h100_multiprocessors, h100_shared_bytes)->sequences(), 8);
  EXPECT_FALSE(plan_direct(1, 1, 1 << 20, h100_multiprocessors, h100_shared_bytes));
}

// The gradient of the filter loses nothing but to the order of its sums: three groups of sequences, one after the
// other in a block, and in blocks of their own.
TEST(FftConvDirect, GradientOfTheFilterOverGroups) {
  constexpr std::int32_t batch = 37, heads = 2;
  constexpr std::int64_t length = 520;
  std::vector<__nv_bfloat16> u, d_p;
  unsigned state = 1;
  const auto fill = [&](std::vector<__nv_bfloat16>& values) {
    for (std::int64_t i = 0; i < batch * heads * length; ++i) {
      state = state * 1664525u + 1013904223u;
      values.push_back(from_float<__nv_bfloat16>(static_cast<float>(state >> 8) * 0x1p-23f - 1.0f));
    }
  };
  fill(u);
  fill(d_p);
  const auto plan = plan_direct(batch, heads, length, 1, h100_shared_bytes);
  ASSERT_TRUE(plan);
  DirectCorrelation correlation(*plan, h100_multiprocessors);
  EXPECT_EQ(correlation.rows.groups, 3);
  EXPECT_EQ(correlation.splits, 3);
  for (const int splits : {1, 2, 3}) {
    correlation.splits = splits;
    std::vector<float> sums(static_cast<std::size_t>(correlation.splits * heads * length));
    std::vector<float> d_kernel(heads * length, 1.0f), d_skip(heads, 2.0f);
    launch_direct_correlation<__nv_bfloat16>(nullptr, correlation, u.data(), d_p.data(), sums.data(), d_kernel.data(),
                                             d_skip.data());
    for (std::int64_t head = 0; head < heads; ++head) {
      for (std::int64_t lag = 0; lag < length; lag += lag < 130 ? 1 : 39) {
        double sum = 0;
        for (std::int64_t b = 0; b < batch; ++b) {
          const std::int64_t row = (b * heads + head) * length;
          for (std::int64_t t = lag; t < length; ++t) {
            sum += static_cast<double>(to_float(d_p[row + t])) * to_float(u[row + t - lag]);
          }
        }
        EXPECT_NEAR(d_kernel[head * length + lag], 1 + sum, 1e-4) << "head " << head << ", lag " << lag;
        if (lag == 0) {
          EXPECT_NEAR(d_skip[head], 2 + sum, 1e-4);
        }
      }
    }
  }
}

}  // namespace
}  // namespace riverhorse::cuda
