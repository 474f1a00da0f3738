// The C API: sessions and sampling.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "api_fixture.h"

namespace api_test {
namespace {

// --------------------------------------------------------------------------------------------------- sessions

TEST_F(Api, DrawsTheGoldenTokens) {
  const std::vector<std::int32_t> continuation = {288, 373, 373, 373, 373, 373, 373, 373, 191, 191, 360, 497,
                                                  113, 113, 113, 79,  79,  79,  79,  79,  142, 80,  90,  34};
  riverhorse_model* model = load(hybrid_path);
  EXPECT_EQ(steps(session(model, prompt), 24), continuation);
  // The original's script may draw the padding columns: token 509 comes 15th.
  riverhorse_sampling_options padded = sampling_options();
  padded.padded_vocabulary = 1;
  EXPECT_EQ(steps(session(model, prompt, &padded), 15).back(), 509);
  riverhorse_sampling_options bytes = sampling_options();
  bytes.vocabulary_limit = 257;
  for (const std::int32_t token : steps(session(model, prompt, &bytes), 24)) EXPECT_LT(token, 257);
}

TEST_F(Api, AppendsInPiecesAndCancels) {
  riverhorse_model_options options = cpu_options();
  options.prefill_piece_tokens = 4;
  riverhorse_model* model = load(hybrid_path, options);
  std::vector<std::uint64_t> calls;
  riverhorse_session* text = session(model);
  ASSERT_OK(riverhorse_session_append(
      text, prompt.data(), prompt.size(),
      [](void* user, std::uint64_t done, std::uint64_t total) {
        auto* seen = static_cast<std::vector<std::uint64_t>*>(user);
        EXPECT_GT(done, seen->empty() ? 0 : seen->back());
        EXPECT_LE(done, total);
        seen->push_back(done);
        return 0;
      },
      &calls));
  EXPECT_GE(calls.size(), 4u) << "16 tokens in pieces of 4; the newest token may wait for the next step";
  EXPECT_EQ(riverhorse_session_position(text), static_cast<std::int64_t>(prompt.size()));

  riverhorse_session* stopped = session(model);
  EXPECT_FAILS(
      riverhorse_session_append(
          stopped, prompt.data(), prompt.size(), [](void*, std::uint64_t, std::uint64_t) { return 1; }, nullptr),
      RIVERHORSE_CANCELLED, "");
  const std::int64_t position = riverhorse_session_position(stopped);
  EXPECT_LT(position, static_cast<std::int64_t>(prompt.size()));
  // What was read is good: the rest brings the same text.
  ASSERT_OK(riverhorse_session_append(stopped, prompt.data() + position,
                                      prompt.size() - static_cast<std::size_t>(position), nullptr, nullptr));
  EXPECT_EQ(steps(stopped, 8), steps(text, 8));

  const std::vector<std::int32_t> bad = {1, 2, 512};
  EXPECT_FAILS(riverhorse_session_append(text, bad.data(), bad.size(), nullptr, nullptr), RIVERHORSE_INVALID_ARGUMENT,
               "512");
  EXPECT_EQ(riverhorse_session_position(text), static_cast<std::int64_t>(prompt.size()) + 8);
  EXPECT_FAILS(riverhorse_session_append(text, nullptr, 2, nullptr, nullptr), RIVERHORSE_INVALID_ARGUMENT, "ids");
}

TEST_F(Api, StepsTogetherAsAlone) {
  riverhorse_model* model = load(hybrid_path);
  riverhorse_model* other = load(pure_path);
  riverhorse_session* a = session(model, prompt);
  riverhorse_session* b = session(model, {7, 8, 9});
  const auto alone_a = [&] {
    riverhorse_session* clone = nullptr;
    EXPECT_OK(riverhorse_session_clone(a, &clone));
    sessions_.push_back(clone);
    return steps(clone, 4);
  }();
  riverhorse_session* pair[2] = {b, a};
  std::vector<std::int32_t> together_a;
  for (int i = 0; i < 4; ++i) {
    std::int32_t tokens[2] = {-1, -1};
    ASSERT_OK(riverhorse_sessions_step(pair, 2, tokens));
    together_a.push_back(tokens[1]);
  }
  EXPECT_EQ(together_a, alone_a);
  EXPECT_EQ(riverhorse_session_position(b), 7);

  std::int32_t tokens[2];
  EXPECT_OK(riverhorse_sessions_step(nullptr, 0, nullptr));
  EXPECT_FAILS(riverhorse_sessions_step(nullptr, 2, tokens), RIVERHORSE_INVALID_ARGUMENT, "sessions");
  EXPECT_FAILS(riverhorse_sessions_step(pair, 2, nullptr), RIVERHORSE_INVALID_ARGUMENT, "tokens");
  riverhorse_session* twice[2] = {a, a};
  EXPECT_FAILS(riverhorse_sessions_step(twice, 2, tokens), RIVERHORSE_INVALID_ARGUMENT, "twice");
  riverhorse_session* mixed[2] = {a, session(other, {1})};
  EXPECT_FAILS(riverhorse_sessions_step(mixed, 2, tokens), RIVERHORSE_INVALID_ARGUMENT, "another model");
  riverhorse_session* with_null[2] = {a, nullptr};
  EXPECT_FAILS(riverhorse_sessions_step(with_null, 2, tokens), RIVERHORSE_INVALID_ARGUMENT, "null");
}

TEST_F(Api, RefusesAnEmptyText) {
  riverhorse_session* empty = session(load(pure_path));
  std::int32_t token = 0;
  std::size_t count = 0;
  EXPECT_FAILS(riverhorse_session_step(empty, &token), RIVERHORSE_INVALID_ARGUMENT, "");
  EXPECT_FAILS(riverhorse_session_get_logits(empty, nullptr, 0, &count), RIVERHORSE_INVALID_ARGUMENT, "");
  EXPECT_FAILS(riverhorse_session_generate(empty, nullptr, nullptr, nullptr, nullptr), RIVERHORSE_INVALID_ARGUMENT,
               "");
  EXPECT_EQ(riverhorse_session_position(empty), 0);
}

TEST_F(Api, GivesLogits) {
  riverhorse_session* text = session(load(hybrid_path), prompt);
  const std::vector<float> logits = logits_of(text);
  ASSERT_EQ(logits.size(), 512u);
  const auto best = std::max_element(logits.begin(), logits.end() - 3) - logits.begin();
  EXPECT_EQ(steps(text, 1)[0], best);
  std::size_t count = 0;
  float few[4];
  EXPECT_FAILS(riverhorse_session_get_logits(text, few, 4, &count), RIVERHORSE_INVALID_ARGUMENT, "512");
  EXPECT_FAILS(riverhorse_session_get_logits(text, few, 4, nullptr), RIVERHORSE_INVALID_ARGUMENT, "count");
  EXPECT_FAILS(riverhorse_session_get_tokens(text, nullptr, 0, nullptr), RIVERHORSE_INVALID_ARGUMENT, "count");
}

TEST_F(Api, SamplesAsTold) {
  riverhorse_model* model = load(hybrid_path);
  riverhorse_sampling_options sampling = sampling_options();
  sampling.temperature = 1.5;
  sampling.top_k = 100;
  sampling.top_p = 0.95;
  sampling.min_p = 0.001;
  sampling.repetition_penalty = 1.1;
  sampling.presence_penalty = 0.1;
  sampling.frequency_penalty = 0.1;
  sampling.seed = 11;
  riverhorse_session* text = session(model, prompt, &sampling);
  const std::vector<std::int32_t> drawn = steps(text, 16);
  EXPECT_EQ(steps(session(model, prompt, &sampling), 16), drawn) << "the same seed draws the same tokens";
  sampling.seed = 12;
  EXPECT_NE(steps(session(model, prompt, &sampling), 16), drawn);

  const riverhorse_logit_bias bias = {77, 1000.0f};
  sampling = sampling_options();
  sampling.logit_bias = &bias;
  sampling.logit_bias_count = 1;
  ASSERT_OK(riverhorse_session_set_sampling(text, &sampling));
  EXPECT_EQ(steps(text, 3), (std::vector<std::int32_t>{77, 77, 77}));
  sampling.logit_bias = nullptr;
  EXPECT_FAILS(riverhorse_session_set_sampling(text, &sampling), RIVERHORSE_INVALID_ARGUMENT, "logit_bias");
  ASSERT_OK(riverhorse_session_set_sampling(text, nullptr));

  const auto refuses = [&](auto change, const char* field) {
    riverhorse_sampling_options wrong = sampling_options();
    change(wrong);
    EXPECT_FAILS(riverhorse_session_set_sampling(text, &wrong), RIVERHORSE_INVALID_ARGUMENT, field);
  };
  refuses([](auto& s) { s.temperature = -1; }, "temperature");
  refuses([](auto& s) { s.temperature = std::nan(""); }, "temperature");
  refuses([](auto& s) { s.top_k = -1; }, "top_k");
  refuses([](auto& s) { s.top_p = 1.5; }, "top_p");
  refuses([](auto& s) { s.vocabulary_limit = -1; }, "vocabulary_limit");
  refuses([](auto& s) { s.vocabulary_limit = 5000; }, "vocabulary_limit");
  refuses([](auto& s) { s.min_p = -0.5; }, "min_p");
  refuses([](auto& s) { s.repetition_penalty = -1; }, "repetition_penalty");
  refuses([](auto& s) { s.presence_penalty = std::nan(""); }, "presence_penalty");
  refuses([](auto& s) { s.frequency_penalty = std::nan(""); }, "frequency_penalty");
  refuses([](auto& s) { s.struct_size = 1; }, "struct_size");
}

TEST_F(Api, ClonesCheckpointsRewindsAndClears) {
  riverhorse_session* text = session(load(hybrid_path), prompt);
  ASSERT_OK(riverhorse_session_checkpoint(text));
  const std::vector<std::int32_t> drawn = steps(text, 6);
  riverhorse_session* clone = nullptr;
  ASSERT_OK(riverhorse_session_clone(text, &clone));
  sessions_.push_back(clone);
  const std::vector<std::int32_t> next = steps(text, 6);
  EXPECT_EQ(steps(clone, 6), next);

  const auto length = static_cast<std::int64_t>(prompt.size());
  std::int64_t again = -1;
  ASSERT_OK(riverhorse_session_rewind(text, length, &again));
  EXPECT_LE(again, 1) << "the state was remembered there";
  EXPECT_EQ(steps(text, 6), drawn);
  ASSERT_OK(riverhorse_session_rewind(text, length + 3, nullptr));
  EXPECT_EQ(steps(text, 3), (std::vector<std::int32_t>{drawn[3], drawn[4], drawn[5]}));
  EXPECT_FAILS(riverhorse_session_rewind(text, length + 7, &again), RIVERHORSE_INVALID_ARGUMENT, "");
  EXPECT_FAILS(riverhorse_session_rewind(text, -1, &again), RIVERHORSE_INVALID_ARGUMENT, "");
  ASSERT_OK(riverhorse_session_clear(text));
  EXPECT_EQ(riverhorse_session_position(text), 0);
  ASSERT_OK(riverhorse_session_append(text, prompt.data(), prompt.size(), nullptr, nullptr));
  EXPECT_EQ(steps(text, 6), drawn);
}

TEST_F(Api, SavesAndLoads) {
  const std::string path = temporary_path("session");
  riverhorse_model* model = load(hybrid_path);
  riverhorse_sampling_options sampling = sampling_options();
  sampling.temperature = 1.0;
  sampling.seed = 3;
  riverhorse_session* text = session(model, prompt, &sampling);
  steps(text, 5);
  ASSERT_OK(riverhorse_session_save(text, path.c_str()));
  const std::vector<std::int32_t> next = steps(text, 10);

  // In another model object, as another process would.
  riverhorse_session* loaded = session(load(hybrid_path));
  std::int64_t reused = 0;
  ASSERT_OK(riverhorse_session_load(loaded, path.c_str(), &reused));
  EXPECT_EQ(reused, static_cast<std::int64_t>(prompt.size()) + 5);
  EXPECT_EQ(steps(loaded, 10), next);

  riverhorse_session* other = session(load(pure_path), {4, 5});
  EXPECT_FAILS(riverhorse_session_load(other, path.c_str(), &reused), RIVERHORSE_BAD_FILE, path);
  EXPECT_EQ(tokens_of(other), (std::vector<std::int32_t>{4, 5})) << "a failure leaves the session as it was";
  std::filesystem::resize_file(path, std::filesystem::file_size(path) / 2);
  EXPECT_FAILS(riverhorse_session_load(loaded, path.c_str(), nullptr), RIVERHORSE_BAD_FILE, path);
  std::filesystem::remove(path);
  EXPECT_FAILS(riverhorse_session_load(loaded, path.c_str(), nullptr), RIVERHORSE_NOT_FOUND, path);
  EXPECT_FAILS(riverhorse_session_save(text, "/no/such/folder/file"), RIVERHORSE_IO_ERROR, "/no/such/folder");
}

TEST_F(Api, SavesToMemoryAndLoads) {
  riverhorse_model* model = load(hybrid_path);
  riverhorse_sampling_options sampling = sampling_options();
  sampling.temperature = 1.0;
  sampling.seed = 3;
  riverhorse_session* text = session(model, prompt, &sampling);
  steps(text, 5);
  std::size_t size = 0;
  ASSERT_OK(riverhorse_session_save_memory(text, nullptr, 0, &size));
  std::vector<unsigned char> saved(size, 0xab);
  ASSERT_OK(riverhorse_session_save_memory(text, saved.data(), saved.size(), &size));
  ASSERT_EQ(size, saved.size());
  const std::string path = temporary_path("same");
  ASSERT_OK(riverhorse_session_save(text, path.c_str()));
  EXPECT_EQ(std::filesystem::file_size(path), size) << "the bytes are those of a file";
  const std::vector<std::int32_t> next = steps(text, 10);

  riverhorse_session* loaded = session(load(hybrid_path), {7});
  std::int64_t reused = 0;
  ASSERT_OK(riverhorse_session_load_memory(loaded, saved.data(), saved.size(), &reused));
  EXPECT_EQ(reused, static_cast<std::int64_t>(prompt.size()) + 5);
  EXPECT_EQ(steps(loaded, 10), next);
  ASSERT_OK(riverhorse_session_load(loaded, path.c_str(), nullptr));
  EXPECT_EQ(steps(loaded, 10), next);
  std::filesystem::remove(path);

  riverhorse_session* other = session(load(pure_path), {4, 5});
  const auto refuse = [&](riverhorse_session* victim, const std::vector<unsigned char>& bytes, const char* part) {
    const std::vector<std::int32_t> before = tokens_of(victim);
    EXPECT_FAILS(riverhorse_session_load_memory(victim, bytes.data(), bytes.size(), &reused), RIVERHORSE_BAD_FILE,
                 part);
    EXPECT_EQ(tokens_of(victim), before) << "a failure leaves the session as it was";
  };
  refuse(other, saved, "model");
  for (const std::size_t length : {std::size_t{1}, std::size_t{20}, size / 2, size - 1}) {
    refuse(loaded, {saved.begin(), saved.begin() + static_cast<std::ptrdiff_t>(length)}, "not a usable");
  }
  for (const std::size_t byte : {std::size_t{3}, std::size_t{30}, size / 2, size - 1}) {
    std::vector<unsigned char> damaged = saved;
    damaged[byte] ^= 4;
    refuse(loaded, damaged, "not a usable");
  }
  EXPECT_FAILS(riverhorse_session_save_memory(text, saved.data(), 10, &size), RIVERHORSE_INVALID_ARGUMENT, "room");
  EXPECT_GT(size, saved.size()) << "ten tokens more";
  EXPECT_FAILS(riverhorse_session_save_memory(text, nullptr, 0, nullptr), RIVERHORSE_INVALID_ARGUMENT, "size");
  EXPECT_FAILS(riverhorse_session_load_memory(text, nullptr, 5, nullptr), RIVERHORSE_INVALID_ARGUMENT, "data");
}

TEST_F(Api, RefusesNullSessions) {
  std::int32_t token = 0;
  std::int64_t position = 0;
  std::size_t count = 0;
  riverhorse_session* out = nullptr;
  EXPECT_FAILS(riverhorse_session_create(nullptr, nullptr, &out), RIVERHORSE_INVALID_ARGUMENT, "model is null");
  EXPECT_FAILS(riverhorse_session_create(load(pure_path), nullptr, nullptr), RIVERHORSE_INVALID_ARGUMENT, "session");
  EXPECT_EQ(riverhorse_session_position(nullptr), -1);
  for (const riverhorse_status status :
       {riverhorse_session_set_sampling(nullptr, nullptr),
        riverhorse_session_append(nullptr, &token, 1, nullptr, nullptr), riverhorse_session_step(nullptr, &token),
        riverhorse_session_generate(nullptr, nullptr, nullptr, nullptr, nullptr),
        riverhorse_session_get_tokens(nullptr, nullptr, 0, &count),
        riverhorse_session_get_logits(nullptr, nullptr, 0, &count), riverhorse_session_clone(nullptr, &out),
        riverhorse_session_checkpoint(nullptr), riverhorse_session_rewind(nullptr, 0, &position),
        riverhorse_session_clear(nullptr), riverhorse_session_save(nullptr, "x"),
        riverhorse_session_load(nullptr, "x", &position)}) {
    EXPECT_EQ(status, RIVERHORSE_INVALID_ARGUMENT);
    EXPECT_NE(std::strstr(riverhorse_last_error(), "session is null"), nullptr);
  }
  riverhorse_session* text = session(models_[0], {1});
  EXPECT_FAILS(riverhorse_session_step(text, nullptr), RIVERHORSE_INVALID_ARGUMENT, "token");
  EXPECT_FAILS(riverhorse_session_clone(text, nullptr), RIVERHORSE_INVALID_ARGUMENT, "copy");
  EXPECT_FAILS(riverhorse_session_save(text, nullptr), RIVERHORSE_INVALID_ARGUMENT, "path");
  EXPECT_FAILS(riverhorse_session_load(text, nullptr, nullptr), RIVERHORSE_INVALID_ARGUMENT, "path");
}

}  // namespace
}  // namespace api_test
