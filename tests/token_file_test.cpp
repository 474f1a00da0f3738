// Token files: what is written is read back, and damaged files give one clear error.
#include "data/token_file.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <numeric>

#include "base/error.h"
#include "tokenizer_fixture.h"

namespace riverhorse::test {
namespace {

std::vector<std::int32_t> read_all(const TokenSource& source) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(source.size()));
  source.read(0, tokens);
  return tokens;
}

// Two documents: (0, 1, largest) and (2).
void write_small(const std::filesystem::path& path, std::int64_t vocab_size) {
  TokenFileWriter writer(path, vocab_size, 0x1234567890ABCDEFu);
  const std::vector<std::int32_t> first = {0, 1}, rest = {static_cast<std::int32_t>(vocab_size - 1)}, second = {2};
  writer.append(first, 5);
  writer.append(rest, 6);
  writer.end_document();
  writer.end_document();  // an empty one, which leaves no trace
  writer.append(second, 1);
  writer.set_left_out(3);
  writer.commit();
}

TEST(TokenFile, GivesBackWhatWasWritten) {
  const TemporaryFolder folder;
  for (const std::int64_t vocab_size : {257, 65536, 65537, 2147483647}) {
    const std::filesystem::path path = folder.path() / "a.tokens";
    write_small(path, vocab_size);
    const TokenFile file(path);
    EXPECT_EQ(file.size(), 4);
    EXPECT_EQ(read_all(file), (std::vector<std::int32_t>{0, 1, static_cast<std::int32_t>(vocab_size - 1), 2}));
    EXPECT_EQ(std::vector(file.document_ends().begin(), file.document_ends().end()),
              (std::vector<std::int64_t>{3, 4}));
    EXPECT_EQ(file.header().token_bytes, vocab_size <= 65536 ? 2u : 4u);
    EXPECT_EQ(file.header().vocab_size, static_cast<std::uint64_t>(vocab_size));
    EXPECT_EQ(file.header().tokenizer_hash, 0x1234567890ABCDEFu);
    EXPECT_EQ(file.header().text_bytes, 12u);
    EXPECT_EQ(file.header().left_out, 3u);
    std::vector<std::int32_t> middle(2);
    file.read(1, middle);
    EXPECT_EQ(middle, (std::vector<std::int32_t>{1, static_cast<std::int32_t>(vocab_size - 1)}));
  }
}

TEST(TokenFile, ReadingOutsideIsRefused) {
  const TemporaryFolder folder;
  write_small(folder.path() / "a.tokens", 257);
  const TokenFile file(folder.path() / "a.tokens");
  std::vector<std::int32_t> two(2);
  EXPECT_NO_THROW(file.read(2, two));
  for (const std::int64_t begin : {std::int64_t{-1}, std::int64_t{3}, std::int64_t{4}, INT64_MAX}) {
    EXPECT_THROW(file.read(begin, two), Error) << begin;
  }
}

TEST(TokenFile, AppearsOnlyWhenItIsWhole) {
  const TemporaryFolder folder;
  const auto files = [&] { return std::distance(std::filesystem::directory_iterator(folder.path()), {}); };
  const std::filesystem::path path = folder.write("a.tokens", "the old one");
  {
    TokenFileWriter writer(path, 257, 0);
    writer.append(std::vector<std::int32_t>{1, 2}, 2);
    EXPECT_THROW(writer.append(std::vector<std::int32_t>{257}, 1), Error);
    EXPECT_THROW(writer.append(std::vector<std::int32_t>{-1}, 1), Error);
  }
  EXPECT_THROW(TokenFileWriter(path, 257, 0).commit(), Error) << "a file without tokens";
  EXPECT_THROW(TokenFileWriter(path, 0, 0), Error);
  EXPECT_EQ(read_whole(path), "the old one");
  EXPECT_EQ(files(), 1) << "a temporary file is left";
}

struct Damage {
  const char* name;
  const char* expected;  // in the message
  std::function<void(std::string&)> damage;
};

template <typename Number>
std::function<void(std::string&)> set(std::size_t offset, Number value) {
  return [=](std::string& bytes) { std::memcpy(bytes.data() + offset, &value, sizeof value); };
}

TEST(TokenFile, DamagedFilesGiveOneClearError) {
  constexpr std::uint64_t kHuge = ~std::uint64_t{0};
  const std::vector<Damage> corpus = {
      {"empty", "too few", [](std::string& bytes) { bytes.clear(); }},
      {"half a header", "too few", [](std::string& bytes) { bytes.resize(40); }},
      {"another kind of file", "not a token file", set(0, 'X')},
      {"a version from the future", "version 2", set(8, std::uint32_t{2})},
      {"width 0", "tokens of 0 bytes", set(12, std::uint32_t{0})},
      {"width of a larger vocabulary", "tokens of 4 bytes", set(12, std::uint32_t{4})},
      {"no vocabulary", "vocabulary of 0", set(56, std::uint64_t{0})},
      {"a huge vocabulary", "vocabulary of", set(56, kHuge)},
      {"no tokens", "holds 0 tokens", set(24, std::uint64_t{0})},
      {"no documents", "0 documents", set(32, std::uint64_t{0})},
      {"more tokens than bytes", "cut short", set(24, std::uint64_t{1000})},
      {"so many tokens that sizes wrap around", "not possible", set(24, (std::uint64_t{1} << 63) + 4)},
      {"so many documents that sizes wrap around", "not possible", set(32, (std::uint64_t{1} << 61) + 2)},
      {"more documents than tokens", "not possible", set(32, std::uint64_t{5})},
      {"fewer documents", "something behind", set(32, std::uint64_t{1})},
      {"cut in the tokens", "cut short", [](std::string& bytes) { bytes.resize(66); }},
      {"cut in the document ends", "cut short", [](std::string& bytes) { bytes.pop_back(); }},
      {"a byte too many", "something behind", [](std::string& bytes) { bytes.push_back('x'); }},
      {"a document that ends before it begins", "document 1", set(80, std::int64_t{3})},
      {"a negative document end", "document 0", set(72, std::int64_t{-3})},
      {"a document that ends beyond the tokens", "document 1", set(80, std::int64_t{5})},
      {"an empty document", "document 0", set(72, std::int64_t{0})},
  };
  const TemporaryFolder folder;
  write_small(folder.path() / "good.tokens", 257);
  const std::string good = read_whole(folder.path() / "good.tokens");
  ASSERT_EQ(good.size(), 64u + 8u + 16u);
  for (const Damage& damage : corpus) {
    std::string bytes = good;
    damage.damage(bytes);
    const std::filesystem::path path = folder.write("bad.tokens", bytes);
    try {
      const TokenFile file(path);
      ADD_FAILURE() << damage.name << ": opened";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), StatusCode::bad_file) << damage.name;
      EXPECT_NE(std::string(error.what()).find(damage.expected), std::string::npos)
          << damage.name << ": " << error.what();
      EXPECT_NE(std::string(error.what()).find("bad.tokens"), std::string::npos) << error.what();
    }
  }
  EXPECT_THROW(TokenFile(folder.path() / "absent.tokens"), Error);
}

TEST(TokenFile, TokensBeyondTheVocabularyAreFoundWhenRead) {
  const TemporaryFolder folder;
  for (const std::int64_t vocab_size : {257, 70000}) {
    const std::filesystem::path path = folder.path() / "a.tokens";
    write_small(path, vocab_size);
    std::string bytes = read_whole(path);
    std::memset(bytes.data() + 64, 0xFF, vocab_size == 257 ? 2 : 4);
    const TokenFile file(folder.write("bad.tokens", bytes));
    std::vector<std::int32_t> tokens(2);
    EXPECT_THROW(file.read(0, tokens), Error);
    EXPECT_NO_THROW(file.read(1, tokens));
  }
}

}  // namespace
}  // namespace riverhorse::test
