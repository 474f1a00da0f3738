// The backward passes of the H3 layer and of its parts against the gradients that the original's autograd gives:
// grad* of tests/golden/ops and tests/golden/layer. G is the cotangent of the output.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "ops_golden.h"

namespace riverhorse::test {

namespace {

Tensor zeros(Device& device, Shape shape) { return device.allocate_tensor(DType::f32, shape); }
Tensor zeros_like(Device& device, const Tensor& tensor) { return zeros(device, tensor.shape); }

H3Parameters zeros_like(Device& device, const H3Parameters& p) {
  const auto same = [&](const Tensor& tensor) { return zeros_like(device, tensor); };
  return {same(p.log_dt), same(p.inv_a_real), same(p.a_imag),  same(p.b),      same(p.c),
          same(p.d),      same(p.shift_b),    same(p.shift_c), same(p.shift_d)};
}

H3FilterGradient allocate_filter_gradient(Device& device, std::int64_t heads, std::int64_t width,
                                          std::int64_t state) {
  return {zeros(device, {heads, state / 2, 2}), zeros(device, {heads, state / 2, 2}), zeros(device, {heads}),
          zeros(device, {width, state})};
}

// From the parameters to the kernel and back. The original's fp32 loses what its double twin keeps.
void s4d_kernel(Device& device, const nlohmann::json& entry) {
  const GoldenFile file("ops/s4d_kernel.safetensors");
  const std::string prefix = entry.at("case").get<std::string>() + ".";
  const std::int64_t heads = entry.at("H"), state = entry.at("N");
  const H3Parameters p = s4d_parameters(device, file, prefix, heads, state, entry.at("disc") == "zoh");
  const H3Parameters gradient = zeros_like(device, p);
  const H3Filter filter = allocate_filter(device, heads, heads, state);
  const H3FilterGradient d_filter = allocate_filter_gradient(device, heads, heads, state);
  const Tensor d_kernel = file.put(device, prefix + "G");
  device.run([&](Encoder& encoder) {
    encoder.discretize({p, filter});
    encoder.ssm_kernel_backward({filter, d_kernel, {d_filter.log_a, d_filter.gain, {}, {}}});
    encoder.discretize_backward({p, filter, d_filter, gradient});
  });
  const std::pair<const char*, Tensor> found[] = {{"grad_log_dt", gradient.log_dt},
                                                  {"grad_inv_A_real", gradient.inv_a_real},
                                                  {"grad_A_imag", gradient.a_imag},
                                                  {"grad_B", gradient.b},
                                                  {"grad_C", gradient.c}};
  for (const auto& [name, tensor] : found) {
    const std::vector<float> values = fetch(device, tensor);
    file.expect(values, prefix + name);
    EXPECT_LE(max_error(values, file.floats(prefix + name + "_f64")), 2e-5) << prefix << name;
  }
}

// The kernel is as long as the text, the filter has as many taps as the state: the others have no gradient.
void shift_kernel(Device& device, const nlohmann::json& entry) {
  const GoldenFile file("ops/shift_kernel.safetensors");
  const std::string prefix = entry.at("case").get<std::string>() + ".";
  const Shape shape = file.shape(prefix + "B");
  const std::int64_t width = shape[0], state = shape[1], length = file.shape(prefix + "G")[1];
  H3Parameters p;
  for (Tensor* tensor : {&p.log_dt, &p.d, &p.shift_d}) *tensor = zeros(device, {width});
  for (Tensor* tensor : {&p.inv_a_real, &p.a_imag}) *tensor = zeros(device, {width, state / 2});
  for (Tensor* tensor : {&p.b, &p.c}) *tensor = zeros(device, {width, state / 2, 2});
  p.shift_b = file.put(device, prefix + "B");
  p.shift_c = file.put(device, prefix + "C", {width, state});
  const H3Parameters gradient = zeros_like(device, p);
  const H3Filter filter = allocate_filter(device, width, width, state);
  H3FilterGradient d_filter = allocate_filter_gradient(device, width, width, state);
  const std::vector<float> cotangent = file.floats(prefix + "G");
  std::vector<float> d_taps, first;
  for (std::int64_t channel = 0; channel < width; ++channel) {
    for (std::int64_t lag = 0; lag < state; ++lag) {
      d_taps.push_back(lag < length ? cotangent[channel * length + lag] : 0.0f);
    }
    first.push_back(d_taps[channel * state]);
  }
  d_filter.shift_taps = put_floats(device, {width, state}, d_taps);
  device.run([&](Encoder& encoder) {
    encoder.discretize({p, filter});
    encoder.discretize_backward({p, filter, d_filter, gradient});
  });
  file.expect(fetch(device, gradient.shift_b), prefix + "grad_B");
  file.expect(fetch(device, gradient.shift_c), prefix + "grad_C");
  EXPECT_EQ(fetch(device, gradient.shift_d), first);
}

void fftconv(Device& device, const nlohmann::json& entry) {
  const GoldenFile file("ops/fftconv.safetensors");
  const std::string prefix = entry.at("case").get<std::string>() + ".";
  FftConvBackwardArgs args;
  args.u = file.put(device, prefix + "u");
  args.kernel = file.put(device, prefix + "k");
  args.skip = file.put(device, prefix + "D");
  args.gelu_erf = entry.at("gelu").get<bool>();
  args.d_y = file.put(device, prefix + "G");
  args.d_u = zeros_like(device, args.u);
  args.d_kernel = zeros_like(device, args.kernel);
  args.d_skip = zeros_like(device, args.skip);
  device.run([&](Encoder& encoder) { encoder.fft_conv_backward(args); });
  file.expect(fetch(device, args.d_u), prefix + "grad_u");
  file.expect(fetch(device, args.d_kernel), prefix + "grad_k");
  file.expect(fetch(device, args.d_skip), prefix + "grad_D");
}

// The mixer's pairs of channels with a given kernel: the convolutions by fft_conv and its backward, which sums the
// gradients of kernel and skip over the pairs; the products here.
void h3_gated(Device& device, const nlohmann::json& entry) {
  const GoldenFile file("ops/h3_gated.safetensors");
  const std::string prefix = entry.at("case").get<std::string>() + ".";
  const std::int64_t batch = entry.at("B"), width = entry.at("d_model"), heads = entry.at("H"),
                     d = entry.at("head_dim"), length = entry.at("L");
  const std::vector<float> q = file.floats(prefix + "q"), k = file.floats(prefix + "k"),
                           v = file.floats(prefix + "v"), d_y = file.floats(prefix + "G");
  const Tensor kernel = file.put(device, prefix + "ssm_kernel"), skip = file.put(device, prefix + "D");
  const Tensor d_kernel = zeros_like(device, kernel), d_skip = zeros_like(device, skip);
  const Shape shape{batch, heads, length};
  std::vector<double> d_q(q.size()), d_k(q.size()), d_v(q.size());
  for (std::int64_t i = 0; i < d; ++i) {
    for (std::int64_t j = 0; j < d; ++j) {
      // Where the head's channels i and j are for an element of the pair, (B, H, L).
      std::vector<std::size_t> at_i, at_j;
      for (std::int64_t row = 0; row < batch * heads; ++row) {
        const std::int64_t channel = row / heads * width + row % heads * d;
        for (std::int64_t t = 0; t < length; ++t) {
          at_i.push_back(static_cast<std::size_t>((channel + i) * length + t));
          at_j.push_back(static_cast<std::size_t>((channel + j) * length + t));
        }
      }
      std::vector<float> w, d_z;
      for (std::size_t n = 0; n < at_i.size(); ++n) {
        w.push_back(k[at_i[n]] * v[at_j[n]]);
        d_z.push_back(q[at_i[n]] * d_y[at_j[n]]);
      }
      FftConvBackwardArgs args;
      args.u = put_floats(device, shape, w);
      args.kernel = kernel;
      args.skip = skip;
      args.d_y = put_floats(device, shape, d_z);
      args.d_u = zeros(device, shape);
      args.d_kernel = d_kernel;
      args.d_skip = d_skip;
      const Tensor outputs = zeros(device, shape);
      device.run([&](Encoder& encoder) {
        encoder.fft_conv({args.u, kernel, skip, false, outputs});
        encoder.fft_conv_backward(args);
      });
      const std::vector<float> z = fetch(device, outputs), d_w = fetch(device, args.d_u);
      for (std::size_t n = 0; n < at_i.size(); ++n) {
        d_q[at_i[n]] += static_cast<double>(d_y[at_j[n]]) * z[n];
        d_k[at_i[n]] += static_cast<double>(d_w[n]) * v[at_j[n]];
        d_v[at_j[n]] += static_cast<double>(d_w[n]) * k[at_i[n]];
      }
    }
  }
  file.expect({d_q.begin(), d_q.end()}, prefix + "grad_q");
  file.expect({d_k.begin(), d_k.end()}, prefix + "grad_k");
  file.expect({d_v.begin(), d_v.end()}, prefix + "grad_v");
  file.expect(fetch(device, d_kernel), prefix + "grad_ssm_kernel");
  file.expect(fetch(device, d_skip), prefix + "grad_D");
}

// linear, mixer, linear, and back to u and every parameter.
void h3_layer(Device& device, const std::string& name, HeadOrder order, ConvAlgorithm algorithm) {
  const GoldenFile file("layer/" + name + ".safetensors");
  const H3LayerWeights weights(device, file);
  const Shape shape = file.shape("u");
  const std::int64_t width = weights.width, batch = shape[0], tokens = shape[1], rows = batch * tokens;
  const std::int64_t heads = width / weights.head_dim;
  const bool fast = order == HeadOrder::head_major && weights.head_dim > 1;
  const H3Filter filter = allocate_filter(device, heads, width, weights.state);

  LinearArgs in;
  in.x = file.put(device, "u", {rows, width});
  in.weight = weights.projection;
  in.bias = weights.projection_bias;
  in.y = zeros(device, {3 * width, rows});
  in.y_transposed = true;
  H3MixerArgs mixer;
  mixer.qkv = in.y.reshape({3 * width, batch, tokens});
  mixer.filter = filter;
  mixer.head_dim = weights.head_dim;
  mixer.head_order = order;
  mixer.algorithm = algorithm;
  mixer.y = zeros(device, {width, batch, tokens});
  LinearArgs out;
  out.x = mixer.y.reshape({width, rows});
  out.x_transposed = true;
  out.weight = weights.output;
  out.bias = weights.output_bias;
  out.y = zeros(device, {rows, width});
  device.run([&](Encoder& encoder) {
    encoder.discretize({weights.parameters, filter});
    encoder.linear(in);
    encoder.h3_mixer(mixer);
    encoder.linear(out);
  });
  file.expect(fetch(device, out.y), fast ? "fast_y" : "y");

  LinearBackwardArgs d_out;
  d_out.d_y = file.put(device, "G", {rows, width});
  d_out.x = out.x;
  d_out.x_transposed = true;
  d_out.weight = out.weight;
  d_out.d_x = zeros_like(device, out.x);
  d_out.d_weight = zeros_like(device, out.weight);
  d_out.d_bias = zeros_like(device, out.bias);
  H3MixerBackwardArgs d_mixer;
  d_mixer.qkv = mixer.qkv;
  d_mixer.filter = filter;
  d_mixer.head_dim = weights.head_dim;
  d_mixer.head_order = order;
  d_mixer.algorithm = algorithm;
  d_mixer.d_y = d_out.d_x.reshape({width, batch, tokens});
  d_mixer.d_qkv = zeros_like(device, mixer.qkv);
  d_mixer.d_filter = allocate_filter_gradient(device, heads, width, weights.state);
  const H3Parameters gradient = zeros_like(device, weights.parameters);
  LinearBackwardArgs d_in;
  d_in.d_y = d_mixer.d_qkv.reshape({3 * width, rows});
  d_in.y_transposed = true;
  d_in.x = in.x;
  d_in.weight = in.weight;
  d_in.d_x = zeros_like(device, in.x);
  d_in.d_weight = zeros_like(device, in.weight);
  d_in.d_bias = zeros_like(device, in.bias);
  device.run([&](Encoder& encoder) {
    encoder.linear_backward(d_out);
    encoder.h3_mixer_backward(d_mixer);
    encoder.discretize_backward({weights.parameters, filter, d_mixer.d_filter, gradient});
    encoder.linear_backward(d_in);
  });

  const std::string prefix = fast ? "fast_grad" : "grad";
  file.expect(fetch(device, d_in.d_x), prefix + "_u");
  const std::pair<const char*, Tensor> found[] = {{"q_proj.weight", d_in.d_weight.slice(0, width)},
                                                  {"k_proj.weight", d_in.d_weight.slice(width, width)},
                                                  {"v_proj.weight", d_in.d_weight.slice(2 * width, width)},
                                                  {"q_proj.bias", d_in.d_bias.slice(0, width)},
                                                  {"k_proj.bias", d_in.d_bias.slice(width, width)},
                                                  {"v_proj.bias", d_in.d_bias.slice(2 * width, width)},
                                                  {"output_linear.weight", d_out.d_weight},
                                                  {"output_linear.bias", d_out.d_bias},
                                                  {"kernel.kernel.log_dt", gradient.log_dt},
                                                  {"kernel.kernel.inv_A_real", gradient.inv_a_real},
                                                  {"kernel.kernel.A_imag", gradient.a_imag},
                                                  {"kernel.kernel.B", gradient.b},
                                                  {"kernel.kernel.C", gradient.c},
                                                  {"D", gradient.d},
                                                  {"ssm_k_kernel.kernel.B", gradient.shift_b},
                                                  {"ssm_k_kernel.kernel.C", gradient.shift_c},
                                                  {"ssm_k_D", gradient.shift_d}};
  for (const auto& [parameter, tensor] : found) file.expect(fetch(device, tensor), prefix + "." + parameter);
}

// On devices that train, and have what else the test needs.
void register_training(const std::string& name, std::vector<Feature> needs, const DeviceTest& test) {
  needs.push_back(Feature::training);
  register_for_devices("golden_training", name, [needs, test](Device& device) {
    for (const Feature feature : needs) {
      if (const Support support = device.supports(feature); !support.supported) GTEST_SKIP() << support.reason;
    }
    test(device);
  });
}

}  // namespace

void register_training_golden_tests() {
  struct Operation {
    const char* name;
    std::vector<Feature> needs;
    void (*test)(Device&, const nlohmann::json&);
  };
  const Operation operations[] = {{"s4d_kernel", {}, s4d_kernel},
                                  {"shift_kernel", {}, shift_kernel},
                                  {"fftconv", {Feature::conv_fft}, fftconv},
                                  {"h3_gated", {Feature::conv_fft}, h3_gated}};
  for (const Operation& operation : operations) {
    const std::string path = std::string(RIVERHORSE_TEST_DATA) + "/ops/" + operation.name + ".json";
    for (const nlohmann::json& entry : nlohmann::json::parse(std::ifstream(path))) {
      register_training(fmt::format("{}.{}", operation.name, entry.at("case").get<std::string>()), operation.needs,
                        [test = operation.test, entry](Device& device) { test(device, entry); });
    }
  }
  struct Way {
    const char* name;
    std::vector<Feature> needs;
    ConvAlgorithm algorithm;
  };
  const Way ways[] = {{"auto", {}, ConvAlgorithm::automatic},
                      {"chunked", {Feature::conv_chunked}, ConvAlgorithm::chunked},
                      {"fft", {Feature::conv_fft}, ConvAlgorithm::fft}};
  for (const Way& way : ways) {
    for (const char* name : {"h3_layer_a", "h3_layer_b", "h3_layer_hd4"}) {
      for (const HeadOrder order : {HeadOrder::dim_major, HeadOrder::head_major}) {
        const char* suffix = order == HeadOrder::head_major ? ".head_major" : ".dim_major";
        register_training(
            fmt::format("{}.{}{}", name, way.name, suffix), way.needs,
            [name, order, algorithm = way.algorithm](Device& device) { h3_layer(device, name, order, algorithm); });
      }
    }
  }
}

}  // namespace riverhorse::test
