// Causal softmax attention over the cache, or, in training, over the call's own tokens. Each (sequence, head, token)
// is a task of its own: scores against every key up to the token, softmax with the maximum subtracted, weighted sum
// of the values, in double. With p_ts the probabilities, m_ts what dropout multiplies them by, and c = 1 / sqrt(head
// width):
//   p_ts = exp(c q_t . k_s - log_sum_exp_t),   y_t = sum_s m_ts p_ts v_s
// Backward. The sum over s that the softmax brings into the gradient of the scores e_ts is a product of what is
// there, so that one pass over the pairs is enough and no row of probabilities is ever kept:
//   d_e_ts = p_ts (m_ts d_y_t . v_s - d_y_t . y_t)
//   d_q_t = c sum_s d_e_ts k_s,   d_k_s = c sum_t d_e_ts q_t,   d_v_s = sum_t m_ts p_ts d_y_t
#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "cpu/attention_row.h"
#include "cpu/cpu_encoder.h"
#include "cpu/dropout.h"

namespace riverhorse::cpu {

namespace {

double dot(const float* a, const float* b, std::int64_t count) {
  double sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

// sums += factor x
void add_scaled(double* sums, double factor, const float* x, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) sums[i] += factor * x[i];
}

// What the queries of one sequence look at: rows of all heads, and how many of them come before the call's first
// token.
struct Past {
  const float* keys;
  const float* values;
  std::int64_t stride;
  std::int64_t position;
};

void write_cache(std::string_view op, const AttentionArgs& args) {
  const std::int64_t batch = args.qkv.shape[0];
  const std::int64_t tokens = args.qkv.shape[1];
  const std::int64_t width = args.qkv.shape[2] / 3;
  const std::int64_t capacity = args.cache.k.shape[1];
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
}

Past past_of(const AttentionArgs& args, std::int64_t b) {
  const std::int64_t width = args.qkv.shape[2] / 3;
  if (!args.slots) {
    const float* rows = floats(args.qkv) + b * args.qkv.shape[1] * 3 * width;
    return {rows + width, rows + 2 * width, 3 * width, 0};
  }
  const std::int64_t slot = integers(args.slots)[b];
  const std::int64_t begin = slot * args.cache.k.shape[1] * width;
  return {floats(args.cache.k) + begin, floats(args.cache.v) + begin, width, integers(args.positions)[slot]};
}

void attend(std::string_view op, const AttentionArgs& args) {
  const std::int64_t batch = args.qkv.shape[0];
  const std::int64_t tokens = args.qkv.shape[1];
  const std::int64_t width = args.qkv.shape[2] / 3;
  const std::int64_t head_width = width / args.heads;
  const double scale = 1.0 / std::sqrt(static_cast<double>(head_width));
  const DropoutMask mask(args.dropout);
  if (args.slots) write_cache(op, args);

#pragma omp parallel for schedule(dynamic, 16)
  for (std::int64_t index = 0; index < batch * tokens * args.heads; ++index) {
    const std::int64_t head = index % args.heads;
    const std::int64_t row = index / args.heads;
    const std::int64_t b = row / tokens, t = row % tokens;
    const Past past = past_of(args, b);
    const std::int64_t count = past.position + t + 1;
    const float* query = floats(args.qkv) + row * 3 * width + head * head_width;
    const float* keys = past.keys + head * head_width;
    const float* values = past.values + head * head_width;

    std::vector<double> weights(static_cast<std::size_t>(count));
    const AttentionRow attended{query, keys, values, past.stride, count, head_width, scale};
    const auto [maximum, total] = attention_weights(attended, weights.data());
    const std::int64_t query_index = (b * args.heads + head) * tokens + t;
    if (args.log_sum_exp) floats(args.log_sum_exp)[query_index] = static_cast<float>(maximum + std::log(total));
    if (args.dropout.p != 0) {
      for (std::int64_t s = 0; s < count; ++s) weights[s] *= mask.factor(query_index * tokens + s);
    }
    attention_values(attended, weights.data(), total, floats(args.y) + row * width + head * head_width);
  }
}

// One head of one sequence.
void attend_backward(const AttentionBackwardArgs& args, const DropoutMask& mask, std::int64_t b, std::int64_t head) {
  const std::int64_t tokens = args.qkv.shape[1];
  const std::int64_t width = args.qkv.shape[2] / 3;
  const std::int64_t head_width = width / args.heads;
  const double scale = 1.0 / std::sqrt(static_cast<double>(head_width));
  const std::int64_t qkv_begin = b * tokens * 3 * width + head * head_width;
  const std::int64_t y_begin = b * tokens * width + head * head_width;
  const float* queries = floats(args.qkv) + qkv_begin;
  const float* keys = queries + width;
  const float* values = keys + width;
  const float* log_sum_exp = floats(args.log_sum_exp) + (b * args.heads + head) * tokens;
  float* d_queries = floats(args.d_qkv) + qkv_begin;

  std::vector<double> d_keys(static_cast<std::size_t>(tokens * head_width), 0.0), d_values(d_keys);
  std::vector<double> d_query(static_cast<std::size_t>(head_width));
  for (std::int64_t t = 0; t < tokens; ++t) {
    const float* query = queries + t * 3 * width;
    const float* d_y = floats(args.d_y) + y_begin + t * width;
    const double mean = dot(d_y, floats(args.y) + y_begin + t * width, head_width);
    std::fill(d_query.begin(), d_query.end(), 0.0);
    for (std::int64_t s = 0; s <= t; ++s) {
      const float* key = keys + s * 3 * width;
      const double probability = std::exp(scale * dot(query, key, head_width) - log_sum_exp[t]);
      const double factor = mask.factor(((b * args.heads + head) * tokens + t) * tokens + s);
      const double d_probability = factor * dot(d_y, values + s * 3 * width, head_width);
      const double d_product = scale * probability * (d_probability - mean);
      add_scaled(d_query.data(), d_product, key, head_width);
      add_scaled(d_keys.data() + s * head_width, d_product, query, head_width);
      add_scaled(d_values.data() + s * head_width, factor * probability, d_y, head_width);
    }
    std::copy(d_query.begin(), d_query.end(), d_queries + t * 3 * width);
  }
  for (std::int64_t s = 0; s < tokens; ++s) {
    std::copy_n(d_keys.begin() + s * head_width, head_width, d_queries + s * 3 * width + width);
    std::copy_n(d_values.begin() + s * head_width, head_width, d_queries + s * 3 * width + 2 * width);
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

void CpuEncoder::record_attention_backward(const AttentionBackwardArgs& args) {
  require_f32("attention_backward", {&args.qkv});
  add("attention_backward", [args] {
    const DropoutMask mask(args.dropout);
#pragma omp parallel for schedule(dynamic)
    for (std::int64_t index = 0; index < args.qkv.shape[0] * args.heads; ++index) {
      attend_backward(args, mask, index / args.heads, index % args.heads);
    }
  });
}

}  // namespace riverhorse::cpu
