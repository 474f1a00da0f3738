// Causal softmax attention over the cache. Each (sequence, head, token) is a task of its own: scores against every
// key up to the token, softmax with the maximum subtracted, weighted sum of the values in double.
#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "cpu/cpu_encoder.h"

namespace riverhorse::cpu {

namespace {

void attend(std::string_view op, const AttentionArgs& args) {
  const std::int64_t batch = args.qkv.shape[0];
  const std::int64_t tokens = args.qkv.shape[1];
  const std::int64_t width = args.qkv.shape[2] / 3;
  const std::int64_t head_width = width / args.heads;
  const std::int64_t capacity = args.cache.k.shape[1];
  const double scale = 1.0 / std::sqrt(static_cast<double>(head_width));

  check_positions(op, args.slots, args.positions);
  for (std::int64_t b = 0; b < batch; ++b) {
    const std::int64_t slot = integers(args.slots)[b];
    const std::int64_t position = integers(args.positions)[slot];
    if (position + tokens > capacity) {
      fail(StatusCode::invalid_argument, "{}: positions {} to {} of slot {} do not fit a cache of {}", op, position,
           position + tokens, slot, capacity);
    }
    for (std::int64_t t = 0; t < tokens; ++t) {
      const float* row = floats(args.qkv) + (b * tokens + t) * 3 * width;
      const std::int64_t cached = (slot * capacity + position + t) * width;
      std::copy_n(row + width, width, floats(args.cache.k) + cached);
      std::copy_n(row + 2 * width, width, floats(args.cache.v) + cached);
    }
  }

#pragma omp parallel for schedule(dynamic, 16)
  for (std::int64_t index = 0; index < batch * tokens * args.heads; ++index) {
    const std::int64_t head = index % args.heads;
    const std::int64_t row = index / args.heads;
    const std::int64_t slot = integers(args.slots)[row / tokens];
    const std::int64_t count = integers(args.positions)[slot] + row % tokens + 1;
    const float* query = floats(args.qkv) + row * 3 * width + head * head_width;
    const float* keys = floats(args.cache.k) + slot * capacity * width + head * head_width;
    const float* values = floats(args.cache.v) + slot * capacity * width + head * head_width;

    std::vector<double> weights(static_cast<std::size_t>(count));
    for (std::int64_t s = 0; s < count; ++s) {
      double sum = 0;
      for (std::int64_t i = 0; i < head_width; ++i) sum += static_cast<double>(query[i]) * keys[s * width + i];
      weights[s] = sum * scale;
    }
    const double maximum = *std::max_element(weights.begin(), weights.end());
    double total = 0;
    for (double& weight : weights) {
      weight = std::exp(weight - maximum);
      total += weight;
    }
    std::vector<double> sums(static_cast<std::size_t>(head_width), 0.0);
    for (std::int64_t s = 0; s < count; ++s) {
      for (std::int64_t i = 0; i < head_width; ++i) sums[i] += weights[s] * values[s * width + i];
    }
    float* y = floats(args.y) + row * width + head * head_width;
    for (std::int64_t i = 0; i < head_width; ++i) y[i] = static_cast<float>(sums[i] / total);
  }
}

}  // namespace

void CpuEncoder::record_attention(const AttentionArgs& args) {
  require_f32("attention", {&args.qkv, &args.y});
  add("attention", [args] { attend("attention", args); });
}

void CpuEncoder::record_attention_step(const AttentionArgs& args) {
  require_f32("attention_step", {&args.qkv, &args.y});
  add("attention_step", [args] { attend("attention_step", args); });
}

}  // namespace riverhorse::cpu
