// Generations on a thread of the library's. A model has one such thread, made with the first of them: it takes the
// sessions in turn, a piece of a prompt or a few tokens at a time, and gives the model's lock back in between.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "api/objects.h"
#include "api/token_sink.h"
#include "base/error.h"

namespace riverhorse::api {

// Errors: invalid_argument on the model's own thread, which only callbacks can be on.
void require_other_thread(const ModelState& model);

// What one session is doing. Everything but what is the thread's own is under the worker's mutex.
struct AsyncJob {
  AsyncJob(AsyncWorker& on, Session& of, TokenSink to) : worker(on), session(&of), sink(std::move(to)) {}

  AsyncWorker& worker;

  // The thread's.
  Session* session;
  std::vector<std::int32_t> ids;   // to be read first
  std::size_t read = 0;            // of them
  std::int64_t first_drawn = 0;    // the position of the first token that is drawn
  std::int64_t tokens_a_turn = 1;  // until it is known how long one takes
  TokenSink sink;
  riverhorse_token_callback callback = nullptr;  // null: tokens wait to be polled
  void* user = nullptr;

  struct Drawn {
    std::int32_t token;
    std::string text;
  };
  std::deque<Drawn> drawn;           // not polled yet
  std::int64_t passed_on = 0;        // tokens that a callback has seen
  std::optional<std::int64_t> keep;  // drawn tokens, where the callback of a poll has ended the text after them
  riverhorse_stop_reason reason = RIVERHORSE_STOP_MAX_TOKENS;
  std::optional<Error> error;
  bool ended = false;     // nothing more is drawn
  bool finished = false;  // ... and nothing is left to be polled or undone: the session is the caller's again
  bool polling = false;
  bool in_callback = false;
  bool is_closed = false;           // the session was freed ...
  std::unique_ptr<Session> closed;  // ... and is to be taken down
};

class AsyncWorker {
 public:
  explicit AsyncWorker(ModelState& model) : model_(model), thread_([this] { run(); }) {}
  // Waits for the piece in progress; what is left of the rest is dropped.
  ~AsyncWorker();
  AsyncWorker(const AsyncWorker&) = delete;
  AsyncWorker& operator=(const AsyncWorker&) = delete;

  void start(std::shared_ptr<AsyncJob> job);
  bool finished(const AsyncJob& job);
  // Passes on what was drawn; never waits. Errors: that of the job, once all is passed on.
  riverhorse_poll_result poll(AsyncJob& job, riverhorse_token_callback callback, void* user);
  // Ends a job that has not finished, and takes its session down when the thread is done with it; waits for a
  // callback that is running. Errors: invalid_argument when called from one.
  enum class Closing { begun, not_needed };
  Closing close(AsyncJob& job, std::unique_ptr<Session>& session);

 private:
  void run();
  void work(AsyncJob& job);
  void advance(AsyncJob& job);
  static bool has_work(const AsyncJob& job) {
    return job.closed != nullptr || !job.ended || (job.keep && !job.finished);
  }
  static int deliver(void* user, std::int32_t token, const char* text, std::size_t text_bytes);

  ModelState& model_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::shared_ptr<AsyncJob>> jobs_;  // the next one first
  bool stopping_ = false;
  std::thread thread_;  // the last member: it uses the others
};

}  // namespace riverhorse::api
