// What the handles of the C API stand for.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

#include "api/handle.h"
#include "backend/adopted_vulkan.h"
#include "data/tokenizer.h"
#include "engine/engine.h"
#include "engine/frame_batch.h"
#include "riverhorse/riverhorse.h"

namespace riverhorse::api {

class AsyncWorker;  // async.h
struct AsyncJob;

// Shared by a model's handle and its sessions, so that they may be freed in any order. The mutex makes calls from
// several threads wait for each other; recursive, because callbacks may use the model's tokenizer.
struct ModelState {
  ModelState();
  ~ModelState();
  ModelState(const ModelState&) = delete;
  ModelState& operator=(const ModelState&) = delete;

  std::recursive_mutex mutex;
  std::atomic<int> waiting = 0;  // calls that wait for the mutex
  bool busy = false;             // a session function is running: it can only be seen by a callback of that function
  std::shared_ptr<Device> device;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<Tokenizer> tokenizer;  // null: the model has none
  std::unique_ptr<AsyncWorker> worker;   // null: never needed. The last member: its thread uses the others
};

class TokenSink;  // token_sink.h

// How often a session was cancelled: a call is, when that has changed since it was made.
using CancelCount = std::shared_ptr<std::atomic<std::uint64_t>>;

class Cancellation {
 public:
  explicit Cancellation(CancelCount count) : count_(std::move(count)), begin_(count_->load()) {}
  bool wanted() const { return count_->load() != begin_; }

 private:
  CancelCount count_;
  std::uint64_t begin_;
};

SamplingOptions read_sampling(const riverhorse_sampling_options* sampling);

// False: it is in use further up this thread's stack, and stays.
bool free_session(riverhorse_session* session);

}  // namespace riverhorse::api

struct riverhorse_adopted_device : riverhorse::api::Handle {
  std::shared_ptr<riverhorse::AdoptedVulkan> shared;
};

struct riverhorse_model : riverhorse::api::Handle {
  std::shared_ptr<riverhorse::api::ModelState> state;
};

struct riverhorse_session : riverhorse::api::Handle {
  std::shared_ptr<riverhorse::api::ModelState> model;
  std::unique_ptr<riverhorse::Session> session;
  std::shared_ptr<riverhorse::api::TokenSink> sink = {};  // of what was started for frames; null: nothing yet
  bool enqueued = false;                                  // for frames, ever
  mutable std::mutex job_mutex = {};                      // of the next one, which polls read without the model's
  std::shared_ptr<riverhorse::api::AsyncJob> job = {};    // the last one that was started; null: none was
  riverhorse::api::CancelCount cancels = std::make_shared<std::atomic<std::uint64_t>>(0);
};

struct riverhorse_batch : riverhorse::api::Handle {
  std::shared_ptr<riverhorse::api::ModelState> model;
  std::unique_ptr<riverhorse::FrameBatch> batch;
};
