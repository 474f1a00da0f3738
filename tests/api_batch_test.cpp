// Sessions that share one budget and one command buffer a frame: each says what it says alone, whoever is with it.
#include <limits>

#include "api_frames_fixture.h"

namespace api_test {
namespace {

class ApiBatch : public ApiFrames {
 protected:
  void TearDown() override {
    if (frames_ != nullptr) frames_->wait();
    for (riverhorse_batch* batch : batches_) riverhorse_batch_free(batch);
    ApiFrames::TearDown();
  }

  riverhorse_batch* make_batch(riverhorse_model* model, std::int32_t max_together = 0) {
    riverhorse_batch_options options{};
    options.struct_size = sizeof options;
    options.max_together = max_together;
    riverhorse_batch* batch = nullptr;
    EXPECT_OK(riverhorse_batch_create(model, &options, &batch));
    batches_.push_back(batch);
    return batch;
  }

  riverhorse_record_result batch_frame(riverhorse_batch* batch, double budget_us) {
    riverhorse_record_result result{};
    result.struct_size = sizeof result;
    EXPECT_OK(riverhorse_batch_record(batch, frames_->begin(), budget_us, &result));
    EXPECT_TRUE(result.expected_us <= budget_us || result.pieces == 1);
    frames_->submit();
    return result;
  }

  // Until none of them runs.
  void run_batch(riverhorse_batch* batch, double budget_us, const std::vector<riverhorse_session*>& texts,
                 std::vector<Log>& logs) {
    for (bool running = true; running;) {
      batch_frame(batch, budget_us);
      running = false;
      for (std::size_t i = 0; i < texts.size(); ++i) {
        poll(texts[i], logs[i]);
        running = running || logs[i].last.running != 0;
      }
      ASSERT_LT(frames_->count(), 20000u);
    }
  }

  std::vector<riverhorse_batch*> batches_;
};

std::vector<std::int32_t> first(const std::vector<std::int32_t>& ids, std::size_t count) {
  return {ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(count)};
}

// Different beginnings, lengths and ways to draw, more of them than one step takes; texts that are read meanwhile.
TEST_F(ApiBatch, EachSaysWhatItSaysAlone) {
  riverhorse_model_options pieces = options();
  pieces.prefill_piece_tokens = 8;
  pieces.max_sessions = 6;
  riverhorse_model* model = load(hybrid_path, pieces);
  const riverhorse_logit_bias bias[] = {{7, 3.0f}, {100, 2.0f}};
  std::vector<riverhorse_sampling_options> samplings(5, sampling_options());
  samplings[1].temperature = 1;
  samplings[1].seed = 3;
  samplings[2].repetition_penalty = 1.3;
  samplings[3].temperature = 0.8;
  samplings[3].frequency_penalty = 0.5;
  samplings[3].seed = 4;
  samplings[4].logit_bias = bias;
  samplings[4].logit_bias_count = 2;
  const std::vector<std::int32_t> line(prompt.rbegin(), prompt.rbegin() + 11);

  for (const double budget_us : {1e9, 20000.0}) {
    riverhorse_batch* batch = make_batch(model, 3);
    std::vector<riverhorse_session*> texts;
    std::vector<std::vector<std::int32_t>> expected;
    riverhorse_generate_options length = generate_options(12);
    for (std::size_t i = 0; i < samplings.size(); ++i) {
      const std::vector<std::int32_t> beginning = first(prompt, 5 + i);
      riverhorse_session* blocking = session(model, beginning, &samplings[i]);
      if (i % 2 == 1) {
        EXPECT_OK(riverhorse_session_append(blocking, line.data(), line.size(), nullptr, nullptr));
      }
      expected.push_back(steps(blocking, 16));
      riverhorse_session_free(blocking);
      sessions_.pop_back();

      texts.push_back(session(model, beginning, &samplings[i]));
      EXPECT_OK(riverhorse_batch_add(batch, texts[i], 0));
      if (i % 2 == 1) {
        EXPECT_OK(riverhorse_session_enqueue(texts[i], line.data(), line.size()));
      }
      if (i != 4) {
        EXPECT_OK(riverhorse_session_start(texts[i], &length));
      }
    }
    std::vector<Log> logs(texts.size());
    // The last begins when the others are on their way; the first leaves after three tokens.
    logs[0].stop_after = 3;
    batch_frame(batch, budget_us);
    EXPECT_OK(riverhorse_session_start(texts[4], &length));
    run_batch(batch, budget_us, texts, logs);
    EXPECT_EQ(logs[0].last.stop_reason, RIVERHORSE_STOP_CALLBACK);
    EXPECT_EQ(logs[0].tokens, first(expected[0], 3));
    for (std::size_t i = 1; i < texts.size(); ++i)
      EXPECT_EQ(logs[i].tokens, first(expected[i], 12)) << "session " << i;
    // They go on alone, in the batch or out of it.
    EXPECT_OK(riverhorse_batch_remove(batch, texts[1]));
    frames_->wait();
    for (std::size_t i = 1; i < texts.size(); ++i) {
      EXPECT_EQ(steps(texts[i], 4), std::vector<std::int32_t>(expected[i].end() - 4, expected[i].end()))
          << "session " << i;
    }
    EXPECT_EQ(steps(texts[0], 2), std::vector<std::int32_t>(expected[0].begin() + 3, expected[0].begin() + 5));
    for (riverhorse_session* text : texts) riverhorse_session_free(text);
    sessions_.clear();
  }
}

TEST_F(ApiBatch, SessionsComeAndGoWhileFramesAreInFlight) {
  riverhorse_model* model = load(hybrid_path, options());
  std::vector<riverhorse_session*> texts;
  std::vector<std::vector<std::int32_t>> expected;
  for (std::size_t i = 0; i < 4; ++i) {
    riverhorse_session* blocking = session(model, first(prompt, 6 + i));
    expected.push_back(steps(blocking, 30));
    riverhorse_session_free(blocking);
    sessions_.pop_back();
    texts.push_back(session(model, first(prompt, 6 + i)));
  }
  riverhorse_batch* batch = make_batch(model);
  riverhorse_generate_options length = generate_options(24);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_OK(riverhorse_batch_add(batch, texts[i], 1));
    EXPECT_OK(riverhorse_session_start(texts[i], &length));
  }
  EXPECT_OK(riverhorse_batch_record(batch, frames_->begin(), 1e9, nullptr));
  // Recorded, and not even submitted: one leaves, one is freed, one joins.
  EXPECT_OK(riverhorse_batch_remove(batch, texts[0]));
  riverhorse_session_free(texts[1]);
  sessions_.erase(sessions_.begin() + 1);
  EXPECT_OK(riverhorse_batch_add(batch, texts[3], 1));
  EXPECT_OK(riverhorse_session_start(texts[3], &length));
  std::int32_t token = 0;
  EXPECT_FAILS(riverhorse_session_step(texts[0], &token), RIVERHORSE_INVALID_ARGUMENT, "submit");
  frames_->submit();
  std::vector<Log> logs(2);
  run_batch(batch, 1e9, {texts[2], texts[3]}, logs);
  EXPECT_EQ(logs[0].tokens, first(expected[2], 24));
  EXPECT_EQ(logs[1].tokens, first(expected[3], 24));
  frames_->wait();
  EXPECT_EQ(riverhorse_session_position(texts[0]), 6) << "nothing was passed on";
  EXPECT_EQ(steps(texts[0], 5), first(expected[0], 5));
  // Alone in frames of its own, and back.
  length.max_tokens = 3;
  EXPECT_OK(riverhorse_session_start(texts[0], &length));
  Log own;
  run(texts[0], 1e9, own);
  EXPECT_EQ(own.tokens, std::vector<std::int32_t>(expected[0].begin() + 5, expected[0].begin() + 8));
  frames_->wait();
  EXPECT_OK(riverhorse_batch_add(batch, texts[0], 1));
  EXPECT_OK(riverhorse_session_start(texts[0], &length));
  std::vector<Log> again(1);
  run_batch(batch, 1e9, {texts[0]}, again);
  EXPECT_EQ(again[0].tokens, std::vector<std::int32_t>(expected[0].begin() + 8, expected[0].begin() + 11));
  // The batch goes while it works; its sessions stay.
  EXPECT_OK(riverhorse_session_start(texts[2], &length));
  EXPECT_OK(riverhorse_batch_record(batch, frames_->begin(), 1e9, nullptr));
  riverhorse_batch_free(batch);
  batches_.clear();
  frames_->submit();
  frames_->wait();
  EXPECT_EQ(steps(texts[2], 3), std::vector<std::int32_t>(expected[2].begin() + 24, expected[2].begin() + 27));
}

TEST_F(ApiBatch, PrioritiesShareTheTokens) {
  riverhorse_model* model = load(hybrid_path, options());
  riverhorse_batch* batch = make_batch(model, 2);
  riverhorse_generate_options length = generate_options(30);
  std::vector<riverhorse_session*> texts;
  for (const double priority : {2.0, 1.0}) {
    texts.push_back(session(model, prompt));
    EXPECT_OK(riverhorse_batch_add(batch, texts.back(), priority));
    EXPECT_OK(riverhorse_session_start(texts.back(), &length));
  }
  std::vector<Log> logs(2);
  do {
    batch_frame(batch, 2000);
    frames_->wait();
    for (std::size_t i = 0; i < 2; ++i) poll(texts[i], logs[i]);
    ASSERT_LT(frames_->count(), 20000u);
  } while (logs[0].tokens.size() < 16);
  EXPECT_NEAR(static_cast<double>(logs[1].tokens.size()), static_cast<double>(logs[0].tokens.size()) / 2, 2);
  run_batch(batch, 1e9, texts, logs);
  EXPECT_EQ(logs[1].tokens, logs[0].tokens) << "the same beginning";
}

TEST_F(ApiBatch, RefusesWrongCalls) {
  riverhorse_model_options few = options();
  few.max_sessions = 3;
  riverhorse_model* model = load(hybrid_path, few);
  riverhorse_batch_options wrong{};
  wrong.struct_size = sizeof wrong;
  riverhorse_batch* batch = nullptr;
  for (const std::int32_t together : {-1, 9}) {
    wrong.max_together = together;
    EXPECT_FAILS(riverhorse_batch_create(model, &wrong, &batch), RIVERHORSE_INVALID_ARGUMENT, "1 to 8");
  }
  EXPECT_FAILS(riverhorse_batch_create(load(hybrid_path), nullptr, &batch), RIVERHORSE_UNSUPPORTED, "vulkan");
  batch = make_batch(model);
  riverhorse_session* text = session(model, prompt);
  EXPECT_FAILS(riverhorse_batch_add(batch, text, -1), RIVERHORSE_INVALID_ARGUMENT, "priority");
  EXPECT_FAILS(riverhorse_batch_add(batch, text, std::numeric_limits<double>::infinity()),
               RIVERHORSE_INVALID_ARGUMENT, "priority");
  EXPECT_FAILS(riverhorse_batch_remove(batch, text), RIVERHORSE_INVALID_ARGUMENT, "not in");
  EXPECT_FAILS(riverhorse_batch_add(batch, session(load(hybrid_path, few), prompt), 1), RIVERHORSE_INVALID_ARGUMENT,
               "another model");
  EXPECT_OK(riverhorse_batch_add(batch, text, 1));
  EXPECT_OK(riverhorse_batch_add(batch, text, 2)) << "a new priority";
  EXPECT_FAILS(riverhorse_batch_add(make_batch(model), text, 1), RIVERHORSE_INVALID_ARGUMENT, "another batch");
  int none = 0;
  EXPECT_FAILS(riverhorse_session_record(text, &none, 1, nullptr), RIVERHORSE_INVALID_ARGUMENT, "batch");
  EXPECT_FAILS(riverhorse_batch_record(batch, nullptr, 1, nullptr), RIVERHORSE_INVALID_ARGUMENT, "command_buffer");
  EXPECT_FAILS(riverhorse_batch_record(batch, &none, -1, nullptr), RIVERHORSE_INVALID_ARGUMENT, "budget_us");
  EXPECT_FAILS(riverhorse_batch_add(nullptr, text, 1), RIVERHORSE_INVALID_ARGUMENT, "batch");
  EXPECT_FAILS(riverhorse_batch_add(batch, nullptr, 1), RIVERHORSE_INVALID_ARGUMENT, "session");
  riverhorse_batch_free(nullptr);
}

}  // namespace
}  // namespace api_test
