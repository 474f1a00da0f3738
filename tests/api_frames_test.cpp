// Steps of a model in the frames of a host that draws with the same device.
#include <riverhorse/conversation.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <string_view>

#include "api_frames_fixture.h"

namespace api_test {
namespace {

TEST_F(ApiFrames, SayWhatBlockingStepsSay) {
  riverhorse_model* model = load(hybrid_path, options());
  riverhorse_sampling_options lively = sampling_options();
  lively.temperature = 1;
  lively.repetition_penalty = 1.2;
  lively.seed = 5;
  for (const riverhorse_sampling_options* sampling : {static_cast<riverhorse_sampling_options*>(nullptr), &lively}) {
    riverhorse_session* blocking = session(model, prompt, sampling);
    const std::vector<std::int32_t> expected = steps(blocking, 24);
    riverhorse_session* text = session(model, prompt, sampling);
    riverhorse_generate_options length = generate_options(20);
    ASSERT_OK(riverhorse_session_start(text, &length));
    Log log;
    run(text, 1e9, log);
    EXPECT_EQ(log.tokens, std::vector<std::int32_t>(expected.begin(), expected.begin() + 20));
    EXPECT_EQ(log.last.stop_reason, RIVERHORSE_STOP_MAX_TOKENS);
    EXPECT_EQ(log.last.token_count, 20);
    EXPECT_EQ(riverhorse_session_position(text), static_cast<std::int64_t>(prompt.size()) + 20);
    frames_->wait();
    EXPECT_EQ(steps(text, 4), std::vector<std::int32_t>(expected.end() - 4, expected.end())) << "and goes on";
  }
}

TEST_F(ApiFrames, CutTokensToTheBudget) {
  riverhorse_model* model = load(hybrid_path, options());
  const std::vector<std::int32_t> expected = steps(session(model, prompt), 6);
  riverhorse_session* text = session(model, prompt);
  const double budget_us = token_us(text) / 10;  // the clock of a busy machine may be off by several times
  riverhorse_session* cut = session(model, prompt);
  riverhorse_generate_options length = generate_options(6);
  ASSERT_OK(riverhorse_session_start(cut, &length));
  const std::uint64_t before = frames_->count();
  Log log;
  run(cut, budget_us, log);
  EXPECT_EQ(log.tokens, expected);
  EXPECT_GE(frames_->count() - before, 10u) << "more frames than tokens";
  ASSERT_GT(log.measured_us.size(), 2u);
  std::vector<double> ratios;
  for (std::size_t i = 0; i < log.measured_us.size(); ++i) ratios.push_back(log.measured_us[i] / log.expected_us[i]);
  std::sort(ratios.begin(), ratios.end());
  std::printf("%s: budget %.1f us, %zu frames measured: longest %.1f us; to what was expected, median %.2f\n",
              host_->name(), budget_us, ratios.size(),
              *std::max_element(log.measured_us.begin(), log.measured_us.end()), ratios[ratios.size() / 2]);
  EXPECT_LE(ratios[ratios.size() / 2], 2);
}

TEST_F(ApiFrames, AppendsALongDispatchAloneNowAndThen) {
  riverhorse_session* text = session(load(hybrid_path, options()), prompt);
  riverhorse_generate_options length = generate_options(2);
  ASSERT_OK(riverhorse_session_start(text, &length));
  riverhorse_record_result result{};
  result.struct_size = sizeof result;
  EXPECT_OK(riverhorse_session_record(text, frames_->begin(), 0, &result));
  frames_->submit();
  EXPECT_EQ(result.pieces, 0) << "no budget, no work";
  int frames = 0, pieces = 0;
  Log log;
  while (log.last.running != 0 || frames == 0) {
    EXPECT_OK(riverhorse_session_record(text, frames_->begin(), 5, &result));
    frames_->submit();
    EXPECT_LE(result.pieces, 1);
    pieces += result.pieces;
    ++frames;
    poll(text, log);
    ASSERT_LT(frames, 1000000);
  }
  EXPECT_EQ(log.tokens.size(), 2u);
  EXPECT_GT(frames, 2 * pieces);
}

TEST_F(ApiFrames, EndWhereTheCallerSaysAndUndoWhatWasAhead) {
  riverhorse_model* model = load(hybrid_path, options());
  const std::vector<std::int32_t> expected = steps(session(model, prompt), 16);
  riverhorse_session* text = session(model, prompt);
  riverhorse_generate_options length = generate_options(40);
  ASSERT_OK(riverhorse_session_start(text, &length));
  Log log;
  log.stop_after = 5;
  const double budget_us = 1e9;
  frame(text, budget_us);  // all 40 are ahead
  frames_->wait();
  poll(text, log);
  EXPECT_EQ(log.last.running, 0);
  EXPECT_EQ(log.last.stop_reason, RIVERHORSE_STOP_CALLBACK);
  EXPECT_EQ(log.tokens, std::vector<std::int32_t>(expected.begin(), expected.begin() + 5));
  EXPECT_EQ(riverhorse_session_position(text), static_cast<std::int64_t>(prompt.size()) + 5);
  EXPECT_EQ(steps(text, 11), std::vector<std::int32_t>(expected.begin() + 5, expected.end()));

  // A stop string, in a model whose tokens are bytes.
  riverhorse_model* bytes = load(pure_path, options());
  riverhorse_sampling_options only_bytes = sampling_options();
  only_bytes.vocabulary_limit = 256;
  const std::vector<std::int32_t> ids = steps(session(bytes, prompt, &only_bytes), 8);
  riverhorse_session* stopping = session(bytes, prompt, &only_bytes);
  const auto printable = std::find_if(ids.begin(), ids.end(), [](std::int32_t id) { return id > 0 && id < 128; });
  if (printable == ids.end()) return;
  const char stop[] = {static_cast<char>(*printable), 0};
  const char* stops[] = {stop};
  length.stop_strings = stops;
  length.stop_string_count = 1;
  ASSERT_OK(riverhorse_session_start(stopping, &length));
  Log stopped;
  run(stopping, 1e9, stopped);
  EXPECT_EQ(stopped.last.stop_reason, RIVERHORSE_STOP_STRING);
  EXPECT_EQ(stopped.text.find(stop), std::string::npos);
}

TEST_F(ApiFrames, AreCancelled) {
  riverhorse_model* model = load(hybrid_path, options());
  const std::vector<std::int32_t> expected = steps(session(model, prompt), 4);
  riverhorse_session* text = session(model, prompt);
  riverhorse_generate_options length = generate_options(20);
  ASSERT_OK(riverhorse_session_start(text, &length));
  frame(text, 1e9);
  ASSERT_OK(riverhorse_session_cancel(text));
  frames_->wait();
  Log log;
  poll(text, log);
  EXPECT_EQ(log.last.running, 0);
  EXPECT_EQ(log.last.stop_reason, RIVERHORSE_STOP_CANCELLED);
  EXPECT_EQ(log.tokens.size(), 1u) << "at the next token; what was ahead is dropped";
  EXPECT_EQ(steps(text, 3), std::vector<std::int32_t>(expected.begin() + 1, expected.end()));
}

TEST_F(ApiFrames, OtherFunctionsFinishAHalfDoneToken) {
  riverhorse_model* model = load(hybrid_path, options());
  const std::vector<std::int32_t> expected = steps(session(model, prompt), 5);
  riverhorse_session* cut = session(model, prompt);
  const double half_us = token_us(cut) / 2;  // of this very recording: another one's clock may differ
  riverhorse_generate_options length = generate_options(20);
  ASSERT_OK(riverhorse_session_start(cut, &length));
  riverhorse_record_result result{};
  result.struct_size = sizeof result;
  for (int i = 0; i < 1000 && result.pieces == 0; ++i) {  // a piece longer than half a token waits for its turn
    if (i > 0) frames_->submit();
    ASSERT_OK(riverhorse_session_record(cut, frames_->begin(), half_us, &result));
  }
  EXPECT_GT(result.pieces, 0);
  std::int32_t token = 0;
  EXPECT_FAILS(riverhorse_session_step(cut, &token), RIVERHORSE_INVALID_ARGUMENT, "submit");
  frames_->submit();
  frames_->wait();
  EXPECT_EQ(steps(cut, 3), std::vector<std::int32_t>(expected.begin() + 2, expected.end()));
  EXPECT_EQ(tokens_of(cut).size(), prompt.size() + 5) << "the half done token is one of them";
}

TEST_F(ApiFrames, SessionsMayBeFreedWhileFramesAreInFlight) {
  riverhorse_model_options one = options();
  one.max_sessions = 1;
  riverhorse_model* model = load(hybrid_path, one);
  riverhorse_session* text = session(model, prompt);
  const std::vector<std::int32_t> expected = steps(text, 4);
  riverhorse_session_free(text);
  sessions_.clear();
  text = session(model, prompt);
  riverhorse_generate_options length = generate_options(20);
  ASSERT_OK(riverhorse_session_start(text, &length));
  ASSERT_OK(riverhorse_session_record(text, frames_->begin(), 1e9, nullptr));
  riverhorse_session_free(text);
  sessions_.clear();
  riverhorse_session* next = nullptr;
  EXPECT_FAILS(riverhorse_session_create(model, nullptr, &next), RIVERHORSE_OUT_OF_MEMORY, "in use");
  frames_->submit();
  frames_->wait();
  text = session(model, prompt);
  EXPECT_EQ(steps(text, 4), expected) << "in the same slot";

  // All at once, while the device works.
  ASSERT_OK(riverhorse_session_start(text, &length));
  ASSERT_OK(riverhorse_session_record(text, frames_->begin(), 1e9, nullptr));
  frames_->submit();
  Api::TearDown();
  sessions_.clear();
  models_.clear();
}

TEST_F(ApiFrames, ManySessionsShareABudget) {
  riverhorse_model* model = load(hybrid_path, options());
  std::vector<riverhorse_session*> texts;
  std::vector<std::vector<std::int32_t>> expected;
  for (int i = 0; i < 3; ++i) {
    const std::vector<std::int32_t> start(prompt.begin(), prompt.begin() + 4 + i);
    riverhorse_session* blocking = session(model, start);
    expected.push_back(steps(blocking, 5));
    riverhorse_session_free(blocking);
    sessions_.pop_back();
    texts.push_back(session(model, start));
  }
  riverhorse_generate_options length = generate_options(5);
  for (riverhorse_session* text : texts) ASSERT_OK(riverhorse_session_start(text, &length));
  std::vector<Log> logs(texts.size());
  bool running = true;
  for (std::size_t turn = 0; running; ++turn) {
    VkCommandBuffer commands = frames_->begin();
    double left_us = 400;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      riverhorse_record_result result{};
      result.struct_size = sizeof result;
      EXPECT_OK(riverhorse_session_record(texts[(turn + i) % texts.size()], commands, left_us, &result));
      left_us = std::max(0.0, left_us - result.expected_us);
    }
    frames_->submit();
    running = false;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      poll(texts[i], logs[i]);
      running = running || logs[i].last.running != 0;
    }
    ASSERT_LT(turn, 100000u);
  }
  for (std::size_t i = 0; i < texts.size(); ++i) EXPECT_EQ(logs[i].tokens, expected[i]) << "session " << i;
}

// Texts are read in frames in the blocks of riverhorse_session_append: pieces of 8 tokens here, and their rests.
TEST_F(ApiFrames, ReadWhatIsEnqueuedAsAppendDoes) {
  riverhorse_model_options pieces = options();
  pieces.prefill_piece_tokens = 8;
  riverhorse_model* model = load(hybrid_path, pieces);
  riverhorse_sampling_options lively = sampling_options();
  lively.temperature = 1;
  lively.repetition_penalty = 1.2;
  lively.seed = 5;
  std::vector<std::int32_t> line(prompt.rbegin(), prompt.rend() - 5);  // 11 tokens

  riverhorse_session* blocking = session(model, prompt, &lively);
  const std::vector<float> first_logits = logits_of(blocking);
  EXPECT_OK(riverhorse_session_append(blocking, line.data(), line.size(), nullptr, nullptr));
  const std::vector<float> logits = logits_of(blocking);
  const std::vector<std::int32_t> answer = steps(blocking, 6);
  EXPECT_OK(riverhorse_session_append(blocking, line.data(), 1, nullptr, nullptr));
  const std::vector<std::int32_t> second_answer = steps(blocking, 3);

  // A new session, whose first text is read in frames too, cut to a budget; then a line and its answer, at once.
  riverhorse_session* text = session(model, {}, &lively);
  EXPECT_OK(riverhorse_session_enqueue(text, prompt.data(), prompt.size()));
  EXPECT_EQ(riverhorse_session_position(text), static_cast<std::int64_t>(prompt.size()));
  Log log;
  const std::uint64_t before = frames_->count();
  run(text, 2000, log);
  EXPECT_GT(frames_->count() - before, 2u) << "cut";
  EXPECT_EQ(log.last.tokens_to_read, 0);
  EXPECT_EQ(log.last.token_count, 0);
  frames_->wait();
  EXPECT_EQ(logits_of(text), first_logits);

  riverhorse_generate_options length = generate_options(6);
  EXPECT_OK(riverhorse_session_enqueue(text, line.data(), line.size()));
  ASSERT_OK(riverhorse_session_start(text, &length));
  poll(text, log);
  EXPECT_EQ(log.last.running, 1);
  EXPECT_EQ(log.last.tokens_to_read, static_cast<std::int64_t>(line.size()));
  run(text, 1e9, log);
  EXPECT_EQ(log.tokens, answer);
  // With the last frames still in flight or not: nothing is waited for.
  EXPECT_OK(riverhorse_session_enqueue(text, line.data(), 1));
  length.max_tokens = 3;
  ASSERT_OK(riverhorse_session_start(text, &length));
  Log second;
  run(text, 1e9, second);
  EXPECT_EQ(second.tokens, second_answer);

  // What was enqueued and not yet read, other functions read first.
  riverhorse_session* settled = session(model, prompt, &lively);
  EXPECT_OK(riverhorse_session_enqueue(settled, line.data(), line.size()));
  EXPECT_EQ(logits_of(settled), logits);
  EXPECT_EQ(steps(settled, 6), answer);
}

// A player's line while the character speaks: its text ends with what was passed on, though the device is ahead.
TEST_F(ApiFrames, ALineInterruptsWhatIsBeingDrawn) {
  riverhorse_model_options pieces = options();
  pieces.prefill_piece_tokens = 8;
  riverhorse_model* model = load(hybrid_path, pieces);
  riverhorse_sampling_options lively = sampling_options();
  lively.temperature = 1;
  lively.frequency_penalty = 0.5;
  lively.seed = 9;
  const std::vector<std::int32_t> line(prompt.begin() + 3, prompt.begin() + 9);
  for (const int heard : {1, 21}) {  // with the first copy of the state, and with a later one
    riverhorse_session* blocking = session(model, prompt, &lively);
    const std::vector<std::int32_t> said = steps(blocking, heard);
    EXPECT_OK(riverhorse_session_append(blocking, line.data(), line.size(), nullptr, nullptr));
    const std::vector<std::int32_t> answer = steps(blocking, 5);

    riverhorse_session* text = session(model, prompt, &lively);
    riverhorse_generate_options length = generate_options(40);
    ASSERT_OK(riverhorse_session_start(text, &length));
    Log log;
    log.stop_after = static_cast<std::size_t>(heard);
    frame(text, 1e9);  // all 40 are ahead
    frames_->wait();
    poll(text, log);
    EXPECT_EQ(log.last.running, 0);
    EXPECT_EQ(log.tokens, said);
    EXPECT_OK(riverhorse_session_enqueue(text, line.data(), line.size()));
    length.max_tokens = 5;
    ASSERT_OK(riverhorse_session_start(text, &length));
    Log second;
    run(text, 1e9, second);
    EXPECT_EQ(second.tokens, answer) << "after " << heard;
    EXPECT_EQ(tokens_of(text).size(), prompt.size() + static_cast<std::size_t>(heard) + line.size() + 5);
    riverhorse_session_free(text);
    riverhorse_session_free(blocking);
    sessions_.clear();
  }
}

TEST_F(ApiFrames, EnqueueTextAndRefuseWhatIsNone) {
  riverhorse_model* model = load(pure_path, options());
  const std::string words = "a line";
  riverhorse_session* text = session(model);
  EXPECT_OK(riverhorse_session_enqueue_text(text, words.data(), words.size()));
  std::vector<std::int32_t> bytes(words.begin(), words.end());
  EXPECT_EQ(tokens_of(text), bytes);
  EXPECT_FAILS(riverhorse_session_enqueue_text(text, nullptr, 1), RIVERHORSE_INVALID_ARGUMENT, "text");
  EXPECT_FAILS(riverhorse_session_enqueue(text, nullptr, 1), RIVERHORSE_INVALID_ARGUMENT, "ids");
  const std::int32_t wrong = 512;
  EXPECT_FAILS(riverhorse_session_enqueue(text, &wrong, 1), RIVERHORSE_INVALID_ARGUMENT, "512");
  EXPECT_EQ(tokens_of(text), bytes);
  EXPECT_EQ(logits_of(text), logits_of(session(model, bytes)));
  riverhorse_session* on_cpu = session(load(hybrid_path), prompt);
  EXPECT_FAILS(riverhorse_session_enqueue(on_cpu, prompt.data(), 1), RIVERHORSE_UNSUPPORTED, "vulkan");
  EXPECT_FAILS(riverhorse_session_enqueue_text(on_cpu, words.data(), 1), RIVERHORSE_UNSUPPORTED, "vulkan");
}

TEST_F(ApiFrames, RefuseWrongCalls) {
  riverhorse_model_options small = options();
  small.context_tokens = 20;
  small.max_sessions = 2;
  riverhorse_model* model = load(hybrid_path, small);
  riverhorse_session* text = session(model);
  riverhorse_generate_options length = generate_options(2);
  EXPECT_FAILS(riverhorse_session_start(text, &length), RIVERHORSE_INVALID_ARGUMENT, "append");
  EXPECT_FAILS(riverhorse_session_poll(text, nullptr, nullptr, nullptr), RIVERHORSE_INVALID_ARGUMENT, "start");
  EXPECT_OK(riverhorse_session_append(text, prompt.data(), prompt.size(), nullptr, nullptr));
  EXPECT_OK(riverhorse_session_start(text, &length));
  EXPECT_FAILS(riverhorse_session_record(text, nullptr, 1, nullptr), RIVERHORSE_INVALID_ARGUMENT, "command_buffer");
  int none = 0;
  EXPECT_FAILS(riverhorse_session_record(text, &none, -1, nullptr), RIVERHORSE_INVALID_ARGUMENT, "budget_us");
  EXPECT_FAILS(riverhorse_session_record(text, &none, std::nan(""), nullptr), RIVERHORSE_INVALID_ARGUMENT,
               "budget_us");
  // While one session's tokens are begun, another cannot make the attention cache grow.
  frame(text, 1e9);
  riverhorse_session* other = session(model);
  std::vector<std::int32_t> longer(40, 7);
  EXPECT_FAILS(riverhorse_session_append(other, longer.data(), longer.size(), nullptr, nullptr),
               RIVERHORSE_INVALID_ARGUMENT, "context_tokens");
  frames_->wait();
  Log log;
  poll(text, log);
  EXPECT_OK(riverhorse_session_append(other, longer.data(), longer.size(), nullptr, nullptr));
  EXPECT_OK(riverhorse_session_start(text, &length)) << "recorded again for the larger cache";
  run(text, 1e9, log);
  EXPECT_EQ(log.tokens.size(), 4u);

  riverhorse_session* on_cpu = session(load(hybrid_path), prompt);
  EXPECT_FAILS(riverhorse_session_start(on_cpu, &length), RIVERHORSE_UNSUPPORTED, "vulkan");
  length.max_tokens = -1;
  EXPECT_FAILS(riverhorse_session_start(text, &length), RIVERHORSE_INVALID_ARGUMENT, "max_tokens");
}

TEST_F(ApiFrames, HaveConversations) {
  riverhorse_model* model = load(hybrid_path, options());
  const std::string form = R"({"system": {"prefix": "", "suffix": "\n"}, "user": {"prefix": "G:", "suffix": "\n"},
 "assistant": {"prefix": "H:", "suffix": "\n"}, "stop": ["\n"], "end_of_text": false})";
  riverhorse_conversation_options made{};
  made.struct_size = sizeof made;
  made.template_json = form.data();
  made.template_bytes = form.size();
  made.system_text = "It is late.";
  made.system_bytes = 11;
  const riverhorse_logit_bias letters[] = {{'a', 500}, {'b', 500}, {'c', 500}, {'\n', 500}};
  riverhorse_sampling_options sampling = sampling_options();
  sampling.temperature = 1.5;
  sampling.seed = 3;
  sampling.logit_bias = letters;
  sampling.logit_bias_count = std::size(letters);
  riverhorse_conversation *blocking = nullptr, *framed = nullptr;
  ASSERT_OK(riverhorse_conversation_create(model, &made, &sampling, &blocking));
  ASSERT_OK(riverhorse_conversation_create(model, &made, &sampling, &framed));
  riverhorse_session* const text = riverhorse_conversation_get_session(framed);
  for (const std::string_view line : {"Who is there?", "And why?"}) {
    Log expected, log;
    ASSERT_OK(riverhorse_conversation_begin_turn(blocking, line.data(), line.size()));
    ASSERT_OK(riverhorse_conversation_reply(blocking, 8, on_token, &expected, nullptr));
    ASSERT_OK(riverhorse_conversation_begin_turn(framed, line.data(), line.size()));
    std::int32_t ids[64];
    std::size_t count = 0;
    ASSERT_OK(riverhorse_conversation_get_prompt(framed, ids, std::size(ids), &count));
    riverhorse_generate_options length = generate_options(8);
    ASSERT_OK(riverhorse_conversation_get_generate_options(framed, &length));
    ASSERT_OK(riverhorse_session_enqueue(text, ids, count));
    ASSERT_OK(riverhorse_session_start(text, &length));
    run(text, 1e9, log);
    while (log.last.frames_in_flight > 0) poll(text, log);
    ASSERT_OK(riverhorse_conversation_end_turn(framed));
    EXPECT_EQ(log.text, expected.text);
    EXPECT_EQ(tokens_of(text), tokens_of(riverhorse_conversation_get_session(blocking)));
  }
  riverhorse_conversation_free(blocking);
  riverhorse_conversation_free(framed);
}

}  // namespace
}  // namespace api_test
