// What the handles of the C API stand for.
#pragma once

#include <memory>
#include <mutex>

#include "backend/adopted_vulkan.h"
#include "data/tokenizer.h"
#include "engine/engine.h"
#include "riverhorse/riverhorse.h"

namespace riverhorse::api {

// Shared by a model's handle and its sessions, so that they may be freed in any order. The mutex makes calls from
// several threads wait for each other; recursive, because callbacks may use the model's tokenizer.
struct ModelState {
  std::recursive_mutex mutex;
  bool busy = false;  // a session function is running: it can only be seen by a callback of that function
  std::shared_ptr<Device> device;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<Tokenizer> tokenizer;  // null: the model has none
};

class TokenSink;  // token_sink.h

SamplingOptions read_sampling(const riverhorse_sampling_options* sampling);

}  // namespace riverhorse::api

struct riverhorse_adopted_device {
  std::shared_ptr<riverhorse::AdoptedVulkan> shared;
};

struct riverhorse_model {
  std::shared_ptr<riverhorse::api::ModelState> state;
};

struct riverhorse_session {
  std::shared_ptr<riverhorse::api::ModelState> model;
  std::unique_ptr<riverhorse::Session> session;
  std::shared_ptr<riverhorse::api::TokenSink> sink = {};  // of what was started for frames; null: nothing yet
  bool enqueued = false;                                  // for frames, ever
};
