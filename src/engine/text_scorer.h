// The log-probability that a model gives each token of a text, many texts at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engine/engine.h"

namespace riverhorse {

struct TextToScore {
  std::vector<std::int32_t> tokens;
  std::int64_t first = 1;  // of the tokens to score, at least 1; those before it are context
  std::int64_t scored() const { return std::max<std::int64_t>(0, static_cast<std::int64_t>(tokens.size()) - first); }
};

struct TokenScore {
  double log_probability = 0;  // natural, given all tokens before it; the softmax is over all padded columns
  bool greedy = false;         // greedy decoding would have drawn it: the largest logit of the vocabulary, unpadded
};

class TextScorer {
 public:
  // `batch`: texts that are read together, at least 1. `on_scored` hears how many tokens have been scored since its
  // last call, a few times a second on any device; what it throws ends the scoring.
  TextScorer(Engine& engine, std::int64_t batch, std::function<void(std::int64_t tokens)> on_scored = {});

  // Each text is read from an empty state. `consume` gets every token that is to be scored, those of one text in
  // order; the texts come in any order, the same in every run. Texts with nothing to score are not read.
  // Errors: invalid_argument for a token outside the vocabulary or a `first` below 1; out_of_memory before a text is
  // read whose KV cache does not fit; bad_file when logits are not finite.
  using Consume = std::function<void(std::size_t text, std::int64_t token, const TokenScore& score)>;
  void score(std::span<const TextToScore> texts, const Consume& consume);

  std::int64_t tokens_read() const { return tokens_read_; }  // so far, context too, padding not

 private:
  void score_batch(std::span<const TextToScore> texts, std::span<const std::size_t> members, const Consume& consume);
  void check_memory(std::int64_t length) const;

  Engine& engine_;
  std::int64_t batch_;
  std::function<void(std::int64_t)> on_scored_;
  std::int64_t tokens_read_ = 0;
};

}  // namespace riverhorse
