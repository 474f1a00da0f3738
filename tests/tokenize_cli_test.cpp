// riverhorse tokenize, as a user calls it.
#include "cli_fixture.h"
#include "data/token_file.h"
#include "data/tokenizer.h"

namespace riverhorse {
namespace {

class TokenizeCli : public ProgramTest {
 protected:
  static std::string write_file(const std::string& name, const std::string& text) {
    const std::string path = temporary(name);
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  static std::string text_of(const std::string& path, const Tokenizer& tokenizer) {
    const TokenFile file(path);
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(file.size()));
    file.read(0, tokens);
    return tokenizer.decode(tokens);
  }
};

TEST_F(TokenizeCli, Bytes) {
  const std::string a = write_file("bytes/a.txt", "river"), b = write_file("bytes/b.txt", "horse");
  const std::string output = temporary("bytes/out.tokens");
  const ChildResult result = run({"tokenize", "--input", temporary("bytes/*.txt"), "--bytes", "--output", output});
  expect_success(result);
  EXPECT_NE(result.out.find("12 tokens of 2 bytes, 2 documents, 0.833 bytes of text a token"), std::string::npos)
      << result.out;
  EXPECT_NE(result.out.find(" seconds\n"), std::string::npos) << result.out;
  EXPECT_EQ(text_of(output, *make_byte_tokenizer()), "river<|endoftext|>horse<|endoftext|>");
  // Several names behind one --input, in the order given.
  expect_success(run({"tokenize", "--input", b, a, "--bytes", "--output", output}));
  EXPECT_EQ(text_of(output, *make_byte_tokenizer()), "horse<|endoftext|>river<|endoftext|>");
}

TEST_F(TokenizeCli, TrainsAVocabularyThatTheNextCallUses) {
  std::string text;
  for (int i = 0; i < 200; ++i) text += "The river horse number " + std::to_string(i) + " swims in the river.\n";
  const std::string input = write_file("bpe/input.txt", text);
  const std::string first = temporary("bpe/first.tokens"), validation = temporary("bpe/validation.tokens");
  const ChildResult trained =
      run({"tokenize", "--input", input, "--train-bpe", "300", "--output", first, "--validation-percent", "10",
           "--validation-output", validation, "--seed", "5", "--threads", "4"});
  expect_success(trained);
  EXPECT_NE(trained.out.find("tokenizer.json: 300 tokens, 43 merges"), std::string::npos) << trained.out;
  const auto tokenizer = find_tokenizer(temporary("bpe"), 300);
  ASSERT_NE(tokenizer, nullptr);
  const std::string end = "<|endoftext|>";
  const std::string train_text = text_of(first, *tokenizer), validation_text = text_of(validation, *tokenizer);
  EXPECT_EQ(train_text.substr(0, train_text.size() - end.size()) + validation_text, text + end);
  EXPECT_EQ(TokenFile(first).header().tokenizer_hash, tokenizer->fingerprint());

  // By folder and by file, with one thread: the same files.
  for (const std::string& path : {temporary("bpe"), temporary("bpe/tokenizer.json")}) {
    const std::string again = temporary("bpe/again.tokens"), other = temporary("bpe/other.tokens");
    expect_success(run({"tokenize", "--input", input, "--tokenizer", path, "--output", again, "--threads", "1",
                        "--validation-percent", "10", "--validation-output", other, "--seed", "5"}));
    EXPECT_EQ(read_whole_file(again), read_whole_file(first));
    EXPECT_EQ(read_whole_file(other), read_whole_file(validation));
  }
  // Elsewhere when asked; a short text gives a small vocabulary and says so.
  const std::string elsewhere = temporary("bpe/elsewhere.json");
  const ChildResult small = run({"tokenize", "--input", write_file("bpe/small.txt", "abab"), "--train-bpe", "1000",
                                 "--output-tokenizer", elsewhere, "--output", first});
  expect_success(small);
  EXPECT_NE(small.err.find("258 tokens, not 1000"), std::string::npos) << small.err;
  EXPECT_EQ(load_gpt2_tokenizer(elsewhere)->vocab_size(), 258);
}

TEST_F(TokenizeCli, ColumnsFieldsAndBadRows) {
  const std::string csv = write_file("rows/a.csv", "id,body\n1,first\nbad\n2,second\n");
  const std::string json = write_file("rows/b.jsonl", "{\"content\": \"third\"}\n{\"text\": \"no\"}\n");
  const std::string output = temporary("rows/out.tokens");
  const ChildResult result = run(
      {"tokenize", "--input", csv, json, "--column", "body", "--field", "content", "--bytes", "--output", output});
  expect_success(result);
  EXPECT_NE(result.err.find("a.csv:3: left out: 1 fields"), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("b.jsonl:2: left out: there is no field \"content\""), std::string::npos) << result.err;
  EXPECT_NE(result.out.find("2 rows were left out"), std::string::npos) << result.out;
  EXPECT_EQ(text_of(output, *make_byte_tokenizer()), "first<|endoftext|>second<|endoftext|>third<|endoftext|>");
}

TEST_F(TokenizeCli, BadUsageAndFailures) {
  const std::string input = write_file("bad/a.txt", "text"), output = temporary("bad/out.tokens");
  const auto with = [&](const std::vector<std::string>& more) {
    return run(joined({"tokenize", "--input", input, "--output", output}, more));
  };
  expect_failure(run({"tokenize", "--bytes", "--output", output}), 2, "--input");
  expect_failure(run({"tokenize", "--bytes", "--input", input}), 2, "--output");
  expect_failure(with({}), 2, "one of --tokenizer, --bytes and --train-bpe");
  expect_failure(with({"--bytes", "--train-bpe", "300"}), 2, "one of");
  expect_failure(with({"--train-bpe", "256"}), 2, "--train-bpe");
  expect_failure(with({"--bytes", "--threads", "0"}), 2, "--threads");
  expect_failure(with({"--bytes", "--validation-percent", "10"}), 2, "need each other");
  expect_failure(with({"--bytes", "--validation-output", "x"}), 2, "need each other");
  expect_failure(with({"--bytes", "--validation-percent", "100", "--validation-output", "x"}), 2, "100");
  expect_failure(with({"--bytes", "--validation-percent", "50", "--validation-output", output}), 2, "both");
  expect_failure(with({"--bytes", "--output-tokenizer", "x"}), 2, "--output-tokenizer");
  expect_failure(with({"--tokenizer", "/no/such/model"}), 1, "/no/such/model");
  expect_failure(with({"--tokenizer", temporary("bad")}), 1, "tokenizer.json");
  expect_failure(run({"tokenize", "--input", "/no/such/file.txt", "--bytes", "--output", output}), 1, "file.txt");
  const std::string latin1 = write_file("bad/latin1.txt", "caf\xE9 bar");
  expect_failure(run({"tokenize", "--input", latin1, "--bytes", "--output", output}), 1, "latin1.txt:1: byte 3");
  expect_failure(run({"tokenize", "--input", input, "--bytes", "--output", "/no/such/folder/x"}), 1, "/no/such");
  EXPECT_FALSE(std::filesystem::exists(output));
}

}  // namespace
}  // namespace riverhorse
