#include "ops_golden.h"

#include <fstream>
#include <nlohmann/json.hpp>

namespace riverhorse::test {

namespace {

const nlohmann::json& manifest() {
  static const nlohmann::json parsed =
      nlohmann::json::parse(std::ifstream(std::string(RIVERHORSE_TEST_DATA) + "/manifest.json"));
  return parsed;
}

std::vector<float> joined(std::vector<float> first, const std::vector<float>& second,
                          const std::vector<float>& third) {
  first.insert(first.end(), second.begin(), second.end());
  first.insert(first.end(), third.begin(), third.end());
  return first;
}

// (rows, columns) -> (columns, rows)
std::vector<float> transposed(const std::vector<float>& values, std::int64_t rows, std::int64_t columns) {
  std::vector<float> out(values.size());
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < columns; ++c) out[c * rows + r] = values[r * columns + c];
  }
  return out;
}

}  // namespace

GoldenFile::GoldenFile(const std::string& path)
    : path_(path), file_(read_safetensors(std::string(RIVERHORSE_TEST_DATA) + "/" + path)) {}

Shape GoldenFile::shape(const std::string& name) const {
  const std::vector<std::int64_t>& s = file_.at(name).shape;
  switch (s.size()) {
    case 1: return {s[0]};
    case 2: return {s[0], s[1]};
    case 3: return {s[0], s[1], s[2]};
    case 4: return {s[0], s[1], s[2], s[3]};
    default: return {file_.at(name).count()};
  }
}

std::int64_t GoldenFile::number(const std::string& metadata_key) const {
  return std::stoll(file_.metadata.at(metadata_key));
}

double GoldenFile::tolerance(const std::string& name) const {
  for (const auto& entry : manifest().at("tensors")) {
    if (entry.at("file") == path_ && entry.at("tensor") == name) return entry.at("tol_rel").get<double>();
  }
  ADD_FAILURE() << "the manifest has no tolerance for " << path_ << " " << name;
  return 0;
}

void GoldenFile::expect(const std::vector<float>& values, const std::string& name) const {
  EXPECT_LE(max_error(values, floats(name)), tolerance(name)) << path_ << " " << name;
}

H3Filter allocate_filter(Device& device, std::int64_t heads, std::int64_t width, std::int64_t state) {
  const auto make = [&](Shape shape) { return device.allocate_tensor(DType::f32, shape); };
  const std::int64_t modes = state / 2;
  return {make({heads, modes, 4}),
          make({heads, modes, 2}),
          make({heads, modes, 2}),
          make({heads}),
          make({heads, modes, H3Filter::power_count, 2}),
          make({heads, H3Filter::chunk}),
          make({width, state})};
}

H3Parameters s4d_parameters(Device& device, const GoldenFile& file, const std::string& prefix, std::int64_t heads,
                            std::int64_t state, bool zoh) {
  H3Parameters p;
  p.log_dt = file.put(device, prefix + "log_dt");
  p.inv_a_real = file.put(device, prefix + "inv_A_real");
  p.a_imag = file.put(device, prefix + "A_imag");
  p.b = file.put(device, prefix + "B");
  p.c = file.put(device, prefix + "C", {heads, state / 2, 2});
  p.d = device.allocate_tensor(DType::f32, {heads});
  p.shift_b = device.allocate_tensor(DType::f32, {heads, state});
  p.shift_c = device.allocate_tensor(DType::f32, {heads, state});
  p.shift_d = device.allocate_tensor(DType::f32, {heads});
  p.discretization = zoh ? Discretization::zoh : Discretization::bilinear;
  return p;
}

H3LayerWeights::H3LayerWeights(Device& device, const GoldenFile& file)
    : width(file.number("d_model")),
      state(file.number("d_state")),
      head_dim(static_cast<int>(file.number("head_dim"))) {
  const std::int64_t heads = width / head_dim, modes = state / 2;
  projection = put_floats(device, {3 * width, width},
                          joined(file.floats("param.q_proj.weight"), file.floats("param.k_proj.weight"),
                                 file.floats("param.v_proj.weight")));
  projection_bias = put_floats(
      device, {3 * width},
      joined(file.floats("param.q_proj.bias"), file.floats("param.k_proj.bias"), file.floats("param.v_proj.bias")));
  output = file.put(device, "param.output_linear.weight");
  output_bias = file.put(device, "param.output_linear.bias");
  parameters.log_dt = file.put(device, "param.kernel.kernel.log_dt");
  parameters.inv_a_real = file.put(device, "param.kernel.kernel.inv_A_real");
  parameters.a_imag = file.put(device, "param.kernel.kernel.A_imag");
  parameters.b = file.put(device, "param.kernel.kernel.B");
  parameters.c = file.put(device, "param.kernel.kernel.C", {heads, modes, 2});
  parameters.d = file.put(device, "param.D");
  parameters.shift_b = file.put(device, "param.ssm_k_kernel.kernel.B");
  parameters.shift_c = file.put(device, "param.ssm_k_kernel.kernel.C", {width, state});
  parameters.shift_d = file.put(device, "param.ssm_k_D");
}

H3Layer::H3Layer(Device& device, const GoldenFile& file, std::int64_t slot_count, HeadOrder order)
    : device_(device), weights_(device, file), order_(order) {
  const std::int64_t width = weights_.width, state = weights_.state;
  filter_ = allocate_filter(device, width / head_dim(), width, state);
  device.run([&](Encoder& encoder) { encoder.discretize({weights_.parameters, filter_}); });
  state_.shift = device.allocate_tensor(DType::f32, {slot_count, width, state});
  state_.modes = device.allocate_tensor(DType::f32, {slot_count, width * head_dim(), state / 2, 2});
  positions_ = device.allocate_tensor(DType::i32, {slot_count});
}

void H3Layer::reset() {
  for (const Tensor& tensor : {state_.shift, state_.modes, positions_}) {
    device_.upload(tensor, std::vector<std::byte>(tensor.size_bytes()));
  }
}

void H3Layer::mixer(Encoder& encoder, const Tensor& qkv, const Tensor& y, ConvAlgorithm algorithm,
                    std::int64_t tokens) {
  encoder.h3_mixer({.qkv = qkv,
                    .filter = filter_,
                    .head_dim = head_dim(),
                    .head_order = order_,
                    .algorithm = algorithm,
                    .slots = slots_,
                    .positions = positions_,
                    .state = state_,
                    .y = y});
  encoder.advance({slots_, positions_, static_cast<std::int32_t>(tokens)});
}

void H3Layer::mixer_step(Encoder& encoder, const Tensor& qkv, const Tensor& y) {
  encoder.h3_step({.qkv = qkv,
                   .filter = filter_,
                   .head_dim = head_dim(),
                   .head_order = order_,
                   .slots = slots_,
                   .positions = positions_,
                   .state = state_,
                   .y = y});
  encoder.advance({slots_, positions_, 1});
}

std::vector<float> H3Layer::forward(const std::vector<float>& u, std::int64_t batch, std::int64_t tokens,
                                    ConvAlgorithm algorithm) {
  std::vector<std::int32_t> slots;
  for (std::int64_t b = 0; b < batch; ++b) slots.push_back(static_cast<std::int32_t>(b));
  slots_ = put_integers(device_, {batch}, slots);
  const Tensor x = put_floats(device_, {batch * tokens, width()}, u);
  const Tensor out = device_.allocate_tensor(DType::f32, {batch * tokens, width()});
  device_.run([&](Encoder& encoder) {
    const Tensor qkv = encoder.scratch(DType::f32, {3 * width(), batch, tokens});
    const Tensor y = encoder.scratch(DType::f32, {width(), batch, tokens});
    LinearArgs in;
    in.x = x;
    in.weight = weights_.projection;
    in.bias = weights_.projection_bias;
    in.y = qkv.reshape({3 * width(), batch * tokens});
    in.y_transposed = true;
    encoder.linear(in);
    mixer(encoder, qkv, y, algorithm, tokens);
    LinearArgs back;
    back.x = y.reshape({width(), batch * tokens});
    back.x_transposed = true;
    back.weight = weights_.output;
    back.bias = weights_.output_bias;
    back.y = out;
    encoder.linear(back);
  });
  return fetch(device_, out);
}

std::vector<float> H3Layer::step(const std::vector<float>& u, std::int64_t batch) {
  std::vector<std::int32_t> slots;
  for (std::int64_t b = 0; b < batch; ++b) slots.push_back(static_cast<std::int32_t>(b));
  slots_ = put_integers(device_, {batch}, slots);
  const Tensor x = put_floats(device_, {batch, width()}, u);
  const Tensor out = device_.allocate_tensor(DType::f32, {batch, width()});
  device_.run([&](Encoder& encoder) {
    const Tensor qkv = encoder.scratch(DType::f32, {batch, 3 * width()});
    const Tensor y = encoder.scratch(DType::f32, {batch, width()});
    LinearArgs in;
    in.x = x;
    in.weight = weights_.projection;
    in.bias = weights_.projection_bias;
    in.y = qkv;
    encoder.linear(in);
    mixer_step(encoder, qkv, y);
    LinearArgs back;
    back.x = y;
    back.weight = weights_.output;
    back.bias = weights_.output_bias;
    back.y = out;
    encoder.linear(back);
  });
  return fetch(device_, out);
}

template <typename Record>
std::vector<float> H3Layer::run_as(DType dtype, const std::vector<float>& values, Shape in, Shape out,
                                   Record record) {
  const Tensor wide_in = put_floats(device_, in, values), wide_out = device_.allocate_tensor(DType::f32, out);
  device_.run([&](Encoder& encoder) {
    if (dtype == DType::f32) return record(encoder, wide_in, wide_out);
    const Tensor narrow_in = encoder.scratch(dtype, in), narrow_out = encoder.scratch(dtype, out);
    encoder.copy({wide_in, narrow_in});
    record(encoder, narrow_in, narrow_out);
    encoder.copy({narrow_out, wide_out});
  });
  return fetch(device_, wide_out);
}

std::vector<float> H3Layer::mix(const std::vector<float>& qkv, std::int64_t batch, std::int64_t tokens,
                                ConvAlgorithm algorithm, DType dtype) {
  std::vector<std::int32_t> slots;
  for (std::int64_t b = 0; b < batch; ++b) slots.push_back(static_cast<std::int32_t>(b));
  slots_ = put_integers(device_, {batch}, slots);
  const auto record = [&](Encoder& encoder, const Tensor& in, const Tensor& y) {
    mixer(encoder, in, y, algorithm, tokens);
  };
  return transposed(run_as(dtype, transposed(qkv, batch * tokens, 3 * width()), {3 * width(), batch, tokens},
                           {width(), batch, tokens}, record),
                    width(), batch * tokens);
}

std::vector<float> H3Layer::mix_step(const std::vector<float>& qkv, std::int64_t batch, DType dtype) {
  std::vector<std::int32_t> slots;
  for (std::int64_t b = 0; b < batch; ++b) slots.push_back(static_cast<std::int32_t>(b));
  slots_ = put_integers(device_, {batch}, slots);
  const auto record = [&](Encoder& encoder, const Tensor& in, const Tensor& y) { mixer_step(encoder, in, y); };
  return run_as(dtype, qkv, {batch, 3 * width()}, {batch, width()}, record);
}

}  // namespace riverhorse::test
