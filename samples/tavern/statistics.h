// What the overlay plots: the last two seconds or so of a few figures.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

namespace tavern {

class History {
 public:
  static constexpr std::size_t length = 120;

  void add(double value) {
    values_[next_] = static_cast<float>(value);
    next_ = (next_ + 1) % length;
  }
  float last() const { return values_[(next_ + length - 1) % length]; }
  float largest() const { return *std::max_element(values_.begin(), values_.end()); }
  const float* values() const { return values_.data(); }
  int oldest() const { return static_cast<int>(next_); }

 private:
  std::array<float, length> values_{};
  std::size_t next_ = 0;
};

struct Statistics {
  History frame_ms, drawing_ms, model_ms, tokens_per_second;

  // Tokens come in bursts: their rate is that of about the last second.
  void add_tokens(std::size_t tokens, double seconds) {
    const double share = std::min(1.0, seconds);
    rate_ += share * (static_cast<double>(tokens) / std::max(seconds, 1e-6) - rate_);
    tokens_per_second.add(rate_);
  }

 private:
  double rate_ = 0;
};

}  // namespace tavern
