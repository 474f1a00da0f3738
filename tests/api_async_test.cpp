// The C API: generations on the library's own thread.
#include <atomic>
#include <chrono>
#include <thread>

#include "api_fixture.h"

namespace api_test {
namespace {

struct Log {
  std::vector<std::int32_t> tokens;
  std::string text;
  std::size_t stop_after = SIZE_MAX;
  std::thread::id thread;
};

int on_token(void* user, std::int32_t token, const char* text, std::size_t bytes) {
  Log& log = *static_cast<Log*>(user);
  if (token >= 0) log.tokens.push_back(token);
  log.text.append(text, bytes);
  log.thread = std::this_thread::get_id();
  return log.tokens.size() >= log.stop_after ? 1 : 0;
}

class ApiAsync : public Api {
 protected:
  riverhorse_model_options on(const char* backend) {
    riverhorse_model_options options = cpu_options();
    options.backend = backend;
    options.skip_self_test = 1;
    options.prefill_piece_tokens = 4;
    return options;
  }

  static riverhorse_poll_result poll(riverhorse_session* session, Log* log) {
    riverhorse_poll_result result{};
    result.struct_size = sizeof result;
    EXPECT_OK(riverhorse_session_poll(session, log != nullptr ? on_token : nullptr, log, &result));
    return result;
  }

  // As a frame loop does.
  static riverhorse_poll_result poll_to_end(riverhorse_session* session, Log* log) {
    for (int frame = 0; frame < 60000; ++frame) {
      const riverhorse_poll_result result = poll(session, log);
      if (result.running == 0) return result;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ADD_FAILURE() << "it does not end";
    return {};
  }
};

TEST_F(ApiAsync, SaysWhatBlockingCallsSay) {
  for (const char* backend : backends()) {
    riverhorse_model* model = load(hybrid_path, on(backend));
    const std::vector<std::int32_t> expected = steps(session(model, prompt), 24);
    riverhorse_session* text = session(model);
    const riverhorse_generate_options length = generate_options(20);
    Log log;
    ASSERT_OK(riverhorse_session_start_async(text, prompt.data(), prompt.size(), &length, nullptr, nullptr));
    const riverhorse_poll_result result = poll_to_end(text, &log);
    EXPECT_EQ(log.tokens, std::vector<std::int32_t>(expected.begin(), expected.begin() + 20)) << backend;
    EXPECT_EQ(log.thread, std::this_thread::get_id());
    EXPECT_EQ(result.stop_reason, RIVERHORSE_STOP_MAX_TOKENS);
    EXPECT_EQ(result.token_count, 20);
    EXPECT_EQ(tokens_of(text).size(), prompt.size() + 20);
    EXPECT_EQ(steps(text, 4), std::vector<std::int32_t>(expected.end() - 4, expected.end())) << "and goes on";

    // With a callback on the library's thread, which ends it; from where the text is.
    riverhorse_session* second = session(model, prompt);
    Log called;
    called.stop_after = 7;
    ASSERT_OK(riverhorse_session_start_async(second, nullptr, 0, &length, on_token, &called));
    const riverhorse_poll_result end = poll_to_end(second, nullptr);
    EXPECT_EQ(called.tokens, std::vector<std::int32_t>(expected.begin(), expected.begin() + 7));
    EXPECT_NE(called.thread, std::this_thread::get_id());
    EXPECT_EQ(end.stop_reason, RIVERHORSE_STOP_CALLBACK);
    EXPECT_EQ(end.token_count, 7);
    EXPECT_EQ(steps(second, 4), std::vector<std::int32_t>(expected.begin() + 7, expected.begin() + 11));
  }
}

TEST_F(ApiAsync, SessionsTakeTurns) {
  riverhorse_model* model = load(hybrid_path, on("cpu"));
  const riverhorse_generate_options length = generate_options(30);
  std::vector<riverhorse_session*> texts;
  std::vector<std::vector<std::int32_t>> expected;
  for (int i = 0; i < 3; ++i) {
    const std::vector<std::int32_t> start(prompt.begin(), prompt.begin() + 5 + i);
    riverhorse_session* blocking = session(model, start);
    expected.push_back(steps(blocking, 30));
    riverhorse_session_free(blocking);
    sessions_.pop_back();
    texts.push_back(session(model, start));
  }
  for (riverhorse_session* text : texts) {
    ASSERT_OK(riverhorse_session_start_async(text, nullptr, 0, &length, nullptr, nullptr));
  }
  // A fourth is used by blocking calls meanwhile.
  riverhorse_session* blocking = session(model, prompt);
  const std::vector<std::int32_t> drawn = steps(blocking, 10);
  std::vector<Log> logs(texts.size());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    poll_to_end(texts[i], &logs[i]);
    EXPECT_EQ(logs[i].tokens, expected[i]) << "session " << i;
  }
  riverhorse_session_free(texts[0]);
  sessions_.erase(sessions_.begin());
  EXPECT_EQ(steps(session(model, prompt), 10), drawn);
}

TEST_F(ApiAsync, WhatAPollEndsIsUndoneExactly) {
  riverhorse_model* model = load(hybrid_path, on("cpu"));
  const std::vector<std::int32_t> expected = steps(session(model, prompt), 16);
  riverhorse_session* text = session(model, prompt);
  const riverhorse_generate_options length = generate_options(200);
  ASSERT_OK(riverhorse_session_start_async(text, nullptr, 0, &length, nullptr, nullptr));
  while (riverhorse_session_position(text) < static_cast<std::int64_t>(prompt.size()) + 12) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  Log log;
  log.stop_after = 5;
  const riverhorse_poll_result result = poll_to_end(text, &log);
  EXPECT_EQ(result.stop_reason, RIVERHORSE_STOP_CALLBACK);
  EXPECT_EQ(result.token_count, 5);
  EXPECT_EQ(log.tokens, std::vector<std::int32_t>(expected.begin(), expected.begin() + 5));
  EXPECT_EQ(riverhorse_session_position(text), static_cast<std::int64_t>(prompt.size()) + 5);
  EXPECT_EQ(steps(text, 11), std::vector<std::int32_t>(expected.begin() + 5, expected.end()));
}

TEST_F(ApiAsync, IsCancelledWhileItReadsAndWhileItDraws) {
  riverhorse_model* model = load(hybrid_path, on("cpu"));
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 60; ++i) ids.insert(ids.end(), prompt.begin(), prompt.end());
  riverhorse_session* text = session(model);
  const riverhorse_generate_options length = generate_options(100000);
  ASSERT_OK(riverhorse_session_start_async(text, ids.data(), ids.size(), &length, nullptr, nullptr));
  ASSERT_OK(riverhorse_session_cancel(text));
  riverhorse_poll_result result = poll_to_end(text, nullptr);
  EXPECT_EQ(result.stop_reason, RIVERHORSE_STOP_CANCELLED);
  EXPECT_EQ(result.token_count, 0);
  EXPECT_LT(riverhorse_session_position(text), static_cast<std::int64_t>(ids.size()));
  ASSERT_OK(riverhorse_session_clear(text));
  ASSERT_OK(riverhorse_session_start_async(text, prompt.data(), prompt.size(), &length, nullptr, nullptr));
  Log log;
  while (log.tokens.size() < 3) poll(text, &log);
  ASSERT_OK(riverhorse_session_cancel(text));
  result = poll_to_end(text, &log);
  EXPECT_EQ(result.stop_reason, RIVERHORSE_STOP_CANCELLED);
  EXPECT_EQ(result.token_count, static_cast<std::int64_t>(log.tokens.size()));
  const std::vector<std::int32_t> whole = tokens_of(text);
  EXPECT_EQ(whole.size(), prompt.size() + log.tokens.size());
  EXPECT_EQ(steps(text, 6), steps(session(model, whole), 6));
}

TEST_F(ApiAsync, SessionsAreFreedWhileItRuns) {
  for (const char* backend : backends()) {
    riverhorse_model_options options = on(backend);
    options.max_sessions = 1;
    riverhorse_model* model = load(hybrid_path, options);
    const riverhorse_generate_options length = generate_options(100000);
    std::atomic<int> calls{0};
    const auto count = [](void* user, std::int32_t, const char*, std::size_t) {
      ++*static_cast<std::atomic<int>*>(user);
      return 0;
    };
    for (int i = 0; i < 3; ++i) {
      riverhorse_session* text = nullptr;
      riverhorse_status status = RIVERHORSE_OUT_OF_MEMORY;
      for (int wait = 0; wait < 10000 && status == RIVERHORSE_OUT_OF_MEMORY; ++wait) {  // a turn later
        status = riverhorse_session_create(model, nullptr, &text);
        if (status == RIVERHORSE_OUT_OF_MEMORY) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
      ASSERT_EQ(status, RIVERHORSE_OK) << riverhorse_last_error();
      ASSERT_OK(riverhorse_session_start_async(text, prompt.data(), prompt.size(), &length, count, &calls));
      if (i > 0) {
        while (calls < 3) std::this_thread::yield();
      }
      riverhorse_session_free(text);
      const int after = calls;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      EXPECT_EQ(calls, after) << "no callback once it is freed";
      calls = 0;
    }
    // With the model at once; the thread's work ends with its last handle.
    riverhorse_model_free(model);
    models_.clear();
  }
}

TEST_F(ApiAsync, RefusesOtherCallsWhileItRuns) {
  riverhorse_model* model = load(hybrid_path, on("cpu"));
  riverhorse_session* text = session(model, prompt);
  const riverhorse_generate_options length = generate_options(100000);
  EXPECT_FAILS(riverhorse_session_poll(text, nullptr, nullptr, nullptr), RIVERHORSE_INVALID_ARGUMENT, "start");
  struct Inside {
    riverhorse_session* text;
    riverhorse_model* model;
    std::atomic<bool> seen{false};
    riverhorse_status step = RIVERHORSE_OK, poll = RIVERHORSE_INTERNAL, info = RIVERHORSE_INTERNAL;
  } inside{text, model};
  ASSERT_OK(riverhorse_session_start_async(
      text, nullptr, 0, &length,
      [](void* user, std::int32_t token, const char*, std::size_t) {
        auto* self = static_cast<Inside*>(user);
        if (self->seen) return 0;
        riverhorse_model_info info{};
        info.struct_size = sizeof info;
        self->step = riverhorse_session_step(self->text, &token);
        self->poll = riverhorse_session_poll(self->text, nullptr, nullptr, nullptr);
        self->info = riverhorse_model_get_info(self->model, &info);
        riverhorse_session_free(self->text);  // does nothing here
        riverhorse_model_free(self->model);
        self->seen = true;
        return 0;
      },
      &inside));
  std::int32_t token = 0;
  std::size_t count = 0;
  riverhorse_session* copy = nullptr;
  EXPECT_FAILS(riverhorse_session_step(text, &token), RIVERHORSE_INVALID_ARGUMENT, "poll until it has ended");
  EXPECT_FAILS(riverhorse_session_append(text, prompt.data(), 1, nullptr, nullptr), RIVERHORSE_INVALID_ARGUMENT,
               "start_async");
  EXPECT_FAILS(riverhorse_sessions_step(&text, 1, &token), RIVERHORSE_INVALID_ARGUMENT, "start_async");
  EXPECT_FAILS(riverhorse_session_clone(text, &copy), RIVERHORSE_INVALID_ARGUMENT, "start_async");
  EXPECT_FAILS(riverhorse_session_start_async(text, nullptr, 0, &length, nullptr, nullptr),
               RIVERHORSE_INVALID_ARGUMENT, "start_async");
  EXPECT_OK(riverhorse_session_get_tokens(text, nullptr, 0, &count));
  while (!inside.seen) std::this_thread::yield();
  EXPECT_EQ(inside.step, RIVERHORSE_INVALID_ARGUMENT);
  EXPECT_EQ(inside.poll, RIVERHORSE_OK);
  EXPECT_EQ(inside.info, RIVERHORSE_OK);
  ASSERT_OK(riverhorse_session_cancel(text));
  EXPECT_EQ(poll_to_end(text, nullptr).stop_reason, RIVERHORSE_STOP_CANCELLED);
  EXPECT_OK(riverhorse_session_step(text, &token));

  const std::int32_t bad = 512;
  EXPECT_FAILS(riverhorse_session_start_async(text, &bad, 1, &length, nullptr, nullptr), RIVERHORSE_INVALID_ARGUMENT,
               "512");
  EXPECT_FAILS(riverhorse_session_start_async(text, nullptr, 1, &length, nullptr, nullptr),
               RIVERHORSE_INVALID_ARGUMENT, "ids");
  EXPECT_FAILS(riverhorse_session_start_async(session(model), nullptr, 0, &length, nullptr, nullptr),
               RIVERHORSE_INVALID_ARGUMENT, "nothing to continue");
  EXPECT_FAILS(riverhorse_session_start_async(nullptr, nullptr, 0, &length, nullptr, nullptr),
               RIVERHORSE_INVALID_ARGUMENT, "session is null");
}

// What fails on the thread is told by the poll after the last token: here, a cache that must not grow.
TEST_F(ApiAsync, PollsTellOfErrors) {
  riverhorse_model_options options = on("cpu");
  options.context_tokens = 8;
  options.max_sessions = 1;
  riverhorse_model_info info{};
  info.struct_size = sizeof info;
  ASSERT_OK(riverhorse_model_get_info(load(hybrid_path, options), &info));
  options.memory_budget_bytes = info.device_memory_bytes + (64 << 10);
  riverhorse_session* text = session(load(hybrid_path, options), {1, 2, 3});
  const riverhorse_generate_options length = generate_options(2000);
  ASSERT_OK(riverhorse_session_start_async(text, nullptr, 0, &length, nullptr, nullptr));
  riverhorse_poll_result result{};
  result.struct_size = sizeof result;
  riverhorse_status status = RIVERHORSE_OK;
  Log log;
  for (int i = 0; i < 60000 && status == RIVERHORSE_OK; ++i) {
    status = riverhorse_session_poll(text, on_token, &log, &result);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(status, RIVERHORSE_OUT_OF_MEMORY);
  EXPECT_NE(std::string(riverhorse_last_error()).find("KV cache"), std::string::npos) << riverhorse_last_error();
  EXPECT_EQ(tokens_of(text).size(), 3 + log.tokens.size());
  std::int32_t token = 0;
  ASSERT_OK(riverhorse_session_rewind(text, 3, nullptr));
  EXPECT_OK(riverhorse_session_step(text, &token)) << "the session is good";
}

}  // namespace
}  // namespace api_test
