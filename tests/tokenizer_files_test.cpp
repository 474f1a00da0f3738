// Tokenizer files that are wrong: one error that names the file, what is wrong, and where.
#include <gtest/gtest.h>

#include <functional>

#include "base/error.h"
#include "tokenizer_fixture.h"

namespace riverhorse::test {
namespace {

using Json = nlohmann::json;

const std::vector<std::string> kMerges = {"a b", "ab c"};

struct BadFile {
  std::string name;
  std::function<std::string()> content;
  StatusCode code;
  std::string reason;  // is in the message
};

void PrintTo(const BadFile& bad, std::ostream* out) { *out << bad.name; }

// A good tokenizer.json after one change.
std::function<std::string()> changed(const std::function<void(Json&)>& change) {
  return [change] {
    Json json = tokenizer_json_of(kMerges, false);
    change(json);
    return json.dump();
  };
}

std::function<std::string()> text(const std::string& content) {
  return [content] { return content; };
}

constexpr StatusCode kBad = StatusCode::bad_file;
constexpr StatusCode kUnsupported = StatusCode::unsupported;

std::vector<BadFile> bad_tokenizer_files() {
  const auto replaced = [](const std::string& from, const std::string& to) {
    return [from, to] {
      std::string content = tokenizer_json_of(kMerges, false).dump();
      content.replace(content.find(from), from.size(), to);
      return content;
    };
  };
  return {
      {"empty", text(""), kBad, "not valid JSON"},
      {"cut_short", [] { return tokenizer_json_of(kMerges, false).dump().substr(0, 1000); }, kBad, "not valid JSON"},
      {"bytes", text(std::string("\x00\xFF\xFE{}", 5)), kBad, "not valid JSON"},
      {"bad_utf8", replaced("\"version\":\"1.0\"", "\"version\":\"\xC3\x28\""), kBad, "not valid JSON"},
      {"deep", text(std::string(100000, '[')), kBad, "nested more than"},
      {"deep_objects",
       [] {
         std::string content;
         for (int depth = 0; depth < 1000; ++depth) content += "{\"a\":";
         return content;
       },
       kBad, "nested more than"},
      {"array", text("[]"), kBad, "not an object"},
      {"no_model", changed([](Json& json) { json.erase("model"); }), kBad, "no model"},
      {"model_is_text", changed([](Json& json) { json["model"] = "BPE"; }), kBad, "no model"},
      {"no_vocab", changed([](Json& json) { json["model"].erase("vocab"); }), kBad, "no model.vocab"},
      {"no_merges", changed([](Json& json) { json["model"].erase("merges"); }), kBad, "no model.merges"},
      {"vocab_is_list", changed([](Json& json) { json["model"]["vocab"] = Json::array(); }), kBad, "not an object"},
      {"merges_is_object", changed([](Json& json) { json["model"]["merges"] = Json::object(); }), kBad,
       "not an array"},
      {"id_is_text", changed([](Json& json) { json["model"]["vocab"]["a"] = "7"; }), kBad, "id of \"a\""},
      {"id_is_fraction", changed([](Json& json) { json["model"]["vocab"]["a"] = 7.5; }), kBad, "id of \"a\""},
      {"id_negative", changed([](Json& json) { json["model"]["vocab"]["a"] = -1; }), kBad, "out of range"},
      {"id_huge", changed([](Json& json) { json["model"]["vocab"]["a"] = 3000000000u; }), kBad, "out of range"},
      {"id_of_64_bits", replaced("\"a\":64", "\"a\":18446744073709551615"), kBad, "out of range"},
      {"id_far", changed([](Json& json) { json["model"]["vocab"]["zz"] = 2000000000; }), kBad, "ids go up to"},
      {"id_twice", changed([](Json& json) { json["model"]["vocab"]["zz"] = 64; }), kBad, "two tokens have the id 64"},
      {"token_twice", replaced("\"a\":64", "\"a\":64,\"a\":300"), kBad, "a key twice"},
      {"token_empty", changed([](Json& json) { json["model"]["vocab"][""] = 300; }), kBad, "empty token"},
      {"token_not_bytes", changed([](Json& json) { json["model"]["vocab"]["\xE4\xBD\xA0"] = 300; }), kBad,
       "byte-level alphabet"},
      {"token_with_space", changed([](Json& json) { json["model"]["vocab"]["a b"] = 300; }), kBad,
       "byte-level alphabet"},
      {"token_long", changed([](Json& json) { json["model"]["vocab"][std::string(5000, 'a')] = 300; }), kBad,
       "limit is 4096"},
      {"byte_missing", changed([](Json& json) { json["model"]["vocab"].erase("x"); }), kBad,
       "no token for the byte 0x78"},
      {"merge_of_unknown", changed([](Json& json) { json["model"]["merges"][1] = "zz c"; }), kBad,
       "merge 2: the token \"zz\""},
      {"merge_to_unknown", changed([](Json& json) { json["model"]["merges"][1] = "x y"; }), kBad,
       "merge 2: its result \"xy\""},
      {"merge_of_one", changed([](Json& json) { json["model"]["merges"][0] = "ab"; }), kBad, "merge 1 is \"ab\""},
      {"merge_of_three", changed([](Json& json) { json["model"]["merges"][0] = "a b c"; }), kBad, "merge 1 is"},
      {"merge_of_nothing", changed([](Json& json) { json["model"]["merges"][0] = " b"; }), kBad,
       "merge 1 is not a pair"},
      {"merge_is_number", changed([](Json& json) { json["model"]["merges"][0] = 3; }), kBad, "merge 1 is neither"},
      {"merge_list_of_three", changed([](Json& json) {
         json["model"]["merges"][0] = {"a", "b", "c"};
       }),
       kBad, "merge 1 is neither"},
      {"merge_twice", changed([](Json& json) { json["model"]["merges"].push_back("a b"); }), kBad,
       "repeats an earlier one"},
      {"added_is_object", changed([](Json& json) { json["added_tokens"] = Json::object(); }), kBad,
       "added_tokens is not an array"},
      {"added_is_text", changed([](Json& json) { json["added_tokens"][0] = "x"; }), kBad,
       "added_tokens[0] is not an object"},
      {"added_no_content", changed([](Json& json) { json["added_tokens"][0].erase("content"); }), kBad,
       "added_tokens[0].content"},
      {"added_empty", changed([](Json& json) { json["added_tokens"][0]["content"] = ""; }), kBad, "content is empty"},
      {"added_no_id", changed([](Json& json) { json["added_tokens"][0].erase("id"); }), kBad,
       "added_tokens[0] has no id"},
      {"added_other_id", changed([](Json& json) { json["added_tokens"][0]["id"] = 300; }), kBad, "has the id 258"},
      {"added_takes_id", changed([](Json& json) {
         json["added_tokens"].push_back({{"content", "<x>"}, {"id", 5}});
       }),
       kBad, "id 5 of another token"},
      {"added_twice", changed([](Json& json) { json["added_tokens"].push_back(json["added_tokens"][0]); }), kBad,
       "added twice"},
      {"added_flag_is_text", changed([](Json& json) { json["added_tokens"][0]["special"] = "yes"; }), kBad,
       "added_tokens[0].special"},
      {"added_strips", changed([](Json& json) { json["added_tokens"][0]["lstrip"] = true; }), kUnsupported, "lstrip"},
      {"added_single_word", changed([](Json& json) { json["added_tokens"][0]["single_word"] = true; }), kUnsupported,
       "single_word"},
      {"wordpiece", changed([](Json& json) { json["model"]["type"] = "WordPiece"; }), kUnsupported, "WordPiece"},
      {"type_is_list", changed([](Json& json) { json["model"]["type"] = Json::array({1}); }), kUnsupported,
       "model.type"},
      {"dropout", changed([](Json& json) { json["model"]["dropout"] = 0.1; }), kUnsupported, "dropout"},
      {"byte_fallback", changed([](Json& json) { json["model"]["byte_fallback"] = true; }), kUnsupported,
       "byte_fallback"},
      {"ignore_merges", changed([](Json& json) { json["model"]["ignore_merges"] = true; }), kUnsupported,
       "ignore_merges"},
      {"suffix", changed([](Json& json) { json["model"]["end_of_word_suffix"] = "</w>"; }), kUnsupported,
       "end_of_word_suffix"},
      {"normalizer", changed([](Json& json) {
         json["normalizer"] = {{"type", "NFC"}};
       }),
       kUnsupported, "NFC"},
      {"normalizer_is_text", changed([](Json& json) { json["normalizer"] = "NFC"; }), kBad, "normalizer has no type"},
      {"no_pretokenizer", changed([](Json& json) { json["pre_tokenizer"] = nullptr; }), kUnsupported,
       "pre_tokenizer is absent"},
      {"other_pretokenizer", changed([](Json& json) {
         json["pre_tokenizer"] = {{"type", "Metaspace"}};
       }),
       kUnsupported, "Metaspace"},
      {"prefix_space", changed([](Json& json) { json["pre_tokenizer"]["add_prefix_space"] = true; }), kUnsupported,
       "add_prefix_space"},
      {"no_regex", changed([](Json& json) { json["pre_tokenizer"]["use_regex"] = false; }), kUnsupported,
       "use_regex"},
  };
}

class BadTokenizerJson : public testing::TestWithParam<BadFile> {};

TEST_P(BadTokenizerJson, IsOneClearError) {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder.write("tokenizer.json", GetParam().content());
  try {
    (void)load_gpt2_tokenizer(path);
    FAIL() << "no error";
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_EQ(error.code(), GetParam().code) << message;
    EXPECT_NE(message.find(path.string()), std::string::npos) << message;
    EXPECT_NE(message.find(GetParam().reason), std::string::npos) << message;
    EXPECT_LT(message.size(), 600u) << message;
  }
}

INSTANTIATE_TEST_SUITE_P(Files, BadTokenizerJson, testing::ValuesIn(bad_tokenizer_files()),
                         [](const auto& instance) { return instance.param.name; });

std::string error_of(const std::filesystem::path& vocab, const std::filesystem::path& merges, StatusCode code) {
  try {
    (void)load_gpt2_tokenizer(vocab, merges);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  return "no error";
}

TEST(TokenizerFiles, MissingFilesAreNamed) {
  const TemporaryFolder folder;
  const auto vocab = folder.write("vocab.json", vocabulary_of(kMerges).dump());
  EXPECT_NE(error_of(vocab, folder.path() / "merges.txt", StatusCode::not_found).find("merges.txt"),
            std::string::npos);
  EXPECT_NE(error_of(folder.path() / "x.json", vocab, StatusCode::not_found).find("x.json"), std::string::npos);
  EXPECT_THROW((void)load_gpt2_tokenizer(folder.path() / "tokenizer.json"), Error);
}

TEST(TokenizerFiles, WrongMergesAreNamedByNumber) {
  const TemporaryFolder folder;
  const auto vocab = folder.write("vocab.json", vocabulary_of(kMerges).dump());
  const auto message = [&](const std::string& merges) {
    return error_of(vocab, folder.write("merges.txt", merges), StatusCode::bad_file);
  };
  EXPECT_NE(message("#version: 0.2\na b\nab\n").find("merges.txt: merge 2 is \"ab\""), std::string::npos);
  EXPECT_NE(message("a b\nab q\n").find("merge 2: its result \"abq\""), std::string::npos);
  EXPECT_NE(message("a b\na b\n").find("merge 1 repeats"), std::string::npos);
  EXPECT_NE(message(std::string("a\0 b\n", 5)).find("\\x00"), std::string::npos);
  EXPECT_NE(message(std::string(100000, 'a')).find("..."), std::string::npos);
}

TEST(TokenizerFiles, OnlyTheFirstLineIsAComment) {
  const std::vector<std::string> merges = {"# #", "a b"};
  const TemporaryFolder folder;
  const auto vocab = folder.write("vocab.json", vocabulary_of(merges).dump());
  for (const char* content : {"#version: 0.2\n# #\na b\n", "# #\na b", "#version: 0.2\r\n# #\r\na b\r\n\r\n"}) {
    const auto tokenizer = load_gpt2_tokenizer(vocab, folder.write("merges.txt", content));
    EXPECT_EQ(tokenizer->encode("##ab", false), (std::vector<std::int32_t>{256, 257})) << content;
  }
  const auto none = load_gpt2_tokenizer(vocab, folder.write("merges.txt", "#version: 0.2"));
  EXPECT_EQ(none->encode("##ab", false).size(), 4u);
}

TEST(TokenizerFiles, AddedTokensAreMatchedAsTheirFlagsSay) {
  Json json = tokenizer_json_of(kMerges, false);
  json["added_tokens"].push_back({{"content", "<tool>"}, {"id", 259}, {"special", true}});
  json["added_tokens"].push_back({{"content", "<tool>>"}, {"id", 260}, {"special", true}});
  json["added_tokens"].push_back({{"content", "\xE4\xBD\xA0"}, {"id", 262}, {"special", false}});
  const TemporaryFolder folder;
  const auto tokenizer = load_gpt2_tokenizer(folder.write("tokenizer.json", json.dump()));
  using Ids = std::vector<std::int32_t>;
  EXPECT_EQ(tokenizer->encode("<tool>a<tool>>", true), (Ids{259, 64, 260}));  // the longest wins
  EXPECT_EQ(tokenizer->encode("<tool>", false).size(), 6u);
  EXPECT_EQ(tokenizer->encode("a\xE4\xBD\xA0", false), (Ids{64, 262}));  // not special: always
  EXPECT_EQ(tokenizer->encode("<|endoftext|>", true), (Ids{258}));
  EXPECT_EQ(tokenizer->vocab_size(), 263);
  EXPECT_THROW(tokenizer->token_bytes(261), Error);  // a gap in the numbering
}

TEST(TokenizerFiles, MergesGoByRankThenFromTheLeft) {
  // "a b" before "b c" before "c a": the rank decides, not the place.
  const TemporaryFolder folder;
  const auto load = [&](const std::vector<std::string>& merges) {
    return load_gpt2_tokenizer(folder.write("tokenizer.json", tokenizer_json_of(merges, true).dump()));
  };
  const auto words = [](const Tokenizer& tokenizer, const std::string& text) {
    std::string result;
    for (const std::int32_t id : tokenizer.encode(text, false))
      result += std::string(tokenizer.token_bytes(id)) + "|";
    return result;
  };
  EXPECT_EQ(words(*load({"a b", "b c", "c a"}), "cabc"), "c|ab|c|");
  EXPECT_EQ(words(*load({"b c", "a b", "c a"}), "cabc"), "ca|bc|");
  EXPECT_EQ(words(*load({"c a", "a b", "b c"}), "cabc"), "ca|bc|");
  EXPECT_EQ(words(*load({"a a", "aa aa"}), "aaaaaaa"), "aaaa|aa|a|");
  EXPECT_EQ(words(*load({"a a", "aa a"}), "aaa"), "aaa|");
}

}  // namespace
}  // namespace riverhorse::test
