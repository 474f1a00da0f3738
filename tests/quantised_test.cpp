// Quantised matrices: what a block keeps of its weights, how files hold them, and what is refused.
#include "base/quantised.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>

#include "bad_files/builders.h"
#include "bad_files/temporary_folder.h"
#include "base/error.h"
#include "formats/tensor_file.h"
#include "model/checkpoint.h"
#include "model/initialization.h"

namespace riverhorse::test {
namespace {

constexpr DType dtypes[] = {DType::q8, DType::q4};

std::vector<std::byte> quantised(DType dtype, const std::vector<float>& values) {
  std::vector<std::byte> row(
      static_cast<std::size_t>(row_size_bytes(dtype, static_cast<std::int64_t>(values.size()))), std::byte{0xff});
  EXPECT_TRUE(quantise_row(dtype, values, row));
  return row;
}

std::vector<float> and_back(DType dtype, const std::vector<float>& values) {
  std::vector<float> back(values.size());
  dequantise_row(dtype, quantised(dtype, values).data(), back);
  return back;
}

std::vector<float> normal_values(std::size_t count, float scale) {
  std::mt19937 generator(7);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

double relative_rms(const std::vector<float>& values, const std::vector<float>& reference) {
  double errors = 0, squares = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    errors += std::pow(static_cast<double>(values[i]) - reference[i], 2);
    squares += std::pow(static_cast<double>(reference[i]), 2);
  }
  return std::sqrt(errors / squares);
}

ModelConfig small_model() {
  ModelConfig config;
  config.n_embd = 32;
  config.n_layer = 2;
  config.n_inner = 64;
  config.attn_layer_idx = {1};
  config.attn_n_head = 2;
  config.ssm_d_state = 8;
  config.vocab_size = 10;
  return config;
}

TEST(Quantised, RowsOfEveryWidthCanBeTold) {
  for (const DType dtype : dtypes) {
    for (std::int64_t width = 32; width <= 8192; width += 32) {
      const std::int64_t bytes = row_size_bytes(dtype, width);
      EXPECT_EQ(bytes % 16, 0);
      EXPECT_GE(bytes * 8, width * (dtype == DType::q8 ? 8 : 4) + width / 2);
      EXPECT_EQ(quantised_width(dtype, bytes), width);
      EXPECT_FALSE(quantised_width(dtype, bytes + 1));
    }
    EXPECT_FALSE(quantised_width(dtype, 0));
    EXPECT_FALSE(quantised_width(dtype, 16));
    EXPECT_EQ(quantised_dtype(dtype_name(dtype)), dtype);
  }
  EXPECT_EQ(row_size_bytes(DType::q8, 768), 816);
  EXPECT_EQ(row_size_bytes(DType::q4, 768), 432);
  EXPECT_EQ(row_size_bytes(DType::f16, 37), 74);
  EXPECT_FALSE(quantised_dtype("f16"));
}

// The bytes are a file format: they are what the header says, one by one.
TEST(Quantised, LayoutOfABlock) {
  std::vector<float> values(32);
  for (std::size_t i = 0; i < 32; ++i) values[i] = 0.5f * static_cast<float>(static_cast<int>(i % 16) - 8);
  const std::vector<std::byte> q4 = quantised(DType::q4, values);
  ASSERT_EQ(q4.size(), 32u);
  for (std::size_t i = 0; i < 16; ++i) EXPECT_EQ(std::to_integer<unsigned>(q4[i]), i * 17) << i;
  EXPECT_EQ(std::to_integer<unsigned>(q4[16]) | std::to_integer<unsigned>(q4[17]) << 8, float_to_f16(0.5f));
  for (std::size_t i = 18; i < 32; ++i) EXPECT_EQ(q4[i], std::byte{0});
  for (std::size_t i = 0; i < 32; ++i) values[i] = 0.25f * static_cast<float>(i == 0 ? -127 : static_cast<int>(i));
  const std::vector<std::byte> q8 = quantised(DType::q8, values);
  ASSERT_EQ(q8.size(), 48u);
  for (std::size_t i = 0; i < 32; ++i) {
    EXPECT_EQ(static_cast<std::int8_t>(q8[i]), i == 0 ? -127 : static_cast<int>(i)) << i;
  }
  EXPECT_EQ(std::to_integer<unsigned>(q8[32]) | std::to_integer<unsigned>(q8[33]) << 8, float_to_f16(0.25f));
}

TEST(Quantised, KeepsWhatItCanHoldExactly) {
  for (const DType dtype : dtypes) {
    std::vector<float> values = and_back(dtype, normal_values(320, 0.02f));
    EXPECT_EQ(and_back(dtype, values), values) << "quantised twice";
    EXPECT_EQ(and_back(dtype, std::vector<float>(64)), std::vector<float>(64));
    std::vector<float> one(64);
    one[40] = -3.0f;
    EXPECT_NEAR(and_back(dtype, one)[40], -3.0f, 3.0f * 0x1p-11f) << "a scale has 11 bits";
    EXPECT_EQ(and_back(dtype, one)[0], 0.0f);
  }
}

TEST(Quantised, ErrorsOfNormalWeights) {
  // In q8 about half a step of the quants, and where scales are below the normal range of f16 (2^-14) up to one and a
  // half of their own last places a step; in q4 what is cut off may be off by more, and the rest is nearer for it.
  for (const float scale : {1e-4f, 0.02f, 1.0f, 300.0f}) {
    const std::vector<float> values = normal_values(32 * 512, scale);
    const std::vector<float> q8 = and_back(DType::q8, values);
    for (std::size_t block = 0; block < values.size(); block += 32) {
      float largest = 0;
      for (std::size_t i = block; i < block + 32; ++i) largest = std::max(largest, std::abs(values[i]));
      for (std::size_t i = block; i < block + 32; ++i) {
        const float step = largest / 127;
        const float of_scale = step < 0x1p-14f ? 1.5f * 127 * 0x1p-24f : 0.0f;
        EXPECT_LE(std::abs(q8[i] - values[i]), 0.6f * step + of_scale) << i;
      }
    }
    EXPECT_LT(relative_rms(q8, values), scale < 1e-3f ? 0.01 : 0.006);
    EXPECT_LT(relative_rms(and_back(DType::q4, values), values), 0.09);
  }
}

TEST(Quantised, TheScaleIsBetterThanTheLargestWeightOverTheRange) {
  const std::vector<float> values = normal_values(32 * 512, 0.02f);
  std::vector<float> plain(values.size());
  for (std::size_t block = 0; block < values.size(); block += 32) {
    float largest = 0;
    for (std::size_t i = block; i < block + 32; ++i) largest = std::max(largest, std::abs(values[i]));
    const float scale = f16_to_float(float_to_f16(largest / 7));
    for (std::size_t i = block; i < block + 32; ++i) {
      plain[i] = scale * std::clamp(std::nearbyint(values[i] / scale), -8.0f, 7.0f);
    }
  }
  EXPECT_LT(relative_rms(and_back(DType::q4, values), values), 0.9 * relative_rms(plain, values));
}

TEST(Quantised, RefusesWhatABlockCannotHold) {
  const HostTensor matrix = make_host_tensor(normal_values(64, 1.0f), {2, 32});
  for (const DType dtype : dtypes) {
    for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN(), 1e9f}) {
      std::vector<float> values = normal_values(64, 1.0f);
      values[40] = bad;
      try {
        quantise(make_host_tensor(values, {2, 32}), dtype, "the matrix");
        ADD_FAILURE() << bad;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), StatusCode::bad_file);
        EXPECT_NE(std::string(error.what()).find("the matrix: row 1"), std::string::npos) << error.what();
      }
    }
    EXPECT_THROW(quantise(make_host_tensor(normal_values(66, 1.0f), {2, 33}), dtype, "w"), Error);
    EXPECT_THROW(quantise(make_host_tensor(normal_values(64, 1.0f), {64}), dtype, "w"), Error);
    EXPECT_THROW(quantise(quantise(matrix, dtype, "w"), dtype, "w"), Error) << "quantised already";
    EXPECT_NEAR(and_back(dtype, std::vector<float>(32, 65504.0f * 5))[7], 65504.0f * 5, 65504.0f * 5 * 0x1p-11f);
  }
  EXPECT_THROW(quantise(matrix, DType::f16, "w"), Error);
}

TEST(Quantised, FilesHoldThem) {
  const ScratchFolder folder;
  const auto path = folder.path() / "quantised.safetensors";
  std::map<std::string, HostTensor> tensors;
  tensors["norm"] = make_host_tensor(std::vector<float>{1, 2, 3}, {3});
  for (const DType dtype : dtypes) {
    const std::string name(dtype_name(dtype));
    tensors[name] = quantise(make_host_tensor(normal_values(7 * 96, 0.1f), {7, 96}), dtype, name);
  }
  write_safetensors(path, tensors, {{"format", "pt"}});
  const TensorFile file = read_safetensors(path);
  EXPECT_EQ(file.metadata, (std::map<std::string, std::string>{{"format", "pt"}}));
  for (const auto& [name, tensor] : tensors) {
    EXPECT_EQ(file.at(name).dtype, tensor.dtype) << name;
    EXPECT_EQ(file.at(name).shape, tensor.shape) << name;
    EXPECT_TRUE(
        std::equal(file.at(name).bytes.begin(), file.at(name).bytes.end(), tensor.bytes.begin(), tensor.bytes.end()))
        << name;
    EXPECT_EQ(to_floats(file.at(name)), to_floats(tensor)) << name;
  }
  EXPECT_EQ(convert_floats(file.at("q4"), DType::f32, "q4").dtype, DType::f32);
  EXPECT_FALSE(is_floating(file.at("q4").dtype));
}

TEST(Quantised, CheckpointsHaveQuantisedMatricesOnly) {
  const ScratchFolder folder;
  const Checkpoint original = random_checkpoint(small_model(), 3);
  folder.write("config.json", model_config_json(original.config));
  for (const DType dtype : dtypes) {
    auto tensors = quantise_parameters(original, dtype);
    write_safetensors(folder.path() / "model.safetensors", tensors, {});
    const Checkpoint loaded = load_checkpoint(folder.path(), {.config_path = {}, .config = {}, .check_finite = true});
    for (const ParameterSpec& parameter : parameter_table(original.config)) {
      const bool vocabulary = parameter.name.find("embeddings") != std::string::npos;
      const DType of_matrix = vocabulary ? DType::q8 : dtype;
      EXPECT_EQ(loaded.file.at(parameter.name).dtype, parameter.matrix ? of_matrix : DType::f32) << parameter.name;
    }

    // A scale that is no number: behind the 32 quants of the second row.
    HostTensor& matrix = tensors.at("backbone.layers.1.mlp.fc1.weight");
    std::vector<std::byte> bytes(matrix.bytes.begin(), matrix.bytes.end());
    const std::uint16_t nan = 0x7e00;
    std::memcpy(&bytes[static_cast<std::size_t>(row_size_bytes(dtype, 32) + quants_size_bytes(dtype, 32))], &nan, 2);
    matrix.bytes = bytes;
    write_safetensors(folder.path() / "model.safetensors", tensors, {});
    EXPECT_NO_THROW(load_checkpoint(folder.path(), {}));
    try {
      load_checkpoint(folder.path(), {.config_path = {}, .config = {}, .check_finite = true});
      ADD_FAILURE() << "it loaded";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("fc1.weight (element 32)"), std::string::npos) << error.what();
    }

    // A vector of 32 elements has the size of a row of a matrix, but may not be one.
    tensors = quantise_parameters(original, dtype);
    tensors.at("backbone.ln_f.weight") = quantise(make_host_tensor(normal_values(32, 1.0f), {1, 32}), dtype, "");
    tensors.at("backbone.ln_f.weight").shape = {32};
    EXPECT_THROW(write_safetensors(folder.path() / "model.safetensors", tensors, {});
                 load_checkpoint(folder.path(), {}), Error);
  }
}

}  // namespace
}  // namespace riverhorse::test
