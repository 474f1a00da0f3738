// The thread rules of riverhorse.h, on the cpu. With the tests of cancelling and of the library's thread this is the
// program for ThreadSanitizer (preset tsan).
#include <atomic>
#include <thread>

#include "api_fixture.h"

namespace api_test {
namespace {

using ApiThreads = Api;

TEST_F(ApiThreads, TwoModelsWorkInTwoThreads) {
  riverhorse_model* pure = load(pure_path);
  riverhorse_model* hybrid = load(hybrid_path);
  const std::vector<std::int32_t> expected_pure = steps(session(pure, {1, 2, 3}), 20);
  const std::vector<std::int32_t> expected_hybrid = steps(session(hybrid, prompt), 20);
  riverhorse_session* a = session(pure, {1, 2, 3});
  riverhorse_session* b = session(hybrid, prompt);
  std::vector<std::int32_t> drawn_a, drawn_b;
  std::thread first([&] { drawn_a = steps(a, 20); });
  std::thread second([&] { drawn_b = steps(b, 20); });
  first.join();
  second.join();
  EXPECT_EQ(drawn_a, expected_pure);
  EXPECT_EQ(drawn_b, expected_hybrid);
}

TEST_F(ApiThreads, OneModelTakesCallsInTurn) {
  riverhorse_model* model = load(hybrid_path);
  const std::vector<std::int32_t> expected = steps(session(model, prompt), 12);
  riverhorse_session* texts[3] = {session(model, prompt), session(model, prompt), session(model, prompt)};
  std::vector<std::int32_t> drawn[3];
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) threads.emplace_back([&, i] { drawn[i] = steps(texts[i], 12); });
  for (std::thread& thread : threads) thread.join();
  for (const auto& tokens : drawn) EXPECT_EQ(tokens, expected);
}

TEST_F(ApiThreads, ModelsAreLoadedAndFreedOnSeveralThreads) {
  const std::vector<std::int32_t> expected = steps(session(load(pure_path), prompt), 3);
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      for (int turn = 0; turn < 3; ++turn) {
        const riverhorse_model_options options = cpu_options();
        riverhorse_model* model = nullptr;
        riverhorse_session* text = nullptr;
        ASSERT_OK(riverhorse_model_load(pure_path.c_str(), &options, &model));
        ASSERT_OK(riverhorse_session_create(model, nullptr, &text));
        if (turn % 2 == 0) riverhorse_model_free(model);
        ASSERT_OK(riverhorse_session_append(text, prompt.data(), prompt.size(), nullptr, nullptr));
        EXPECT_EQ(steps(text, 3), expected);
        riverhorse_session_free(text);
        if (turn % 2 == 1) riverhorse_model_free(model);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// One session on the library's thread, polled by one thread and watched by another; a third uses another session.
TEST_F(ApiThreads, PollsWhileOtherThreadsCall) {
  riverhorse_model* model = load(pure_path);
  riverhorse_session* background = session(model, prompt);
  riverhorse_session* blocking = session(model, prompt);
  const std::vector<std::int32_t> expected = steps(session(model, prompt), 8);
  const riverhorse_generate_options length = generate_options(100000);
  ASSERT_OK(riverhorse_session_start_async(background, nullptr, 0, &length, nullptr, nullptr));
  std::atomic<bool> done{false};
  std::int64_t last = 0;
  std::thread watch([&] {
    while (!done) {
      last = riverhorse_session_position(background);
      std::this_thread::yield();
    }
  });
  std::vector<std::int32_t> drawn;
  std::thread other([&] {
    drawn = steps(blocking, 8);
    EXPECT_OK(riverhorse_session_cancel(background));
  });
  riverhorse_poll_result result{};
  result.struct_size = sizeof result;
  result.running = 1;
  while (result.running != 0) {
    EXPECT_OK(riverhorse_session_poll(background, nullptr, nullptr, &result));
    std::this_thread::yield();
  }
  done = true;
  other.join();
  watch.join();
  EXPECT_EQ(drawn, expected);
  EXPECT_EQ(result.stop_reason, RIVERHORSE_STOP_CANCELLED);
  EXPECT_LE(last, riverhorse_session_position(background));
  EXPECT_EQ(riverhorse_session_position(background), static_cast<std::int64_t>(prompt.size()) + result.token_count);
}

}  // namespace
}  // namespace api_test
