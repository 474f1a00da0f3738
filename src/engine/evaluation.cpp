#include "engine/evaluation.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "engine/text_scorer.h"

namespace riverhorse {
namespace {

// Texts are handed to the scorer by so many, to choose from for its batches, and not more tokens than that at once.
constexpr std::size_t kTextsABatch = 32;
constexpr std::int64_t kTokensAtOnce = 1 << 20;

struct Range {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

// The documents, or all of them as one.
std::vector<Range> ranges_of(const TokenSource& source, const TextLossOptions& options) {
  std::span<const std::int64_t> ends = source.document_ends();
  if (options.limit > 0) ends = ends.first(std::min(ends.size(), static_cast<std::size_t>(options.limit)));
  std::vector<Range> ranges;
  for (const std::int64_t end : ends) ranges.push_back({ranges.empty() ? 0 : ranges.back().end, end});
  if (options.packed && !ranges.empty()) ranges = {{0, ranges.back().end}};
  return ranges;
}

void check(const TextLossOptions& options) {
  if (options.limit < 0) fail(StatusCode::invalid_argument, "limit is {}; it must be at least 0", options.limit);
  if (options.window == 0 && options.stride == 0) return;
  if (options.window < 2) fail(StatusCode::invalid_argument, "window is {}; it must be at least 2", options.window);
  if (options.stride < 1 || options.stride >= options.window) {
    fail(StatusCode::invalid_argument, "stride is {}; it must be from 1 to {}, below the window", options.stride,
         options.window - 1);
  }
}

class LossEvaluation {
 public:
  LossEvaluation(Engine& engine, const TokenSource& source, const Tokenizer* tokenizer,
                 const TextLossOptions& options)
      : source_(source),
        tokenizer_(tokenizer),
        options_(options),
        scorer_(engine, options.batch, [this](std::int64_t tokens) { advance(tokens); }) {
    if (tokenizer != nullptr) result_.bytes = 0;
  }

  TextLoss run() {
    const std::vector<Range> ranges = ranges_of(source_, options_);
    for (const Range& range : ranges) total_ += std::max<std::int64_t>(0, range.end - range.begin - 1);
    for (const Range& range : ranges) add_range(range);
    flush();
    const auto documents = static_cast<std::int64_t>(source_.document_ends().size());
    result_.documents = options_.limit > 0 ? std::min(options_.limit, documents) : documents;
    result_.tokens_read = scorer_.tokens_read();
    return result_;
  }

 private:
  void advance(std::int64_t tokens) {
    done_ += tokens;
    if (options_.progress) options_.progress(static_cast<std::uint64_t>(done_), static_cast<std::uint64_t>(total_));
  }

  void add_range(const Range& range) {
    const std::int64_t window = options_.window > 0 ? options_.window : range.end - range.begin;
    for (std::int64_t begin = range.begin, scored = range.begin + 1; scored < range.end; begin += options_.stride) {
      const std::int64_t end = std::min(begin + window, range.end);
      TextToScore text;
      text.tokens.resize(static_cast<std::size_t>(end - begin));
      source_.read(begin, text.tokens);
      text.first = scored - begin;
      scored = end;
      waiting_tokens_ += end - begin;
      waiting_.push_back(std::move(text));
      const std::size_t most = kTextsABatch * static_cast<std::size_t>(options_.batch);
      if (waiting_.size() >= most || waiting_tokens_ >= kTokensAtOnce) flush();
    }
  }

  void flush() {
    scorer_.score(waiting_, [&](std::size_t text, std::int64_t token, const TokenScore& score) {
      result_.nats -= score.log_probability;
      ++result_.tokens_scored;
      const std::int32_t id = waiting_[text].tokens[static_cast<std::size_t>(token)];
      if (tokenizer_ != nullptr && id != tokenizer_->end_of_text())
        *result_.bytes += tokenizer_->token_bytes(id).size();
    });
    waiting_.clear();
    waiting_tokens_ = 0;
  }

  const TokenSource& source_;
  const Tokenizer* tokenizer_;
  const TextLossOptions& options_;
  TextScorer scorer_;
  std::vector<TextToScore> waiting_;
  std::int64_t waiting_tokens_ = 0;
  std::int64_t done_ = 0, total_ = 0;
  TextLoss result_;
};

}  // namespace

double TextLoss::loss() const { return nats / static_cast<double>(tokens_scored); }

double TextLoss::perplexity() const { return std::exp(loss()); }

std::optional<double> TextLoss::bits_per_byte() const {
  if (bytes.value_or(0) == 0) return std::nullopt;
  return nats / std::log(2.0) / static_cast<double>(*bytes);
}

TextLoss& TextLoss::operator+=(const TextLoss& other) {
  documents += other.documents;
  tokens_scored += other.tokens_scored;
  tokens_read += other.tokens_read;
  nats += other.nats;
  bytes = bytes && other.bytes ? std::optional(*bytes + *other.bytes) : std::nullopt;
  return *this;
}

TextLoss evaluate_loss(Engine& engine, const TokenSource& documents, const Tokenizer* tokenizer,
                       const TextLossOptions& options) {
  check(options);
  return LossEvaluation(engine, documents, tokenizer, options).run();
}

}  // namespace riverhorse
