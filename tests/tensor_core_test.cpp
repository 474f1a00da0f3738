// Products of fragments and loads of matrices (cuda/tensor_core.cuh) as the emulator does them, against the layouts
// that the PTX ISA documents, for both 16-bit types and tf32.
#include "tensor_core.cuh"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernel.cuh"

namespace riverhorse::cuda {
namespace {

// Small integers: exact in all types.
float a_at(int row, int column) { return static_cast<float>((3 * row + 5 * column) % 11 - 5); }
float b_at(int row, int column) { return static_cast<float>((7 * row + 2 * column) % 13 - 6); }
float c_at(int row, int column) { return static_cast<float>(row - 2 * column); }

float product_at(int row, int column, int depth) {
  float sum = c_at(row, column);
  for (int k = 0; k < depth; ++k) sum += a_at(row, k) * b_at(k, column);
  return sum;
}

template <typename T>
void multiply(float* errors) {
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  std::uint32_t a[4], b[2];
  for (int i = 0; i < 4; ++i) {
    const int row = g + 8 * (i % 2), column = 2 * t + 8 * (i / 2);
    a[i] = pack<T>(a_at(row, column), a_at(row, column + 1));
  }
  for (int i = 0; i < 2; ++i) b[i] = pack<T>(b_at(2 * t + 8 * i, g), b_at(2 * t + 8 * i + 1, g));
  float whole[4], half[4];
  for (int i = 0; i < 4; ++i) whole[i] = half[i] = c_at(g + 8 * (i / 2), 2 * t + i % 2);
  multiply_add<T>(whole, a, b[0], b[1]);
  multiply_add<T>(half, a[0], a[1], b[0]);
  float error = 0;
  for (int i = 0; i < 4; ++i) {
    error += std::abs(whole[i] - product_at(g + 8 * (i / 2), 2 * t + i % 2, 16));
    error += std::abs(half[i] - product_at(g + 8 * (i / 2), 2 * t + i % 2, 8));
  }
  errors[threadIdx.x] = error;
}

void multiply_tf32(float* errors) {
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  float a[4], c[4];
  for (int i = 0; i < 4; ++i) {
    a[i] = a_at(g + 8 * (i % 2), t + 4 * (i / 2));
    c[i] = c_at(g + 8 * (i / 2), 2 * t + i % 2);
  }
  multiply_add(c, a, b_at(t, g), b_at(t + 4, g));
  float error = 0;
  for (int i = 0; i < 4; ++i) error += std::abs(c[i] - product_at(g + 8 * (i / 2), 2 * t + i % 2, 8));
  errors[threadIdx.x] = error;
}

// Element (row, column) of matrix i is 256 i + 16 row + column; rows are 16 bytes, those of a matrix in a scrambled
// order.
void move_matrices(int* mistakes) {
  SHARED_MEMORY(std::uint16_t, numbers);
  const int lane = static_cast<int>(threadIdx.x), g = lane / 4, t = lane % 4;
  const auto place = [](int matrix, int row) { return 8 * (8 * matrix + (row ^ 5)); };
  for (int i = 0; i < 8; ++i) {
    numbers[place(lane / 8, lane % 8) + i] = static_cast<std::uint16_t>(256 * (lane / 8) + 16 * (lane % 8) + i);
  }
  __syncwarp();
  const std::uint32_t address = shared_address(numbers + place(lane / 8, lane % 8));
  const auto pair = [](int matrix, int row, int column, int step) {
    const auto low = static_cast<std::uint32_t>(256 * matrix + 16 * row + column);
    return low | (low + static_cast<std::uint32_t>(step)) << 16;
  };
  std::uint32_t plain[4], transposed[4];
  load_matrices(plain, address);
  load_matrices_transposed<true>(transposed, address);
  int wrong = 0;
  for (int i = 0; i < 4; ++i) {
    wrong += plain[i] != pair(i, g, 2 * t, 1);
    wrong += transposed[i] != pair(i, 2 * t, g, 16);
  }
  __syncwarp();
  store_matrices(address, transposed);
  __syncwarp();
  for (int i = 0; i < 8; ++i) {
    wrong += numbers[place(lane / 8, lane % 8) + i] != 256 * (lane / 8) + 16 * i + lane % 8;
  }
  mistakes[lane] = wrong;
}

template <typename T>
void round_pairs(float* errors, const float* values, const float* expected) {
  const float2 pair = unpack<T>(pack<T>(values[2 * threadIdx.x], values[2 * threadIdx.x + 1]));
  errors[threadIdx.x] =
      std::abs(pair.x - expected[2 * threadIdx.x]) + std::abs(pair.y - expected[2 * threadIdx.x + 1]);
}

// Two groups: the first is there after all but one have arrived, the second is not.
void copy_two(const std::uint32_t* from, int* mistakes) {
  SHARED_MEMORY(std::uint32_t, numbers);
  const std::uint32_t to = shared_address(numbers);
  copy_async(to, from);
  commit_copies();
  copy_async(to + 16, from, 6);
  commit_copies();
  wait_for_copies<1>();
  int wrong = load_shared<std::uint32_t>(to + 12) != 13 || load_shared<std::uint32_t>(to + 16) == 10;
  wait_for_copies<0>();
  const uint4 second = load_shared<uint4>(to + 16);
  wrong += second.x != 10 || second.y != (11 & 0xffff) || second.z != 0 || second.w != 0;
  *mistakes = wrong;
}

void expect_zero(const auto& values) {
  for (std::size_t i = 0; i < values.size(); ++i) EXPECT_EQ(values[i], 0) << "thread " << i;
}

// Two warps, so that one does not take the other's operands.
TEST(TensorCore, ProductsOfTf32) {
  std::vector<float> errors(64, -1.0f);
  launch(multiply_tf32, dim3(1), dim3(64), 0, nullptr, errors.data());
  expect_zero(errors);
}

TEST(TensorCore, ProductsOfF16) {
  std::vector<float> errors(64, -1.0f);
  launch(multiply<__half>, dim3(1), dim3(64), 0, nullptr, errors.data());
  expect_zero(errors);
}

TEST(TensorCore, ProductsOfBf16) {
  std::vector<float> errors(64, -1.0f);
  launch(multiply<__nv_bfloat16>, dim3(1), dim3(64), 0, nullptr, errors.data());
  expect_zero(errors);
}

TEST(TensorCore, MatricesComeAndGo) {
  std::vector<int> mistakes(32, -1);
  launch(move_matrices, dim3(1), dim3(32), 512, nullptr, mistakes.data());
  expect_zero(mistakes);
}

TEST(TensorCore, PairsAreRoundedToNearestEven) {
  std::vector<float> errors(2);
  const std::vector<float> values = {1 + 0x1p-11f, 1 + 0x1.8p-10f, -1 - 0x1p-8f, 1 + 0x1.8p-7f};
  const std::vector<float> halves = {1, 1 + 0x1p-9f, values[2], values[3]};
  launch(round_pairs<__half>, dim3(1), dim3(2), 0, nullptr, errors.data(), values.data(), halves.data());
  expect_zero(errors);
  const std::vector<float> bfloats = {1, 1, -1, 1 + 0x1p-6f};
  launch(round_pairs<__nv_bfloat16>, dim3(1), dim3(2), 0, nullptr, errors.data(), values.data(), bfloats.data());
  expect_zero(errors);
}

// Halves away from zero.
TEST(TensorCore, NumbersAreRoundedToTf32) {
  EXPECT_EQ(to_tf32(1 + 0x1p-11f), 1 + 0x1p-10f);
  EXPECT_EQ(to_tf32(-1 - 0x1.8p-10f), -1 - 0x1p-9f);
  EXPECT_EQ(to_tf32(0x1.ffcp-100f), 0x1.ffcp-100f);
  EXPECT_EQ(to_tf32(0x1.002p+100f - 0x1p77f), 0x1p100f);
  EXPECT_TRUE(std::isnan(to_tf32(std::nanf(""))));
}

TEST(TensorCore, CopiesArriveInGroups) {
  alignas(16) const std::uint32_t from[4] = {10, 11, 12, 13};
  std::vector<int> mistakes(1, -1);
  launch(copy_two, dim3(1), dim3(1), 32, nullptr, static_cast<const std::uint32_t*>(from), mistakes.data());
  expect_zero(mistakes);
}

}  // namespace
}  // namespace riverhorse::cuda
