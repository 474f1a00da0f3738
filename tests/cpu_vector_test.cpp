// The cpu backend's vector kernels with every set of instructions that this processor has, against sums in double.
#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "backend/op_cases.h"
#include "base/quantised.h"
#include "cpu/attention_row.h"
#include "cpu/cpu_device.h"
#include "cpu/gelu.h"
#include "cpu/gemv.h"

namespace riverhorse::test {
namespace {

using cpu::Gemv;

void with_every_target(const std::function<void()>& body) {
  const std::vector<std::int64_t> targets = hwy::SupportedAndGeneratedTargets();
  ASSERT_FALSE(targets.empty());
  for (const std::int64_t target : targets) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::GetChosenTarget().Update(target);
    body();
  }
  hwy::GetChosenTarget().DeInit();
}

std::vector<float> random_floats(std::int64_t count, std::uint32_t seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = uniform(generator);
  return values;
}

// A matrix as the device holds it, and its values.
struct Matrix {
  std::vector<std::byte> bytes;
  std::vector<float> values;

  Matrix(DType dtype, std::int64_t outputs, std::int64_t inputs) : values(random_floats(outputs * inputs, 1)) {
    const auto row_bytes = static_cast<std::size_t>(row_size_bytes(dtype, inputs));
    bytes.resize(static_cast<std::size_t>(outputs) * row_bytes);
    for (std::int64_t output = 0; output < outputs; ++output) {
      const std::span<float> row =
          std::span(values).subspan(static_cast<std::size_t>(output * inputs), static_cast<std::size_t>(inputs));
      const std::span<std::byte> to =
          std::span(bytes).subspan(static_cast<std::size_t>(output) * row_bytes, row_bytes);
      if (!is_quantised(dtype)) {
        std::copy_n(std::as_bytes(row).begin(), row_bytes, to.begin());
      } else {
        EXPECT_TRUE(quantise_row(dtype, row, to));
        dequantise_row(dtype, to.data(), row);
      }
    }
  }
};

void expect_products(DType dtype, std::int64_t inputs, std::int64_t rows, bool transposed) {
  constexpr std::int64_t outputs = 37, begin = 3, end = 35;
  constexpr float untouched = 12345.0f;
  const Matrix matrix(dtype, outputs, inputs);
  const std::vector<float> x = random_floats(rows * inputs, 2);
  std::vector<float> y(static_cast<std::size_t>(rows * outputs), untouched);
  const Gemv product{
      dtype, matrix.bytes.data(), x.data(), rows, inputs, y.data(), transposed ? 1 : outputs, transposed ? rows : 1};
  cpu::gemv(product, begin, end);
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t output = 0; output < outputs; ++output) {
      const float actual = y[static_cast<std::size_t>(row * product.row_stride + output * product.output_stride)];
      if (output < begin || output >= end) {
        EXPECT_EQ(actual, untouched) << output;
        continue;
      }
      double sum = 0, size = 0;
      for (std::int64_t i = 0; i < inputs; ++i) {
        const double term = static_cast<double>(matrix.values[static_cast<std::size_t>(output * inputs + i)]) *
                            x[static_cast<std::size_t>(row * inputs + i)];
        sum += term;
        size += std::abs(term);
      }
      EXPECT_NEAR(actual, sum, 1e-6 * size) << "row " << row << ", output " << output << ", " << inputs << " inputs";
    }
  }
}

TEST(CpuVectors, MultiplyFewRowsOfAnyMatrix) {
  with_every_target([] {
    for (std::int64_t rows = 1; rows <= cpu::most_gemv_rows; ++rows) {
      for (const std::int64_t inputs : {1, 7, 127, 800}) expect_products(DType::f32, inputs, rows, rows % 2 == 0);
      for (const std::int64_t inputs : {32, 96, 2144}) {  // more blocks than scales are widened at once, too
        expect_products(DType::q8, inputs, rows, rows % 2 == 0);
        expect_products(DType::q4, inputs, rows, rows % 2 == 0);
      }
    }
  });
}

std::vector<float> product_of(Gemv product, std::int64_t outputs, std::int64_t begin, std::int64_t end) {
  std::vector<float> y(static_cast<std::size_t>(product.rows * outputs));
  product.y = y.data();
  product.row_stride = outputs;
  cpu::gemv(product, begin, end);
  return y;
}

std::vector<float> slice(const std::vector<float>& values, std::int64_t begin, std::int64_t end) {
  return {values.begin() + begin, values.begin() + end};
}

// A row's bits are its own, whatever other rows, threads and instructions for the same sums there are.
TEST(CpuVectors, ARowOfAProductIsWhatItIsAlone) {
  constexpr std::int64_t outputs = 67;
  with_every_target([] {
    for (const DType dtype : {DType::f32, DType::q8, DType::q4}) {
      for (const std::int64_t inputs : {32, 160, 768, 1184}) {
        const Matrix matrix(dtype, outputs, inputs);
        const std::vector<float> x = random_floats(cpu::most_gemv_rows * inputs, 2);
        for (std::int64_t rows = 1; rows <= cpu::most_gemv_rows; ++rows) {
          Gemv product{dtype, matrix.bytes.data(), x.data(), rows, inputs};
          const std::vector<float> together = product_of(product, outputs, 0, outputs);
          product.vnni = false;
          EXPECT_EQ(product_of(product, outputs, 0, outputs), together) << dtype_name(dtype) << ", " << inputs;
          product.vnni = true;
          product.rows = 1;
          for (std::int64_t row = 0; row < rows; ++row, product.x += inputs) {
            const std::vector<float> expected = slice(together, row * outputs, (row + 1) * outputs);
            std::vector<float> parts = product_of(product, outputs, 0, 16);
            const std::vector<float> rest = product_of(product, outputs, 16, outputs);
            std::copy(rest.begin() + 16, rest.end(), parts.begin() + 16);
            EXPECT_EQ(parts, expected) << dtype_name(dtype) << ", row " << row << " of " << rows << ", " << inputs;
          }
        }
      }
    }
  });
}

// Fixed point does not let large values take the precision of small ones, beyond their block, nor lose what is none.
TEST(CpuVectors, RowsOfAnySizeKeepTheirPrecision) {
  constexpr std::int64_t outputs = 19, inputs = 1120;
  with_every_target([] {
    for (const DType dtype : {DType::q8, DType::q4}) {
      const Matrix matrix(dtype, outputs, inputs);
      const auto multiply = [&](const std::vector<float>& x) {
        return product_of({dtype, matrix.bytes.data(), x.data(), 1, inputs}, outputs, 0, outputs);
      };
      std::mt19937 generator(3);
      std::normal_distribution<float> normal;
      // Normal; magnitudes of blocks from 2^-60 to 2^60; one outlier of a thousand times the rest; all tiny.
      for (int kind = 0; kind < 4; ++kind) {
        std::vector<float> x(static_cast<std::size_t>(inputs));
        for (float& value : x) value = normal(generator) * (kind == 3 ? 1e-30f : 1.0f);
        for (std::int64_t i = 0; i < inputs && kind == 1; ++i) {
          x[static_cast<std::size_t>(i)] *= std::ldexp(1.0f, static_cast<int>(i / 32 * 5 % 120 - 60));
        }
        if (kind == 2) x[777] = 1000;
        const std::vector<float> y = multiply(x);
        for (std::int64_t output = 0; output < outputs; ++output) {
          double sum = 0, bound = 0;  // by the size of each block
          for (std::int64_t block = 0; block < inputs; block += 32) {
            double weights = 0, values = 0;
            for (std::int64_t i = block; i < block + 32; ++i) {
              const double weight = matrix.values[static_cast<std::size_t>(output * inputs + i)];
              const double value = x[static_cast<std::size_t>(i)];
              sum += weight * value;
              weights += weight * weight;
              values += value * value;
            }
            bound += weights * values;
          }
          EXPECT_NEAR(y[static_cast<std::size_t>(output)], sum, 1e-6 * std::sqrt(bound)) << "kind " << kind;
        }
      }
      std::vector<float> x(static_cast<std::size_t>(inputs));
      EXPECT_EQ(multiply(x), std::vector<float>(outputs));
      for (const float wrong : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        x[1111] = wrong;
        for (const float value : multiply(x)) EXPECT_FALSE(std::isfinite(value));
      }
    }
  });
}

TEST(CpuVectors, QuantisedCasesOfLinearKeepTheirTolerances) {
  const auto device = open_cpu_device(cpu_device_info(), {});
  int cases = 0;
  with_every_target([&] {
    for (const OpCase& op_case : op_cases(CaseSet::full)) {
      const bool quantised =
          op_case.name.find("_q8") != std::string::npos || op_case.name.find("_q4") != std::string::npos;
      if (op_case.op != "linear" || op_case.dtype != DType::f32 || !quantised) continue;
      const CaseResult result = run_parity(*device, *device, op_case, 1);
      EXPECT_TRUE(result.passed) << result.message;
      ++cases;
    }
  });
  EXPECT_GT(cases, 40);
}

TEST(CpuVectors, GeluIsThatOfDoubles) {
  with_every_target([] {
    std::vector<float> values;
    for (int i = -1500; i <= 1500; ++i) values.push_back(static_cast<float>(i) * 0.02f);
    values.push_back(-1e30f);
    std::vector<float> actual = values;
    cpu::gelu_tanh(actual.data(), static_cast<std::int64_t>(actual.size()));
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double x = values[i];
      const double expected = 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
      EXPECT_NEAR(actual[i], expected, 1e-7 * std::abs(expected) + 1e-14) << x;
    }
    std::vector<float> none(9, std::numeric_limits<float>::quiet_NaN());
    cpu::gelu_tanh(none.data(), 9);
    for (const float value : none) EXPECT_TRUE(std::isnan(value));
  });
}

TEST(CpuVectors, AttentionOfOneQueryIsThatOfDoubles) {
  with_every_target([] {
    for (const std::int64_t width : {5, 16, 64, 136}) {
      for (const std::int64_t count : {1, 2, 37, 300}) {
        const std::int64_t stride = width + 3;
        const std::vector<float> query = random_floats(width, 3);
        std::vector<float> keys = random_floats(count * stride, 4);
        const std::vector<float> values = random_floats(count * stride, 5);
        const cpu::AttentionRow row{query.data(), keys.data(), values.data(), stride, count, width, 0.7};
        std::vector<double> weights(static_cast<std::size_t>(count)), sums(static_cast<std::size_t>(width));
        std::vector<float> y(static_cast<std::size_t>(width));
        const cpu::SoftmaxSum softmax = cpu::attention_weights(row, weights.data());
        cpu::attention_values(row, weights.data(), softmax.total, y.data());
        double total = 0;
        for (std::int64_t s = 0; s < count; ++s) {
          double product = 0;
          for (std::int64_t i = 0; i < width; ++i) {
            product += static_cast<double>(query[static_cast<std::size_t>(i)]) *
                       keys[static_cast<std::size_t>(s * stride + i)];
          }
          const double weight = std::exp(0.7 * product);
          total += weight;
          for (std::int64_t i = 0; i < width; ++i) {
            sums[static_cast<std::size_t>(i)] += weight * values[static_cast<std::size_t>(s * stride + i)];
          }
        }
        EXPECT_NEAR(softmax.maximum + std::log(softmax.total), std::log(total), 1e-12);
        for (std::int64_t i = 0; i < width; ++i) {
          EXPECT_NEAR(y[static_cast<std::size_t>(i)], sums[static_cast<std::size_t>(i)] / total, 1e-7)
              << "width " << width << ", " << count << " tokens, column " << i;
        }
        keys[static_cast<std::size_t>((count - 1) * stride)] = std::numeric_limits<float>::quiet_NaN();
        cpu::attention_values(row, weights.data(), cpu::attention_weights(row, weights.data()).total, y.data());
        EXPECT_TRUE(std::isnan(y[0]));
      }
    }
  });
}

Tensor put(Device& device, Shape shape, std::uint32_t seed, float factor = 1.0f) {
  const Tensor tensor = device.allocate_tensor(DType::f32, shape);
  std::vector<float> values = random_floats(tensor.count(), seed);
  for (float& value : values) value *= factor;
  device.upload(tensor, std::as_bytes(std::span(values)));
  return tensor;
}

Tensor put_integer(Device& device, std::int32_t value) {
  const Tensor tensor = device.allocate_tensor(DType::i32, {1});
  device.upload(tensor, std::as_bytes(std::span(&value, 1)));
  return tensor;
}

std::vector<double> fetch(Device& device, const Tensor& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.count()));
  device.download(tensor, std::as_writable_bytes(std::span(values)));
  return {values.begin(), values.end()};
}

// Sizes that fill no vector, and a ring that has gone round and not.
TEST(CpuVectors, AStepOfTheMixerIsThatOfDoubles) {
  const auto device = open_cpu_device(cpu_device_info(), {});
  constexpr std::int64_t width = 3, modes = 11, state = 2 * modes;
  with_every_target([&] {
    for (const std::int32_t position : {0, 5, 21, 22, 100}) {
      H3StepArgs args;
      args.qkv = put(*device, {1, 3 * width}, 1);
      args.filter.a = put(*device, {width, modes, 4}, 2, 0.5f);
      args.filter.b = put(*device, {width, modes, 2}, 3);
      args.filter.c = put(*device, {width, modes, 2}, 4);
      args.filter.d = put(*device, {width}, 5);
      args.filter.powers = put(*device, {width, modes, H3Filter::power_count, 2}, 6);
      args.filter.toeplitz = put(*device, {width, H3Filter::chunk}, 7);
      args.filter.shift_taps = put(*device, {width, state}, 8);
      args.slots = put_integer(*device, 0);
      args.positions = put_integer(*device, position);
      args.state = {put(*device, {1, width, state}, 9), put(*device, {1, width, modes, 2}, 10)};
      args.y = put(*device, {1, width}, 11);
      const auto qkv = fetch(*device, args.qkv), a = fetch(*device, args.filter.a), b = fetch(*device, args.filter.b);
      const auto c = fetch(*device, args.filter.c), skip = fetch(*device, args.filter.d);
      const auto taps = fetch(*device, args.filter.shift_taps), s = fetch(*device, args.state.modes);
      auto ring = fetch(*device, args.state.shift);
      device->run([&](Encoder& encoder) { encoder.h3_step(args); });
      const auto y = fetch(*device, args.y), stepped = fetch(*device, args.state.modes);
      for (std::size_t channel = 0; channel < width; ++channel) {
        ring[channel * state + static_cast<std::size_t>(position % state)] = qkv[width + channel];
        double shifted = 0;
        for (std::int64_t lag = 0; lag < state && lag <= position; ++lag) {
          shifted += taps[channel * state + static_cast<std::size_t>(lag)] *
                     ring[channel * state + static_cast<std::size_t>((position - lag) % state)];
        }
        const double w = shifted * qkv[2 * width + channel];
        double z = skip[channel] * w;
        for (std::size_t mode = channel * modes; mode < (channel + 1) * modes; ++mode) {
          const double a_re = a[4 * mode] + a[4 * mode + 2], a_im = a[4 * mode + 1] + a[4 * mode + 3];
          const double re = a_re * s[2 * mode] - a_im * s[2 * mode + 1] + b[2 * mode] * w;
          const double im = a_re * s[2 * mode + 1] + a_im * s[2 * mode] + b[2 * mode + 1] * w;
          z += 2 * (c[2 * mode] * re - c[2 * mode + 1] * im);
          EXPECT_NEAR(stepped[2 * mode], re, 1e-6) << "position " << position;
          EXPECT_NEAR(stepped[2 * mode + 1], im, 1e-6) << "position " << position;
        }
        EXPECT_NEAR(y[channel], qkv[channel] * z, 1e-5) << "position " << position << ", channel " << channel;
      }
      EXPECT_EQ(fetch(*device, args.state.shift), ring) << "position " << position;
    }
  });
}

}  // namespace
}  // namespace riverhorse::test
