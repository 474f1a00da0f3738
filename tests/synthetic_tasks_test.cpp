// The synthetic tasks of samples/synthetic_tasks: that examples made by the original authors' code belong to what
// ours draw, ours too, and that ours are spread as they should be.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "formats/tensor_file.h"
#include "synthetic_tasks/curves.h"
#include "synthetic_tasks/tasks.h"

namespace synthetic_tasks {
namespace {

const std::string golden = std::string(RIVERHORSE_TEST_DATA) + "/synthetics/examples";

std::size_t place_of(const sequence& numbers, std::int32_t token) {
  return static_cast<std::size_t>(std::find(numbers.begin(), numbers.end(), token) - numbers.begin());
}

// What is wrong with a whole sequence, its answer included; empty when it may come from the task.
std::string problem(const associative_recall& task, const sequence& tokens) {
  const vocabulary words(task.vocab_size);
  const auto unit = static_cast<std::size_t>(task.keys_per_value) + 1;
  const std::size_t pairs = static_cast<std::size_t>(task.input_length) / unit, half = words.numbers.size() / 2;
  if (tokens.size() != pairs * unit + 1 + unit) return "its length";
  std::map<sequence, std::int32_t> values;
  const auto key_at = [&](std::size_t place) {
    const auto begin = tokens.begin() + static_cast<std::ptrdiff_t>(place);
    return sequence(begin, begin + task.keys_per_value);
  };
  for (std::size_t pair = 0; pair < pairs; ++pair) {
    const sequence key = key_at(pair * unit);
    const std::int32_t value = tokens[pair * unit + unit - 1];
    for (const std::int32_t token : key) {
      if (place_of(words.numbers, token) >= half) return "a key that is none";
    }
    const std::size_t place = place_of(words.numbers, value);
    if (place < half || place == words.numbers.size()) return "a value that is none";
    if (values.emplace(key, value).first->second != value) return "a key with two values";
  }
  if (tokens[pairs * unit] != words.copy) return "no => before the question";
  const sequence query = key_at(pairs * unit + 1);
  for (const std::int32_t token : query) {
    if (place_of(words.numbers, token) >= half) return "a question that is no key";
  }
  const auto found = values.find(query);
  if (found == values.end()) {
    return task.allow_dot && tokens.back() == words.nothing ? "" : "a question without an answer";
  }
  return tokens.back() == found->second ? "" : "a wrong answer";
}

std::string problem(const induction_heads& task, const sequence& tokens) {
  const vocabulary words(task.vocab_size);
  const auto length = static_cast<std::size_t>(task.input_length);
  const auto payload = static_cast<std::size_t>(task.payload_length);
  if (tokens.size() != length + 1 + payload) return "its length";
  if (tokens[length] != words.copy) return "no => at the end";
  const sequence answer(tokens.begin() + task.input_length + 1, tokens.end());
  std::size_t triggers = 0, last = 0;
  for (std::size_t i = 0; i < length; ++i) {
    if (tokens[i] == words.nothing) return "a token that is no number";
    if (tokens[i] != words.copy) continue;
    if (i >= length - 1 - payload) return "=> too late";
    if (triggers > 0 && i <= last + payload) return "two => too close";
    const auto begin = tokens.begin() + static_cast<std::ptrdiff_t>(i) + 1;
    if (sequence(begin, begin + task.payload_length) != answer) return "another payload";
    last = i;
    ++triggers;
  }
  if (triggers < 1 || triggers > static_cast<std::size_t>(std::max(1, task.triggers))) return "the number of =>";
  return "";
}

// Both splits of ours and of the original's files: valid, different, and masked as they should be.
template <typename Task>
void expect_members(const Task& task, const examples& data, std::size_t scored) {
  std::set<sequence> seen;
  for (std::size_t row = 0; row < data.count; ++row) {
    const auto begin = data.ids.begin() + static_cast<std::ptrdiff_t>(row * data.length);
    sequence tokens(begin, begin + static_cast<std::ptrdiff_t>(data.length));
    tokens.push_back(data.targets[(row + 1) * data.length - 1]);
    EXPECT_EQ(problem(task, tokens), "") << "row " << row;
    EXPECT_TRUE(seen.insert(tokens).second) << "row " << row << " twice";
    for (std::size_t i = 0; i < data.length; ++i) {
      const std::int32_t target = data.targets[row * data.length + i];
      EXPECT_EQ(target, i + scored < data.length ? -1 : tokens[i + 1]) << "row " << row << " token " << i;
    }
  }
}

examples original(const riverhorse::TensorFile& file, const std::string& name) {
  const auto read = [&](const std::string& part) {
    sequence values;
    // The original marks what is not scored by -100.
    for (const std::int64_t value : to_integers(file.at(name + part))) {
      values.push_back(value == -100 ? -1 : static_cast<std::int32_t>(value));
    }
    return values;
  };
  const auto& shape = file.at(name + "_x").shape;
  return {static_cast<std::size_t>(shape.at(0)), static_cast<std::size_t>(shape.at(1)), read("_x"), read("_y")};
}

template <typename Task>
void expect_as_original(const std::string& name, const Task& task) {
  SCOPED_TRACE(name);
  const nlohmann::json about = nlohmann::json::parse(std::ifstream(golden + ".json")).at(name);
  const vocabulary words(task.vocab_size);
  EXPECT_EQ(about.at("vocab").get<std::vector<std::string>>(), words.texts);
  EXPECT_EQ(about.at("copy_prefix_id").get<int>(), words.copy);
  EXPECT_EQ(about.at("noop_id").get<int>(), words.nothing);

  const riverhorse::TensorFile file = riverhorse::read_safetensors(golden + ".safetensors");
  const examples train = original(file, name + ".train"), test = original(file, name + ".test");
  expect_members(task, train, train.length);
  expect_members(task, test, task.answer_length());

  const data_set ours = make_data_set(task, 300, 100, 5);
  EXPECT_EQ(ours.train.length, train.length);
  EXPECT_EQ(ours.train.count, 300u);
  EXPECT_EQ(ours.test.count, 100u);
  expect_members(task, ours.train, ours.train.length);
  expect_members(task, ours.test, task.answer_length());
  EXPECT_EQ(make_data_set(task, 300, 100, 5).train.ids, ours.train.ids);
  EXPECT_NE(make_data_set(task, 300, 100, 6).train.ids, ours.train.ids);
}

TEST(SyntheticTasks, AreThoseOfTheOriginal) {
  expect_as_original("assoc_recall_v10", associative_recall{10, 20, 1, false});
  expect_as_original("assoc_recall_v20", associative_recall{20, 40, 1, false});
  expect_as_original("assoc_recall_2keys", associative_recall{12, 30, 2, false});
  expect_as_original("assoc_recall_dot", associative_recall{30, 12, 1, true});
  expect_as_original("induction_head_v20", induction_heads{20, 30, 1, 1});
  expect_as_original("induction_head_len3_trig2", induction_heads{20, 30, 3, 2});
}

// Draws from a uniform distribution: every count within five standard deviations (missed once in 1.7 million).
void expect_uniform(const std::map<std::int64_t, int>& counts, std::size_t outcomes) {
  double total = 0;
  for (const auto& [value, count] : counts) total += count;
  EXPECT_EQ(counts.size(), outcomes);
  const double p = 1.0 / static_cast<double>(outcomes), deviation = std::sqrt(total * p * (1 - p));
  for (const auto& [value, count] : counts) EXPECT_NEAR(count, total * p, 5 * deviation) << value;
}

constexpr int draws = 20000;

TEST(SyntheticTasks, RecallIsSpreadEvenly) {
  random_source random(7);
  const associative_recall task;
  std::map<std::int64_t, int> first_key, first_value, last_key, query;
  for (int i = 0; i < draws; ++i) {
    const sequence tokens = task.draw(random);
    ++first_key[tokens[0]];
    ++first_value[tokens[1]];
    ++last_key[tokens[38]];
    ++query[tokens[41]];
  }
  for (const auto& counts : {first_key, first_value, last_key, query}) expect_uniform(counts, 9);
}

// An absent key is asked for as often as it is absent: with 14 keys and 6 pairs, in (13/14)^6 of the sequences.
TEST(SyntheticTasks, DotsAreAsFrequentAsAbsentKeys) {
  random_source random(8);
  const associative_recall task{30, 12, 1, true};
  int dots = 0;
  for (int i = 0; i < draws; ++i) dots += task.draw(random).back() == vocabulary(30).nothing ? 1 : 0;
  const double p = std::pow(13.0 / 14.0, 6);
  EXPECT_NEAR(dots, draws * p, 5 * std::sqrt(draws * p * (1 - p)));
}

TEST(SyntheticTasks, InductionIsSpreadEvenly) {
  random_source random(9);
  const induction_heads task;
  std::map<std::int64_t, int> place, payload;
  for (int i = 0; i < draws; ++i) {
    const sequence tokens = task.draw(random);
    ++place[std::find(tokens.begin(), tokens.end(), 19) - tokens.begin()];
    ++payload[tokens.back()];
  }
  expect_uniform(place, 28);  // [0, 30 - 1 - 1)
  expect_uniform(payload, 18);
}

// Of two triggers in 26 places, the second is dropped within 3 of the first: in (26 + 2 (25 + 24 + 23)) / 26^2 of
// the draws of two, which are half of all.
TEST(SyntheticTasks, TriggersKeepTheirDistance) {
  random_source random(10);
  const induction_heads task{16, 30, 3, 2};
  int two = 0;
  for (int i = 0; i < draws; ++i) {
    const sequence tokens = task.draw(random);
    two += std::count(tokens.begin(), tokens.begin() + 30, 15) == 2 ? 1 : 0;
  }
  const double p = 0.5 * (1 - (26 + 2 * (25 + 24 + 23)) / (26.0 * 26.0));
  EXPECT_NEAR(two, draws * p, 5 * std::sqrt(draws * p * (1 - p)));
}

TEST(SyntheticTasks, TooFewDifferentSequencesAreAnError) {
  EXPECT_THROW(make_data_set(associative_recall{4, 2, 1, false}, 10, 1, 1), std::invalid_argument);
  EXPECT_THROW(make_data_set(induction_heads{3, 30, 1, 1}, 10, 1, 1), std::invalid_argument);
  EXPECT_THROW(make_data_set(induction_heads{20, 2, 1, 1}, 10, 1, 1), std::invalid_argument);
  EXPECT_THROW(make_data_set(associative_recall{20, 1, 1, false}, 10, 1, 1), std::invalid_argument);
}

TEST(SyntheticTasks, CurvesAreAPictureOfTheValues) {
  const std::string path = testing::TempDir() + "curves.svg";
  write_curves(path, "a title", {{"H3", {0, 50, 100}}, {"S4D", {10, 20, 30}}});
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  for (const char* part : {"<svg", "a title", ">H3<", ">S4D<", "620,50 ", "</svg>"}) {
    EXPECT_NE(text.str().find(part), std::string::npos) << part;
  }
  EXPECT_EQ(text.str().find("href"), std::string::npos) << "it needs other files";
  EXPECT_THROW(write_curves("/no/such/folder/curves.svg", "", {}), std::runtime_error);
  std::remove(path.c_str());
}

}  // namespace
}  // namespace synthetic_tasks
