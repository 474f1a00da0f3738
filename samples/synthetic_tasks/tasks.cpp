#include "synthetic_tasks/tasks.h"

#include <algorithm>
#include <map>
#include <set>
#include <stdexcept>

namespace synthetic_tasks {

std::size_t random_source::below(std::size_t count) {
  const std::uint64_t limit = UINT64_MAX - UINT64_MAX % count;  // what is above would make small numbers likelier
  std::uint64_t value = engine_();
  while (value >= limit) value = engine_();
  return static_cast<std::size_t>(value % count);
}

vocabulary::vocabulary(int size) {
  if (size < 4) throw std::invalid_argument("a vocabulary needs two numbers, \"=>\" and \".\": at least 4 tokens");
  for (int number = 0; number < size - 2; ++number) texts.push_back(std::to_string(number));
  texts.insert(texts.end(), {"=>", "."});
  std::sort(texts.begin(), texts.end());
  for (std::size_t id = 0; id < texts.size(); ++id) {
    const auto token = static_cast<std::int32_t>(id);
    if (texts[id] == "=>") {
      copy = token;
    } else if (texts[id] == ".") {
      nothing = token;
    } else {
      numbers.push_back(token);
    }
  }
}

sequence associative_recall::draw(random_source& random) const {
  const vocabulary words(vocab_size);
  const std::size_t key_count = words.numbers.size() / 2, value_count = words.numbers.size() - key_count;
  std::size_t tuple_count = 1;  // keys are numbered: the digits of the number, to the base key_count, are its tokens
  for (int i = 0; i < keys_per_value; ++i) tuple_count *= key_count;
  std::vector<std::int32_t> value_of(tuple_count);
  for (std::int32_t& value : value_of) value = words.numbers[key_count + random.below(value_count)];

  sequence result;
  const auto append_key = [&](std::size_t key) {
    std::size_t unit = tuple_count;
    for (int i = 0; i < keys_per_value; ++i) {
      unit /= key_count;
      result.push_back(words.numbers[key / unit % key_count]);
    }
  };
  std::set<std::size_t> present;
  const int pairs = input_length / (keys_per_value + 1);
  if (pairs < 1) throw std::invalid_argument("associative recall needs at least one pair of key and value");
  for (int pair = 0; pair < pairs; ++pair) {
    const std::size_t key = random.below(tuple_count);
    append_key(key);
    result.push_back(value_of[key]);
    present.insert(key);
  }
  result.push_back(words.copy);
  std::size_t query = random.below(tuple_count);
  const bool occurs = present.count(query) > 0;
  if (!occurs && !allow_dot) {
    query = *std::next(present.begin(), static_cast<std::ptrdiff_t>(random.below(present.size())));
  }
  append_key(query);
  result.push_back(occurs || !allow_dot ? value_of[query] : words.nothing);
  return result;
}

sequence induction_heads::draw(random_source& random) const {
  const vocabulary words(vocab_size);
  const auto length = static_cast<std::size_t>(input_length), payload = static_cast<std::size_t>(payload_length);
  if (length < payload + 2) throw std::invalid_argument("the input is too short for a payload after a trigger");
  sequence result;
  for (std::size_t i = 0; i < length; ++i) result.push_back(words.numbers[random.below(words.numbers.size())]);
  result.push_back(words.copy);

  const std::size_t wanted = random.below(2) == 0 ? 1 : static_cast<std::size_t>(triggers);
  std::vector<std::size_t> places;
  for (std::size_t i = 0; i < wanted; ++i) places.push_back(random.below(length - 1 - payload));
  std::sort(places.begin(), places.end());
  std::vector<std::size_t> kept;
  for (const std::size_t place : places) {
    if (kept.empty() || place > kept.back() + payload) kept.push_back(place);
  }
  const auto first = result.begin() + static_cast<std::ptrdiff_t>(kept.front()) + 1;
  const sequence copied(first, first + payload_length);
  for (const std::size_t place : kept) {
    result[place] = words.copy;
    std::copy(copied.begin(), copied.end(), result.begin() + static_cast<std::ptrdiff_t>(place) + 1);
  }
  result.insert(result.end(), copied.begin(), copied.end());
  return result;
}

examples make_examples(const std::vector<sequence>& sequences, std::size_t answer_length) {
  examples result;
  result.count = sequences.size();
  result.length = sequences.front().size() - 1;
  const std::size_t first_scored = answer_length == 0 ? 0 : result.length - answer_length;
  for (const sequence& tokens : sequences) {
    result.ids.insert(result.ids.end(), tokens.begin(), tokens.end() - 1);
    for (std::size_t i = 0; i < result.length; ++i) result.targets.push_back(i < first_scored ? -1 : tokens[i + 1]);
  }
  return result;
}

template <typename Task>
std::vector<sequence> draw_different(const Task& task, std::size_t count, random_source& random) {
  std::set<sequence> different;
  for (std::size_t tries = 0; different.size() < count; ++tries) {
    if (tries > 100 * count) {
      throw std::invalid_argument("there are hardly " + std::to_string(count) + " different sequences of this task");
    }
    different.insert(task.draw(random));
  }
  std::vector<sequence> result(different.begin(), different.end());
  random.shuffle(result);
  return result;
}
template std::vector<sequence> draw_different(const associative_recall&, std::size_t, random_source&);
template std::vector<sequence> draw_different(const induction_heads&, std::size_t, random_source&);

}  // namespace synthetic_tasks
