#include "api/async.h"

#include <algorithm>
#include <chrono>
#include <new>
#include <span>
#include <utility>

#include "api/guard.h"
#include "engine/engine_core.h"

namespace riverhorse::api {
namespace {

using Clock = std::chrono::steady_clock;

// How long the thread keeps the model's lock where a token takes less, and at most how many tokens that is: what the
// end of a turn costs (nothing is in flight then) is to be small against it.
constexpr std::chrono::duration<double> turn_time{0.004};
constexpr std::int64_t most_tokens_a_turn = 16;
// For how long calls of other threads that wait for the model go first.
constexpr std::chrono::milliseconds yield_time{2};

thread_local const ModelState* model_of_this_thread = nullptr;

// A turn of the thread's own: it must not keep the model alive, whose end waits for the thread.
class WorkerTurn {
 public:
  explicit WorkerTurn(ModelState& model) : model_(model) {
    const Clock::time_point until = Clock::now() + yield_time;
    while (model.waiting > 0 && Clock::now() < until) std::this_thread::sleep_for(std::chrono::microseconds(50));
    model.mutex.lock();
    model.busy = true;
  }
  ~WorkerTurn() {
    model_.busy = false;
    model_.mutex.unlock();
  }
  WorkerTurn(const WorkerTurn&) = delete;
  WorkerTurn& operator=(const WorkerTurn&) = delete;

 private:
  ModelState& model_;
};

}  // namespace

void require_other_thread(const ModelState& model) {
  if (model_of_this_thread != &model) return;
  fail(StatusCode::invalid_argument, "called from a callback on the library's thread, which it would wait for");
}

ModelState::ModelState() = default;
ModelState::~ModelState() = default;

std::shared_ptr<AsyncJob> unfinished_job(const riverhorse_session& session) {
  const std::scoped_lock lock(session.job_mutex);
  return session.job != nullptr && !session.job->worker.finished(*session.job) ? session.job : nullptr;
}

void require_no_job(const riverhorse_session& session) {
  if (unfinished_job(session) == nullptr) return;
  fail(StatusCode::invalid_argument,
       "a generation of riverhorse_session_start_async runs: poll until it has ended, or cancel it and then poll");
}

AsyncWorker::~AsyncWorker() {
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void AsyncWorker::start(std::shared_ptr<AsyncJob> job) {
  {
    const std::scoped_lock lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  changed_.notify_all();
}

bool AsyncWorker::finished(const AsyncJob& job) {
  const std::scoped_lock lock(mutex_);
  return job.finished;
}

void AsyncWorker::run() {
  model_of_this_thread = &model_;
  std::unique_lock lock(mutex_);
  for (;;) {
    const auto next = [&] {
      return std::find_if(jobs_.begin(), jobs_.end(), [](const auto& each) { return has_work(*each); });
    };
    changed_.wait(lock, [&] { return stopping_ || next() != jobs_.end(); });
    if (stopping_) return;
    const auto found = next();
    const std::shared_ptr<AsyncJob> job = *found;
    std::rotate(found, found + 1, jobs_.end());
    lock.unlock();
    work(*job);
    lock.lock();
    if (job->finished && job->closed == nullptr) std::erase(jobs_, job);
    changed_.notify_all();
  }
}

void AsyncWorker::work(AsyncJob& job) {
  std::optional<Error> error;
  try {
    advance(job);
    return;
  } catch (const Error& thrown) {
    error = thrown;
  } catch (const std::bad_alloc&) {
    error = Error(StatusCode::out_of_memory, "out of host memory");
  } catch (const std::exception& thrown) {
    error = Error(StatusCode::internal, thrown.what());
  }
  const std::scoped_lock lock(mutex_);
  job.error = std::move(error);
  job.ended = true;
  job.keep.reset();
  job.finished = job.drawn.empty();
}

void AsyncWorker::advance(AsyncJob& job) {
  const WorkerTurn turn(model_);
  std::optional<std::int64_t> keep;
  {
    const std::scoped_lock lock(mutex_);
    keep = job.keep;
    if (job.is_closed) {
      job.ended = job.finished = true;
      job.closed.reset();
      return;
    }
  }
  Session& text = *job.session;
  bool go_on = !keep && !job.sink.cancelled();
  if (go_on && job.read < job.ids.size()) {
    // The pieces that one append of all would read: the newest token of a text is not in the state yet.
    const std::int64_t piece = model_.engine->options().prefill_piece_tokens + (text.position() == 0 ? 1 : 0);
    const std::size_t length = std::min(static_cast<std::size_t>(piece), job.ids.size() - job.read);
    text.append(std::span(job.ids).subspan(job.read, length));
    job.read += length;
    return;
  }
  if (go_on) {
    const Clock::time_point begin = Clock::now();
    const std::int64_t most = std::min(job.tokens_a_turn, job.sink.limit() - job.sink.token_count());
    const std::int64_t drawn = text.generate(
        most, [&](std::int32_t token) { return go_on = job.sink.push(token, &AsyncWorker::deliver, &job); });
    const std::chrono::duration<double> one = (Clock::now() - begin) / static_cast<double>(drawn);
    job.tokens_a_turn = std::clamp(static_cast<std::int64_t>(turn_time / one), std::int64_t{1}, most_tokens_a_turn);
    go_on = go_on && job.sink.token_count() < job.sink.limit();
    if (go_on) return;
  }
  job.sink.finish(&AsyncWorker::deliver, &job);
  {
    const std::scoped_lock lock(mutex_);
    keep = job.keep;
    job.reason = job.sink.reason();
    job.ended = true;
    job.finished = !keep && job.drawn.empty();
  }
  if (!keep) return;
  text.rewind(job.first_drawn + *keep);
  const std::scoped_lock lock(mutex_);
  job.finished = true;
}

int AsyncWorker::deliver(void* user, std::int32_t token, const char* text, std::size_t text_bytes) {
  AsyncJob& job = *static_cast<AsyncJob*>(user);
  AsyncWorker& worker = job.worker;
  std::unique_lock lock(worker.mutex_);
  if (job.is_closed || job.keep) return 1;
  if (job.callback == nullptr) {
    job.drawn.push_back({token, std::string(text, text_bytes)});
    return 0;
  }
  if (token >= 0) ++job.passed_on;
  job.in_callback = true;
  lock.unlock();
  const int stop = job.callback(job.user, token, text, text_bytes);
  lock.lock();
  job.in_callback = false;
  worker.changed_.notify_all();
  return stop;
}

riverhorse_poll_result AsyncWorker::poll(AsyncJob& job, riverhorse_token_callback callback, void* user) {
  std::unique_lock lock(mutex_);
  if (job.polling) {
    fail(StatusCode::invalid_argument, "the session is being polled already, by another thread or around a callback");
  }
  job.polling = true;
  while (!job.drawn.empty()) {
    const AsyncJob::Drawn next = std::move(job.drawn.front());
    job.drawn.pop_front();
    if (next.token >= 0) ++job.passed_on;
    if (callback == nullptr) continue;
    lock.unlock();
    const bool stop = callback(user, next.token, next.text.data(), next.text.size()) != 0;
    lock.lock();
    if (!stop || next.token < 0) continue;
    job.keep = job.passed_on;
    job.drawn.clear();
  }
  job.polling = false;
  if (job.ended && !job.keep) {
    job.finished = true;
    std::erase_if(jobs_, [&](const auto& each) { return each.get() == &job; });
  }
  if (job.keep) changed_.notify_all();
  riverhorse_poll_result result{};
  result.running = job.finished ? 0 : 1;
  result.stop_reason = job.keep ? RIVERHORSE_STOP_CALLBACK : job.reason;
  result.token_count = job.passed_on;
  if (job.finished && job.error) throw *job.error;
  return result;
}

AsyncWorker::Closing AsyncWorker::close(AsyncJob& job, std::unique_ptr<Session>& session) {
  std::unique_lock lock(mutex_);
  require_other_thread(model_);
  if (job.polling) {
    fail(StatusCode::invalid_argument,
         "called from a callback of a function of the same model that is still running");
  }
  if (job.finished) return Closing::not_needed;
  job.is_closed = true;
  job.closed = std::move(session);
  changed_.notify_all();
  changed_.wait(lock, [&] { return !job.in_callback; });
  return Closing::begun;
}

}  // namespace riverhorse::api

using riverhorse::fail;
using riverhorse::StatusCode;
using riverhorse::api::AsyncJob;
using riverhorse::api::AsyncWorker;
using riverhorse::api::Cancellation;
using riverhorse::api::ModelState;
using riverhorse::api::require;
using riverhorse::api::TokenSink;

riverhorse_status riverhorse_session_start_async(riverhorse_session* session, const int32_t* ids, size_t count,
                                                 const riverhorse_generate_options* options,
                                                 riverhorse_token_callback callback, void* user) {
  return riverhorse::api::with_session(__func__, session, [&](ModelState& model, riverhorse::Session& text) {
    if (count > 0) require(ids, "ids");
    const std::span<const std::int32_t> prompt(ids, count);
    riverhorse::check_token_ids(prompt, model.engine->config().padded_vocab_size());
    TokenSink sink(model, riverhorse::api::read_options(options, "options"), Cancellation(session->cancels));
    if (count == 0 && text.position() == 0) {
      fail(StatusCode::invalid_argument, "there is nothing to continue: give or append at least one token");
    }
    text.append({});  // ends what was started for frames
    if (model.worker == nullptr) model.worker = std::make_unique<AsyncWorker>(model);
    auto job = std::make_shared<AsyncJob>(*model.worker, text, std::move(sink));
    job->ids.assign(prompt.begin(), prompt.end());
    job->first_drawn = text.position() + static_cast<std::int64_t>(count);
    job->callback = callback;
    job->user = user;
    {
      const std::scoped_lock lock(session->job_mutex);
      session->job = job;
    }
    model.worker->start(std::move(job));
  });
}
