// The two synthetic tasks of the H3 paper (Fu et al., "Hungry Hungry Hippos", 2022), as its authors' code defines
// them, but for the random numbers.
//
// The vocabulary is the numbers 0 to V - 3, "=>" (here comes what was copied) and "." (nothing); the id of a token is
// its place when these texts are sorted, so that "." is 0, "0" is 1, "1" is 2, "10" is 3 and "=>" is V - 1. A
// sequence ends with its answer. Targets are the next tokens; of test data only the answer counts, the others are -1.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace synthetic_tasks {

// Numbers that are the same on every machine: the distributions of the standard library are not.
class random_source {
 public:
  explicit random_source(std::uint64_t seed) : engine_(seed) {}

  std::size_t below(std::size_t count);  // uniform in [0, count), count > 0

  template <typename T>
  void shuffle(std::vector<T>& values) {
    for (std::size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[below(i)]);
  }

 private:
  std::mt19937_64 engine_;
};

using sequence = std::vector<std::int32_t>;

struct vocabulary {
  explicit vocabulary(int size);  // throws std::invalid_argument below 4

  std::vector<std::string> texts;  // by id
  sequence numbers;                // ids of the numbers, sorted as texts
  std::int32_t copy = 0;           // "=>"
  std::int32_t nothing = 0;        // "."
};

// Pairs of a key and its value, "=>", one of the keys, and its value: which value did that key have? The first half
// of the numbers are keys, the others values; in one sequence a key has one value.
struct associative_recall {
  int vocab_size = 20;
  int input_length = 40;   // tokens of the pairs, at most
  int keys_per_value = 1;  // a key may be several tokens
  bool allow_dot = false;  // a key that does not occur may be asked for: the answer is "."

  std::size_t answer_length() const { return 1; }
  sequence draw(random_source& random) const;  // with its answer
};

// Random numbers, in which "=>" is followed each time by the same few tokens, the payload; then "=>": what follows?
struct induction_heads {
  int vocab_size = 20;
  int input_length = 30;  // tokens before the last "=>"
  int payload_length = 1;
  int triggers = 1;  // places of "=>" before the last one: so many, or one, each half of the time; fewer if too close

  std::size_t answer_length() const { return static_cast<std::size_t>(payload_length); }
  sequence draw(random_source& random) const;
};

// (count, length) each.
struct examples {
  std::size_t count = 0, length = 0;
  sequence ids, targets;
};

// `sequences`, all of one length, as examples; `answer_length` 0: every token is scored.
examples make_examples(const std::vector<sequence>& sequences, std::size_t answer_length);

// `count` different sequences of a task, in random order. Throws std::invalid_argument when there are not so many.
template <typename Task>
std::vector<sequence> draw_different(const Task& task, std::size_t count, random_source& random);

struct data_set {
  int vocab_size = 0;
  examples train, test;
};

// Training and test data: no sequence twice in either.
template <typename Task>
data_set make_data_set(const Task& task, std::size_t train_count, std::size_t test_count, std::uint64_t seed) {
  random_source random(seed);
  data_set data;
  data.vocab_size = task.vocab_size;
  data.train = make_examples(draw_different(task, train_count, random), 0);
  data.test = make_examples(draw_different(task, test_count, random), task.answer_length());
  return data;
}

}  // namespace synthetic_tasks
