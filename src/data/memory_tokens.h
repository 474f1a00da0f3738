// A row of tokens in memory.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "data/token_source.h"

namespace riverhorse {

class MemoryTokens : public TokenSource {
 public:
  // One document.
  explicit MemoryTokens(std::vector<std::int32_t> tokens)
      : tokens_(std::move(tokens)), end_(static_cast<std::int64_t>(tokens_.size())) {}

  std::int64_t size() const override { return end_; }
  void read(std::int64_t begin, std::span<std::int32_t> out) const override {
    std::copy_n(tokens_.begin() + begin, out.size(), out.begin());
  }
  std::span<const std::int64_t> document_ends() const override { return {&end_, 1}; }

 private:
  std::vector<std::int32_t> tokens_;
  std::int64_t end_;
};

}  // namespace riverhorse
