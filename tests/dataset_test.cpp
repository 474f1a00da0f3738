// Text files to token files: the same with any number of threads, split by seed, kept in the cache.
#include "data/dataset.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

#include "base/error.h"
#include "data/bpe_trainer.h"
#include "tokenizer_fixture.h"

namespace riverhorse::test {
namespace {

std::vector<std::int32_t> tokens_of(const TokenSource& source) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(source.size()));
  source.read(0, tokens);
  return tokens;
}

// About `bytes` of words, punctuation, numbers and characters beyond ASCII.
std::string some_text(std::uint64_t seed, std::size_t bytes) {
  static const char* const pieces[] = {"river",
                                       " horse",
                                       " swims",
                                       ".",
                                       "\n",
                                       "\n\n",
                                       "  ",
                                       " 1984",
                                       "\xC3\xA9",
                                       "'s",
                                       "\t",
                                       ", and",
                                       "!?",
                                       " ",
                                       "x",
                                       "ing",
                                       " \xE6\xB2\xB3\xE9\xA6\xAC"};
  std::mt19937_64 random(seed);
  std::string text;
  while (text.size() < bytes) text += pieces[random() % std::size(pieces)];
  return text;
}

class DatasetTest : public testing::Test {
 protected:
  // Documents of very different lengths, one of them longer than what a thread takes at a time.
  void SetUp() override {
    std::string rows;
    for (std::uint64_t i = 0; i < 300; ++i) {
      texts_.push_back(some_text(i, i == 7 ? 1'000'000 : 1 + i * i % 5000));
      rows += nlohmann::json(texts_.back()).dump() + "\n";
    }
    inputs_.paths = {folder_.write("rows.jsonl", rows).string()};
    BpeTrainer trainer;
    trainer.add(texts_[7].substr(0, 10000));
    tokenizer_ = std::make_unique<BpeTokenizer>(trainer.train(400));
  }

  std::filesystem::path path(const std::string& name) const { return folder_.path() / name; }

  std::string document_text(const TokenFile& file, std::size_t index) const {
    const auto ends = file.document_ends();
    const std::int64_t begin = index == 0 ? 0 : ends[index - 1];
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(ends[index] - begin));
    file.read(begin, tokens);
    EXPECT_EQ(tokens.back(), tokenizer_->end_of_text());
    tokens.pop_back();
    return tokenizer_->decode(tokens);
  }

  TemporaryFolder folder_;
  std::vector<std::string> texts_;
  TextInputs inputs_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(DatasetTest, DocumentsInOrderWithEndOfTextBehindEach) {
  tokenize_files(inputs_, *tokenizer_, {}, path("a.tokens"), {});
  const TokenFile file(path("a.tokens"));
  std::vector<std::int32_t> expected;
  std::uint64_t bytes = 0;
  for (const std::string& text : texts_) {
    const std::vector<std::int32_t> ids = tokenizer_->encode(text, false);  // whole, never cut
    expected.insert(expected.end(), ids.begin(), ids.end());
    expected.push_back(tokenizer_->end_of_text());
    bytes += text.size();
  }
  EXPECT_EQ(tokens_of(file), expected);
  ASSERT_EQ(file.document_ends().size(), texts_.size());
  EXPECT_EQ(document_text(file, 7), texts_[7]);
  EXPECT_EQ(file.header().text_bytes, bytes);
  EXPECT_EQ(file.header().tokenizer_hash, tokenizer_->fingerprint());
}

TEST_F(DatasetTest, AnyNumberOfThreadsGivesTheSameBytes) {
  DatasetOptions options;
  options.split = {20, 3};
  for (const int threads : {1, 4}) {
    options.threads = threads;
    const std::string name = std::to_string(threads);
    tokenize_files(inputs_, *tokenizer_, options, path(name + ".train"), path(name + ".validation"));
  }
  EXPECT_EQ(read_whole(path("1.train")), read_whole(path("4.train")));
  EXPECT_EQ(read_whole(path("1.validation")), read_whole(path("4.validation")));
}

TEST_F(DatasetTest, TheSeedSplitsByDocument) {
  std::vector<std::string> validations;
  for (const std::uint64_t seed : {1u, 1u, 2u}) {
    DatasetOptions options;
    options.split = {10, seed};
    tokenize_files(inputs_, *tokenizer_, options, path("train"), path("validation"));
    const TokenFile train(path("train")), validation(path("validation"));
    EXPECT_EQ(train.document_ends().size() + validation.document_ends().size(), texts_.size());
    EXPECT_NEAR(static_cast<double>(validation.document_ends().size()), 30, 15);
    std::multiset<std::string> together;
    for (const TokenFile* file : {&train, &validation}) {
      for (std::size_t i = 0; i < file->document_ends().size(); ++i) together.insert(document_text(*file, i));
    }
    EXPECT_EQ(together, std::multiset<std::string>(texts_.begin(), texts_.end()));
    validations.push_back(read_whole(path("validation")));
  }
  EXPECT_EQ(validations[0], validations[1]);
  EXPECT_NE(validations[0], validations[2]);
}

TEST_F(DatasetTest, ASingleDocumentIsSplitByPosition) {
  for (const std::string& text : {some_text(1, 100000), [] {
                                    std::string river;
                                    for (int i = 0; i < 1000; ++i) river += "\xE6\xB2\xB3";
                                    return river;  // no place between words
                                  }()}) {
    inputs_.paths = {folder_.write("one.txt", text).string()};
    DatasetOptions options;
    options.split = {5, 0};
    tokenize_files(inputs_, *tokenizer_, options, path("train"), path("validation"));
    const TokenFile train(path("train")), validation(path("validation"));
    EXPECT_EQ(document_text(train, 0) + document_text(validation, 0), text);
    EXPECT_NEAR(static_cast<double>(validation.header().text_bytes) / static_cast<double>(text.size()), 0.05, 0.005);
  }
}

TEST_F(DatasetTest, BytesAndProgress) {
  std::uint64_t last = 0, total = 0;
  DatasetOptions options;
  options.progress = [&](std::uint64_t done, std::uint64_t all) {
    EXPECT_GE(done, last);
    last = done;
    total = all;
  };
  tokenize_files(inputs_, *make_byte_tokenizer(), options, path("a.tokens"), {});
  EXPECT_EQ(total, std::filesystem::file_size(path("rows.jsonl")));
  EXPECT_EQ(last, total);
  const TokenFile file(path("a.tokens"));
  EXPECT_EQ(file.header().text_bytes + texts_.size(), file.header().tokens);
  // Within a long document too.
  const std::size_t long_bytes = 20'000'000;
  inputs_.paths = {folder_.write("long.txt", some_text(1, long_bytes)).string()};
  last = 0;
  std::vector<std::uint64_t> seen;
  options.threads = 1;
  options.split = {10, 0};
  options.progress = [&](std::uint64_t done, std::uint64_t) { seen.push_back(done); };
  tokenize_files(inputs_, *make_byte_tokenizer(), options, path("c.tokens"), path("d.tokens"));
  EXPECT_TRUE(std::is_sorted(seen.begin(), seen.end()));
  EXPECT_GE(seen.size(), 4u);
  EXPECT_LT(seen.front(), long_bytes / 2);
  EXPECT_EQ(seen.back(), std::filesystem::file_size(path("long.txt")));
  // What the callback throws ends the work, and no file appears.
  options.progress = [](std::uint64_t, std::uint64_t) { fail(StatusCode::cancelled, "stopped"); };
  EXPECT_THROW(tokenize_files(inputs_, *tokenizer_, options, path("b.tokens"), {}), Error);
  EXPECT_FALSE(std::filesystem::exists(path("b.tokens")));
}

TEST_F(DatasetTest, BadUseAndEmptyPartsAreErrors) {
  DatasetOptions options;
  EXPECT_THROW(tokenize_files(inputs_, *tokenizer_, options, path("a"), path("b")), Error);
  options.split.validation_percent = 10;
  EXPECT_THROW(tokenize_files(inputs_, *tokenizer_, options, path("a"), {}), Error);
  options.split.validation_percent = 100;
  EXPECT_THROW(tokenize_files(inputs_, *tokenizer_, options, path("a"), path("b")), Error);
  options.split.validation_percent = 0.0001;
  EXPECT_THROW(tokenize_files(inputs_, *tokenizer_, options, path("a"), path("b")), Error) << "nothing validates";
  inputs_.paths = {folder_.write("empty.jsonl", "\n").string()};
  EXPECT_THROW(tokenize_files(inputs_, *tokenizer_, {}, path("a"), {}), Error);
  EXPECT_FALSE(std::filesystem::exists(path("a")));
  EXPECT_FALSE(std::filesystem::exists(path("b")));
}

TEST_F(DatasetTest, TheCacheKnowsContentOptionsAndTokenizer) {
  const std::string cache = path("cache").string();
  DatasetOptions options;
  options.split = {10, 1};
  const auto from_cache = [&](const Tokenizer& tokenizer) {
    const Dataset dataset = open_dataset(inputs_, tokenizer, options, cache);
    EXPECT_EQ(dataset.train->header().tokenizer_hash, tokenizer.fingerprint());
    EXPECT_EQ(dataset.validation != nullptr, options.split.validation_percent > 0);
    return dataset.from_cache;
  };
  EXPECT_FALSE(from_cache(*tokenizer_));
  EXPECT_TRUE(from_cache(*tokenizer_));
  options.threads = 3;
  EXPECT_TRUE(from_cache(*tokenizer_)) << "threads do not matter";
  EXPECT_FALSE(from_cache(*make_byte_tokenizer()));
  options.split.seed = 2;
  EXPECT_FALSE(from_cache(*tokenizer_));
  options.split = {};
  EXPECT_FALSE(from_cache(*tokenizer_));
  inputs_.field = "body";  // strings have no field, but objects could have had
  EXPECT_FALSE(from_cache(*tokenizer_));
  EXPECT_TRUE(from_cache(*tokenizer_));
  std::ofstream(inputs_.paths[0], std::ios::app) << "\"more\"\n";
  EXPECT_FALSE(from_cache(*tokenizer_)) << "the content changed";
  // Damage is noticed.
  for (const auto& entry : std::filesystem::directory_iterator(cache)) std::filesystem::resize_file(entry, 70);
  EXPECT_FALSE(from_cache(*tokenizer_));
}

TEST_F(DatasetTest, WithoutACache) {
  const Dataset dataset = open_dataset(inputs_, *tokenizer_, {}, "none");
  EXPECT_FALSE(dataset.from_cache);
  EXPECT_EQ(dataset.validation, nullptr);
  EXPECT_EQ(document_text(*dataset.train, 3), texts_[3]);
  EXPECT_FALSE(std::filesystem::exists(dataset.train->path())) << "the file outlives its use";
}

// Cutting a text where safe_cut says must never change its tokens.
TEST_F(DatasetTest, SafeCutsChangeNoToken) {
  const std::string text = some_text(9, 3000);
  for (const Tokenizer* tokenizer : std::initializer_list<const Tokenizer*>{tokenizer_.get(), &gpt2_tokenizer()}) {
    const std::vector<std::int32_t> whole = tokenizer->encode(text, false);
    for (std::size_t about = 0; about < text.size(); about += 7) {
      const std::size_t cut = tokenizer->safe_cut(text, about);
      ASSERT_GE(cut, about);
      std::vector<std::int32_t> parts = tokenizer->encode(std::string_view(text).substr(0, cut), false);
      const auto second = tokenizer->encode(std::string_view(text).substr(cut), false);
      parts.insert(parts.end(), second.begin(), second.end());
      ASSERT_EQ(parts, whole) << "cut at " << cut;
    }
  }
  // A token that is matched everywhere and reaches over a space forbids it.
  BpeVocabulary vocabulary = BpeTrainer().train(257);
  vocabulary.added.push_back({"two words", 257, false});
  EXPECT_EQ(BpeTokenizer(vocabulary).safe_cut("some two words here", 1), 19u);
}

}  // namespace
}  // namespace riverhorse::test
