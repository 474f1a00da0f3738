// Documents from text files: what counts as one, and what happens to rows and files that are not as they should be.
#include "data/text_documents.h"

#include <gtest/gtest.h>

#include <map>

#include "base/error.h"
#include "base/log.h"
#include "tokenizer_fixture.h"

namespace riverhorse::test {
namespace {

struct Read {
  std::vector<std::string> texts;
  std::uint64_t left_out = 0;
  std::string warnings;  // a line each
  std::string error;     // empty: none
};

Read read_documents(const TextInputs& inputs) {
  Read result;
  set_log_sink([&](LogLevel, std::string_view message) { result.warnings += std::string(message) + "\n"; });
  try {
    TextDocuments documents(inputs);
    TextDocument document;
    while (documents.next(document)) result.texts.emplace_back(document.text);
    result.left_out = documents.rows_left_out();
    EXPECT_EQ(documents.bytes_read(), documents.bytes_total());
  } catch (const Error& error) {
    result.error = error.what();
  }
  set_log_sink({});
  return result;
}

class TextDocumentsTest : public testing::Test {
 protected:
  Read read(const std::string& name, const std::string& content) const {
    TextInputs inputs;
    inputs.paths = {folder_.write(name, content).string()};
    return read_documents(inputs);
  }
  TemporaryFolder folder_;
};

using Texts = std::vector<std::string>;

TEST_F(TextDocumentsTest, ATextFileIsADocument) {
  EXPECT_EQ(read("a.txt", "one\ntwo\n").texts, (Texts{"one\ntwo\n"}));
  EXPECT_EQ(read("a.TXT", "\xEF\xBB\xBFsmall \xC3\xA9").texts, (Texts{"small \xC3\xA9"})) << "without the mark";
  EXPECT_EQ(read("a.txt", "").left_out, 1u);
}

TEST_F(TextDocumentsTest, Csv) {
  EXPECT_EQ(read("a.csv", "id,text\n1,plain\n2,\"a, \"\"b\"\"\nand c\"\n").texts,
            (Texts{"plain", "a, \"b\"\nand c"}));
  EXPECT_EQ(read("a.csv", "\xEF\xBB\xBFtext,id\r\n\r\n\"x\r\ny\",1\r\nlast,2").texts, (Texts{"x\r\ny", "last"}));
  EXPECT_EQ(read("a.csv", "\"te\"\"xt\",text\na,b").texts, (Texts{"b"}));
  EXPECT_EQ(read("a.csv", "text\na\rb\n").texts, (Texts{"a\rb"})) << "a lone CR is no line break";
  EXPECT_EQ(read("a.csv", "text,\nx,").texts, (Texts{"x"})) << "an empty field at the end is a field";
}

TEST_F(TextDocumentsTest, JsonAndJsonLines) {
  EXPECT_EQ(
      read("a.json", " [ {\"text\": \"a\\n\\u00e9]\", \"n\": [1, {\"text\": \"inner\"}]},\n \"b, \\\"c\" ] \n").texts,
      (Texts{"a\n\xC3\xA9]", "b, \"c"}));
  EXPECT_EQ(read("a.json", "[]").texts, Texts{});
  EXPECT_EQ(read("a.jsonl", "{\"n\": {\"text\": 3}, \"text\": \"a\"}\n\n\"b\"\r\n{\"text\": \"c\"}").texts,
            (Texts{"a", "b", "c"}));
}

TEST_F(TextDocumentsTest, AnotherColumnAndField) {
  TextInputs inputs;
  inputs.column = "body";
  inputs.field = "content";
  inputs.paths = {folder_.write("a.csv", "text,body\nno,yes\n").string(),
                  folder_.write("b.jsonl", "{\"text\": \"no\", \"content\": \"too\"}").string()};
  EXPECT_EQ(read_documents(inputs).texts, (Texts{"yes", "too"}));
}

TEST_F(TextDocumentsTest, SeveralPathsAndPatterns) {
  folder_.write("c.txt", "c");
  folder_.write("a.txt", "a");
  folder_.write("b.txt", "b");
  folder_.write("[odd].txt", "odd");
  const std::string folder = folder_.path().string() + "/";
  TextInputs inputs;
  inputs.paths = {folder + "c.txt", folder + "[a-b].txt", folder + "[odd].txt"};
  EXPECT_EQ(read_documents(inputs).texts, (Texts{"c", "a", "b", "odd"})) << "matches are sorted";
  inputs.paths = {folder + "?.csv"};
  EXPECT_NE(read_documents(inputs).error.find("?.csv"), std::string::npos);
  inputs.paths = {folder};
  EXPECT_NE(read_documents(inputs).error.find("is a folder"), std::string::npos);
  inputs.paths = {folder_.write("a.pdf", "x").string()};
  EXPECT_NE(read_documents(inputs).error.find(".txt, .csv, .json and .jsonl"), std::string::npos);
  inputs.paths = {};
  EXPECT_NE(read_documents(inputs).error, "");
}

TEST_F(TextDocumentsTest, BadRowsAreNamedCountedAndLeftOut) {
  struct Case {
    const char *name, *content, *place, *reason;
  };
  // Each has a good row "good" behind the bad one.
  const std::vector<Case> corpus = {
      {"1.csv", "text,n\na,1,2\ngood,1\n", "1.csv:2", "3 fields where the first row has 2"},
      {"2.csv", "text,n\n\"a\nb\"\ngood,1\n", "2.csv:2", "1 fields"},
      {"3.csv", "text,n\n\"x\ny\",1\n\"a\"b,1\ngood,1\n", "3.csv:4", "after its closing quote"},
      {"4.csv", "text,n\na\"b,1\ngood,1\n", "4.csv:2", "quote inside"},
      {"5.csv", "text,n\n\xFF\xFE,1\ngood,1\n", "5.csv:2", "UTF-8"},
      {"6.csv", "text,n\n,1\ngood,1\n", "6.csv:2", "empty"},
      {"1.json", "[\n{\"title\": \"a\"},\n\"good\"]", "1.json:2", "no field \"text\""},
      {"2.json", "[\n\n7, \"good\"]", "2.json:3", "a number, not an object"},
      {"3.json", "[{\"text\": null}, \"good\"]", "3.json:1", "null, not a string"},
      {"4.json", "[{\"text\" \"a\"}, \"good\"]", "4.json:1", "not valid JSON"},
      {"5.json", "[[\"a\"],\n\"good\"]", "5.json:1", "an array"},
      {"6.json", "[,\n\"good\"]", "6.json:1", "not valid JSON"},
      {"1.jsonl", "\"a\"\n{\"text\": \"b\"\n\"good\"", "1.jsonl:2", "not valid JSON"},
      {"2.jsonl", "{\"text\": \"a\", \"text\": \"b\"}\n\"good\"", "2.jsonl:1", "twice"},
      {"3.jsonl", "\"\xC3\x28\"\n\"good\"", "3.jsonl:1", "UTF-8"},
      {"4.jsonl", "{\"text\": {\"text\": \"a\"}}\n\"good\"", "4.jsonl:1", "an object, not a string"},
      {"5.jsonl", "{} {\n\"good\"", "5.jsonl:1", "not valid JSON"},
      {"6.jsonl", "\"\"\n\"good\"", "6.jsonl:1", "empty"},
  };
  for (const Case& one : corpus) {
    const Read result = read(one.name, one.content);
    EXPECT_EQ(result.error, "") << one.name;
    EXPECT_EQ(result.left_out, 1u) << one.name << ": " << result.warnings;
    ASSERT_FALSE(result.texts.empty()) << one.name;
    EXPECT_EQ(result.texts.back(), "good") << one.name;
    EXPECT_NE(result.warnings.find(one.place), std::string::npos) << one.name << ": " << result.warnings;
    EXPECT_NE(result.warnings.find(one.reason), std::string::npos) << one.name << ": " << result.warnings;
  }
  const std::string deep = std::string(100000, '[') + "\n\"good\"";
  EXPECT_EQ(read("deep.jsonl", "{\"a\": " + deep).left_out, 1u);
}

TEST_F(TextDocumentsTest, BadFilesGiveOneClearError) {
  struct Case {
    const char *name, *content, *expected;
  };
  const std::vector<Case> corpus = {
      {"1.txt", "one\ntwo \xE2\x82", "1.txt:2: byte 8 (0xe2) is not valid UTF-8"},
      {"2.txt", "\xED\xA0\x80", "2.txt:1: byte 0"},
      {"1.csv", "", "no column \"text\""},
      {"2.csv", "title,body\na,b\n", "the first row names \"title\", \"body\""},
      {"3.csv", "text,text\na,b\n", "two columns"},
      {"4.csv", "text\nfine\n\"never\nclosed\n", "4.csv:3: a quoted field is never closed"},
      {"5.csv", "\"text\"x\na\n", "names of the columns"},
      {"1.json", "", "not an array"},
      {"2.json", "{\"text\": \"a\"}", "not an array"},
      {"3.json", "[\"a\",\n\"b\"", "3.json:2: the file ends before the array"},
      {"4.json", "[\"a\",\n\"b", "4.json:2: the file ends inside a string"},
      {"5.json", "[\"a\"]\n]", "5.json:2: there is something behind"},
      {"6.json", "[\"a\"}, \"b\"]", "a closing bracket that nothing opened"},
      {"7.json", "[\"a\\", "ends inside a string"},
      {"8.json", "[", "the file ends"},
  };
  for (const Case& one : corpus) {
    const Read result = read(one.name, one.content);
    EXPECT_NE(result.error.find(one.expected), std::string::npos) << one.name << ": " << result.error;
    EXPECT_NE(result.error.find(one.name), std::string::npos) << result.error;
  }
}

TEST_F(TextDocumentsTest, WarningsStopButCountingGoesOn) {
  std::string lines;
  for (int i = 0; i < 1000; ++i) lines += "3\n";
  const Read result = read("a.jsonl", lines);
  EXPECT_EQ(result.left_out, 1000u);
  EXPECT_LT(std::count(result.warnings.begin(), result.warnings.end(), '\n'), 30);
}

}  // namespace
}  // namespace riverhorse::test
