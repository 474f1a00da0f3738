// Attention's training path against the golden layers: what the original's autograd gives for u and every parameter.
// The projections around it are products of small matrices, done here in double.
#include "cpu/dropout.h"
#include "ops_golden.h"

namespace riverhorse::test {

namespace {

using Values = std::vector<float>;

// y (rows, out) = x (rows, in) W^T + bias
Values linear(const Values& x, const Values& weight, const Values& bias) {
  const std::size_t outputs = bias.size(), inputs = weight.size() / outputs, rows = x.size() / inputs;
  Values y;
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t m = 0; m < outputs; ++m) {
      double sum = bias[m];
      for (std::size_t k = 0; k < inputs; ++k) sum += static_cast<double>(x[r * inputs + k]) * weight[m * inputs + k];
      y.push_back(static_cast<float>(sum));
    }
  }
  return y;
}

struct LinearGradient {
  Values x, weight, bias;
};

LinearGradient linear_gradient(const Values& d_y, const Values& x, const Values& weight, std::size_t outputs) {
  const std::size_t inputs = weight.size() / outputs, rows = x.size() / inputs;
  std::vector<double> d_x(x.size()), d_weight(weight.size()), d_bias(outputs);
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t m = 0; m < outputs; ++m) {
      const double d = d_y[r * outputs + m];
      d_bias[m] += d;
      for (std::size_t k = 0; k < inputs; ++k) {
        d_x[r * inputs + k] += d * weight[m * inputs + k];
        d_weight[m * inputs + k] += d * x[r * inputs + k];
      }
    }
  }
  return {Values(d_x.begin(), d_x.end()), Values(d_weight.begin(), d_weight.end()),
          Values(d_bias.begin(), d_bias.end())};
}

void mha_training(Device& device, const std::string& name) {
  const Support support = device.supports(Feature::training);
  if (!support.supported) GTEST_SKIP() << support.reason;
  const GoldenFile file("layer/" + name + ".safetensors");
  const Shape shape = file.shape("u");
  const auto width = static_cast<std::size_t>(shape[2]);
  const int heads = static_cast<int>(file.number("num_heads"));
  const int rotary = static_cast<int>(file.number("rotary_emb_dim"));
  const Values u = file.floats("u"), cotangent = file.floats("G");
  const Values weight = file.floats("param.Wqkv.weight"), out_weight = file.floats("param.out_proj.weight");

  AttentionArgs args;
  args.qkv =
      put_floats(device, {shape[0], shape[1], 3 * shape[2]}, linear(u, weight, file.floats("param.Wqkv.bias")));
  args.heads = heads;
  args.y = device.allocate_tensor(DType::f32, shape);
  args.log_sum_exp = device.allocate_tensor(DType::f32, {shape[0], heads, shape[1]});
  device.run([&](Encoder& encoder) {
    if (rotary > 0) encoder.rotary({args.qkv, heads, rotary, {}, {}, false});
    encoder.attention(args);
  });
  const Values attended = fetch(device, args.y);
  file.expect(linear(attended, out_weight, file.floats("param.out_proj.bias")), "y");

  const LinearGradient out = linear_gradient(cotangent, attended, out_weight, width);
  file.expect(out.weight, "grad.out_proj.weight");
  file.expect(out.bias, "grad.out_proj.bias");

  const Tensor d_y = put_floats(device, shape, out.x), d_qkv = device.allocate_tensor(DType::f32, args.qkv.shape);
  device.run([&](Encoder& encoder) {
    encoder.attention_backward({args.qkv, heads, {}, args.y, args.log_sum_exp, d_y, d_qkv});
    if (rotary > 0) encoder.rotary({d_qkv, heads, rotary, {}, {}, true});
  });
  const LinearGradient in = linear_gradient(fetch(device, d_qkv), u, weight, 3 * width);
  file.expect(in.weight, "grad.Wqkv.weight");
  file.expect(in.bias, "grad.Wqkv.bias");
  file.expect(in.x, "grad_u");
}

// Equal scores and values that are the rows of a unit matrix: y_t is row t of the probabilities.
void probabilities_are_dropped_by_index(Device& device) {
  const Support support = device.supports(Feature::training);
  if (!support.supported) GTEST_SKIP() << support.reason;
  constexpr std::int64_t batch = 3, heads = 2, tokens = 37, width = heads * tokens;
  Values qkv(static_cast<std::size_t>(batch * tokens * 3 * width));
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (std::int64_t h = 0; h < heads; ++h) qkv[(b * tokens + t) * 3 * width + 2 * width + h * tokens + t] = 1;
    }
  }
  const std::vector<std::int32_t> random = {17, -3, 5};
  AttentionArgs args;
  args.qkv = put_floats(device, {batch, tokens, 3 * width}, qkv);
  args.heads = heads;
  args.y = device.allocate_tensor(DType::f32, {batch, tokens, width});
  args.dropout = {0.3f, 9, put_integers(device, {3}, random)};
  device.run([&](Encoder& encoder) { encoder.attention(args); });
  const Values y = fetch(device, args.y);
  const cpu::DropoutMask mask({0.3f, 9, put_integers(cpu_device(), {3}, random)});
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t h = 0; h < heads; ++h) {
      for (std::int64_t t = 0; t < tokens; ++t) {
        for (std::int64_t s = 0; s < tokens; ++s) {
          const float factor = s > t ? 0.0f : mask.factor(((b * heads + h) * tokens + t) * tokens + s);
          EXPECT_NEAR(y[(b * tokens + t) * width + h * tokens + s], factor / static_cast<float>(t + 1), 1e-6)
              << b << " " << h << " " << t << " " << s;
        }
      }
    }
  }
}

}  // namespace

void register_attention_training_tests() {
  for (const char* name : {"mha_plain", "mha_rotary_partial"}) {
    register_for_devices("golden", std::string(name) + ".training",
                         [name](Device& device) { mha_training(device, name); });
  }
  register_for_devices("attention", "probabilities_are_dropped_by_index", probabilities_are_dropped_by_index);
}

}  // namespace riverhorse::test
