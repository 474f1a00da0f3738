// How well a model knows given texts: loss, perplexity and bits per byte.
#pragma once

#include <cstdint>
#include <optional>

#include "data/token_source.h"
#include "data/tokenizer.h"
#include "engine/engine.h"

namespace riverhorse {

struct EvaluationOptions {
  std::int64_t batch = 8;     // texts that are read together, at least 1
  ProgressFunction progress;  // tokens scored, of all that will be; may be empty; what it throws ends the evaluation
};

struct TextLossOptions : EvaluationOptions {
  std::int64_t limit = 0;  // documents, from the first; 0: all
  // One text of all documents: the state is carried from one to the next. Otherwise each begins with an empty state.
  bool packed = false;
  // 0: a text is read from its start to its end, the state carried. Otherwise in windows of so many tokens, each from
  // an empty state, which begin `stride` (1 to window - 1) tokens apart. The first window of a text scores all its
  // tokens but the first, the others score those that no window before had: at least window - stride are context.
  std::int64_t window = 0;
  std::int64_t stride = 0;
};

// Sums over the tokens scored: all but the first of each text, which has no context.
struct TextLoss {
  std::int64_t documents = 0;
  std::int64_t tokens_scored = 0;
  std::int64_t tokens_read = 0;  // more than scored where windows overlap
  double nats = 0;               // minus the sum of the natural log-probabilities
  // That the scored tokens stand for, an end of text for none; empty when there is no tokenizer to tell.
  std::optional<std::uint64_t> bytes;

  double loss() const;                          // nats a token; NaN when nothing was scored, as the others
  double perplexity() const;                    // e to that
  std::optional<double> bits_per_byte() const;  // empty when the bytes are not known or none
  TextLoss& operator+=(const TextLoss& other);
};

// `tokenizer`: the one that made the tokens, to count bytes; may be null.
// Errors: invalid_argument for options out of range; those of TextScorer and TokenSource::read.
TextLoss evaluate_loss(Engine& engine, const TokenSource& documents, const Tokenizer* tokenizer,
                       const TextLossOptions& options);

}  // namespace riverhorse
