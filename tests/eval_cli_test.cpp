// riverhorse eval, as a user calls it.
#include <cmath>

#include "cli_fixture.h"
#include "formats/tensor_file.h"

namespace riverhorse {
namespace {

class EvalCli : public ProgramTest {
 protected:
  static std::string write_file(const std::string& name, const std::string& text) {
    const std::string path = temporary(name);
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }

  static ChildResult eval(const std::string& more, const std::string& backend = "cpu") {
    return run(joined({"eval", "--model", model, "--backend", backend}, words(more)), {{"OMP_NUM_THREADS", "1"}});
  }
  static nlohmann::json total(const std::string& more, const std::string& backend = "cpu") {
    const ChildResult result = eval(more + " --json", backend);
    expect_success(result);
    return result.status == 0 ? result.json()["total"] : nlohmann::json::object();
  }

  // The bytes as tokens, from the logits that riverhorse forward writes: minus log-probabilities of tokens first ...
  static std::vector<double> losses_by_forward(const std::vector<std::int64_t>& tokens) {
    const std::string input = temporary("ids.safetensors"), output = temporary("logits.safetensors");
    const auto length = static_cast<std::int64_t>(tokens.size());
    write_safetensors(input, {{"input_ids", make_host_tensor(std::span<const std::int64_t>(tokens), {1, length})}},
                      {});
    expect_success(run({"forward", "--model", model, "--input", input, "--output", output, "--backend", "cpu"}));
    const TensorFile file = read_safetensors(output);
    const std::vector<float> logits = to_floats(file.at("logits"));
    const auto width = static_cast<std::size_t>(file.at("logits").shape[2]);
    std::vector<double> losses;
    for (std::size_t i = 1; i < tokens.size(); ++i) {
      double sum = 0;
      for (std::size_t id = 0; id < width; ++id) sum += std::exp(static_cast<double>(logits[(i - 1) * width + id]));
      losses.push_back(std::log(sum) - logits[(i - 1) * width + static_cast<std::size_t>(tokens[i])]);
    }
    return losses;
  }
  static std::vector<std::int64_t> bytes(const std::string& text, bool end) {
    std::vector<std::int64_t> tokens;
    for (const char letter : text) tokens.push_back(static_cast<unsigned char>(letter));
    if (end) tokens.push_back(256);
    return tokens;
  }
  static double sum(const std::vector<double>& values, std::size_t first = 0) {
    double result = 0;
    for (std::size_t i = first; i < values.size(); ++i) result += values[i];
    return result;
  }

  static inline const std::string model = golden_folder + "/lm/h3-hybrid/model.pt";
};

const std::string hippo = "The river horse swims at night.", pygmy = "The pygmy one does not.";

TEST_F(EvalCli, TextsAgainstForward) {
  const std::string rows = write_file("two.jsonl", "{\"text\": \"" + hippo + "\"}\n{\"text\": \"" + pygmy + "\"}\n");
  const double separate = sum(losses_by_forward(bytes(hippo, true))) + sum(losses_by_forward(bytes(pygmy, true)));
  const double scored = static_cast<double>(hippo.size() + pygmy.size());
  for (const std::string& backend : backends()) {
    const double tolerance = backend == "cpu" ? 1e-5 : 1e-3;
    const nlohmann::json result = total("--data " + rows, backend);
    EXPECT_EQ(result["documents"], 2);
    EXPECT_EQ(result["tokens_scored"], hippo.size() + pygmy.size());
    EXPECT_EQ(result["bytes"], hippo.size() + pygmy.size() - 2);
    EXPECT_NEAR(result["loss"].get<double>(), separate / scored, tolerance);
    EXPECT_NEAR(result["perplexity"].get<double>(), std::exp(separate / scored),
                tolerance * std::exp(separate / scored));
    EXPECT_NEAR(result["bits_per_byte"].get<double>(), separate / std::log(2.0) / (scored - 2), 3 * tolerance);
    EXPECT_GT(result["tokens_per_second"].get<double>(), 0);
    EXPECT_NEAR(total("--data " + rows + " --batch 1", backend)["loss"].get<double>(), separate / scored, tolerance);
  }
  std::vector<std::int64_t> both = bytes(hippo, true);
  for (const std::int64_t token : bytes(pygmy, true)) both.push_back(token);
  const nlohmann::json packed = total("--data " + rows + " --packed");
  EXPECT_EQ(packed["tokens_scored"], both.size() - 1);
  EXPECT_NEAR(packed["loss"].get<double>(), sum(losses_by_forward(both)) / static_cast<double>(both.size() - 1),
              1e-5);
  const nlohmann::json first = total("--data " + rows + " --limit 1");
  EXPECT_EQ(first["documents"], 1);
  EXPECT_NEAR(first["loss"].get<double>(),
              sum(losses_by_forward(bytes(hippo, true))) / static_cast<double>(hippo.size()), 1e-5);
}

TEST_F(EvalCli, WindowsAgainstForward) {
  const std::string text = write_file("window.txt", hippo);
  const std::vector<std::int64_t> tokens = bytes(hippo, true);  // 32
  double expected = 0;
  for (std::size_t begin = 0, scored = 1; scored < tokens.size(); begin += 4) {
    const std::size_t end = std::min(begin + 12, tokens.size());
    expected += sum(losses_by_forward({tokens.begin() + static_cast<std::ptrdiff_t>(begin),
                                       tokens.begin() + static_cast<std::ptrdiff_t>(end)}),
                    scored - begin - 1);
    scored = end;
  }
  const nlohmann::json result = total("--data " + text + " --window 12 --stride 4");
  EXPECT_EQ(result["tokens_scored"], tokens.size() - 1);
  EXPECT_NEAR(result["loss"].get<double>(), expected / static_cast<double>(tokens.size() - 1), 1e-5);
  EXPECT_NE(result["loss"], total("--data " + text)["loss"]);
  EXPECT_EQ(total("--data " + text + " --window 12")["loss"],
            total("--data " + text + " --window 12 --stride 6")["loss"]);
}

TEST_F(EvalCli, EveryKindOfFileHasTheSameScore) {
  const std::string txt = write_file("kind.txt", hippo);
  const std::string csv = write_file("kind.csv", "n,body\n1," + hippo + "\n");
  const std::string json = write_file("kind.json", "[{\"body\": \"" + hippo + "\"}]");
  const std::string tokens = temporary("kind.tokens");
  expect_success(run({"tokenize", "--input", txt, "--bytes", "--output", tokens}));
  const nlohmann::json loss = total("-d " + txt)["loss"];
  EXPECT_EQ(total("--data " + csv + " --column body")["loss"], loss);
  EXPECT_EQ(total("--data " + json + " --field body")["loss"], loss);
  EXPECT_EQ(total("--data " + tokens)["loss"], loss);
  EXPECT_EQ(total("--data " + tokens)["bytes"], hippo.size() - 1) << "of the decoded tokens";

  // All of them: a row each, and the sum.
  const std::string all = "--data " + txt + " " + tokens + " --conv chunked --dtype f32";
  const ChildResult table = eval(all);
  expect_success(table);
  for (const std::string& part : {txt, tokens, std::string("\nall "), std::string("perplexity"),
                                  std::string("bits/byte"), std::string("decoded"), std::string("cpu:0")}) {
    EXPECT_NE(table.out.find(part), std::string::npos) << part << " is not in " << table.out;
  }
  const nlohmann::json report = eval(all + " --json").json();
  EXPECT_EQ(report["schema"], "riverhorse-eval-1");
  EXPECT_EQ(report["files"].size(), 2u);
  EXPECT_EQ(report["files"][1]["file"], tokens);
  EXPECT_EQ(report["total"]["tokens_scored"], 2 * hippo.size());
  EXPECT_EQ(report["device"]["id"], "cpu:0");
}

TEST_F(EvalCli, RowsLeftOutAreCounted) {
  const std::string rows = write_file("left_out.jsonl", "{\"text\": \"good\"}\n{\"texts\": \"bad\"}\n");
  const ChildResult result = eval("--data " + rows);
  expect_success(result);
  EXPECT_NE(result.err.find("left_out.jsonl:2: left out: there is no field \"text\""), std::string::npos)
      << result.err;
  EXPECT_NE(result.out.find("1 bad rows were left out"), std::string::npos) << result.out;
  EXPECT_EQ(eval("--data " + rows + " --json").json()["rows_left_out"], 1);
}

TEST_F(EvalCli, Lambada) {
  const std::string rows = write_file("words.jsonl", "{\"text\": \"The river horse\"}\n{\"text\": \"It swims\"}\n");
  const double nats = sum(losses_by_forward(bytes("The river horse", false)), 8) +
                      sum(losses_by_forward(bytes("It swims", false)), 1);
  const nlohmann::json result = total("--task lambada --data " + rows);
  EXPECT_EQ(result["rows"], 2);
  EXPECT_EQ(result["right"], 0);
  EXPECT_EQ(result["accuracy"], 0.0);
  EXPECT_EQ(result["tokens_scored"], 6 + 6);
  EXPECT_NEAR(std::log(result["perplexity"].get<double>()), nats / 2, 1e-5);
  EXPECT_EQ(total("--task lambada --limit 1 --data " + rows)["rows"], 1);
  EXPECT_NE(eval("--task lambada --data " + rows).out.find("accuracy"), std::string::npos);
}

TEST_F(EvalCli, Choice) {
  const std::vector<std::string> choices = {" horse", " hippopotamus", "!"};
  std::vector<double> sums, by_byte;
  for (const std::string& choice : choices) {
    sums.push_back(-sum(losses_by_forward(bytes("The river" + choice, false)), 8));
    by_byte.push_back(sums.back() / static_cast<double>(choice.size()));
  }
  std::string text;
  for (int answer = 0; answer < 3; ++answer) {
    text += "{\"context\": \"The river\", \"choices\": [\" horse\", \" hippopotamus\", \"!\"], \"answer\": " +
            std::to_string(answer) + "}\n";
  }
  const std::string rows = write_file("choices.jsonl", text);
  const nlohmann::json result = total("--task choice --data " + rows);
  EXPECT_EQ(result["right"], 1);
  EXPECT_EQ(result["right_by_byte"], 1);
  EXPECT_NEAR(result["accuracy"].get<double>(), 1.0 / 3, 1e-12);
  EXPECT_NEAR(result["accuracy_by_byte"].get<double>(), 1.0 / 3, 1e-12);
  // The rows up to the best choice's: with it and without it.
  const auto best = std::max_element(sums.begin(), sums.end()) - sums.begin();
  const auto best_by_byte = std::max_element(by_byte.begin(), by_byte.end()) - by_byte.begin();
  for (int limit = 1; limit <= 3; ++limit) {
    const nlohmann::json some = total("--task choice --limit " + std::to_string(limit) + " --data " + rows);
    EXPECT_EQ(some["right"], limit > best ? 1 : 0) << limit;
    EXPECT_EQ(some["right_by_byte"], limit > best_by_byte ? 1 : 0) << limit;
  }
}

TEST_F(EvalCli, BadRowsAreStatus1) {
  const std::string rows =
      write_file("bad.jsonl", "{\"context\": \"a\", \"choices\": [\"b\", \"c\"], \"answer\": 7}\n");
  expect_failure(eval("--task choice --data " + rows), 1, "bad.jsonl:1: the field \"answer\" is 7");
  expect_failure(eval("--task lambada --data " + rows), 1, "bad.jsonl:1: there is no field \"text\"");
  expect_failure(eval("--data /no/such/file.txt"), 1, "/no/such/file.txt");
  expect_failure(eval("--data " + write_file("no.tokens", "no tokens")), 1, "no.tokens");
  // Tokens of a vocabulary that is not the model's.
  std::string text;
  for (int i = 0; i < 50; ++i) text += hippo;
  const std::string tokens = temporary("other.tokens");
  expect_success(run({"tokenize", "--input", write_file("other.txt", text), "--train-bpe", "260", "--output", tokens,
                      "--output-tokenizer", temporary("other_tokenizer.json")}));
  expect_failure(eval("--data " + tokens), 1, "another tokenizer");
}

TEST_F(EvalCli, BadUsageIsStatus2) {
  const std::string text = write_file("usage.txt", hippo);
  expect_failure(eval(""), 2, "--data");
  expect_failure(run({"eval", "--data", text}), 2, "--model");
  expect_failure(eval("--data " + text + " --task chess"), 2, "chess");
  expect_failure(eval("--data " + text + " --stride 4"), 2, "--stride needs --window");
  expect_failure(eval("--data " + text + " --window 8 --stride 8"), 2, "--stride is 8; it must be from 1 to 7");
  expect_failure(eval("--data " + text + " --window 1"), 2, "--window");
  expect_failure(eval("--data " + text + " --batch 0"), 2, "--batch");
  expect_failure(eval("--data " + text + " --limit 0"), 2, "--limit");
  expect_failure(eval("--data " + text + " --task lambada --packed"), 2, "--packed is not for --task lambada");
  expect_failure(eval("--data " + golden_folder), 2, "is a folder");
}

}  // namespace
}  // namespace riverhorse
