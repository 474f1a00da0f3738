// The C API: riverhorse_session_generate, its callback and its stop conditions.
#include <cstring>

#include "api_fixture.h"

namespace api_test {
namespace {

struct Collected {
  std::vector<std::int32_t> tokens;
  std::string text;
  int stop_after = 1000;
};

int collect(void* user, std::int32_t token, const char* text, std::size_t text_bytes) {
  auto* collected = static_cast<Collected*>(user);
  if (token >= 0) collected->tokens.push_back(token);
  collected->text.append(text, text_bytes);
  return static_cast<int>(collected->tokens.size()) >= collected->stop_after ? 1 : 0;
}

// A session whose tokens are forced by a large bias, so that the text is known.
class ApiGenerate : public Api {
 protected:
  void SetUp() override { model_ = load(pure_path); }

  riverhorse_session* forced(std::int32_t token) {
    bias_ = {token, 1000.0f};
    riverhorse_sampling_options sampling = sampling_options();
    sampling.logit_bias = &bias_;
    sampling.logit_bias_count = 1;
    return session(model_, {1, 2, 3}, &sampling);
  }

  riverhorse_generate_result run(riverhorse_session* text, const riverhorse_generate_options& options,
                                 Collected& collected) {
    riverhorse_generate_result result{};
    result.struct_size = sizeof result;
    EXPECT_OK(riverhorse_session_generate(text, &options, collect, &collected, &result));
    return result;
  }

  riverhorse_model* model_ = nullptr;
  riverhorse_logit_bias bias_{};
};

TEST_F(ApiGenerate, DrawsWhatStepsDraw) {
  Collected collected;
  riverhorse_session* text = session(model_, {1, 2, 3});
  const auto result = run(text, generate_options(20), collected);
  EXPECT_EQ(result.token_count, 20);
  EXPECT_EQ(result.stop_reason, RIVERHORSE_STOP_MAX_TOKENS);
  EXPECT_GT(result.seconds, 0.0);
  EXPECT_EQ(collected.tokens, steps(session(model_, {1, 2, 3}), 20));
  EXPECT_EQ(tokens_of(text).size(), 23u);
}

TEST_F(ApiGenerate, StopsAtTheCallbacksWish) {
  Collected collected;
  collected.stop_after = 5;
  riverhorse_session* text = session(model_, {1, 2, 3});
  const auto result = run(text, generate_options(20), collected);
  EXPECT_EQ(result.stop_reason, RIVERHORSE_STOP_CALLBACK);
  EXPECT_EQ(result.token_count, 5);
  EXPECT_EQ(riverhorse_session_position(text), 8);
  // ... and goes on as if it had not stopped.
  riverhorse_session* whole = session(model_, {1, 2, 3});
  steps(whole, 5);
  EXPECT_EQ(steps(text, 6), steps(whole, 6));
}

TEST_F(ApiGenerate, StopsAtEndOfText) {
  riverhorse_session* text = forced(256);
  Collected collected;
  riverhorse_generate_options options = generate_options(20);
  options.ignore_end_of_text = 0;
  const auto result = run(text, options, collected);
  EXPECT_EQ(result.stop_reason, RIVERHORSE_STOP_END_OF_TEXT);
  EXPECT_EQ(result.token_count, 1);
  EXPECT_EQ(collected.text, "");
  options.ignore_end_of_text = 1;
  EXPECT_EQ(run(text, options, collected).token_count, 20);
}

TEST_F(ApiGenerate, StopsAtStopStrings) {
  const char* stops[] = {"zz", "aaa"};
  riverhorse_generate_options options = generate_options(20);
  options.stop_strings = stops;
  options.stop_string_count = 2;
  Collected collected;
  auto result = run(forced('a'), options, collected);
  EXPECT_EQ(result.stop_reason, RIVERHORSE_STOP_STRING);
  EXPECT_EQ(result.token_count, 3);
  EXPECT_EQ(collected.text, "") << "nothing of the stop string is passed on";

  // The beginning of a stop string is held back, and comes at the end when nothing follows.
  options.max_tokens = 2;
  collected = {};
  result = run(forced('a'), options, collected);
  EXPECT_EQ(result.stop_reason, RIVERHORSE_STOP_MAX_TOKENS);
  EXPECT_EQ(collected.text, "aa");

  const char* wrong[] = {nullptr};
  options.stop_strings = wrong;
  options.stop_string_count = 1;
  riverhorse_session* text = forced('a');
  EXPECT_FAILS(riverhorse_session_generate(text, &options, nullptr, nullptr, nullptr), RIVERHORSE_INVALID_ARGUMENT,
               "stop_strings");
  options.stop_strings = nullptr;
  EXPECT_FAILS(riverhorse_session_generate(text, &options, nullptr, nullptr, nullptr), RIVERHORSE_INVALID_ARGUMENT,
               "stop_strings");
  options = generate_options(-1);
  EXPECT_FAILS(riverhorse_session_generate(text, &options, nullptr, nullptr, nullptr), RIVERHORSE_INVALID_ARGUMENT,
               "max_tokens");
  riverhorse_generate_result unsized{};
  options = generate_options(1);
  EXPECT_FAILS(riverhorse_session_generate(text, &options, nullptr, nullptr, &unsized), RIVERHORSE_INVALID_ARGUMENT,
               "struct_size");
  EXPECT_EQ(riverhorse_session_position(text), 3) << "a refused call draws nothing";
}

TEST_F(ApiGenerate, PassesOnWholeCharactersOnly) {
  Collected collected;
  run(forced(0xc3), generate_options(3), collected);  // the first byte of a pair, three times: never a character
  EXPECT_EQ(collected.text, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
}

TEST_F(ApiGenerate, RefusesSessionFunctionsInCallbacks) {
  struct Inner {
    riverhorse_session* session;
    riverhorse_model* model;
    riverhorse_status step = RIVERHORSE_OK, decode = RIVERHORSE_INTERNAL;
    std::int64_t position = 0;
  } inner{session(model_, {1, 2, 3}), model_};
  const riverhorse_generate_options options = generate_options(2);
  ASSERT_OK(riverhorse_session_generate(
      inner.session, &options,
      [](void* user, std::int32_t, const char*, std::size_t) {
        auto* self = static_cast<Inner*>(user);
        std::int32_t token = 'a';
        std::size_t size = 0;
        self->decode = riverhorse_model_decode(self->model, &token, 1, nullptr, 0, &size);
        self->step = riverhorse_session_step(self->session, &token);
        self->position = riverhorse_session_position(self->session);
        riverhorse_session_free(self->session);
        return 0;
      },
      &inner, nullptr));
  EXPECT_EQ(inner.decode, RIVERHORSE_OK);
  EXPECT_EQ(inner.step, RIVERHORSE_INVALID_ARGUMENT);
  EXPECT_EQ(inner.position, -1);
  EXPECT_EQ(riverhorse_session_position(inner.session), 5) << "the session is alive";
}

}  // namespace
}  // namespace api_test
