// The operations against the original implementation's numbers: tests/golden/ops and tests/golden/layer.
#include "ops_golden.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

namespace riverhorse::test {

namespace {

nlohmann::json cases_of(const std::string& name) {
  return nlohmann::json::parse(std::ifstream(std::string(RIVERHORSE_TEST_DATA) + "/ops/" + name + ".json"));
}

Tensor zeros(Device& device, Shape shape) { return device.allocate_tensor(DType::f32, shape); }

// K of the SSM, and the first 64 of it in the Toeplitz table.
void s4d_kernel(Device& device, const nlohmann::json& entry) {
  const GoldenFile file("ops/s4d_kernel.safetensors");
  const std::string prefix = entry.at("case").get<std::string>() + ".";
  const std::int64_t heads = entry.at("H"), state = entry.at("N"), length = entry.at("L");
  const H3Parameters p = s4d_parameters(device, file, prefix, heads, state, entry.at("disc") == "zoh");
  const H3Filter filter = allocate_filter(device, heads, heads, state);
  const Tensor kernel = zeros(device, {heads, length});
  device.run([&](Encoder& encoder) {
    encoder.discretize({p, filter});
    encoder.ssm_kernel({filter, kernel});
  });
  file.expect(fetch(device, kernel), prefix + "K");
  // Against double: zoh of the original subtracts exp(z) - 1 in fp32, the double twin does not lose there.
  EXPECT_LE(max_error(fetch(device, kernel), file.floats(prefix + "K_f64")), 2e-5);

  const std::vector<float> toeplitz = fetch(device, filter.toeplitz), expected = file.floats(prefix + "K_f64");
  std::vector<float> first, first_expected;
  for (std::int64_t head = 0; head < heads; ++head) {
    for (std::int64_t lag = 0; lag < std::min<std::int64_t>(length, H3Filter::chunk); ++lag) {
      first.push_back(toeplitz[head * H3Filter::chunk + lag]);
      first_expected.push_back(expected[head * length + lag]);
    }
  }
  EXPECT_LE(max_error(first, first_expected), 2e-5);
}

void shift_kernel(Device& device, const nlohmann::json& entry) {
  const GoldenFile file("ops/shift_kernel.safetensors");
  const std::string prefix = entry.at("case").get<std::string>() + ".";
  const std::int64_t width = file.shape(prefix + "B")[0], state = file.shape(prefix + "B")[1];
  const std::int64_t length = file.shape(prefix + "K")[1];
  H3Parameters p;
  p.log_dt = zeros(device, {width});
  p.inv_a_real = zeros(device, {width, state / 2});
  p.a_imag = zeros(device, {width, state / 2});
  p.b = zeros(device, {width, state / 2, 2});
  p.c = zeros(device, {width, state / 2, 2});
  p.d = zeros(device, {width});
  p.shift_b = file.put(device, prefix + "B");
  p.shift_c = file.put(device, prefix + "C", {width, state});
  p.shift_d = zeros(device, {width});
  const H3Filter filter = allocate_filter(device, width, width, state);
  device.run([&](Encoder& encoder) { encoder.discretize({p, filter}); });
  const std::vector<float> taps = fetch(device, filter.shift_taps);
  std::vector<float> kernel;
  for (std::int64_t channel = 0; channel < width; ++channel) {
    for (std::int64_t lag = 0; lag < length; ++lag)
      kernel.push_back(lag < state ? taps[channel * state + lag] : 0.0f);
  }
  file.expect(kernel, prefix + "K");
}

void fftconv(Device& device, const nlohmann::json& entry) {
  if (const Support support = device.supports(Feature::conv_fft); !support.supported) GTEST_SKIP() << support.reason;
  const GoldenFile file("ops/fftconv.safetensors");
  const std::string prefix = entry.at("case").get<std::string>() + ".";
  const Tensor y = zeros(device, file.shape(prefix + "y"));
  const FftConvArgs args{.u = file.put(device, prefix + "u"),
                         .kernel = file.put(device, prefix + "k"),
                         .skip = file.put(device, prefix + "D"),
                         .gelu_erf = entry.at("gelu").get<bool>(),
                         .y = y};
  device.run([&](Encoder& encoder) { encoder.fft_conv(args); });
  file.expect(fetch(device, y), prefix + "y");
}

// q (conv(K, k v) + D k v), pairs of channels of a head summed: the convolution by fft_conv, the rest here.
void h3_gated(Device& device, const nlohmann::json& entry) {
  if (const Support support = device.supports(Feature::conv_fft); !support.supported) GTEST_SKIP() << support.reason;
  const GoldenFile file("ops/h3_gated.safetensors");
  const std::string prefix = entry.at("case").get<std::string>() + ".";
  const std::int64_t batch = entry.at("B"), width = entry.at("d_model"), heads = entry.at("H"),
                     d = entry.at("head_dim"), length = entry.at("L");
  const std::vector<float> q = file.floats(prefix + "q"), k = file.floats(prefix + "k"),
                           v = file.floats(prefix + "v");
  const auto at = [&](std::int64_t b, std::int64_t channel) { return (b * width + channel) * length; };
  std::vector<float> y(q.size(), 0.0f);
  const Tensor kernel = file.put(device, prefix + "ssm_kernel"), skip = file.put(device, prefix + "D");
  for (std::int64_t i = 0; i < d; ++i) {
    for (std::int64_t j = 0; j < d; ++j) {
      std::vector<float> product;
      for (std::int64_t b = 0; b < batch; ++b) {
        for (std::int64_t h = 0; h < heads; ++h) {
          for (std::int64_t t = 0; t < length; ++t)
            product.push_back(k[at(b, h * d + i) + t] * v[at(b, h * d + j) + t]);
        }
      }
      const Tensor u = put_floats(device, {batch, heads, length}, product), z = zeros(device, {batch, heads, length});
      device.run([&](Encoder& encoder) { encoder.fft_conv({u, kernel, skip, false, z}); });
      const std::vector<float> sums = fetch(device, z);
      for (std::int64_t b = 0; b < batch; ++b) {
        for (std::int64_t h = 0; h < heads; ++h) {
          for (std::int64_t t = 0; t < length; ++t) {
            y[at(b, h * d + j) + t] += q[at(b, h * d + i) + t] * sums[(b * heads + h) * length + t];
          }
        }
      }
    }
  }
  file.expect(y, prefix + "y");
}

bool lacks(Device& device, ConvAlgorithm algorithm, std::string& reason) {
  if (algorithm == ConvAlgorithm::automatic) return false;
  const Support support =
      device.supports(algorithm == ConvAlgorithm::fft ? Feature::conv_fft : Feature::conv_chunked);
  reason = support.reason;
  return !support.supported;
}

void h3_layer(Device& device, const std::string& name, HeadOrder order, ConvAlgorithm algorithm) {
  std::string reason;
  if (lacks(device, algorithm, reason)) GTEST_SKIP() << reason;
  const GoldenFile file("layer/" + name + ".safetensors");
  H3Layer layer(device, file, 5, order);
  const Shape shape = file.shape("u");
  const std::vector<float> y = layer.forward(file.floats("u"), shape[0], shape[1], algorithm);
  const bool fast = order == HeadOrder::head_major && layer.head_dim() > 1;
  if (fast || order == HeadOrder::dim_major || layer.head_dim() == 1) file.expect(y, fast ? "fast_y" : "y");
}

// rows [begin, begin + count) of the second dimension of (B, L, D)
std::vector<float> tokens_of(const std::vector<float>& values, const Shape& shape, std::int64_t begin,
                             std::int64_t count) {
  std::vector<float> out;
  for (std::int64_t b = 0; b < shape[0]; ++b) {
    const auto row = values.begin() + static_cast<std::ptrdiff_t>((b * shape[1] + begin) * shape[2]);
    out.insert(out.end(), row, row + static_cast<std::ptrdiff_t>(count * shape[2]));
  }
  return out;
}

// The original keeps s_n = sum_{m <= n} B_m k_{t-(n-m)}; ours is the last N keys, from which that follows.
std::vector<float> original_shift_state(Device& device, const H3Layer& layer, const std::vector<float>& shift_b,
                                        std::int64_t batch, std::int64_t position) {
  const Tensor& shift = layer.state().shift;
  const std::vector<float> ring = fetch(device, shift);
  const std::int64_t width = shift.shape[1], state = shift.shape[2];
  std::vector<float> out;
  for (std::int64_t row = 0; row < batch * width; ++row) {
    for (std::int64_t n = 0; n < state; ++n) {
      double sum = 0;
      for (std::int64_t m = 0; m <= n; ++m) {
        const std::int64_t key = position - 1 - (n - m);
        if (key >= 0)
          sum += static_cast<double>(shift_b[(row % width) * state + m]) * ring[row * state + key % state];
      }
      out.push_back(static_cast<float>(sum));
    }
  }
  return out;
}

// Ours (slot, (h d + i) d + j, n, 2); the original's ((b d + i) d + j, h, n, 2).
std::vector<float> original_modes(Device& device, const H3Layer& layer, std::int64_t batch) {
  const Tensor& modes = layer.state().modes;
  const std::vector<float> values = fetch(device, modes);
  const std::int64_t d = layer.head_dim(), heads = layer.width() / d, size = modes.shape[2] * 2;
  std::vector<float> out;
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t pair = 0; pair < d * d; ++pair) {
      for (std::int64_t h = 0; h < heads; ++h) {
        const auto from = values.begin() + static_cast<std::ptrdiff_t>(((b * heads + h) * d * d + pair) * size);
        out.insert(out.end(), from, from + static_cast<std::ptrdiff_t>(size));
      }
    }
  }
  return out;
}

// Prefix by the mixer, then token by token; outputs and states, also those in the original's form.
void h3_steps(Device& device, const std::string& name, ConvAlgorithm algorithm) {
  std::string reason;
  if (lacks(device, algorithm, reason)) GTEST_SKIP() << reason;
  const GoldenFile file("layer/" + name + ".safetensors");
  const std::int64_t prefix = file.number("prefix"), steps = file.number("steps");
  const Shape shape = file.shape("u");
  const std::int64_t batch = shape[0];
  const std::vector<float> u = file.floats("u"), shift_b = file.floats("param.ssm_k_kernel.kernel.B");
  H3Layer layer(device, file, batch + 1, HeadOrder::dim_major);
  if (prefix > 0) {
    const std::vector<float> y = layer.forward(tokens_of(u, shape, 0, prefix), batch, prefix, algorithm);
    file.expect(y, "y_prefix");
    file.expect(original_shift_state(device, layer, shift_b, batch, prefix), "shift_state_prefix");
    file.expect(original_modes(device, layer, batch), "diag_state_prefix");
  }
  std::vector<float> outputs(static_cast<std::size_t>(batch * steps * shape[2])), shift_states, modes;
  for (std::int64_t step = 0; step < steps; ++step) {
    const std::vector<float> y = layer.step(tokens_of(u, shape, prefix + step, 1), batch);
    for (std::int64_t b = 0; b < batch; ++b) {
      std::copy_n(y.begin() + static_cast<std::ptrdiff_t>(b * shape[2]), shape[2],
                  outputs.begin() + static_cast<std::ptrdiff_t>((b * steps + step) * shape[2]));
    }
    const auto append = [](std::vector<float>& list, const std::vector<float>& more) {
      list.insert(list.end(), more.begin(), more.end());
    };
    append(shift_states, original_shift_state(device, layer, shift_b, batch, prefix + step + 1));
    append(modes, original_modes(device, layer, batch));
  }
  file.expect(outputs, "y_steps");
  file.expect(shift_states, "shift_state_steps");
  file.expect(modes, "diag_state_steps");

  layer.reset();
  file.expect(layer.forward(u, batch, shape[1], algorithm), "y_full");
}

// Attention with its cache: everything at once, then prefix and steps.
void mha(Device& device, const std::string& name) {
  const GoldenFile file("layer/" + name + ".safetensors");
  const Shape shape = file.shape("u");
  const std::int64_t batch = shape[0], length = shape[1], width = shape[2], steps = file.number("steps");
  const int heads = static_cast<int>(file.number("num_heads"));
  const int rotary = static_cast<int>(file.number("rotary_emb_dim"));
  const Tensor weight = file.put(device, "param.Wqkv.weight");
  const Tensor bias = file.has("param.Wqkv.bias") ? file.put(device, "param.Wqkv.bias") : Tensor{};
  const Tensor out_weight = file.put(device, "param.out_proj.weight");
  const Tensor out_bias = file.put(device, "param.out_proj.bias");
  std::vector<std::int32_t> slot_list;
  for (std::int64_t b = 0; b < batch; ++b) slot_list.push_back(static_cast<std::int32_t>(b));
  const Tensor slots = put_integers(device, {batch}, slot_list);
  Tensor positions, rotated;
  AttentionCache cache;
  const auto begin = [&] {
    positions = device.allocate_tensor(DType::i32, {batch});
    cache = {zeros(device, {batch, length + 3, width}), zeros(device, {batch, length + 3, width})};
  };
  const auto forward = [&](const std::vector<float>& u, std::int64_t tokens) {
    const Tensor x = put_floats(device, {batch * tokens, width}, u), out = zeros(device, {batch * tokens, width});
    const Tensor qkv = zeros(device, {batch, tokens, 3 * width}), y = zeros(device, {batch, tokens, width});
    device.run([&](Encoder& encoder) {
      LinearArgs in;
      in.x = x;
      in.weight = weight;
      in.bias = bias;
      in.y = qkv.reshape({batch * tokens, 3 * width});
      encoder.linear(in);
      if (rotary > 0) encoder.rotary({qkv, heads, rotary, slots, positions});
      const AttentionArgs args{qkv, heads, slots, positions, cache, y};
      if (tokens == 1) {
        encoder.attention_step(args);
      } else {
        encoder.attention(args);
      }
      encoder.advance({slots, positions, static_cast<std::int32_t>(tokens)});
      LinearArgs back;
      back.x = y.reshape({batch * tokens, width});
      back.weight = out_weight;
      back.bias = out_bias;
      back.y = out;
      encoder.linear(back);
    });
    rotated = qkv;
    return fetch(device, out);
  };

  const std::vector<float> u = file.floats("u");
  begin();
  file.expect(forward(u, length), "y");
  const std::vector<float> keys = fetch(device, cache.k), values = fetch(device, cache.v),
                           qkv = fetch(device, rotated);
  std::vector<float> kv, q;
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t t = 0; t < length; ++t) {
      const auto row = static_cast<std::ptrdiff_t>((b * (length + 3) + t) * width);
      kv.insert(kv.end(), keys.begin() + row, keys.begin() + row + static_cast<std::ptrdiff_t>(width));
      kv.insert(kv.end(), values.begin() + row, values.begin() + row + static_cast<std::ptrdiff_t>(width));
      const auto query = qkv.begin() + static_cast<std::ptrdiff_t>((b * length + t) * 3 * width);
      q.insert(q.end(), query, query + static_cast<std::ptrdiff_t>(width));
    }
  }
  file.expect(kv, "kv_cache");
  if (file.has("q_after_rotary")) file.expect(q, "q_after_rotary");

  begin();
  const std::int64_t prefix = length - steps;
  forward(tokens_of(u, shape, 0, prefix), prefix);
  std::vector<float> outputs(static_cast<std::size_t>(batch * steps * width));
  for (std::int64_t step = 0; step < steps; ++step) {
    const std::vector<float> y = forward(tokens_of(u, shape, prefix + step, 1), 1);
    for (std::int64_t b = 0; b < batch; ++b) {
      std::copy_n(y.begin() + static_cast<std::ptrdiff_t>(b * width), width,
                  outputs.begin() + static_cast<std::ptrdiff_t>((b * steps + step) * width));
    }
  }
  file.expect(outputs, "y_steps");
}

}  // namespace

void register_golden_tests() {
  using CaseTest = void (*)(Device&, const nlohmann::json&);
  const std::pair<const char*, CaseTest> operations[] = {
      {"s4d_kernel", s4d_kernel}, {"shift_kernel", shift_kernel}, {"fftconv", fftconv}, {"h3_gated", h3_gated}};
  for (const auto& [name, test] : operations) {
    for (const nlohmann::json& entry : cases_of(name)) {
      register_for_devices("golden", std::string(name) + "." + entry.at("case").get<std::string>(),
                           [test = test, entry](Device& device) { test(device, entry); });
    }
  }
  const std::pair<const char*, ConvAlgorithm> algorithms[] = {
      {"auto", ConvAlgorithm::automatic}, {"chunked", ConvAlgorithm::chunked}, {"fft", ConvAlgorithm::fft}};
  for (const auto& [label, algorithm] : algorithms) {
    for (const char* name : {"h3_layer_a", "h3_layer_b", "h3_layer_hd4"}) {
      for (const HeadOrder order : {HeadOrder::dim_major, HeadOrder::head_major}) {
        const std::string test_name =
            std::string(name) + "." + label + (order == HeadOrder::head_major ? ".head_major" : ".dim_major");
        register_for_devices("golden", test_name, [name, order, algorithm = algorithm](Device& device) {
          h3_layer(device, name, order, algorithm);
        });
      }
    }
    for (const char* name :
         {"h3_step_short_prefix", "h3_step_long_prefix", "h3_step_from_zero", "h3_step_hd4_fixed"}) {
      register_for_devices("golden", std::string(name) + "." + label,
                           [name, algorithm = algorithm](Device& device) { h3_steps(device, name, algorithm); });
    }
  }
  for (const char* name : {"mha_plain", "mha_rotary_partial"}) {
    register_for_devices("golden", name, [name](Device& device) { mha(device, name); });
  }
}

}  // namespace riverhorse::test
