// Tasks with right answers: the last word of a passage, and the likeliest of several continuations.
//
// The rows are those of .jsonl files, an object a line. A passage is tokenized as a whole; the tokens that reach
// beyond the end of its context are the ones that are scored, also one that begins inside of it. An empty context is
// replaced by the tokenizer's end of text, which is how a text begins.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "engine/evaluation.h"

namespace riverhorse {

// {"text": "..."}: the last word is what follows the last space, that space included.
struct LastWordRow {
  std::string place;  // "file:line"
  std::string context, word;
};

// {"context": "...", "choices": ["...", "..."], "answer": 0}: a choice follows the context as both stand there.
struct ChoiceRow {
  std::string place;
  std::string context;
  std::vector<std::string> choices;  // at least two, none empty
  std::size_t answer = 0;            // the right one
};

// The first `limit` rows, or all of them (0); empty lines are skipped. Errors: not_found, io_error; bad_file for rows
// that cannot be used, after a warning for each with file, line, field and what is wrong; bad_file for no row at all.
std::vector<LastWordRow> read_last_word_rows(const std::filesystem::path& path, std::int64_t limit);
std::vector<ChoiceRow> read_choice_rows(const std::filesystem::path& path, std::int64_t limit);

struct TaskResult {
  std::int64_t rows = 0;
  std::int64_t tokens_scored = 0;
  std::int64_t tokens_read = 0;
};

struct LastWordResult : TaskResult {
  std::int64_t right = 0;  // rows where every token of the word is the greedy choice
  double nats = 0;         // minus the sum of the words' natural log-probabilities

  double accuracy() const { return static_cast<double>(right) / static_cast<double>(rows); }
  double perplexity() const;  // of a word, not of a token
  LastWordResult& operator+=(const LastWordResult& other);
};

struct ChoiceResult : TaskResult {
  std::int64_t right = 0;          // the answer has the largest sum of log-probabilities
  std::int64_t right_by_byte = 0;  // the answer has the largest sum divided by the choice's bytes

  double accuracy() const { return static_cast<double>(right) / static_cast<double>(rows); }
  double accuracy_by_byte() const { return static_cast<double>(right_by_byte) / static_cast<double>(rows); }
  ChoiceResult& operator+=(const ChoiceResult& other);
};

// Of choices that are equally good, the first counts. Errors: bad_file for an empty context that the tokenizer has no
// token to replace with; those of TextScorer.
LastWordResult evaluate_last_words(Engine& engine, const Tokenizer& tokenizer, std::span<const LastWordRow> rows,
                                   const EvaluationOptions& options);
ChoiceResult evaluate_choices(Engine& engine, const Tokenizer& tokenizer, std::span<const ChoiceRow> rows,
                              const EvaluationOptions& options);

}  // namespace riverhorse
