// What riverhorse train reads: text of every kind, tokenized once, and token files.
#include "train_cli_fixture.h"

namespace riverhorse {
namespace {

class TrainData : public TrainCli {
 protected:
  static std::string prose(int sentences) {
    std::string text;
    for (int i = 0; i < sentences; ++i) text += "River horse " + std::to_string(i % 7) + " swims by night. ";
    return text;
  }
  static bool says(const ChildResult& result, const std::string& part) {
    return result.err.find(part) != std::string::npos;
  }
};

TEST_F(TrainData, TextOfEveryKindIsPackedAsTokenizeDoes) {
  const std::string csv = write_file("kinds/a.csv", "id,body\n1," + prose(9) + "\n2," + prose(5) + "\n3\n");
  const std::string lines = write_file("kinds/b.jsonl", "{\"words\": \"" + prose(6) + "\"}\n{\"words\": 7}\n");
  const std::string json = write_file("kinds/c.json", "[{\"words\": \"" + prose(4) + "\"}]");
  write_file("kinds/d1.txt", prose(3));
  write_file("kinds/d2.txt", prose(2));
  const std::string inputs = csv + " " + lines + " " + json + " " + temporary("kinds/d?.txt");
  const std::string from_text = temporary("kinds/text"), from_tokens = temporary("kinds/tokens");
  const std::string options = "--preset tiny --steps 3 --column body --field words ";
  const ChildResult text = train(options + small(inputs, from_text));
  expect_success(text);
  EXPECT_TRUE(says(text, "6 documents, 2 rows left out; tokenized into")) << text.err;
  EXPECT_TRUE(says(text, "a.csv:4: left out")) << text.err;
  const std::string tokens = temporary("kinds/all.tokens");
  expect_success(run(
      joined(words("tokenize --bytes --column body --field words --output " + tokens + " --input"), words(inputs))));
  expect_success(train("--preset tiny --steps 3 " + small(tokens, from_tokens)));
  EXPECT_EQ(rows(from_text), rows(from_tokens));
  EXPECT_EQ(rows(from_text).size(), 3u);
}

TEST_F(TrainData, TextIsTokenizedOnce) {
  const std::string data = write_file("once/data.txt", prose(30)), held = write_file("once/held.txt", prose(4));
  const auto one = [&](const std::string& name, const std::string& more) {
    const ChildResult result = train("--preset tiny --steps 1 --validation-data " + held + " " +
                                     small(data, temporary("once/" + name)) + more);
    expect_success(result);
    return result;
  };
  const ChildResult first = one("first", "");
  EXPECT_TRUE(says(first, "training data: ") && says(first, "validation data: ")) << first.err;
  EXPECT_TRUE(says(first, "; tokenized into") && !says(first, "; found as")) << first.err;
  const ChildResult second = one("second", "");
  EXPECT_TRUE(says(second, "; found as") && !says(second, "; tokenized into")) << second.err;
  EXPECT_EQ(rows(temporary("once/first")), rows(temporary("once/second")));
  EXPECT_TRUE(rows(temporary("once/first"))[0]["validation_loss"].is_number());
  EXPECT_TRUE(says(one("no_cache", "--cache none"), "; tokenized into"));
  EXPECT_EQ(rows(temporary("once/first")), rows(temporary("once/no_cache")));
  // By content: the same bytes under another name are found, other bytes under the same name are not.
  std::filesystem::copy_file(data, temporary("once/copy.txt"));
  EXPECT_TRUE(says(train("--preset tiny --steps 1 " + small(temporary("once/copy.txt"), temporary("once/third"))),
                   "; found as"));
  write_file("once/data.txt", prose(31));
  EXPECT_TRUE(says(one("fourth", ""), "; tokenized into"));
}

TEST_F(TrainData, APercentageIsSetAside) {
  const std::string data = write_file("split/data.txt", prose(60)), folder = temporary("split/run");
  const std::string options = "--preset tiny --steps 2 --validate-every 1 --seed 3 --validation-percent ";
  const ChildResult result = train(options + "20 " + small(data, folder));
  expect_success(result);
  EXPECT_TRUE(says(result, "validation data: ")) << result.err;
  for (const auto& row : rows(folder)) EXPECT_TRUE(row["validation_loss"].is_number()) << row;
  // Going on opens the same: what it was given is in the checkpoint.
  const ChildResult further = train("--resume " + folder + " --steps 3");
  expect_success(further);
  EXPECT_TRUE(says(further, "; found as")) << further.err;
  EXPECT_EQ(rows(folder).size(), 3u);
  const std::string other = small(data, temporary("split/never"));
  expect_failure(train(options + "20 --validation-data " + data + " " + other), 2, "exclude each other");
  expect_failure(train(options + "100 " + other), 2, "validation_percent is 100");
  const std::string tokens = tokens_file("split/tokens.safetensors", 3);
  expect_failure(train(options + "20 " + small(tokens, temporary("split/never"))), 2, "--validation-percent");
}

TEST_F(TrainData, TheCheckpointHasItsTokenizer) {
  const std::string data = write_file("bpe/data.txt", prose(80)), folder = temporary("bpe/run");
  expect_success(run({"tokenize", "--input", data, "--train-bpe", "270", "--output", temporary("bpe/data.tokens")}));
  const std::string tokenizer = temporary("bpe/tokenizer.json");
  const std::string preset = "--preset tiny --set vocab_size=270 --steps 1 ";
  expect_success(train(preset + "--tokenizer " + tokenizer + " " + small(data, folder)));
  EXPECT_EQ(read_whole_file(folder + "/step-00000001/tokenizer.json"), read_whole_file(tokenizer));
  // Text goes through the tokenizer of the model that a training begins with, or that it goes on with.
  const std::string next = temporary("bpe/next");
  const ChildResult from = train("--from " + folder + "/step-00000001 --steps 1 " + small(data, next));
  expect_success(from);
  EXPECT_TRUE(says(from, "; found as")) << from.err;
  expect_success(train("--resume " + next + " --steps 2"));
  EXPECT_EQ(read_whole_file(next + "/step-00000002/tokenizer.json"), read_whole_file(tokenizer));
  // Tokens of one tokenizer, and the files of another.
  const ChildResult odd = train(preset + small(temporary("bpe/data.tokens"), temporary("bpe/odd")));
  expect_success(odd);
  EXPECT_TRUE(says(odd, "was made with another tokenizer")) << odd.err;
}

TEST_F(TrainData, TextWithoutAFittingTokenizerIsRefused) {
  const std::string data = write_file("refused/data.txt", prose(9)), output = temporary("refused/run");
  expect_failure(train("--preset tiny --set vocab_size=600 " + small(data, output)), 2, "--tokenizer FOLDER");
  write_file("refused/tokenizer.json", "{}");
  expect_failure(train("--preset tiny --tokenizer " + temporary("refused") + " " + small(data, output)), 1,
                 "tokenizer.json");
  expect_success(run({"tokenize", "--input", data, "--train-bpe", "260", "--output", temporary("refused/t.tokens")}));
  expect_failure(train("--preset tiny --tokenizer " + temporary("refused") + " " + small(data, output)), 2,
                 "--set vocab_size=260");
  expect_failure(train("--preset tiny " + small(temporary("refused/*.text"), output)), 1, "*.text");
  EXPECT_FALSE(std::filesystem::exists(output));
}

TEST_F(TrainData, WithoutAChoiceADeviceThatTrainsIsTaken) {
  const std::string data = write_file("device/data.txt", prose(30));
  const ChildEnvironment one_thread = {{"OMP_NUM_THREADS", "1"}};
  const auto start = [&](const std::string& name, const std::string& backend) {
    return run(joined({"train", "--preset", "tiny", "--steps", "1"},
                      words(small(data, temporary("device/" + name)) + backend)),
               one_thread);
  };
  for (const char* backend : {"", "--backend auto"}) {
    const ChildResult result = start(backend[0] == 0 ? "none" : "auto", backend);
    expect_success(result);
    EXPECT_TRUE(says(result, "training on ")) << result.err;
  }
}

}  // namespace
}  // namespace riverhorse
