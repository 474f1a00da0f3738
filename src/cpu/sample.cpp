// Sampling: the definition that every backend follows.
//
// Floating point decides as little as possible, because exp() and sums differ in the last bits between devices.
// Logits become integer weights early; what follows (top-p, min-p, the draw) is exact 32-bit integer arithmetic, so
// that two backends draw the same token unless a weight's last bits decide.
//
// Given a slot's SamplerRow, logits l_0 ... l_{V-1}, counts n_i and biases. All fp32, rounded to nearest:
//
//  1. Candidates are the indices below `limit` = vocab_limit, or V when that is 0 or larger than V.
//  2. x_i = l_i + bias_i. If n_i > 0:  x_i = x_i > 0 ? x_i / repetition_penalty : x_i * repetition_penalty;
//     then x_i = x_i - presence_penalty;  then x_i = x_i - frequency_penalty * float(n_i)  (no fused multiply-add).
//     A NaN counts as -infinity, +infinity as the largest finite float.
//  3. Rank: larger x first, among equals the lower index first. The token of rank 0 is `best`, its x is m.
//  4. If temperature <= 0 (or NaN), or m is -infinity: the token is `best`. Else:
//  5. top-k: the candidates of rank < top_k survive (all, when top_k <= 0).
//  6. e_i = exp((x_i - m) / temperature);  s = sum of e_i over the survivors, in index order or any tree;
//     w_i = floor(e_i / s * 2^30 + 0.5) as an unsigned integer.  W = sum of w_i, below 2^32 for any V < 2^30.
//  7. top-p: P = floor(top_p * 65536 + 0.5) clamped to 0 ... 65536 (NaN: 65536), and
//     t = max(1, (W >> 16) * P + (((W & 65535) * P) >> 16)). P = 65536 gives t = W.
//     A survivor stays if the sum of the weights of those ranked before it is below t: the smallest set of most
//     probable tokens that reaches t. (Rank as in 3.)
//  8. min-p: Q = floor(min_p * 65536 + 0.5) clamped to 0 ... 65536 (NaN: 0), w_best the weight of `best`;
//     a survivor stays if w_i >= (w_best >> 16) * Q + (((w_best & 65535) * Q) >> 16).
//  9. r = word 0 of Philox4x32-10 (philox.h) with counter (draws, 0, 0, 0) and key (seed_low, seed_high).
//     W' = sum of the weights that stayed; u = (r * W') >> 32 (the high word of the 64-bit product).
//     The token is the first index i with  w_0 + ... + w_i > u  (weights of those that left count as 0).
// 10. Greedy or not: tokens[b] = token; counts[slot, token] += 1; history[slot, draws mod K] = token; draws += 1.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "cpu/cpu_encoder.h"
#include "cpu/philox.h"

namespace riverhorse::cpu {

namespace {

// A fraction as 16 fractional bits; `if_nan` when it is not a number.
std::uint32_t fixed_point(float fraction, std::uint32_t if_nan) {
  if (std::isnan(fraction)) return if_nan;
  return static_cast<std::uint32_t>(std::floor(std::clamp(fraction, 0.0f, 1.0f) * 65536.0f + 0.5f));
}

std::uint32_t scaled(std::uint32_t weight, std::uint32_t fraction) {
  return (weight >> 16) * fraction + (((weight & 65535u) * fraction) >> 16);
}

float adjusted_logit(float logit, float bias, std::int32_t count, const SamplerRow& row) {
  float x = logit + bias;
  if (count > 0) {
    x = x > 0 ? x / row.repetition_penalty : x * row.repetition_penalty;
    x -= row.presence_penalty;
    const float penalty = row.frequency_penalty * static_cast<float>(count);
    x -= penalty;
  }
  if (std::isnan(x)) return -std::numeric_limits<float>::infinity();
  return std::min(x, std::numeric_limits<float>::max());
}

// `x`: adjusted logits of the candidates.
std::int32_t draw(const std::vector<float>& x, const SamplerRow& row) {
  const auto limit = static_cast<std::int64_t>(x.size());
  const auto best = static_cast<std::int32_t>(std::max_element(x.begin(), x.end()) - x.begin());
  const float maximum = x[best];
  if (!(row.temperature > 0) || maximum == -std::numeric_limits<float>::infinity()) return best;

  std::vector<std::int32_t> ranked(x.size());
  std::iota(ranked.begin(), ranked.end(), 0);
  std::stable_sort(ranked.begin(), ranked.end(), [&](std::int32_t a, std::int32_t b) { return x[a] > x[b]; });
  const std::int64_t survivors = row.top_k > 0 ? std::min<std::int64_t>(row.top_k, limit) : limit;

  std::vector<double> exponentials(survivors);
  double sum = 0;
  for (std::int64_t rank = 0; rank < survivors; ++rank) {
    const float distance = x[ranked[rank]] - maximum;
    exponentials[rank] = std::exp(static_cast<double>(distance) / row.temperature);
    sum += exponentials[rank];
  }
  std::vector<std::uint32_t> by_rank(survivors);
  std::uint32_t total = 0;
  for (std::int64_t rank = 0; rank < survivors; ++rank) {
    by_rank[rank] = static_cast<std::uint32_t>(std::floor(exponentials[rank] / sum * 0x1p30 + 0.5));
    total += by_rank[rank];
  }

  const std::uint32_t nucleus = std::max(1u, scaled(total, fixed_point(row.top_p, 65536)));
  const std::uint32_t least = scaled(by_rank[0], fixed_point(row.min_p, 0));
  std::vector<std::uint32_t> weights(x.size(), 0);
  std::uint32_t before = 0, kept = 0;
  for (std::int64_t rank = 0; rank < survivors; ++rank) {
    if (before < nucleus && by_rank[rank] >= least) {
      weights[ranked[rank]] = by_rank[rank];
      kept += by_rank[rank];
    }
    before += by_rank[rank];
  }

  const std::uint32_t random = philox({row.draws, 0, 0, 0}, row.seed_low, row.seed_high)[0];
  const auto target = static_cast<std::uint32_t>((std::uint64_t{random} * kept) >> 32);
  std::uint32_t prefix = 0;
  for (std::int64_t index = 0; index < limit; ++index) {
    prefix += weights[index];
    if (prefix > target) return static_cast<std::int32_t>(index);
  }
  return best;  // not reached: target < kept
}

}  // namespace

void CpuEncoder::record_sample(const SampleArgs& args) {
  add("sample", [args] {
    const std::int64_t batch = args.logits.shape[0];
    const std::int64_t vocabulary = args.logits.shape[1];
    const std::int64_t slot_count = args.sampler.shape[0];
    check_slots("sample", args.slots, slot_count);
#pragma omp parallel for schedule(dynamic)
    for (std::int64_t sequence = 0; sequence < batch; ++sequence) {
      const std::int64_t slot = integers(args.slots)[sequence];
      SamplerRow row;
      std::memcpy(static_cast<void*>(&row), integers(args.sampler) + slot * 16, sizeof(row));
      const float* logits = floats(args.logits) + sequence * vocabulary;
      const float* bias = args.bias ? floats(args.bias) + slot * vocabulary : nullptr;
      std::int32_t* counts = args.counts ? integers(args.counts) + slot * vocabulary : nullptr;
      const std::int64_t limit =
          row.vocab_limit > 0 ? std::min<std::int64_t>(row.vocab_limit, vocabulary) : vocabulary;

      std::vector<float> x(limit);
      for (std::int64_t i = 0; i < limit; ++i) {
        x[i] = adjusted_logit(logits[i], bias ? bias[i] : 0.0f, counts ? counts[i] : 0, row);
      }
      const std::int32_t token = draw(x, row);

      integers(args.tokens)[sequence] = token;
      if (counts) ++counts[token];
      if (args.history) {
        const std::int64_t capacity = args.history.shape[1];
        integers(args.history)[slot * capacity + row.draws % capacity] = token;
      }
      ++row.draws;
      std::memcpy(integers(args.sampler) + slot * 16, &row, sizeof(row));
    }
  });
}

}  // namespace riverhorse::cpu
