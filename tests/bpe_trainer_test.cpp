// Learning a vocabulary: the fast trainer against a plain one, and what it writes against our own reader.
#include "data/bpe_trainer.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "base/error.h"
#include "tokenizer_fixture.h"

namespace riverhorse::test {
namespace {

// The definition, word by word: counts everything again for every merge.
std::vector<std::pair<std::int32_t, std::int32_t>> plain_merges(const std::string& text, std::size_t merges) {
  std::map<std::string, std::int64_t> words;
  const Pretokenizer pretokenizer;
  Pretokenizer::Walk walk(pretokenizer, text);
  for (std::string_view word = walk.next(); !word.empty(); word = walk.next()) ++words[std::string(word)];
  std::vector<std::pair<std::vector<std::int32_t>, std::int64_t>> rows;
  for (const auto& [word, count] : words) {
    rows.emplace_back();
    for (const char byte : word) rows.back().first.push_back(static_cast<unsigned char>(byte));
    rows.back().second = count;
  }
  std::vector<std::pair<std::int32_t, std::int32_t>> result;
  while (result.size() < merges) {
    std::map<std::pair<std::int32_t, std::int32_t>, std::int64_t> counts;
    for (const auto& [ids, count] : rows) {
      for (std::size_t i = 0; i + 1 < ids.size(); ++i) counts[{ids[i], ids[i + 1]}] += count;
    }
    std::pair<std::int32_t, std::int32_t> best;
    std::int64_t most = 1;
    for (const auto& [pair, count] : counts) {
      if (count > most) std::tie(best, most) = std::pair(pair, count);  // of equals the smallest comes first
    }
    if (most < 2) break;
    const auto merged = static_cast<std::int32_t>(256 + result.size());
    result.push_back(best);
    for (auto& [ids, count] : rows) {
      std::vector<std::int32_t> after;
      for (std::size_t i = 0; i < ids.size(); ++i) {
        const bool here = i + 1 < ids.size() && ids[i] == best.first && ids[i + 1] == best.second;
        after.push_back(here ? merged : ids[i]);
        if (here) ++i;
      }
      ids = after;
    }
  }
  return result;
}

std::string random_text(std::uint64_t seed, std::size_t words, int letters) {
  std::mt19937_64 random(seed);
  std::string text;
  for (std::size_t i = 0; i < words; ++i) {
    const std::size_t length = 1 + random() % 9;
    for (std::size_t j = 0; j < length; ++j) text.push_back(static_cast<char>('a' + random() % letters));
    text += random() % 8 == 0 ? "\n\n" : " ";
  }
  return text;
}

BpeVocabulary train(const std::string& text, std::int64_t vocab_size) {
  BpeTrainer trainer;
  trainer.add(text);
  return trainer.train(vocab_size);
}

TEST(BpeTrainer, FindsTheMergesOfTheDefinition) {
  for (const int letters : {1, 2, 3, 12}) {  // few letters: many ties and overlapping pairs
    const std::string text = random_text(static_cast<std::uint64_t>(letters), 400, letters);
    const auto expected = plain_merges(text, 150);
    const BpeVocabulary vocabulary = train(text, 257 + 150);
    ASSERT_EQ(vocabulary.merges.size(), expected.size()) << letters << " letters";
    for (std::size_t i = 0; i < expected.size(); ++i) {
      EXPECT_EQ(vocabulary.merges[i].left, expected[i].first) << letters << " letters, merge " << i;
      EXPECT_EQ(vocabulary.merges[i].right, expected[i].second) << letters << " letters, merge " << i;
      EXPECT_EQ(vocabulary.merges[i].merged, static_cast<std::int32_t>(256 + i));
    }
  }
}

TEST(BpeTrainer, TiesGoToTheSmallestPair) {
  const BpeVocabulary vocabulary = train("cd\nab\ncd\nab", 257 + 2);
  ASSERT_EQ(vocabulary.merges.size(), 2u);
  EXPECT_EQ(vocabulary.merges[0].left, 'a');
  EXPECT_EQ(vocabulary.merges[1].left, 'c');
}

TEST(BpeTrainer, BytesComeFirstAndTheEndOfTextLast) {
  const BpeVocabulary vocabulary = train(random_text(5, 1000, 20), 300);
  ASSERT_EQ(vocabulary.tokens.size(), 299u);
  for (int id = 0; id < 256; ++id) {
    EXPECT_EQ(vocabulary.tokens[static_cast<std::size_t>(id)].bytes, std::string(1, static_cast<char>(id)));
  }
  ASSERT_EQ(vocabulary.added.size(), 1u);
  EXPECT_EQ(vocabulary.added[0].id, 299);
  EXPECT_EQ(BpeTokenizer(vocabulary).end_of_text(), 299);
  EXPECT_EQ(BpeTokenizer(vocabulary).vocab_size(), 300);
}

TEST(BpeTrainer, StopsWhenNothingOccursTwice) {
  EXPECT_EQ(train("abc", 1000).merges.size(), 0u);
  EXPECT_EQ(train("", 1000).tokens.size(), 256u);
  EXPECT_THROW(train("abc", 256), Error);
  EXPECT_THROW(train("abc", (1 << 20) + 1), Error);
}

// A word that is the whole text: the work stays small, and no token becomes longer than files may have.
TEST(BpeTrainer, OneEndlessWord) {
  const TemporaryFolder folder;
  const BpeVocabulary vocabulary = train(std::string(3'000'000, 'a'), 4096);
  for (const BpeVocabulary::Token& token : vocabulary.tokens) EXPECT_LE(token.bytes.size(), 256u);
  EXPECT_GE(vocabulary.merges.size(), 8u);
  EXPECT_NO_THROW(load_gpt2_tokenizer(folder.write("tokenizer.json", tokenizer_json(vocabulary))));
}

TEST(BpeTrainer, TheOrderOfTheTextDoesNotMatter) {
  const std::string first = random_text(1, 500, 6), second = random_text(2, 500, 6);
  BpeTrainer one, other;
  one.add(first);
  one.add(second);
  other.add(second);
  other.add(first);
  EXPECT_EQ(tokenizer_json(one.train(400)), tokenizer_json(other.train(400)));
}

TEST(BpeTrainer, WhatItWritesReadsBackAndEncodesAlike) {
  const TemporaryFolder folder;
  const std::string text =
      read_whole(std::filesystem::path(RIVERHORSE_SOURCE_DIR) / "README.md") +
      "\xC3\xA9t\xC3\xA9 \xE6\x97\xA5\xE6\x9C\xAC\xE8\xAA\x9E \xF0\x9F\xA6\x9B\xF0\x9F\xA6\x9B\n\n\tend";
  const BpeVocabulary vocabulary = train(text, 600);
  const BpeTokenizer direct(vocabulary);
  const auto loaded = load_gpt2_tokenizer(folder.write("tokenizer.json", tokenizer_json(vocabulary)));
  EXPECT_EQ(loaded->vocab_size(), 600);
  EXPECT_EQ(loaded->end_of_text(), 599);
  EXPECT_EQ(loaded->fingerprint(), direct.fingerprint());
  EXPECT_NE(loaded->fingerprint(), BpeTokenizer(train(text, 599)).fingerprint());
  const std::vector<std::int32_t> ids = loaded->encode(text, false);
  EXPECT_EQ(ids, direct.encode(text, false));
  EXPECT_EQ(loaded->decode(ids), text);
  EXPECT_LT(ids.size() * 2, text.size()) << "it learned something";
  std::string all_bytes;
  for (int byte = 0; byte < 256; ++byte) all_bytes.push_back(static_cast<char>(byte));
  EXPECT_EQ(loaded->decode(loaded->encode(all_bytes + text + "<|endoftext|>", true)),
            all_bytes + text + "<|endoftext|>");
}

}  // namespace
}  // namespace riverhorse::test
