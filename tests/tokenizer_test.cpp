// GPT-2's tokenizer against ids made by OpenAI's own encoder (tests/golden/tokenizer/README.md), and the byte
// tokenizer.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <thread>

#include "base/error.h"
#include "tokenizer_fixture.h"

namespace riverhorse::test {
namespace {

using Ids = std::vector<std::int32_t>;

const nlohmann::json& golden_cases() {
  static const nlohmann::json cases = nlohmann::json::parse(read_whole(kTokenizerData / "gpt2_cases.json"));
  return cases;
}

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (std::size_t index = 0; index + 1 < hex.size(); index += 2) {
    bytes.push_back(static_cast<char>(std::stoi(hex.substr(index, 2), nullptr, 16)));
  }
  return bytes;
}

TEST(Gpt2Tokenizer, GivesTheIdsOfOpenAisEncoder) {
  const nlohmann::json& cases = golden_cases()["cases"];
  ASSERT_GE(cases.size(), 500u);
  for (const nlohmann::json& golden : cases) {
    const auto text = golden["text"].get<std::string>();
    const Ids ids = gpt2_tokenizer().encode(text, false);
    EXPECT_EQ(ids, golden["ids"].get<Ids>()) << golden["text"].dump();
    EXPECT_EQ(gpt2_tokenizer().decode(ids), text) << golden["text"].dump();
  }
}

TEST(Gpt2Tokenizer, CutsOutSpecialTokensOnlyWhenAsked) {
  for (const nlohmann::json& golden : golden_cases()["special"]) {
    const auto text = golden["text"].get<std::string>();
    EXPECT_EQ(gpt2_tokenizer().encode(text, true), golden["ids"].get<Ids>()) << golden["text"].dump();
    const Ids plain = gpt2_tokenizer().encode(text, false);
    EXPECT_EQ(std::count(plain.begin(), plain.end(), 50256), 0) << golden["text"].dump();
  }
  EXPECT_EQ(gpt2_tokenizer().end_of_text(), 50256);
}

TEST(Gpt2Tokenizer, EncodesInvalidBytesOneByOne) {
  for (const nlohmann::json& golden : golden_cases()["bytes"]) {
    const std::string text = from_hex(golden["hex"].get<std::string>());
    const Ids ids = gpt2_tokenizer().encode(text, false);
    EXPECT_EQ(ids, golden["ids"].get<Ids>()) << golden["hex"];
    EXPECT_EQ(gpt2_tokenizer().decode(ids), text) << golden["hex"];
  }
}

TEST(Gpt2Tokenizer, ReturnsAnyBytesUnchanged) {
  constexpr std::uint32_t kSeed = 5;
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  std::mt19937 random(kSeed);
  for (int repeat = 0; repeat < 400; ++repeat) {
    std::string text(random() % 300, ' ');
    // Half of the strings use few values, so that valid characters of several bytes occur often.
    const std::string few = "\xF0\x9F\x98\x80\xE4\xBD\xA0\xC3\xA9 a1's\n\t\xFF";
    for (char& byte : text) byte = static_cast<char>(repeat % 2 == 0 ? random() % 256 : few[random() % few.size()]);
    ASSERT_EQ(gpt2_tokenizer().decode(gpt2_tokenizer().encode(text, false)), text) << "repeat " << repeat;
    ASSERT_EQ(gpt2_tokenizer().decode(gpt2_tokenizer().encode(text, true)), text) << "repeat " << repeat;
  }
}

TEST(Gpt2Tokenizer, ReadsAllFileLayoutsAlike) {
  const TemporaryFolder folder;
  const std::vector<std::string> merges = gpt2_merge_lines();
  ASSERT_EQ(merges.size(), 50000u);
  for (const bool pairs : {false, true}) {
    const auto tokenizer =
        load_gpt2_tokenizer(folder.write("tokenizer.json", tokenizer_json_of(merges, pairs).dump()));
    EXPECT_EQ(tokenizer->vocab_size(), 50257);
    EXPECT_EQ(tokenizer->end_of_text(), 50256);
    for (const nlohmann::json& golden : golden_cases()["cases"]) {
      ASSERT_EQ(tokenizer->encode(golden["text"].get<std::string>(), false), golden["ids"].get<Ids>());
    }
    for (const nlohmann::json& golden : golden_cases()["special"]) {
      ASSERT_EQ(tokenizer->encode(golden["text"].get<std::string>(), true), golden["ids"].get<Ids>());
    }
    for (std::int32_t id = 0; id < 50257; ++id) {
      ASSERT_EQ(tokenizer->token_bytes(id), gpt2_tokenizer().token_bytes(id)) << id;
    }
  }
}

TEST(Gpt2Tokenizer, KnowsItsIds) {
  EXPECT_EQ(gpt2_tokenizer().vocab_size(), 50257);
  EXPECT_EQ(gpt2_tokenizer().token_bytes(0), "!");
  EXPECT_EQ(gpt2_tokenizer().token_bytes(220), " ");
  EXPECT_EQ(gpt2_tokenizer().token_bytes(198), "\n");
  EXPECT_EQ(gpt2_tokenizer().token_bytes(995), " world");
  EXPECT_EQ(gpt2_tokenizer().token_bytes(50256), "<|endoftext|>");
  for (const std::int32_t id : {-1, 50257, 1 << 30}) EXPECT_THROW(gpt2_tokenizer().token_bytes(id), Error) << id;
  EXPECT_THROW(gpt2_tokenizer().decode({0, 50257}), Error);
  EXPECT_EQ(gpt2_tokenizer().decode({}), "");
}

TEST(Gpt2Tokenizer, IsSharedByThreads) {
  const nlohmann::json& cases = golden_cases()["cases"];
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  for (std::size_t index = 0; index < wrong.size(); ++index) {
    threads.emplace_back([&, index] {
      for (const nlohmann::json& golden : cases) {
        const Ids ids = gpt2_tokenizer().encode(golden["text"].get_ref<const std::string&>(), false);
        wrong[index] += ids != golden["ids"].get<Ids>();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(wrong.size(), 0));
}

// 10 MB must take seconds. An ordinary core does 10 MB/s; the bound leaves room for slow and busy machines. Sanitized
// and unoptimised builds are tens of times slower and encode less.
#if defined(NDEBUG) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
constexpr std::size_t kSpeedBytes = 10'000'000;
constexpr double kSlowestMegabytesPerSecond = 1.0;
#else
constexpr std::size_t kSpeedBytes = 500'000;
constexpr double kSlowestMegabytesPerSecond = 0.05;
#endif
constexpr std::size_t kLongWordBytes = kSpeedBytes / 5;

void expect_fast(const std::string& name, const std::string& text, double slowest = kSlowestMegabytesPerSecond) {
  const auto start = std::chrono::steady_clock::now();
  const Ids ids = gpt2_tokenizer().encode(text, true);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  const double megabytes = static_cast<double>(text.size()) * 1e-6;
  std::printf("%-24s %8.1f MB %9zu tokens %6.2f s %7.1f MB/s\n", name.c_str(), megabytes, ids.size(), seconds.count(),
              megabytes / seconds.count());
  EXPECT_GT(megabytes / seconds.count(), slowest) << name;
  EXPECT_EQ(gpt2_tokenizer().decode(ids), text) << name;
}

TEST(Gpt2Tokenizer, EncodesTenMegabytesInSeconds) {
  (void)gpt2_tokenizer();  // loading is not part of it
  std::mt19937 random(11);
  // Words of GPT-2's own vocabulary, frequent ones more often, as prose has them.
  std::string prose;
  while (prose.size() < kSpeedBytes) {
    const double uniform = std::uniform_real_distribution<double>(0.0, 1.0)(random);
    prose += gpt2_tokenizer().token_bytes(static_cast<std::int32_t>(50255 * uniform * uniform * uniform));
  }
  expect_fast("tokens, skewed", prose);
  std::string cases;
  while (cases.size() < kSpeedBytes) {
    const nlohmann::json& list = golden_cases()["cases"];
    cases += list[random() % list.size()]["text"].get_ref<const std::string&>();
  }
  expect_fast("the golden strings", cases);
  std::string unseen;  // no word twice: the cache of words is of no use
  while (unseen.size() < kSpeedBytes) {
    unseen += ' ';
    for (std::size_t count = 5 + random() % 10; count > 0; --count) unseen += static_cast<char>('a' + random() % 26);
  }
  expect_fast("words never seen", unseen);
  std::string bytes(kSpeedBytes, ' ');
  for (char& byte : bytes) byte = static_cast<char>(random() % 256);
  expect_fast("random bytes", bytes);
  // One "word" of megabytes: an algorithm that is quadratic in the word, or matching that needs stack, ends here.
  constexpr double kSlowest = kSlowestMegabytesPerSecond / 5;
  expect_fast("one letter repeated", std::string(kLongWordBytes, 'a'), kSlowest);
  expect_fast("one run of spaces", std::string(kLongWordBytes, ' ') + "x", kSlowest);
  std::string letters(kLongWordBytes, ' ');
  for (char& letter : letters) letter = static_cast<char>('a' + random() % 26);
  expect_fast("one word of letters", letters, kSlowest);
  std::string dashes;
  while (dashes.size() < kLongWordBytes) dashes += "\xE2\x80\x94";
  expect_fast("one run of dashes", dashes, kSlowest);
}

TEST(ByteTokenizer, IsOneTokenAByte) {
  const auto tokenizer = make_byte_tokenizer();
  EXPECT_EQ(tokenizer->vocab_size(), 257);
  EXPECT_EQ(tokenizer->end_of_text(), 256);
  std::string all;
  Ids expected;
  for (int byte = 0; byte < 256; ++byte) {
    all.push_back(static_cast<char>(byte));
    expected.push_back(byte);
  }
  EXPECT_EQ(tokenizer->encode(all, true), expected);
  EXPECT_EQ(tokenizer->decode(expected), all);
  EXPECT_EQ(tokenizer->encode("a<|endoftext|>b", true), (Ids{'a', 256, 'b'}));
  EXPECT_EQ(tokenizer->encode("a<|endoftext|>b", false).size(), 15u);
  EXPECT_EQ(tokenizer->decode({'a', 256}), "a<|endoftext|>");
  EXPECT_THROW(tokenizer->token_bytes(257), Error);
  EXPECT_THROW(tokenizer->token_bytes(-1), Error);
}

TEST(FindTokenizer, TakesWhatTheFolderHas) {
  const std::vector<std::string> merges = {"a b", "ab c"};
  const TemporaryFolder empty;
  ASSERT_NE(find_tokenizer(empty.path(), 257), nullptr);
  EXPECT_EQ(find_tokenizer(empty.path(), 512)->vocab_size(), 257);
  EXPECT_EQ(find_tokenizer(empty.path(), 256), nullptr);  // no room for the end of text
  EXPECT_EQ(find_tokenizer(empty.path(), 513), nullptr);
  EXPECT_EQ(find_tokenizer(empty.path() / "nowhere", 513), nullptr);

  const TemporaryFolder one_file;
  one_file.write("tokenizer.json", tokenizer_json_of(merges, false).dump());
  EXPECT_EQ(find_tokenizer(one_file.path(), 264)->encode("abcab", false).size(), 2u);

  const TemporaryFolder two_files;
  two_files.write("vocab.json", vocabulary_of(merges).dump());
  two_files.write("merges.txt", "#version: 0.2\r\na b\r\nab c\r\n");
  EXPECT_EQ(find_tokenizer(two_files.path(), 259)->encode("abcab", false).size(), 2u);

  const auto message_of = [](const std::filesystem::path& folder, std::int64_t vocab_size) {
    try {
      (void)find_tokenizer(folder, vocab_size);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_NE(message_of(two_files.path(), 258).find("259 ids, but the model's vocabulary has 258"), std::string::npos);
  std::filesystem::remove(two_files.path() / "merges.txt");
  EXPECT_NE(message_of(two_files.path(), 259).find("merges.txt"), std::string::npos);
}

}  // namespace
}  // namespace riverhorse::test
