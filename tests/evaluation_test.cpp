// Scores of texts against a plain computation from the logits of Engine::forward, one text at a time.
#include <numeric>

#include "base/log.h"
#include "data/bpe_tokenizer.h"
#include "data/bpe_trainer.h"
#include "engine/evaluation_tasks.h"
#include "engine/loss.h"
#include "engine/text_scorer.h"
#include "engine_fixture.h"

namespace riverhorse {
namespace {

class Evaluation : public test::OnDevice {
 protected:
  // Of a log-probability. On Vulkan texts of different lengths go different ways through the mixer; model_golden_test
  // allows 2e-4 of the largest logit there, which is about 10.
  double tolerance() const { return on_cpu() ? 1e-5 : 2e-3; }

  Engine& engine() {
    if (!engine_) {
      EngineOptions options;
      options.max_sessions = 1;
      options.prefill_piece_tokens = 16;  // texts take several pieces
      engine_ = std::make_unique<Engine>(device_, test::golden_checkpoint("h3-hybrid"), options);
    }
    return *engine_;
  }

  // Of tokens first ... end - 1 of the text, each given all before it: from logits that were computed for this alone.
  std::vector<TokenScore> reference(std::span<const std::int32_t> tokens, std::size_t first) {
    const std::vector<float> logits = test::all_logits(engine(), tokens, 1, static_cast<std::int64_t>(tokens.size()));
    const auto width = static_cast<std::size_t>(engine().config().padded_vocab_size());
    std::vector<TokenScore> scores;
    for (std::size_t i = first; i < tokens.size(); ++i) {
      const auto row = std::span(logits).subspan((i - 1) * width, width);
      std::int32_t best = 0;
      for (std::int32_t id = 0; id < engine().config().vocab_size; ++id) {
        if (row[static_cast<std::size_t>(id)] > row[static_cast<std::size_t>(best)]) best = id;
      }
      scores.push_back({-cross_entropy(row, tokens[i]), tokens[i] == best});
    }
    return scores;
  }

  double reference_sum(std::span<const std::int32_t> tokens, std::size_t first) {
    double sum = 0;
    for (const TokenScore& score : reference(tokens, first)) sum += score.log_probability;
    return sum;
  }

  std::unique_ptr<Engine> engine_;
};

std::vector<std::int32_t> some_tokens(std::size_t count, std::uint32_t seed) {
  std::vector<std::int32_t> tokens;
  for (std::size_t i = 0; i < count; ++i) {
    seed = seed * 1664525u + 1013904223u;
    tokens.push_back(static_cast<std::int32_t>((seed >> 8) % 509));
  }
  return tokens;
}

class Documents final : public TokenSource {
 public:
  explicit Documents(const std::vector<std::vector<std::int32_t>>& documents) {
    for (const auto& document : documents) {
      tokens_.insert(tokens_.end(), document.begin(), document.end());
      ends_.push_back(size());
    }
  }
  std::int64_t size() const override { return static_cast<std::int64_t>(tokens_.size()); }
  void read(std::int64_t begin, std::span<std::int32_t> out) const override {
    std::copy_n(tokens_.begin() + begin, out.size(), out.begin());
  }
  std::span<const std::int64_t> document_ends() const override { return ends_; }
  std::span<const std::int32_t> tokens() const { return tokens_; }

 private:
  std::vector<std::int32_t> tokens_;
  std::vector<std::int64_t> ends_;
};

TEST_P(Evaluation, BatchesGiveTheScoresOfEachTextAlone) {
  std::vector<TextToScore> texts;
  for (const std::size_t length : {40u, 2u, 7u, 1u, 8u, 9u, 33u, 100u, 12u}) {
    texts.push_back({some_tokens(length, static_cast<std::uint32_t>(length)), length > 30 ? 5 : 1});
  }
  texts.push_back({{}, 1});
  texts.push_back({texts[0].tokens, 40});  // nothing to score
  // A token that greedy decoding draws, so that both answers occur.
  Engine& model = engine();
  const auto session = model.create_session();
  session->append(texts[2].tokens);
  texts[2].tokens.push_back(session->step());
  for (const std::int64_t batch : {1, 3, 64}) {
    std::vector<std::vector<TokenScore>> scores(texts.size());
    std::int64_t heard = 0;
    TextScorer scorer(model, batch, [&](std::int64_t tokens) { heard += tokens; });
    scorer.score(texts, [&](std::size_t text, std::int64_t token, const TokenScore& score) {
      EXPECT_EQ(token, texts[text].first + static_cast<std::int64_t>(scores[text].size()));
      scores[text].push_back(score);
    });
    std::int64_t greedy = 0, scored = 0, read = 0;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      ASSERT_EQ(static_cast<std::int64_t>(scores[i].size()), texts[i].scored()) << i;
      if (scores[i].empty()) continue;
      const std::vector<TokenScore> expected = reference(texts[i].tokens, static_cast<std::size_t>(texts[i].first));
      for (std::size_t j = 0; j < expected.size(); ++j) {
        EXPECT_NEAR(scores[i][j].log_probability, expected[j].log_probability, tolerance()) << i << " " << j;
        EXPECT_EQ(scores[i][j].greedy, expected[j].greedy) << i << " " << j;
        greedy += scores[i][j].greedy ? 1 : 0;
      }
      scored += texts[i].scored();
      read += static_cast<std::int64_t>(texts[i].tokens.size()) - 1;
    }
    EXPECT_TRUE(scores[2].back().greedy);
    EXPECT_LT(greedy, scored);
    EXPECT_EQ(heard, scored);
    EXPECT_EQ(scorer.tokens_read(), read);
  }
}

TEST_P(Evaluation, BadTextsAreRefused) {
  const std::vector<TextToScore> no_context = {{{1, 2, 3}, 0}}, unknown = {{{1, 520, 3}, 1}};
  TextScorer scorer(engine(), 1);
  EXPECT_THROW(scorer.score(no_context, [](std::size_t, std::int64_t, const TokenScore&) {}), Error);
  EXPECT_THROW(scorer.score(unknown, [](std::size_t, std::int64_t, const TokenScore&) {}), Error);
  EXPECT_THROW(TextScorer(engine(), 0), Error);
}

TEST_P(Evaluation, ATextWhoseCacheDoesNotFitIsRefused) {
  const std::uint64_t bytes_a_token = 2 * 2 * 2 * 48 * 4;  // two caches of two layers, keys and values
  const auto length = static_cast<std::size_t>(device_->memory_free_bytes() / bytes_a_token * 5 / 4);
  const std::vector<TextToScore> texts = {{std::vector<std::int32_t>(length), 1}};
  try {
    TextScorer(engine(), 1).score(texts, [](std::size_t, std::int64_t, const TokenScore&) {});
    ADD_FAILURE() << length << " tokens were read";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), StatusCode::out_of_memory);
    EXPECT_NE(std::string(error.what()).find("--window"), std::string::npos) << error.what();
  }
}

TEST_P(Evaluation, LossOfDocumentsAndOfOnePackedText) {
  const std::vector<std::vector<std::int32_t>> parts = {some_tokens(30, 1), some_tokens(1, 2), some_tokens(45, 3)};
  const Documents documents(parts);
  double sum = 0;
  for (const auto& part : parts) sum -= reference_sum(part, 1);
  TextLossOptions options;
  std::uint64_t last_done = 0, last_total = 0;
  options.progress = [&](std::uint64_t done, std::uint64_t total) {
    last_done = done;
    last_total = total;
  };
  for (const std::int64_t batch : {1, 4}) {
    options.batch = batch;
    const TextLoss loss = evaluate_loss(engine(), documents, nullptr, options);
    EXPECT_EQ(loss.documents, 3);
    EXPECT_EQ(loss.tokens_scored, 29 + 0 + 44);
    EXPECT_EQ(loss.tokens_read, loss.tokens_scored);
    EXPECT_NEAR(loss.loss(), sum / 73, tolerance());
    EXPECT_NEAR(loss.perplexity(), std::exp(sum / 73), tolerance() * loss.perplexity());
    EXPECT_FALSE(loss.bytes || loss.bits_per_byte()) << "there is no tokenizer";
    EXPECT_EQ(last_done, 73u);
    EXPECT_EQ(last_total, 73u);
  }
  options.packed = true;
  const TextLoss packed = evaluate_loss(engine(), documents, nullptr, options);
  EXPECT_EQ(packed.documents, 3);
  EXPECT_EQ(packed.tokens_scored, 75);
  EXPECT_NEAR(packed.nats, -reference_sum(documents.tokens(), 1), tolerance() * 75);
  options.limit = 1;
  const TextLoss first = evaluate_loss(engine(), documents, nullptr, options);
  EXPECT_EQ(first.documents, 1);
  EXPECT_NEAR(first.nats, -reference_sum(parts[0], 1), tolerance() * 29);

  TextLoss both = first;
  both += packed;
  EXPECT_EQ(both.documents, 4);
  EXPECT_EQ(both.tokens_scored, 29 + 75);
  EXPECT_DOUBLE_EQ(both.nats, first.nats + packed.nats);
}

// Each token by its own definition: it is read in the first window that has it behind enough context.
TEST_P(Evaluation, SlidingWindows) {
  const Documents documents({some_tokens(57, 5), some_tokens(16, 6), some_tokens(3, 7)});
  for (const auto& [window, stride] : {std::pair{16, 4}, {16, 15}, {9, 1}, {2, 1}, {100, 50}}) {
    double sum = 0;
    std::size_t begin = 0;
    for (const std::int64_t document_end : documents.document_ends()) {
      const auto end = static_cast<std::size_t>(document_end);
      const auto tokens = documents.tokens().subspan(begin, end - begin);
      for (int token = 1; token < static_cast<int>(tokens.size()); ++token) {
        const int start = token < window ? 0 : (token - window) / stride * stride + stride;
        ASSERT_TRUE(start == 0 || token - start >= window - stride);
        const auto seen =
            tokens.subspan(static_cast<std::size_t>(start), static_cast<std::size_t>(token - start + 1));
        sum -= reference_sum(seen, seen.size() - 1);
      }
      begin = end;
    }
    TextLossOptions options;
    options.window = window;
    options.stride = stride;
    const TextLoss loss = evaluate_loss(engine(), documents, nullptr, options);
    EXPECT_EQ(loss.tokens_scored, 56 + 15 + 2);
    EXPECT_NEAR(loss.loss(), sum / 73, tolerance()) << window << " " << stride;
    EXPECT_EQ(loss.tokens_read > loss.tokens_scored, window < 57 && stride < window - 1) << "windows overlap";
  }
  TextLossOptions options;
  for (const auto& [window, stride] : {std::pair{1, 1}, {8, 8}, {8, 0}, {0, 3}, {-4, 1}}) {
    options.window = window;
    options.stride = stride;
    EXPECT_THROW(evaluate_loss(engine(), documents, nullptr, options), Error) << window << " " << stride;
  }
}

TEST_P(Evaluation, BitsPerByteCountTheBytesOfScoredTokens) {
  const auto bytes = make_byte_tokenizer();
  std::vector<std::int32_t> text = bytes->encode("Hippopotamus", false);
  text.push_back(bytes->end_of_text());
  const Documents documents({text, text});
  const TextLoss loss = evaluate_loss(engine(), documents, bytes.get(), {});
  EXPECT_EQ(loss.tokens_scored, 24);
  EXPECT_EQ(loss.bytes, 22u) << "neither the first byte nor the end of text";
  EXPECT_NEAR(*loss.bits_per_byte(), -2 * reference_sum(text, 1) / std::log(2.0) / 22, 10 * tolerance());
}

// ------------------------------------------------------------------------------------------------------- tasks

std::unique_ptr<Tokenizer> word_tokenizer() {
  BpeTrainer trainer;
  for (int i = 0; i < 20; ++i) trainer.add("the river horse swims in the river and the horse sleeps ");
  return std::make_unique<BpeTokenizer>(trainer.train(300));
}

// The tokens of `text` and which of them reaches beyond `context_bytes` first, by decoding prefixes.
std::pair<std::vector<std::int32_t>, std::size_t> split_tokens(const Tokenizer& tokenizer, const std::string& text,
                                                               std::size_t context_bytes) {
  const std::vector<std::int32_t> tokens = tokenizer.encode(text, false);
  std::size_t first = 0;
  while (tokenizer.decode({tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(first) + 1}).size() <=
         context_bytes) {
    ++first;
  }
  return {tokens, first};
}

TEST_P(Evaluation, LastWords) {
  const auto tokenizer = word_tokenizer();
  std::vector<LastWordRow> rows = {{"rows:1", "the river horse", " swims"}, {"rows:2", "the horse sleeps", " in"}};
  double nats = 0;
  std::int64_t tokens_scored = 0, right = 0;
  for (const LastWordRow& row : rows) {
    const auto [tokens, first] = split_tokens(*tokenizer, row.context + row.word, row.context.size());
    const std::vector<TokenScore> scores = reference(tokens, first);
    bool all = true;
    for (const TokenScore& score : scores) {
      nats -= score.log_probability;
      all = all && score.greedy;
    }
    right += all ? 1 : 0;
    tokens_scored += static_cast<std::int64_t>(scores.size());
  }
  for (const std::int64_t batch : {1, 8}) {
    EvaluationOptions options;
    options.batch = batch;
    const LastWordResult result = evaluate_last_words(engine(), *tokenizer, rows, options);
    EXPECT_EQ(result.rows, 2);
    EXPECT_EQ(result.right, right);
    EXPECT_EQ(result.tokens_scored, tokens_scored);
    EXPECT_NEAR(result.nats, nats, 2 * tolerance());
    EXPECT_NEAR(result.perplexity(), std::exp(nats / 2), 2 * tolerance() * result.perplexity());
    EXPECT_DOUBLE_EQ(result.accuracy(), static_cast<double>(right) / 2);
  }
}

// A word is right only when all of its tokens are greedy: bytes, which the model continues one by one.
TEST_P(Evaluation, AWordIsRightWhenAllItsTokensAreGreedy) {
  const auto tokenizer = make_byte_tokenizer();
  const auto session = engine().create_session();
  std::string context, word;
  for (char letter = '!'; letter < '~' && word.empty(); ++letter) {  // a context that goes on with three bytes
    context = std::string("h") + letter;
    session->clear();
    session->append(tokenizer->encode(context, false));
    std::vector<std::int32_t> drawn;
    session->generate(3, [&](std::int32_t token) {
      drawn.push_back(token);
      return true;
    });
    if (*std::max_element(drawn.begin(), drawn.end()) < 256) word = tokenizer->decode(drawn);
  }
  ASSERT_EQ(word.size(), 3u);
  std::string wrong = word;
  wrong[1] = static_cast<char>(wrong[1] + 1);
  const std::vector<LastWordRow> rows = {{"a:1", context, word}, {"a:2", context, wrong}};
  EXPECT_EQ(evaluate_last_words(engine(), *tokenizer, rows, {}).right, 1);
}

TEST_P(Evaluation, Choices) {
  const auto tokenizer = word_tokenizer();
  std::vector<ChoiceRow> rows = {
      {"rows:1", "the river", {" horse swims in the river", " horse", " sleeps and sleeps"}, 0},
      {"rows:2", "the horse in the riv", {"er", "et and so on"}, 0},  // "river" is one token
      {"rows:3", "", {"the river", "horse"}, 0}};
  EXPECT_EQ(split_tokens(*tokenizer, "the horse in the river", 20).first.size(), 5u) << "a token across the boundary";
  std::int64_t read = 0;
  std::vector<std::size_t> best, best_by_byte;
  for (const ChoiceRow& row : rows) {
    std::vector<double> sums, by_byte;
    for (const std::string& choice : row.choices) {
      auto [tokens, first] = split_tokens(*tokenizer, row.context + choice, row.context.size());
      if (first == 0) {
        tokens.insert(tokens.begin(), tokenizer->end_of_text());
        first = 1;
      }
      read += static_cast<std::int64_t>(tokens.size()) - 1;
      sums.push_back(reference_sum(tokens, first));
      by_byte.push_back(sums.back() / static_cast<double>(choice.size()));
    }
    best.push_back(static_cast<std::size_t>(std::max_element(sums.begin(), sums.end()) - sums.begin()));
    best_by_byte.push_back(
        static_cast<std::size_t>(std::max_element(by_byte.begin(), by_byte.end()) - by_byte.begin()));
  }
  EXPECT_NE(best, best_by_byte) << "otherwise this test tells nothing";
  for (const bool by_byte : {false, true}) {
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i].answer = by_byte ? best_by_byte[i] : best[i];
    std::int64_t same = 0;
    for (std::size_t i = 0; i < rows.size(); ++i) same += best[i] == best_by_byte[i] ? 1 : 0;
    for (const std::int64_t batch : {1, 5}) {
      EvaluationOptions options;
      options.batch = batch;
      const ChoiceResult result = evaluate_choices(engine(), *tokenizer, rows, options);
      EXPECT_EQ(result.rows, 3);
      EXPECT_EQ(result.right, by_byte ? same : 3);
      EXPECT_EQ(result.right_by_byte, by_byte ? 3 : same);
      EXPECT_EQ(result.tokens_read, read);
    }
  }
  // Equally good choices: the first counts.
  const std::vector<ChoiceRow> ties = {{"t:1", "the", {" horse", " horse"}, 0},
                                       {"t:2", "the", {" horse", " horse"}, 1}};
  EXPECT_EQ(evaluate_choices(engine(), *tokenizer, ties, {}).right, 1);
}

RIVERHORSE_ON_EVERY_DEVICE(Evaluation);

// -------------------------------------------------------------------------------------------------------- rows

class EvaluationRows : public testing::Test {
 protected:
  // Reads the rows; what went wrong, the warnings first.
  template <typename Read>
  static std::string problems(const Read& read, const std::string& text) {
    std::string warnings;
    set_log_sink([&](LogLevel, std::string_view message) { warnings += std::string(message) + "\n"; });
    try {
      read(write(text), 0);
    } catch (const Error& error) {
      warnings += error.what();
      EXPECT_EQ(error.code(), StatusCode::bad_file);
    }
    set_log_sink({});
    return warnings;
  }
  static std::string write(const std::string& text) {
    const std::string path = testing::TempDir() + "evaluation_rows.jsonl";
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
};

TEST_F(EvaluationRows, GoodOnesAreRead) {
  const std::string words = write("\xEF\xBB\xBF{\"text\": \"one two  three\", \"more\": 1}\r\n\n{\"text\": \"a b\"}");
  const std::vector<LastWordRow> rows = read_last_word_rows(words, 0);
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].context, "one two ");
  EXPECT_EQ(rows[0].word, " three");
  EXPECT_EQ(rows[1].place, words + ":3");
  EXPECT_EQ(read_last_word_rows(words, 1).size(), 1u);

  const std::string choices = write("{\"context\": \"\", \"choices\": [\"x\", \"y\", \"z\"], \"answer\": 2}\n");
  const std::vector<ChoiceRow> row = read_choice_rows(choices, 0);
  ASSERT_EQ(row.size(), 1u);
  EXPECT_EQ(row[0].choices, (std::vector<std::string>{"x", "y", "z"}));
  EXPECT_EQ(row[0].answer, 2u);
}

TEST_F(EvaluationRows, BadOnesAreNamedWithLineAndField) {
  const std::string last_words =
      problems(read_last_word_rows,
               "{\"text\": \"fine here\"}\n{\"words\": 1}\n{\"text\": 5}\n[]\n{\"text\": \n"
               "{\"text\": \"word\"}\n{\"text\": \" word\"}\n{\"text\": \"ends \"}\n");
  for (const char* part :
       {":2: there is no field \"text\"", ":3: the field \"text\" is number", ":4: the row is array", ":5: the row",
        ":6: the field \"text\" has no space", ":7: the field \"text\" has no space",
        ":8: the field \"text\" ends with a space", "7 of 8 rows cannot be used"}) {
    EXPECT_NE(last_words.find(part), std::string::npos) << part << " is not in " << last_words;
  }
  const std::string choices = problems(read_choice_rows,
                                       "{\"choices\": [\"a\", \"b\"], \"answer\": 0}\n"
                                       "{\"context\": \"c\", \"choices\": [\"a\"], \"answer\": 0}\n"
                                       "{\"context\": \"c\", \"choices\": [\"a\", \"\"], \"answer\": 0}\n"
                                       "{\"context\": \"c\", \"choices\": [\"a\", \"b\"], \"answer\": 2}\n"
                                       "{\"context\": \"c\", \"choices\": [\"a\", \"b\"], \"answer\": -1}\n"
                                       "{\"context\": \"c\", \"choices\": [\"a\", \"b\"], \"answer\": \"a\"}\n"
                                       "{\"context\": \"c\", \"choices\": [\"a\", \"b\"]}\n");
  for (const char* part :
       {":1: there is no field \"context\"", ":2: the field \"choices\" is not an array of at least two",
        ":3: the field \"choices\": element 1", ":4: the field \"answer\" is 2, not the index of a choice, 0 to 1",
        ":5: the field \"answer\" is -1", ":6: the field \"answer\" is \"a\"", ":7: there is no field \"answer\"",
        "7 of 7 rows cannot be used"}) {
    EXPECT_NE(choices.find(part), std::string::npos) << part << " is not in " << choices;
  }
  EXPECT_NE(problems(read_choice_rows, "\n\n").find("there is no row"), std::string::npos);
}

}  // namespace
}  // namespace riverhorse
