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
  explicit Turn(std::shared_ptr<ModelState> model) : model_(std::move(model)), lock_(model_->mutex) {
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
  std::shared_ptr<ModelState> model_;
  std::scoped_lock<std::recursive_mutex> lock_;
};

// Runs `body` when it is the session's turn. `Handle` may be const.
template <typename Handle, typename Body>
riverhorse_status with_session(const char* function, Handle* session, Body&& body) {
  return guarded(function, [&] {
    require(session, "session");
    Turn turn(session->model);
    body(turn.model(), *session->session);
  });
}

}  // namespace riverhorse::api
