// The classifier and its loss, some rows at a time. With p = softmax(logits_r) and the target's column t:
//   loss_r = logsumexp(logits_r) - logits_r[t];   d_logits_r = scale (p - one-hot(t)), or 0 where r is not scored;
//   d_x = d_logits W;   d_W += d_logits^T x.
#include <cblas.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "cpu/cpu_encoder.h"

namespace riverhorse::cpu {

namespace {

constexpr std::int64_t chunk_rows = 128;

double log_sum_exp(const float* logits, std::int64_t count, double maximum) {
  double sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += std::exp(logits[i] - maximum);
  return maximum + std::log(sum);
}

// Of rows `begin` to `begin` + `rows`, whose `logits` become their gradients.
void score(const CrossEntropyArgs& args, std::int64_t begin, std::int64_t rows, float* all_logits) {
  const std::int64_t vocabulary = args.weight.shape[0];
  const double scale = args.d_x ? floats(args.scale)[0] : 0;
#pragma omp parallel for
  for (std::int64_t row = begin; row < begin + rows; ++row) {
    float* logits = all_logits + (row - begin) * vocabulary;
    const std::int64_t target = integers(args.targets)[row];
    const bool scored = target >= 0;
    const float* largest = std::max_element(logits, logits + vocabulary);
    const double total = log_sum_exp(logits, vocabulary, *largest);
    floats(args.loss)[row] = scored ? static_cast<float>(total - logits[target]) : 0.0f;
    if (args.correct) integers(args.correct)[row] = largest - logits == target ? 1 : 0;
    if (!args.d_x) continue;
    for (std::int64_t i = 0; i < vocabulary; ++i) {
      const double gradient = std::exp(logits[i] - total) - (i == target ? 1.0 : 0.0);
      logits[i] = scored ? static_cast<float>(scale * gradient) : 0.0f;
    }
  }
}

}  // namespace

void CpuEncoder::record_cross_entropy(const CrossEntropyArgs& args) {
  require_f32("cross_entropy", {&args.x, &args.weight, &args.d_x});
  add("cross_entropy", [args] {
    const std::int64_t rows = args.x.shape[0];
    const std::int64_t width = args.x.shape[1];
    const std::int64_t vocabulary = args.weight.shape[0];
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::int64_t target = integers(args.targets)[row];
      if (target < vocabulary) continue;
      fail(StatusCode::invalid_argument, "cross_entropy: target {} of row {} is outside of the {} columns", target,
           row, vocabulary);
    }
    const auto d = static_cast<blasint>(width);
    const auto v = static_cast<blasint>(vocabulary);
    const float* weight = floats(args.weight);
    std::vector<float> logits(static_cast<std::size_t>(std::min(rows, chunk_rows) * vocabulary));
    for (std::int64_t begin = 0; begin < rows; begin += chunk_rows) {
      const std::int64_t count = std::min(chunk_rows, rows - begin);
      const auto r = static_cast<blasint>(count);
      const float* x = floats(args.x) + begin * width;
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, r, v, d, 1.0f, x, d, weight, d, 0.0f, logits.data(), v);
      if (args.d_x) {
        for (float& logit : logits) logit = rounded_to(args.logits, logit);
      }
      score(args, begin, count, logits.data());
      if (!args.d_x) continue;
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, r, d, v, 1.0f, logits.data(), v, weight, d, 0.0f,
                  floats(args.d_x) + begin * width, d);
      cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, v, d, r, 1.0f, logits.data(), v, x, d,
                  args.overwrite && begin == 0 ? 0.0f : 1.0f, floats(args.d_weight), d);
    }
  });
}

}  // namespace riverhorse::cpu
