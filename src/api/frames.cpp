// Sessions whose steps are recorded into the application's own command buffers.
#include <memory>
#include <span>
#include <string_view>

#include "api/async.h"
#include "api/guard.h"
#include "api/token_sink.h"
#include "riverhorse/vulkan.h"

using riverhorse::fail;
using riverhorse::StatusCode;
using riverhorse::api::AsyncJob;
using riverhorse::api::ModelState;
using riverhorse::api::require;
using riverhorse::api::TokenSink;
using riverhorse::api::Turn;
using riverhorse::api::with_session;

namespace {

// Null where frames were started since, or nothing.
std::shared_ptr<AsyncJob> last_job(const riverhorse_session* session) {
  if (!riverhorse::api::is_usable(session)) return nullptr;
  const std::scoped_lock lock(session->job_mutex);
  return session->job;
}

// What is polled from then on is of frames.
void forget_job(riverhorse_session& session) {
  const std::scoped_lock lock(session.job_mutex);
  session.job.reset();
}

// What recording a session and a batch have in common.
template <typename Record>
void record(void* command_buffer, double budget_us, riverhorse_record_result* result, const Record& append) {
  require(command_buffer, "command_buffer");
  if (!(budget_us >= 0)) fail(StatusCode::invalid_argument, "budget_us is {}: it must be 0 or more", budget_us);
  if (result != nullptr) riverhorse::api::check_struct_size(*result, "result");
  const riverhorse::Session::FrameWork work = append();
  riverhorse_record_result value{};
  value.pieces = static_cast<std::int32_t>(work.pieces);
  value.expected_us = work.expected_us;
  if (result != nullptr) riverhorse::api::write_info(result, value, "result");
}

// Before either is locked: a session of another model has another lock.
void require_same_model(const riverhorse_batch* batch, const riverhorse_session* session) {
  if (batch->model != session->model) {
    fail(StatusCode::invalid_argument, "the session is of another model than the batch");
  }
}

}  // namespace

riverhorse_status riverhorse_session_start(riverhorse_session* session, const riverhorse_generate_options* options) {
  return with_session(__func__, session, [&](ModelState& model, riverhorse::Session& text) {
    auto sink = std::make_shared<TokenSink>(model, riverhorse::api::read_options(options, "options"),
                                            riverhorse::api::Cancellation(session->cancels));
    text.start_frames(sink->limit());
    session->sink = std::move(sink);
    forget_job(*session);
  });
}

riverhorse_status riverhorse_session_enqueue(riverhorse_session* session, const int32_t* ids, size_t count) {
  return with_session(__func__, session, [&](ModelState&, riverhorse::Session& text) {
    if (count == 0) return;
    require(ids, "ids");
    text.enqueue_frames(std::span(ids, count));
    session->enqueued = true;
    forget_job(*session);
  });
}

riverhorse_status riverhorse_session_enqueue_text(riverhorse_session* session, const char* text, size_t text_bytes) {
  return with_session(__func__, session, [&](ModelState& model, riverhorse::Session& into) {
    if (text_bytes == 0) return;
    require(text, "text");
    if (model.tokenizer == nullptr) {
      fail(StatusCode::unsupported, "the model has no tokenizer: pass tokens to riverhorse_session_enqueue");
    }
    into.enqueue_frames(model.tokenizer->encode(std::string_view(text, text_bytes), false));
    session->enqueued = true;
    forget_job(*session);
  });
}

riverhorse_status riverhorse_session_record(riverhorse_session* session, void* command_buffer, double budget_us,
                                            riverhorse_record_result* result) {
  return with_session(__func__, session, [&](ModelState&, riverhorse::Session& text) {
    record(command_buffer, budget_us, result, [&] { return text.record_frame(command_buffer, budget_us); });
  });
}

riverhorse_status riverhorse_session_poll(riverhorse_session* session, riverhorse_token_callback callback, void* user,
                                          riverhorse_poll_result* result) {
  if (const std::shared_ptr<AsyncJob> job = last_job(session)) {
    return riverhorse::api::guarded(__func__, [&] {
      if (result != nullptr) riverhorse::api::check_struct_size(*result, "result");
      const riverhorse_poll_result value = job->worker.poll(*job, callback, user);
      if (result != nullptr) riverhorse::api::write_info(result, value, "result");
    });
  }
  return with_session(__func__, session, [&](ModelState&, riverhorse::Session& text) {
    if (result != nullptr) riverhorse::api::check_struct_size(*result, "result");
    TokenSink* const sink = session->sink.get();
    if (sink == nullptr && !session->enqueued) {
      fail(StatusCode::invalid_argument,
           "nothing was started: riverhorse_session_start, _start_async or _enqueue comes first");
    }
    const riverhorse::Session::FrameReport report =
        text.poll_frames([&](std::int32_t token) { return sink->push(token, callback, user); });
    if (!report.running && sink != nullptr) sink->finish(callback, user);
    riverhorse_poll_result value{};
    value.running = report.running ? 1 : 0;
    if (sink != nullptr) {
      value.stop_reason = sink->reason();
      value.token_count = sink->token_count();
    }
    value.tokens_to_read = report.tokens_to_read;
    value.frames_in_flight = static_cast<std::int32_t>(report.frames_in_flight);
    value.expected_us = report.expected_us;
    value.measured_us = report.measured_us;
    if (result != nullptr) riverhorse::api::write_info(result, value, "result");
  });
}

riverhorse_status riverhorse_batch_create(riverhorse_model* model, const riverhorse_batch_options* options,
                                          riverhorse_batch** batch) {
  return riverhorse::api::guarded(__func__, [&] {
    require(model, "model");
    require(batch, "batch");
    const riverhorse_batch_options given = riverhorse::api::read_options(options, "options");
    Turn turn(model->state);
    const std::int64_t together =
        given.max_together == 0 ? riverhorse::FrameBatch::most_together : given.max_together;
    *batch = new riverhorse_batch{
        {}, model->state, std::make_unique<riverhorse::FrameBatch>(*turn.model().engine, together)};
  });
}

void riverhorse_batch_free(riverhorse_batch* batch) {
  if (!riverhorse::api::may_free(__func__, batch)) return;
  const riverhorse_status status = riverhorse::api::guarded(__func__, [&] {
    Turn turn(batch->model);
    batch->batch.reset();
  });
  if (status == RIVERHORSE_OK) delete batch;  // else it is in use further up this thread's stack
}

riverhorse_status riverhorse_batch_add(riverhorse_batch* batch, riverhorse_session* session, double priority) {
  return riverhorse::api::guarded(__func__, [&] {
    require(batch, "batch");
    require(session, "session");
    require_same_model(batch, session);
    Turn turn(batch->model);
    riverhorse::api::require_no_job(*session);
    batch->batch->add(*session->session, priority == 0 ? 1 : priority);
  });
}

riverhorse_status riverhorse_batch_remove(riverhorse_batch* batch, riverhorse_session* session) {
  return riverhorse::api::guarded(__func__, [&] {
    require(batch, "batch");
    require(session, "session");
    require_same_model(batch, session);
    Turn turn(batch->model);
    batch->batch->remove(*session->session);
  });
}

riverhorse_status riverhorse_batch_record(riverhorse_batch* batch, void* command_buffer, double budget_us,
                                          riverhorse_record_result* result) {
  return riverhorse::api::guarded(__func__, [&] {
    require(batch, "batch");
    Turn turn(batch->model);
    record(command_buffer, budget_us, result, [&] { return batch->batch->record(command_buffer, budget_us); });
  });
}
