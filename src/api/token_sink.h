// Drawn tokens on their way to the caller: as text, until something ends it.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

#include "api/guard.h"
#include "api/objects.h"
#include "data/text_stream.h"

namespace riverhorse::api {

class TokenSink {
 public:
  // Errors: invalid_argument, unsupported for stop strings without a tokenizer.
  TokenSink(const ModelState& model, const riverhorse_generate_options& options, const Cancellation& cancellation);

  std::int64_t limit() const { return limit_; }
  std::int64_t token_count() const { return token_count_; }
  riverhorse_stop_reason reason() const { return reason_; }  // MAX_TOKENS while nothing else has ended it

  // Whether the text is to end where it is, before another token; false after any other end.
  bool cancelled();

  // False: the text ends after this token.
  bool push(std::int32_t token, riverhorse_token_callback callback, void* user);
  // Passes on what was held back, once.
  void finish(riverhorse_token_callback callback, void* user);

 private:
  const Tokenizer* tokenizer_;
  std::int32_t end_of_text_;
  std::int64_t limit_;
  bool ignore_end_of_text_;
  bool finished_ = false;
  std::int64_t token_count_ = 0;
  riverhorse_stop_reason reason_ = RIVERHORSE_STOP_MAX_TOKENS;
  TextStream stream_;
  Cancellation cancellation_;
};

// Locks the model for one session function; refuses one that a callback of another calls.
class Turn {
 public:
  explicit Turn(std::shared_ptr<ModelState> model) : model_(std::move(model)), lock_(wait_for(*model_)) {
    if (model_->busy) {
      fail(StatusCode::invalid_argument,
           "called from a callback of a function of the same model that is still running");
    }
    model_->busy = true;
  }
  ~Turn() { model_->busy = false; }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

  ModelState& model() { return *model_; }

 private:
  static std::unique_lock<std::recursive_mutex> wait_for(ModelState& model) {
    ++model.waiting;
    std::unique_lock lock(model.mutex);
    --model.waiting;
    return lock;
  }

  std::shared_ptr<ModelState> model_;
  std::unique_lock<std::recursive_mutex> lock_;
};

// The generation that was started last for a session on the library's thread; null: none, or it has finished.
std::shared_ptr<AsyncJob> unfinished_job(const riverhorse_session& session);
// Errors: invalid_argument, when there is one.
void require_no_job(const riverhorse_session& session);

// Runs `body` when it is the session's turn, whatever the library's thread does for the session.
template <typename Handle, typename Body>
riverhorse_status with_any_session(const char* function, Handle* session, Body&& body) {
  return guarded(function, [&] {
    require(session, "session");
    Turn turn(session->model);
    body(turn.model(), *session->session);
  });
}

// The same for a session that is the caller's alone. `Handle` may be const.
template <typename Handle, typename Body>
riverhorse_status with_session(const char* function, Handle* session, Body&& body) {
  return with_any_session(function, session, [&](ModelState& model, auto& text) {
    require_no_job(*session);
    body(model, text);
  });
}

}  // namespace riverhorse::api
