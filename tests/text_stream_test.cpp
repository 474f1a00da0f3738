// Streaming: the same text however the bytes are cut, always valid UTF-8, and stop strings never leak.
#include "data/text_stream.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "data/utf8.h"

namespace riverhorse {
namespace {

const std::string kBad = "\xEF\xBF\xBD";  // U+FFFD

struct Streamed {
  std::string text;
  bool stopped = false;
  std::size_t stop_index = 0;
};

Streamed stream(const std::vector<std::string>& pieces, const std::vector<std::string>& stops) {
  TextStream stream(stops);
  Streamed result;
  for (const std::string& piece : pieces) {
    const std::string text = stream.push(piece);
    EXPECT_EQ(valid_utf8_length(text, 0), text.size()) << "half a character was returned";
    result.text += text;
  }
  result.text += stream.finish();
  result.stopped = stream.stopped();
  result.stop_index = stream.stopped() ? stream.stop_index() : 0;
  EXPECT_EQ(valid_utf8_length(result.text, 0), result.text.size());
  return result;
}

// Whole, byte by byte, cut in two at every place, and (when short) cut in three at every two places.
void expect_all_cuts(const std::string& bytes, const std::vector<std::string>& stops, const std::string& expected,
                     bool stopped = false) {
  const auto check = [&](const std::vector<std::string>& pieces) {
    const Streamed result = stream(pieces, stops);
    ASSERT_EQ(result.text, expected) << "pieces: " << testing::PrintToString(pieces);
    ASSERT_EQ(result.stopped, stopped) << "pieces: " << testing::PrintToString(pieces);
  };
  check({bytes});
  std::vector<std::string> single;
  for (const char byte : bytes) single.emplace_back(1, byte);
  check(single);
  for (std::size_t first = 0; first <= bytes.size(); ++first) {
    check({bytes.substr(0, first), bytes.substr(first)});
    for (std::size_t second = first; bytes.size() <= 40 && second <= bytes.size(); ++second) {
      check({bytes.substr(0, first), bytes.substr(first, second - first), bytes.substr(second)});
    }
  }
}

TEST(TextStream, ReturnsWholeCharactersOnly) {
  for (const std::string text : {"", "plain", "é", "你好，世界", "a😀b", "👨‍👩‍👧‍👦 family", "שלום",
                                 "e\u0301", "\xF4\x8F\xBF\xBF"}) {
    expect_all_cuts(text, {}, text);
  }
  expect_all_cuts(std::string("a\0b", 3), {}, std::string("a\0b", 3));
}

TEST(TextStream, ReturnsACharacterWithItsLastByte) {
  TextStream stream;
  EXPECT_EQ(stream.push("\xF0"), "");
  EXPECT_EQ(stream.push("\x9F\x98"), "");
  EXPECT_EQ(stream.push("\x80"), "\xF0\x9F\x98\x80");
  EXPECT_EQ(stream.push("ab\xC3"), "ab");
  EXPECT_EQ(stream.push("\xA9"), "\xC3\xA9");
  EXPECT_EQ(stream.finish(), "");
}

TEST(TextStream, ReplacesInvalidBytesOnceTheyAreProvenInvalid) {
  TextStream stream;
  EXPECT_EQ(stream.push("\xE4\xBD"), "");
  EXPECT_EQ(stream.push("x"), kBad + "x");
  EXPECT_EQ(stream.push("\x80"), kBad);
  EXPECT_EQ(stream.push("\xF0\x9F"), "");
  EXPECT_EQ(stream.finish(), kBad);
}

// One U+FFFD for each maximal ill-formed part: the examples of the Unicode Standard (chapter 3, tables 3-8 to 3-11).
TEST(TextStream, ReplacesAsUnicodeRecommends) {
  const auto bad = [](int count) {
    std::string text;
    for (int index = 0; index < count; ++index) text += kBad;
    return text;
  };
  expect_all_cuts("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", {}, bad(8) + "A");
  expect_all_cuts("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", {}, bad(8) + "A");
  expect_all_cuts("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", {}, bad(5) + "A" + bad(2) + "B");
  expect_all_cuts("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", {}, bad(4) + "A");
  expect_all_cuts("\xC3", {}, bad(1));
  expect_all_cuts(
      "a\xFF\xFE"
      "b",
      {}, "a" + bad(2) + "b");
}

TEST(TextStream, NeverEmitsAStopString) {
  expect_all_cuts("Hello\nUser: hi", {"\nUser:"}, "Hello", true);
  expect_all_cuts("one two three", {"two"}, "one ", true);
  expect_all_cuts("stop", {"stop"}, "", true);
  expect_all_cuts("abcabcabd!", {"abcabd"}, "abc", true);
  expect_all_cuts("aaaaab", {"aab"}, "aaa", true);
  expect_all_cuts("你好世界", {"世"}, "你好", true);
  expect_all_cuts("a😀b", {"😀"}, "a", true);
  expect_all_cuts("x\xFFy", {kBad + "y"}, "x", true);  // it is compared with what would be shown
}

TEST(TextStream, ReturnsWhatOnlyLookedLikeAStopString) {
  expect_all_cuts("Hello\nUse: hi", {"\nUser:"}, "Hello\nUse: hi");
  expect_all_cuts("ends with \nUser", {"\nUser:"}, "ends with \nUser");
  expect_all_cuts("aabaabaa", {"aabaabaab"}, "aabaabaa");
  expect_all_cuts("世", {"世界"}, "世");
  expect_all_cuts("\xE4\xB8", {"世"}, kBad);
}

TEST(TextStream, TheFirstStopStringToBeCompleteWins) {
  expect_all_cuts("abcdef", {"cdef", "bc"}, "a", true);
  expect_all_cuts("abcdef", {"abcde", "cd"}, "ab", true);
  expect_all_cuts("abcdef", {"cd", "bcd"}, "a", true);
  expect_all_cuts("abcdef", {"x", "ab", "abc"}, "", true);
  EXPECT_EQ(stream({"abcd", "ef"}, {"cdef", "bc"}).stop_index, 1u);
  EXPECT_EQ(stream({"ab", "cd"}, {"cd", "bcd"}).stop_index, 1u);
  EXPECT_EQ(stream({"abcdef"}, {"x", "ab"}).stop_index, 1u);
}

TEST(TextStream, HoldsBackNoMoreThanItMust) {
  TextStream stream({"\nUser:"});
  EXPECT_EQ(stream.push("Hello"), "Hello");
  EXPECT_EQ(stream.push(" there\n"), " there");
  EXPECT_EQ(stream.push("Us"), "");
  EXPECT_EQ(stream.push("ual"), "\nUsual");
  EXPECT_EQ(stream.push("\n\nUser"), "\n");
  EXPECT_FALSE(stream.stopped());
  EXPECT_EQ(stream.push(": more"), "");
  EXPECT_TRUE(stream.stopped());
  EXPECT_EQ(stream.push("ignored"), "");
  EXPECT_EQ(stream.finish(), "");
}

TEST(TextStream, RefusesStopStringsThatCannotBeMatched) {
  EXPECT_THROW(TextStream({"ok", ""}), Error);
  EXPECT_THROW(TextStream({"\xC3"}), Error);
}

TEST(TextStream, AgreesWithItselfOnRandomBytesAndCuts) {
  constexpr std::uint32_t kSeed = 3;
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  std::mt19937 random(kSeed);
  const std::string alphabet = "ab\xF0\x9F\x98\x80\xE4\xBD\xA0\xC3\xA9\xFF";
  const auto random_bytes = [&](std::size_t length) {
    std::string bytes;
    while (bytes.size() < length) bytes.push_back(alphabet[random() % alphabet.size()]);
    return bytes;
  };
  for (int repeat = 0; repeat < 3000; ++repeat) {
    const std::string bytes = random_bytes(random() % 40);
    std::vector<std::string> stops;
    for (std::size_t count = random() % 3; count > 0; --count) {
      std::string stop;
      for (std::size_t letters = 1 + random() % 3; letters > 0; --letters) {
        stop += std::vector<std::string>{"a", "b", "\xC3\xA9", kBad}[random() % 4];
      }
      stops.push_back(stop);
    }
    const Streamed whole = stream({bytes}, stops);
    for (int cut = 0; cut < 5; ++cut) {
      std::vector<std::string> pieces;
      for (std::size_t offset = 0; offset < bytes.size();) {
        pieces.push_back(bytes.substr(offset, random() % 5));
        offset += pieces.back().size();
      }
      const Streamed cut_up = stream(pieces, stops);
      ASSERT_EQ(cut_up.text, whole.text) << repeat;
      ASSERT_EQ(cut_up.stopped, whole.stopped) << repeat;
      ASSERT_EQ(cut_up.stop_index, whole.stop_index) << repeat;
    }
    for (const std::string& stop : stops) ASSERT_EQ(whole.text.find(stop), std::string::npos) << repeat;
  }
}

}  // namespace
}  // namespace riverhorse
