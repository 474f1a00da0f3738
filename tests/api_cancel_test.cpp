// The C API: riverhorse_session_cancel from other threads, from callbacks, and before a call.
#include <atomic>
#include <thread>

#include "api_fixture.h"

namespace api_test {
namespace {

class ApiCancel : public Api {
 protected:
  riverhorse_model_options small_pieces(const char* backend = "cpu") {
    riverhorse_model_options options = cpu_options();
    options.backend = backend;
    options.skip_self_test = 1;
    options.prefill_piece_tokens = 4;
    return options;
  }
  // The state is that of the tokens that the session says it has read: what follows is what follows in a session
  // that read the same tokens without being cancelled.
  void expect_whole(riverhorse_model* model, riverhorse_session* text) {
    const std::vector<std::int32_t> tokens = tokens_of(text);
    ASSERT_FALSE(tokens.empty());
    EXPECT_EQ(riverhorse_session_position(text), static_cast<std::int64_t>(tokens.size()));
    EXPECT_EQ(steps(text, 6), steps(session(model, tokens), 6));
  }
};

// Threads meet by what the callback has seen, so that the cancel comes while the call runs.
TEST_F(ApiCancel, EndsAGenerationFromAnotherThread) {
  for (const char* backend : backends()) {
    riverhorse_model* model = load(hybrid_path, small_pieces(backend));
    riverhorse_session* text = session(model, prompt);
    struct Meeting {
      std::atomic<int> drawn{0};
      std::atomic<bool> cancelled{false};
    } meeting;
    std::thread other([&] {
      while (meeting.drawn < 3) std::this_thread::yield();
      EXPECT_OK(riverhorse_session_cancel(text));
      meeting.cancelled = true;
    });
    riverhorse_generate_options options = generate_options(100000);
    riverhorse_generate_result result{};
    result.struct_size = sizeof result;
    EXPECT_OK(riverhorse_session_generate(
        text, &options,
        [](void* user, std::int32_t, const char*, std::size_t) {
          auto* meet = static_cast<Meeting*>(user);
          if (++meet->drawn == 5) {
            while (!meet->cancelled) std::this_thread::yield();
          }
          return 0;
        },
        &meeting, &result));
    other.join();
    EXPECT_EQ(result.stop_reason, RIVERHORSE_STOP_CANCELLED);
    EXPECT_GE(result.token_count, 3);
    EXPECT_LE(result.token_count, 5) << "the next token, not some later one";
    EXPECT_EQ(riverhorse_session_position(text), static_cast<std::int64_t>(prompt.size()) + result.token_count);
    expect_whole(model, text);
  }
}

TEST_F(ApiCancel, EndsReadingAtTheNextPiece) {
  riverhorse_model* model = load(hybrid_path, small_pieces());
  riverhorse_session* text = session(model);
  struct Meeting {
    riverhorse_session* text = nullptr;
    std::atomic<bool> reading{false}, cancelled{false};
  } meeting;
  std::thread other([&] {
    while (!meeting.reading) std::this_thread::yield();
    EXPECT_OK(riverhorse_session_cancel(text));
    meeting.cancelled = true;
  });
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 40; ++i) ids.insert(ids.end(), prompt.begin(), prompt.end());
  EXPECT_FAILS(riverhorse_session_append(
                   text, ids.data(), ids.size(),
                   [](void* user, std::uint64_t, std::uint64_t) {
                     auto* meet = static_cast<Meeting*>(user);
                     meet->reading = true;
                     while (!meet->cancelled) std::this_thread::yield();
                     return 0;
                   },
                   &meeting),
               RIVERHORSE_CANCELLED, "stopped after reading 4 of");
  other.join();
  EXPECT_EQ(riverhorse_session_position(text), 5) << "one piece, and the newest token";
  expect_whole(model, text);
}

TEST_F(ApiCancel, ReachesACallThatWaitsForItsTurn) {
  riverhorse_model* model = load(hybrid_path, small_pieces());
  struct Waiting {
    riverhorse_session* text = nullptr;
    std::atomic<bool> cancelled{false};
    riverhorse_status status = RIVERHORSE_OK;
  } waiting;
  waiting.text = session(model, prompt);
  riverhorse_session* running = session(model, prompt);
  std::thread other;
  std::pair<Waiting*, std::thread*> both{&waiting, &other};
  const riverhorse_generate_options one = generate_options(1);
  // While one session draws, another thread asks for a text to be read, and is cancelled before its turn comes.
  EXPECT_OK(riverhorse_session_generate(
      running, &one,
      [](void* user, std::int32_t, const char*, std::size_t) {
        auto* pair = static_cast<std::pair<Waiting*, std::thread*>*>(user);
        Waiting* const wait = pair->first;
        *pair->second = std::thread([wait] {
          wait->status = riverhorse_session_append(wait->text, prompt.data(), prompt.size(), nullptr, nullptr);
        });
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
        EXPECT_OK(riverhorse_session_cancel(wait->text));
        return 0;
      },
      &both, nullptr));
  other.join();
  EXPECT_EQ(waiting.status, RIVERHORSE_CANCELLED);
  EXPECT_EQ(tokens_of(waiting.text), prompt);
}

TEST_F(ApiCancel, EndsWhatRunsAndNothingElse) {
  riverhorse_model* model = load(pure_path);
  riverhorse_session* text = session(model, prompt);
  EXPECT_OK(riverhorse_session_cancel(text));  // nothing runs
  riverhorse_generate_options options = generate_options(6);
  riverhorse_generate_result result{};
  result.struct_size = sizeof result;
  EXPECT_OK(riverhorse_session_generate(text, &options, nullptr, nullptr, &result));
  EXPECT_EQ(result.stop_reason, RIVERHORSE_STOP_MAX_TOKENS);
  EXPECT_EQ(result.token_count, 6);
  // From the callback; of another session, which is not affected.
  riverhorse_session* pair[2] = {text, session(model, prompt)};
  EXPECT_OK(riverhorse_session_generate(
      pair[1], &options,
      [](void* user, std::int32_t, const char*, std::size_t) {
        EXPECT_OK(riverhorse_session_cancel(static_cast<riverhorse_session**>(user)[0]));
        return 0;
      },
      pair, &result));
  EXPECT_EQ(result.token_count, 6);
  EXPECT_OK(riverhorse_session_generate(
      pair[1], &options,
      [](void* user, std::int32_t, const char*, std::size_t) {
        EXPECT_OK(riverhorse_session_cancel(static_cast<riverhorse_session**>(user)[1]));
        return 0;
      },
      pair, &result));
  EXPECT_EQ(result.stop_reason, RIVERHORSE_STOP_CANCELLED);
  EXPECT_EQ(result.token_count, 1);
  expect_whole(model, pair[1]);
  EXPECT_FAILS(riverhorse_session_cancel(nullptr), RIVERHORSE_INVALID_ARGUMENT, "session is null");
}

}  // namespace
}  // namespace api_test
