// What must hold on every device, whatever the numbers are (DESIGN, the three invariants), on the level of
// operations: the whole, any pieces and single steps agree; an output does not depend on what comes after it, bit for
// bit.
//
// Whole and pieces agree within rounding: the sums are blocked otherwise. The `fft` mixer mixes all inputs of a piece
// in one transform, so its past is unchanged within rounding only; `chunked`, `automatic` and the step are exact.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "backend/op_cases.h"
#include "base/quantised.h"
#include "ops_golden.h"

namespace riverhorse::test {

namespace {

constexpr std::int64_t length = 165;  // 2 x 64 + 37: not a multiple of any piece
constexpr std::int64_t batch = 2;
constexpr std::int64_t changed_token = 100;
// Single tokens through the whole mixer, which software devices are slow at, go one token beyond a block of 64.
constexpr std::int64_t one_block = 65;

std::vector<float> random_floats(std::int64_t count, std::uint64_t seed = test_seed) {
  std::mt19937_64 generator(seed);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = static_cast<float>(static_cast<double>(generator() >> 40) * 0x1p-23 - 1.0);
  return values;
}

double tolerance_of(const std::string& op, DType dtype = DType::f32) {
  for (const OpTolerance& row : op_tolerances()) {
    if (row.op == op) return row.of(dtype) * row.spread;
  }
  ADD_FAILURE() << op;
  return 0;
}

// Tokens [begin, begin + count) of values (batch, length, width).
std::vector<float> piece_of(const std::vector<float>& values, std::int64_t width, std::int64_t begin,
                            std::int64_t count) {
  std::vector<float> out;
  for (std::int64_t b = 0; b < batch; ++b) {
    const auto row = values.begin() + static_cast<std::ptrdiff_t>((b * length + begin) * width);
    out.insert(out.end(), row, row + static_cast<std::ptrdiff_t>(count * width));
  }
  return out;
}

void put_piece(std::vector<float>& values, std::int64_t width, std::int64_t begin, std::int64_t count,
               const std::vector<float>& piece) {
  for (std::int64_t b = 0; b < batch; ++b) {
    std::copy_n(piece.begin() + static_cast<std::ptrdiff_t>(b * count * width), count * width,
                values.begin() + static_cast<std::ptrdiff_t>((b * length + begin) * width));
  }
}

// All tokens in pieces of `size` through `run(piece, tokens)`; after `last_short` tokens, what is left in one piece.
template <typename Run>
std::vector<float> in_pieces(const std::vector<float>& in, std::int64_t in_width, std::int64_t out_width,
                             std::int64_t size, Run run, std::int64_t last_short = length) {
  std::vector<float> out(static_cast<std::size_t>(batch * length * out_width));
  for (std::int64_t begin = 0, count = 0; begin < length; begin += count) {
    count = begin < last_short ? std::min(size, length - begin) : length - begin;
    put_piece(out, out_width, begin, count, run(piece_of(in, in_width, begin, count), count));
  }
  return out;
}

bool lacks(Device& device, ConvAlgorithm algorithm, DType dtype, std::string& reason) {
  if (dtype == DType::f16 && !device.supports(Feature::f16).supported) {
    reason = device.supports(Feature::f16).reason;
    return true;
  }
  if (algorithm == ConvAlgorithm::automatic) return false;
  const Support support =
      device.supports(algorithm == ConvAlgorithm::fft ? Feature::conv_fft : Feature::conv_chunked);
  reason = support.reason;
  return !support.supported;
}

void mixer_pieces(Device& device, const char* file_name, ConvAlgorithm algorithm, DType dtype) {
  std::string reason;
  if (lacks(device, algorithm, dtype, reason)) GTEST_SKIP() << reason;
  H3Layer layer(device, GoldenFile(file_name), batch, HeadOrder::head_major);
  const std::int64_t width = layer.width();
  const std::vector<float> qkv = random_floats(batch * length * 3 * width);
  const std::vector<float> whole = layer.mix(qkv, batch, length, algorithm, dtype);
  const std::vector<float> shift = fetch(device, layer.state().shift), modes = fetch(device, layer.state().modes);
  const auto expect_same = [&](const std::vector<float>& y, const std::string& how) {
    EXPECT_LE(max_error(y, whole), tolerance_of("h3_mixer", dtype)) << how;
    EXPECT_EQ(fetch(device, layer.state().shift), shift) << how;
    EXPECT_LE(max_error(fetch(device, layer.state().modes), modes), tolerance_of("h3_mixer", dtype)) << how;
  };
  for (const std::int64_t size : {1, 7, 64, 100}) {
    layer.reset();
    expect_same(in_pieces(
                    qkv, 3 * width, width, size,
                    [&](const std::vector<float>& piece, std::int64_t count) {
                      return layer.mix(piece, batch, count, algorithm, dtype);
                    },
                    size == 1 ? one_block : length),
                "pieces of " + std::to_string(size));
  }
  layer.reset();
  expect_same(
      in_pieces(qkv, 3 * width, width, 1,
                [&](const std::vector<float>& piece, std::int64_t) { return layer.mix_step(piece, batch, dtype); }),
      "steps");
}

void mixer_causality(Device& device, const char* file_name, ConvAlgorithm algorithm, DType dtype) {
  std::string reason;
  if (lacks(device, algorithm, dtype, reason)) GTEST_SKIP() << reason;
  H3Layer layer(device, GoldenFile(file_name), batch, HeadOrder::head_major);
  const std::int64_t width = layer.width();
  std::vector<float> qkv = random_floats(batch * length * 3 * width);
  const std::vector<float> before = layer.mix(qkv, batch, length, algorithm, dtype);
  put_piece(qkv, 3 * width, changed_token, 1, std::vector<float>(static_cast<std::size_t>(batch * 3 * width), 2.5f));
  layer.reset();
  const std::vector<float> after = layer.mix(qkv, batch, length, algorithm, dtype);
  const std::vector<float> past = piece_of(before, width, 0, changed_token);
  if (algorithm == ConvAlgorithm::fft) {
    EXPECT_LE(max_error(piece_of(after, width, 0, changed_token), past), tolerance_of("h3_mixer", dtype));
  } else {
    EXPECT_EQ(piece_of(after, width, 0, changed_token), past);
  }
  EXPECT_NE(piece_of(after, width, changed_token, 1), piece_of(before, width, changed_token, 1));
}

class Attention {
 public:
  static constexpr std::int64_t width = 32;
  static constexpr int heads = 2;

  explicit Attention(Device& device) : device_(device) {
    slots_ = put_integers(device, {batch}, {2, 0});
    reset();
  }
  void reset() {
    positions_ = device_.allocate_tensor(DType::i32, {batch + 1});
    cache_ = {device_.allocate_tensor(DType::f32, {batch + 1, length, width}),
              device_.allocate_tensor(DType::f32, {batch + 1, length, width})};
  }
  std::vector<float> run(const std::vector<float>& qkv_values, std::int64_t tokens, bool step) {
    const Tensor qkv = put_floats(device_, {batch, tokens, 3 * width}, qkv_values);
    const Tensor y = device_.allocate_tensor(DType::f32, {batch, tokens, width});
    device_.run([&](Encoder& encoder) {
      encoder.rotary({qkv, heads, 8, slots_, positions_});
      const AttentionArgs args{qkv, heads, slots_, positions_, cache_, y};
      if (step) {
        encoder.attention_step(args);
      } else {
        encoder.attention(args);
      }
      encoder.advance({slots_, positions_, static_cast<std::int32_t>(tokens)});
    });
    return fetch(device_, y);
  }

 private:
  Device& device_;
  Tensor slots_, positions_;
  AttentionCache cache_;
};

void attention_pieces(Device& device) {
  constexpr std::int64_t width = Attention::width;
  Attention attention(device);
  const std::vector<float> qkv = random_floats(batch * length * 3 * width);
  const std::vector<float> whole = attention.run(qkv, length, false);
  for (const std::int64_t size : {1, 7, 64, 100}) {
    for (const bool step : {false, true}) {
      if (step && size != 1) continue;
      attention.reset();
      const std::vector<float> y = in_pieces(
          qkv, 3 * width, width, size,
          [&](const std::vector<float>& piece, std::int64_t count) { return attention.run(piece, count, step); });
      EXPECT_LE(max_error(y, whole), tolerance_of("attention")) << "pieces of " << size << (step ? ", steps" : "");
    }
  }
}

void attention_causality(Device& device) {
  constexpr std::int64_t width = Attention::width;
  Attention attention(device);
  std::vector<float> qkv = random_floats(batch * length * 3 * width);
  const std::vector<float> before = attention.run(qkv, length, false);
  put_piece(qkv, 3 * width, changed_token, 1, std::vector<float>(static_cast<std::size_t>(batch * 3 * width), 2.5f));
  attention.reset();
  const std::vector<float> after = attention.run(qkv, length, false);
  EXPECT_EQ(piece_of(after, width, 0, changed_token), piece_of(before, width, 0, changed_token));
  EXPECT_NE(piece_of(after, width, changed_token, 1), piece_of(before, width, changed_token, 1));
}

// A row of a product is that row's alone: changing one row leaves the others the same bit for bit.
void linear_rows(Device& device) {
  for (const std::int64_t rows : {2, 3, 5, 17, 100}) {
    for (const bool y_transposed : {false, true}) {
      const std::int64_t inputs = 127, outputs = 65, changed = rows / 2;
      LinearArgs args;
      std::vector<float> x = random_floats(rows * inputs, 1);
      args.x = put_floats(device, {rows, inputs}, x);
      args.weight = put_floats(device, {outputs, inputs}, random_floats(outputs * inputs, 2));
      args.bias = put_floats(device, {outputs}, random_floats(outputs, 3));
      args.y = device.allocate_tensor(DType::f32, y_transposed ? Shape{outputs, rows} : Shape{rows, outputs});
      args.y_transposed = y_transposed;
      device.run([&](Encoder& encoder) { encoder.linear(args); });
      const std::vector<float> before = fetch(device, args.y);
      std::fill_n(x.begin() + static_cast<std::ptrdiff_t>(changed * inputs), inputs, 2.5f);
      device.upload(args.x, std::as_bytes(std::span(x)));
      device.run([&](Encoder& encoder) { encoder.linear(args); });
      const std::vector<float> after = fetch(device, args.y);
      std::int64_t different = 0;
      for (std::int64_t i = 0; i < rows * outputs; ++i) {
        const std::int64_t row = y_transposed ? i % rows : i / outputs;
        if (row == changed) continue;
        different += before[i] != after[i] ? 1 : 0;
      }
      EXPECT_EQ(different, 0) << rows << " rows" << (y_transposed ? ", transposed" : "");
      EXPECT_NE(before, after);
    }
  }
}

// (outputs, inputs), as `dtype`: f32 or quantised.
Tensor put_matrix(Device& device, DType dtype, std::int64_t outputs, std::int64_t inputs) {
  const std::vector<float> values = random_floats(outputs * inputs, 2);
  if (!is_quantised(dtype)) return put_floats(device, {outputs, inputs}, values);
  const Tensor matrix = device.allocate_tensor(dtype, {outputs, inputs});
  std::vector<std::byte> bytes(matrix.size_bytes());
  const std::size_t width = static_cast<std::size_t>(inputs), row_bytes = bytes.size() / outputs;
  for (std::size_t row = 0; row * width < values.size(); ++row) {
    quantise_row(dtype, std::span(values).subspan(row * width, width),
                 std::span(bytes).subspan(row * row_bytes, row_bytes));
  }
  device.upload(matrix, bytes);
  return matrix;
}

// Of few rows, as in generation, each is what it is alone, bit for bit: a text does not depend on who else is served.
void few_rows_alone(Device& device, DType weights, std::int64_t inputs, bool with_norm, DType normed) {
  const bool cuda = device.info().backend == BackendKind::cuda;
  const std::int64_t outputs = 300, most = cuda ? 8 : 4;
  LinearArgs args;
  const std::vector<float> x = random_floats(most * inputs, 1);
  args.weight = put_matrix(device, weights, outputs, inputs);
  args.normed = normed;
  if (with_norm) {
    args.norm = NormWeights{put_floats(device, {inputs}, random_floats(inputs, 3)),
                            put_floats(device, {inputs}, random_floats(inputs, 4)), 1e-5f};
  }
  const auto rows_of = [](const std::vector<float>& values, std::int64_t width, std::int64_t first,
                          std::int64_t rows) {
    const auto begin = values.begin() + static_cast<std::ptrdiff_t>(first * width);
    return std::vector<float>(begin, begin + static_cast<std::ptrdiff_t>(rows * width));
  };
  const auto product = [&](std::int64_t first, std::int64_t rows) {
    args.x = put_floats(device, {rows, inputs}, rows_of(x, inputs, first, rows));
    args.y = device.allocate_tensor(DType::f32, {rows, outputs});
    device.run([&](Encoder& encoder) { encoder.linear(args); });
    return fetch(device, args.y);
  };
  for (const std::int64_t rows : {2, 3, 4, 5, 8}) {
    if (rows > most) continue;
    const std::vector<float> together = product(0, rows);
    for (std::int64_t row = 0; row < rows; ++row) {
      EXPECT_EQ(rows_of(together, outputs, row, 1), product(row, 1))
          << "row " << row << " of " << rows << ", " << dtype_name(weights) << ", " << inputs << " inputs"
          << (with_norm ? ", norm to " : "") << (with_norm ? dtype_name(normed) : "");
    }
  }
}

void few_linear_rows(Device& device) {
  for (const std::int64_t inputs : {127, 192, 256, 1000}) {
    for (const bool with_norm : {false, true}) few_rows_alone(device, DType::f32, inputs, with_norm, DType::f32);
  }
}

void few_quantised_rows(Device& device) {
  const std::int64_t inputs = 1024;
  for (const DType weights : {DType::q8, DType::q4}) {
    few_rows_alone(device, weights, inputs, false, DType::f32);
    for (const DType normed : {DType::f32, DType::f16, DType::bf16}) {
      if (normed != DType::f32 && !device.supports(half_feature(normed)).supported) continue;
      few_rows_alone(device, weights, inputs, true, normed);
    }
  }
}

// An operation may be given as weights what the one before it makes, though backends read weights early.
void weights_made_before(Device& device) {
  const std::int64_t rows = 8, inputs = 256, outputs = 512;
  const Tensor x = put_floats(device, {rows, inputs}, random_floats(rows * inputs, 1));
  const Tensor weight = put_floats(device, {outputs, inputs}, random_floats(outputs * inputs, 2));
  const Tensor other = put_floats(device, {1, outputs}, random_floats(outputs, 3));
  const auto product = [](Encoder& encoder, const Tensor& a, const Tensor& b, const Tensor& y) {
    LinearArgs args;
    args.x = a;
    args.weight = b;
    args.y = y;
    encoder.linear(args);
  };
  const Tensor made = device.allocate_tensor(DType::f32, {rows, outputs});
  const Tensor apart = device.allocate_tensor(DType::f32, {1, rows});
  device.run([&](Encoder& encoder) { product(encoder, x, weight, made); });
  device.run([&](Encoder& encoder) { product(encoder, other, made, apart); });
  for (int repetition = 0; repetition < 20; ++repetition) {
    const Tensor again = device.allocate_tensor(DType::f32, {rows, outputs});
    const Tensor together = device.allocate_tensor(DType::f32, {1, rows});
    device.run([&](Encoder& encoder) {
      product(encoder, x, weight, again);
      product(encoder, other, again, together);
    });
    EXPECT_EQ(fetch(device, together), fetch(device, apart)) << repetition;
  }
}

// The same recording submitted again gives the same bits, and adds no allocation, pipeline or recording.
void replay(Device& device) {
  const Tensor x = put_floats(device, {33, 64}, random_floats(33 * 64, 1));
  const Tensor weight = put_floats(device, {65, 64}, random_floats(65 * 64, 2));
  const Tensor y = device.allocate_tensor(DType::f32, {33, 65});
  const std::unique_ptr<Recording> recording = device.record(
      [&](Encoder& encoder) {
        const Tensor middle = encoder.scratch(DType::f32, {33, 65});
        LinearArgs args;
        args.x = x;
        args.weight = weight;
        args.y = middle;
        encoder.linear(args);
        encoder.copy({middle, y});
      },
      {.timestamps = true});
  device.wait(device.submit(*recording));
  const std::vector<float> first = fetch(device, y);
  device.upload(y, std::vector<std::byte>(y.size_bytes()));
  const DeviceCounters before = device.counters();
  const std::uint64_t ticket = device.submit(*recording);
  EXPECT_GT(device.submit(*recording), ticket);
  const DeviceCounters after = device.counters();
  device.wait(ticket + 1);
  EXPECT_EQ(fetch(device, y), first);
  EXPECT_EQ(after.allocations, before.allocations);
  EXPECT_EQ(after.pipelines_created, before.pipelines_created);
  EXPECT_EQ(after.recordings, before.recordings);
  EXPECT_EQ(after.submissions, before.submissions + 2);
  if (device.supports(Feature::timestamps).supported) {
    EXPECT_GT(recording->total_time_ms(), 0);
  }
}

}  // namespace

void register_invariant_tests() {
  const std::pair<const char*, ConvAlgorithm> algorithms[] = {
      {"auto", ConvAlgorithm::automatic}, {"chunked", ConvAlgorithm::chunked}, {"fft", ConvAlgorithm::fft}};
  for (const char* file : {"layer/h3_layer_a.safetensors", "layer/h3_layer_hd4.safetensors"}) {
    const std::string size = std::string(file).find("hd4") == std::string::npos ? "hd1" : "hd4";
    for (const auto& [label, algorithm] : algorithms) {
      for (const DType dtype : {DType::f32, DType::f16}) {
        const std::string name = "h3_" + size + "." + label + (dtype == DType::f16 ? ".f16" : "");
        const auto with = [file, algorithm = algorithm, dtype](auto test) {
          return [=](Device& device) { test(device, file, algorithm, dtype); };
        };
        register_for_devices("invariants", "whole_pieces_steps." + name, with(mixer_pieces));
        register_for_devices("invariants", "causality." + name, with(mixer_causality));
      }
    }
  }
  register_for_devices("invariants", "whole_pieces_steps.attention", attention_pieces);
  register_for_devices("invariants", "causality.attention", attention_causality);
  register_for_devices("invariants", "causality.linear_rows", linear_rows);
  register_for_devices("invariants", "few_rows_alone.linear", few_linear_rows);
  register_for_devices("invariants", "few_rows_alone.linear_quantised", few_quantised_rows);
  register_for_devices("invariants", "weights_made_before", weights_made_before);
  register_for_devices("invariants", "replay", replay);
}

}  // namespace riverhorse::test
