// One query of attention against the keys and values before it, in double, for the widest vector instructions that
// the processor has.
#pragma once

#include <cstdint>

namespace riverhorse::cpu {

struct AttentionRow {
  const float* query;   // (width)
  const float* keys;    // (count, width), rows `stride` apart
  const float* values;  // likewise
  std::int64_t stride;  // elements
  std::int64_t count;   // tokens
  std::int64_t width;   // of the head
  double scale;         // of the products
};

struct SoftmaxSum {
  double maximum;  // of the scaled products
  double total;    // of exp(product - maximum)
};

// weights[s] = exp(scale query . key_s - maximum)
SoftmaxSum attention_weights(const AttentionRow& row, double* weights);
// y = sum_s weights[s] value_s / total
void attention_values(const AttentionRow& row, const double* weights, double total, float* y);

}  // namespace riverhorse::cpu
