#include "engine/loss.h"

#include <algorithm>
#include <cmath>

namespace riverhorse {

double cross_entropy(std::span<const float> logits, std::int32_t target) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  return std::log(sum) + largest - logits[static_cast<std::size_t>(target)];
}

NextTokenLoss::NextTokenLoss(std::span<const std::int32_t> ids, std::int64_t batch, std::int64_t length,
                             std::int64_t vocabulary)
    : ids_(ids), batch_(batch), length_(length), vocabulary_(vocabulary) {}

void NextTokenLoss::add(std::int64_t first_row, std::span<const float> logits) {
  const auto width = static_cast<std::size_t>(vocabulary_);
  for (std::size_t i = 0; i * width < logits.size(); ++i) {
    const std::int64_t row = first_row + static_cast<std::int64_t>(i);
    if (row % length_ == length_ - 1) continue;  // the last token has no target
    sum_ += cross_entropy(logits.subspan(i * width, width), ids_[static_cast<std::size_t>(row) + 1]);
  }
}

double NextTokenLoss::mean() const { return defined() ? sum_ / static_cast<double>(batch_ * (length_ - 1)) : 0.0; }

}  // namespace riverhorse
