// The mean next-token cross-entropy of a forward pass, added up as the logits come.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace riverhorse {

// Of (B, L) ids: the mean over B (L - 1) positions of -log softmax(logits[b, t])[ids[b, t + 1]], the softmax over all
// padded columns, in double. Feed it what Engine::forward gives.
class NextTokenLoss {
 public:
  NextTokenLoss(std::span<const std::int32_t> ids, std::int64_t batch, std::int64_t length, std::int64_t vocabulary);

  void add(std::int64_t first_row, std::span<const float> logits);  // whole rows, each row once
  bool defined() const { return length_ > 1; }                      // one token has no next one
  double mean() const;                                              // after all rows; 0 when not defined

 private:
  std::span<const std::int32_t> ids_;
  std::int64_t batch_, length_, vocabulary_;
  double sum_ = 0;
};

// -log softmax(logits)[target], in double.
double cross_entropy(std::span<const float> logits, std::int32_t target);

}  // namespace riverhorse
