#include "engine/evaluation_tasks.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "engine/text_scorer.h"

namespace riverhorse {
namespace {

// `context` and what follows it, of which the tokens that reach beyond the context are to be scored.
TextToScore joined_text(const Tokenizer& tokenizer, const std::string& context, const std::string& continuation,
                        const std::string& place) {
  TextToScore text;
  text.tokens = tokenizer.encode(context + continuation, false);
  text.first = 0;
  for (std::size_t bytes = 0; text.first < static_cast<std::int64_t>(text.tokens.size()); ++text.first) {
    bytes += tokenizer.token_bytes(text.tokens[static_cast<std::size_t>(text.first)]).size();
    if (bytes > context.size()) break;
  }
  if (text.first > 0) return text;
  if (tokenizer.end_of_text() < 0) {
    fail(StatusCode::bad_file,
         "{}: there is no token before the text to score, and this tokenizer has none to begin with", place);
  }
  text.tokens.insert(text.tokens.begin(), tokenizer.end_of_text());
  text.first = 1;
  return text;
}

// Scores all texts; `consume` as TextScorer's. The tokens are counted in `result`.
void score_all(Engine& engine, std::span<const TextToScore> texts, const EvaluationOptions& options,
               TaskResult& result, const TextScorer::Consume& consume) {
  std::int64_t total = 0, done = 0;
  for (const TextToScore& text : texts) total += text.scored();
  TextScorer scorer(engine, options.batch, [&](std::int64_t tokens) {
    done += tokens;
    if (options.progress) options.progress(static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(total));
  });
  scorer.score(texts, consume);
  result.tokens_scored = total;
  result.tokens_read = scorer.tokens_read();
}

void add_counts(TaskResult& result, const TaskResult& other) {
  result.rows += other.rows;
  result.tokens_scored += other.tokens_scored;
  result.tokens_read += other.tokens_read;
}

std::size_t index_of_largest(std::span<const double> values) {
  return static_cast<std::size_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

}  // namespace

double LastWordResult::perplexity() const { return std::exp(nats / static_cast<double>(rows)); }

LastWordResult& LastWordResult::operator+=(const LastWordResult& other) {
  add_counts(*this, other);
  right += other.right;
  nats += other.nats;
  return *this;
}

ChoiceResult& ChoiceResult::operator+=(const ChoiceResult& other) {
  add_counts(*this, other);
  right += other.right;
  right_by_byte += other.right_by_byte;
  return *this;
}

LastWordResult evaluate_last_words(Engine& engine, const Tokenizer& tokenizer, std::span<const LastWordRow> rows,
                                   const EvaluationOptions& options) {
  std::vector<TextToScore> texts;
  for (const LastWordRow& row : rows) texts.push_back(joined_text(tokenizer, row.context, row.word, row.place));
  LastWordResult result;
  result.rows = static_cast<std::int64_t>(rows.size());
  std::vector<bool> right(rows.size(), true);
  score_all(engine, texts, options, result, [&](std::size_t text, std::int64_t, const TokenScore& score) {
    right[text] = right[text] && score.greedy;
    result.nats -= score.log_probability;
  });
  result.right = std::count(right.begin(), right.end(), true);
  return result;
}

ChoiceResult evaluate_choices(Engine& engine, const Tokenizer& tokenizer, std::span<const ChoiceRow> rows,
                              const EvaluationOptions& options) {
  std::vector<TextToScore> texts;
  for (const ChoiceRow& row : rows) {
    for (const std::string& choice : row.choices) {
      texts.push_back(joined_text(tokenizer, row.context, choice, row.place));
    }
  }
  ChoiceResult result;
  result.rows = static_cast<std::int64_t>(rows.size());
  std::vector<double> sums(texts.size());
  score_all(engine, texts, options, result,
            [&](std::size_t text, std::int64_t, const TokenScore& score) { sums[text] += score.log_probability; });
  std::size_t first = 0;  // text of the row
  for (const ChoiceRow& row : rows) {
    const std::span<double> scores = std::span(sums).subspan(first, row.choices.size());
    result.right += index_of_largest(scores) == row.answer;
    for (std::size_t i = 0; i < scores.size(); ++i) scores[i] /= static_cast<double>(row.choices[i].size());
    result.right_by_byte += index_of_largest(scores) == row.answer;
    first += row.choices.size();
  }
  return result;
}

}  // namespace riverhorse
