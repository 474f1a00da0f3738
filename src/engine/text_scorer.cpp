// Texts are read together with texts of about their length, padded at the end to the longest: a causal model does not
// see what comes behind a token, so the padding changes nothing that is looked at.
#include "engine/text_scorer.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <thread>

#include "base/error.h"
#include "base/threads.h"
#include "engine/loss.h"
#include "model/h3_model.h"

namespace riverhorse {
namespace {

constexpr std::int64_t kLogitsAThread = 1 << 20;  // fewer are not worth starting one

// A row of logits that is to be looked at.
struct Wanted {
  std::size_t row = 0;
  std::size_t text = 0;
  std::int64_t token = 0;  // its place in the text
};

TokenScore score_of(std::span<const float> logits, std::int32_t token, std::int64_t vocab_size) {
  const auto best = std::max_element(logits.begin(), logits.begin() + vocab_size);
  return {-cross_entropy(logits, token), token == best - logits.begin()};
}

}  // namespace

TextScorer::TextScorer(Engine& engine, std::int64_t batch, std::function<void(std::int64_t)> on_scored)
    : engine_(engine), batch_(batch), on_scored_(std::move(on_scored)) {
  if (batch < 1) fail(StatusCode::invalid_argument, "a batch of {} texts; it must be at least 1", batch);
}

void TextScorer::score(std::span<const TextToScore> texts, const Consume& consume) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (texts[i].first < 1) {
      fail(StatusCode::invalid_argument, "text {} is to be scored from token {}; the first has no context", i,
           texts[i].first);
    }
    if (texts[i].scored() > 0) order.push_back(i);
  }
  const auto length = [&](std::size_t text) { return texts[text].tokens.size(); };
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return length(a) < length(b); });
  for (std::size_t begin = 0; begin < order.size();) {
    std::size_t end = begin + 1;
    while (end < order.size() && end - begin < static_cast<std::size_t>(batch_) &&
           length(order[end]) <= 2 * length(order[begin])) {
      ++end;
    }
    score_batch(texts, std::span(order).subspan(begin, end - begin), consume);
    begin = end;
  }
}

// Of one long text, for which Engine::forward makes a KV cache and an empty one to begin from.
void TextScorer::check_memory(std::int64_t length) const {
  const ModelMemory memory = model_memory(engine_.config(), {engine_.options().dtype});
  const std::uint64_t needed = 2 * static_cast<std::uint64_t>(length) * memory.cache_bytes_per_token;
  const std::uint64_t free = engine_.device().memory_free_bytes();
  if (needed <= free) return;
  fail(StatusCode::out_of_memory,
       "attention over a text of {} tokens needs a cache of {:.1f} MiB, and {} has {:.1f} MiB free; score it in "
       "windows (--window)",
       length, static_cast<double>(needed) / 0x1p20, engine_.device().info().name,
       static_cast<double>(free) / 0x1p20);
}

void TextScorer::score_batch(std::span<const TextToScore> texts, std::span<const std::size_t> members,
                             const Consume& consume) {
  // The last token of a text is scored, not read.
  const auto length = static_cast<std::int64_t>(texts[members.back()].tokens.size()) - 1;
  const auto batch = static_cast<std::int64_t>(members.size());
  check_memory(length);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(batch * length));
  for (std::size_t i = 0; i < members.size(); ++i) {
    const std::vector<std::int32_t>& tokens = texts[members[i]].tokens;
    std::copy(tokens.begin(), tokens.end() - 1, ids.begin() + static_cast<std::ptrdiff_t>(i) * length);
    tokens_read_ += static_cast<std::int64_t>(tokens.size()) - 1;
  }
  const auto width = static_cast<std::size_t>(engine_.config().padded_vocab_size());
  std::vector<Wanted> wanted;
  std::vector<TokenScore> scores;
  engine_.forward(ids, batch, length, [&](std::int64_t first_row, std::span<const float> logits) {
    wanted.clear();
    for (std::size_t row = 0; row * width < logits.size(); ++row) {
      const std::int64_t place = first_row + static_cast<std::int64_t>(row);
      const std::size_t text = members[static_cast<std::size_t>(place / length)];
      const std::int64_t token = place % length + 1;
      const bool inside = token < static_cast<std::int64_t>(texts[text].tokens.size());
      if (inside && token >= texts[text].first) wanted.push_back({row, text, token});
    }
    scores.resize(wanted.size());
    const std::int64_t work = static_cast<std::int64_t>(wanted.size() * width);
    const auto most = static_cast<std::int64_t>(std::max(1u, std::thread::hardware_concurrency()));
    on_threads(static_cast<int>(std::clamp<std::int64_t>(work / kLogitsAThread, 1, most)), wanted.size(),
               [&](std::size_t i) {
                 const std::int32_t token = texts[wanted[i].text].tokens[static_cast<std::size_t>(wanted[i].token)];
                 scores[i] =
                     score_of(logits.subspan(wanted[i].row * width, width), token, engine_.config().vocab_size);
               });
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      if (!std::isfinite(scores[i].log_probability)) {
        fail(StatusCode::bad_file,
             "the logits for token {} of a text are not finite; look for such weights with riverhorse info "
             "--check-finite, and if there are none, use --dtype f32",
             wanted[i].token);
      }
      consume(wanted[i].text, wanted[i].token, scores[i]);
    }
    if (on_scored_) on_scored_(static_cast<std::int64_t>(wanted.size()));
  });
}

}  // namespace riverhorse
