// Sessions: texts in progress.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "api/async.h"
#include "api/guard.h"
#include "api/objects.h"
#include "api/token_sink.h"

using riverhorse::fail;
using riverhorse::StatusCode;
using riverhorse::api::AsyncJob;
using riverhorse::api::AsyncWorker;
using riverhorse::api::Cancellation;
using riverhorse::api::guarded;
using riverhorse::api::ModelState;
using riverhorse::api::require;
using riverhorse::api::Turn;
using riverhorse::api::with_any_session;
using riverhorse::api::with_session;

namespace riverhorse::api {

SamplingOptions read_sampling(const riverhorse_sampling_options* sampling) {
  const riverhorse_sampling_options given = read_options(sampling, "sampling");
  SamplingOptions result;
  result.temperature = given.temperature;
  result.top_k = given.top_k;
  result.top_p = given.top_p == 0.0 ? 1.0 : given.top_p;
  result.min_p = given.min_p;
  result.repetition_penalty = given.repetition_penalty == 0.0 ? 1.0 : given.repetition_penalty;
  result.presence_penalty = given.presence_penalty;
  result.frequency_penalty = given.frequency_penalty;
  result.seed = given.seed;
  result.vocabulary_limit = given.vocabulary_limit;
  result.padded_vocabulary = given.padded_vocabulary != 0;
  if (given.logit_bias_count > 0) require(given.logit_bias, "sampling.logit_bias");
  for (const riverhorse_logit_bias& entry : std::span(given.logit_bias, given.logit_bias_count)) {
    result.logit_bias.emplace_back(entry.token, entry.bias);
  }
  return result;
}

}  // namespace riverhorse::api

namespace {

riverhorse_session* make_handle(std::shared_ptr<ModelState> model, std::unique_ptr<riverhorse::Session> session) {
  return new riverhorse_session{{}, std::move(model), std::move(session)};
}

// As of now, before the call waits for its turn; with_session refuses null and what was freed.
std::optional<Cancellation> cancellation_of(const riverhorse_session* session) {
  if (!riverhorse::api::is_usable(session)) return std::nullopt;
  return Cancellation(session->cancels);
}

}  // namespace

riverhorse_status riverhorse_session_create(riverhorse_model* model, const riverhorse_sampling_options* sampling,
                                            riverhorse_session** session) {
  return guarded(__func__, [&] {
    require(model, "model");
    require(session, "session");
    const riverhorse::SamplingOptions options = riverhorse::api::read_sampling(sampling);
    Turn turn(model->state);
    *session = make_handle(model->state, turn.model().engine->create_session(options));
  });
}

bool riverhorse::api::free_session(riverhorse_session* session) {
  constexpr const char* function = "riverhorse_session_free";
  bool taken = false;
  const riverhorse_status closing = guarded(function, [&] {
    const std::shared_ptr<AsyncJob> job = riverhorse::api::unfinished_job(*session);
    taken = job != nullptr && job->worker.close(*job, session->session) == AsyncWorker::Closing::begun;
  });
  if (closing != RIVERHORSE_OK) return false;
  if (!taken) {  // else its thread takes the text down
    const riverhorse_status status =
        with_any_session(function, session, [&](ModelState&, riverhorse::Session&) { session->session.reset(); });
    if (status != RIVERHORSE_OK) return false;
  }
  delete session;
  return true;
}

void riverhorse_session_free(riverhorse_session* session) {
  if (riverhorse::api::may_free(__func__, session)) riverhorse::api::free_session(session);
}

riverhorse_status riverhorse_session_set_sampling(riverhorse_session* session,
                                                  const riverhorse_sampling_options* sampling) {
  return with_session(__func__, session, [&](ModelState&, riverhorse::Session& text) {
    text.set_sampling(riverhorse::api::read_sampling(sampling));
  });
}

riverhorse_status riverhorse_session_append(riverhorse_session* session, const int32_t* ids, size_t count,
                                            riverhorse_progress_callback progress, void* progress_user) {
  const std::optional<Cancellation> cancellation = cancellation_of(session);
  return with_session(__func__, session, [&](ModelState&, riverhorse::Session& text) {
    if (count == 0) return;
    require(ids, "ids");
    bool wants_stop = cancellation->wanted();
    if (wants_stop) fail(StatusCode::cancelled, "cancelled before anything was read");
    text.append(
        std::span(ids, count),
        [&](std::uint64_t done, std::uint64_t total) {
          if (progress != nullptr && progress(progress_user, done, total) != 0) wants_stop = true;
        },
        [&] { return wants_stop || cancellation->wanted(); });
  });
}

riverhorse_status riverhorse_session_cancel(riverhorse_session* session) {
  return guarded(__func__, [&] {
    require(session, "session");
    ++*session->cancels;
  });
}

riverhorse_status riverhorse_session_step(riverhorse_session* session, int32_t* token) {
  return with_session(__func__, session, [&](ModelState&, riverhorse::Session& text) {
    require(token, "token");
    *token = text.step();
  });
}

riverhorse_status riverhorse_sessions_step(riverhorse_session* const* sessions, size_t count, int32_t* tokens) {
  return guarded(__func__, [&] {
    if (count == 0) return;
    require(sessions, "sessions");
    require(tokens, "tokens");
    std::vector<riverhorse::Session*> texts;
    for (riverhorse_session* session : std::span(sessions, count)) {
      require(session, "sessions[i]");
      if (session->model != sessions[0]->model) {
        fail(StatusCode::invalid_argument, "sessions[{}] is of another model than sessions[0]", texts.size());
      }
      if (std::find(texts.begin(), texts.end(), session->session.get()) != texts.end()) {
        fail(StatusCode::invalid_argument, "sessions[{}] is in the list twice", texts.size());
      }
      texts.push_back(session->session.get());
    }
    Turn turn(sessions[0]->model);
    for (const riverhorse_session* session : std::span(sessions, count)) riverhorse::api::require_no_job(*session);
    const std::vector<std::int32_t> drawn = turn.model().engine->step(texts);
    std::copy(drawn.begin(), drawn.end(), tokens);
  });
}

riverhorse_status riverhorse_session_generate(riverhorse_session* session, const riverhorse_generate_options* options,
                                              riverhorse_token_callback callback, void* user,
                                              riverhorse_generate_result* result) {
  const std::optional<Cancellation> cancellation = cancellation_of(session);
  return with_session(__func__, session, [&](ModelState& model, riverhorse::Session& text) {
    const riverhorse_generate_options given = riverhorse::api::read_options(options, "options");
    if (result != nullptr)
      riverhorse::api::check_struct_size(*result, "result");  // a wrong size fails before any work
    const auto start = std::chrono::steady_clock::now();
    riverhorse_generate_result value{};
    riverhorse::api::TokenSink sink(model, given, *cancellation);
    if (!sink.cancelled()) {
      text.generate(sink.limit(), [&](std::int32_t token) { return sink.push(token, callback, user); });
    }
    sink.finish(callback, user);
    value.stop_reason = sink.reason();
    value.token_count = sink.token_count();
    value.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (result != nullptr) riverhorse::api::write_info(result, value, "result");
  });
}

int64_t riverhorse_session_position(const riverhorse_session* session) {
  std::int64_t position = -1;
  with_any_session(__func__, session,
                   [&](ModelState&, const riverhorse::Session& text) { position = text.position(); });
  return position;
}

riverhorse_status riverhorse_session_get_tokens(const riverhorse_session* session, int32_t* ids, size_t capacity,
                                                size_t* count) {
  return with_any_session(__func__, session, [&](ModelState&, const riverhorse::Session& text) {
    riverhorse::api::write_array(std::span<const std::int32_t>(text.tokens()), ids, capacity, count);
  });
}

riverhorse_status riverhorse_session_get_logits(riverhorse_session* session, float* logits, size_t capacity,
                                                size_t* count) {
  return with_session(__func__, session, [&](ModelState&, riverhorse::Session& text) {
    require(count, "count");
    const std::vector<float> values = text.logits();
    riverhorse::api::write_array(std::span<const float>(values), logits, capacity, count);
  });
}

riverhorse_status riverhorse_session_clone(riverhorse_session* session, riverhorse_session** copy) {
  return with_session(__func__, session, [&](ModelState&, riverhorse::Session& text) {
    require(copy, "copy");
    *copy = make_handle(session->model, text.clone());
  });
}

riverhorse_status riverhorse_session_checkpoint(riverhorse_session* session) {
  return with_session(__func__, session, [](ModelState&, riverhorse::Session& text) { text.checkpoint(); });
}

riverhorse_status riverhorse_session_rewind(riverhorse_session* session, int64_t position,
                                            int64_t* tokens_read_again) {
  return with_session(__func__, session, [&](ModelState&, riverhorse::Session& text) {
    const std::int64_t again = text.rewind(position);
    if (tokens_read_again != nullptr) *tokens_read_again = again;
  });
}

riverhorse_status riverhorse_session_clear(riverhorse_session* session) {
  return with_session(__func__, session, [](ModelState&, riverhorse::Session& text) { text.clear(); });
}

riverhorse_status riverhorse_session_save(riverhorse_session* session, const char* path) {
  return with_session(__func__, session, [&](ModelState&, riverhorse::Session& text) {
    require(path, "path");
    text.save(path);
  });
}

riverhorse_status riverhorse_session_load(riverhorse_session* session, const char* path, int64_t* tokens_reused) {
  return with_session(__func__, session, [&](ModelState&, riverhorse::Session& text) {
    require(path, "path");
    const riverhorse::LoadReport report = text.load(path);
    if (tokens_reused != nullptr) *tokens_reused = report.tokens_reused;
  });
}

riverhorse_status riverhorse_session_save_memory(riverhorse_session* session, void* data, size_t capacity,
                                                 size_t* size) {
  return with_session(__func__, session, [&](ModelState&, riverhorse::Session& text) {
    require(size, "size");
    *size = text.saved_size_bytes();
    if (data == nullptr) return;
    if (capacity < *size) {
      fail(StatusCode::invalid_argument, "there is room for {} bytes, and {} are needed", capacity, *size);
    }
    const std::vector<std::byte> bytes = text.save_bytes();
    std::copy(bytes.begin(), bytes.end(), static_cast<std::byte*>(data));
  });
}

riverhorse_status riverhorse_session_load_memory(riverhorse_session* session, const void* data, size_t size,
                                                 int64_t* tokens_reused) {
  return with_session(__func__, session, [&](ModelState&, riverhorse::Session& text) {
    require(data, "data");
    const riverhorse::LoadReport report = text.load_bytes(std::span(static_cast<const std::byte*>(data), size));
    if (tokens_reused != nullptr) *tokens_reused = report.tokens_reused;
  });
}
