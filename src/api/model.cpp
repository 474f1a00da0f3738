// Loading a model, what it is, and its tokenizer.
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "api/async.h"
#include "api/guard.h"
#include "api/objects.h"
#include "api/read_options.h"
#include "base/log.h"
#include "engine/engine_memory.h"
#include "model/checkpoint.h"

using riverhorse::fail;
using riverhorse::StatusCode;
using riverhorse::api::guarded;
using riverhorse::api::ModelState;
using riverhorse::api::positive_or;
using riverhorse::api::read_conv;
using riverhorse::api::require;
using riverhorse::api::text_or_empty;

namespace {

riverhorse::EngineOptions engine_options(const riverhorse_model_options& options) {
  riverhorse::EngineOptions result;
  result.dtype = riverhorse::api::read_dtype(options.dtype);
  result.conv = read_conv(options.conv);
  result.cache_folder = text_or_empty(options.cache_folder);
  result.max_sessions = positive_or<std::int64_t>(options.max_sessions, result.max_sessions, "max_sessions");
  result.context_tokens = positive_or(options.context_tokens, result.context_tokens, "context_tokens");
  result.prefill_piece_tokens =
      positive_or(options.prefill_piece_tokens, result.prefill_piece_tokens, "prefill_piece_tokens");
  result.memory_budget_bytes = options.memory_budget_bytes;
  result.frame_sessions = positive_or<std::int64_t>(options.frame_sessions, 0, "frame_sessions");
  if (options.progress != nullptr) {
    result.progress = [callback = options.progress, user = options.progress_user](std::uint64_t done,
                                                                                  std::uint64_t total) {
      if (callback(user, done, total) != 0) fail(StatusCode::cancelled, "loading was cancelled by the callback");
    };
  }
  return result;
}

void require_one_device(const riverhorse_model_options& options) {
  if (options.adopted_device == nullptr) {
    if (options.frame_sessions == 0) return;
    fail(StatusCode::invalid_argument,
         "options.frame_sessions is {} without an adopted_device, whose frames they are", options.frame_sessions);
  }
  if (options.low_priority != 0) {
    fail(StatusCode::invalid_argument,
         "options.low_priority is set, and so is options.adopted_device: its queue is the application's, which "
         "chooses the priority when it makes its device");
  }
  if (options.backend == nullptr && options.device == nullptr) return;
  fail(StatusCode::invalid_argument, "options.adopted_device is set, and so is options.{}: choose by one of them",
       options.backend != nullptr ? "backend" : "device");
}

std::shared_ptr<riverhorse::Device> open_device(const riverhorse_model_options& options,
                                                const riverhorse::CheckedDeviceOptions& checked) {
  if (options.adopted_device == nullptr) {
    std::shared_ptr<riverhorse::Device> device = riverhorse::open_checked_device(checked);
    const riverhorse::Support low = riverhorse::low_priority_of(*device);
    if (options.low_priority != 0 && !low.supported) {
      riverhorse::log_info(fmt::format("{} ({}) has no queue of low priority: {}", device->info().id(),
                                       device->info().name, low.reason));
    }
    return device;
  }
  require(options.adopted_device, "options.adopted_device");
  const auto open = [&](const riverhorse::DeviceOptions& device_options) {
    return riverhorse::open_adopted_device(options.adopted_device->shared, device_options);
  };
  if (!checked.self_test) return open(checked.device_options);
  return riverhorse::open_tested_device(open, checked.device_options);
}

// All that a load is told, checked before anything is read.
struct LoadOptions {
  explicit LoadOptions(const riverhorse_model_options* options)
      : api(riverhorse::api::read_options(options, "options")),
        device(riverhorse::api::read_device(api)),
        engine(engine_options(api)) {
    require_one_device(api);
    device.device_options.tuning = riverhorse::api::read_tuning(api.tuning);
    if (api.low_priority != 0) device.priority = riverhorse::QueuePriority::low;
    checkpoint.config_path = text_or_empty(api.config_path);
    checkpoint.check_finite = api.check_finite != 0;
  }

  riverhorse_model_options api;
  riverhorse::CheckedDeviceOptions device;
  riverhorse::EngineOptions engine;
  riverhorse::CheckpointOptions checkpoint;
};

riverhorse_model* load(const LoadOptions& options, const riverhorse::Checkpoint& checkpoint,
                       const std::function<std::unique_ptr<riverhorse::Tokenizer>()>& find_tokenizer) {
  for (const std::string& warning : checkpoint.warnings) riverhorse::log_warning(warning);
  auto state = std::make_shared<ModelState>();
  state->tokenizer = find_tokenizer();
  state->device = open_device(options.api, options.device);
  state->engine = std::make_unique<riverhorse::Engine>(state->device, checkpoint, options.engine);
  return new riverhorse_model{{}, std::move(state)};
}

// A name that means nothing here is a mistake: a tokenizer that is misspelt would silently be none.
constexpr const char* file_names[] = {"config.json",    "model.safetensors", "model.pt",
                                      "tokenizer.json", "vocab.json",        "merges.txt"};

std::vector<riverhorse::MemoryFile> read_files(std::span<const riverhorse_model_file> files) {
  std::vector<riverhorse::MemoryFile> result;
  for (std::size_t i = 0; i < files.size(); ++i) {
    const riverhorse_model_file& file = files[i];
    if (file.name == nullptr) fail(StatusCode::invalid_argument, "files[{}].name is null", i);
    const std::string name = file.name;
    if (std::find(std::begin(file_names), std::end(file_names), name) == std::end(file_names)) {
      fail(StatusCode::invalid_argument, "files[{}] is named \"{}\": a model is made of {}", i, name,
           fmt::join(file_names, ", "));
    }
    if (riverhorse::find_memory_file(result, name) != nullptr) {
      fail(StatusCode::invalid_argument, "files[{}]: {} is there twice", i, name);
    }
    if (file.data == nullptr) fail(StatusCode::invalid_argument, "files[{}].data ({}) is null", i, name);
    result.push_back({name, std::span(static_cast<const std::byte*>(file.data), file.size)});
  }
  return result;
}

const riverhorse::Tokenizer& require_tokenizer(const ModelState& state) {
  if (state.tokenizer == nullptr) {
    fail(StatusCode::unsupported,
         "the model has no tokenizer: put tokenizer.json, or vocab.json and merges.txt, beside its weights");
  }
  return *state.tokenizer;
}

}  // namespace

riverhorse_status riverhorse_model_estimate_memory(const char* path, const riverhorse_model_options* options,
                                                   riverhorse_memory_estimate* estimate) {
  return guarded(__func__, [&] {
    require(path, "path");
    require(estimate, "estimate");
    LoadOptions given(options);
    given.checkpoint.read_weights = false;
    const riverhorse::Checkpoint checkpoint = riverhorse::load_checkpoint(path, given.checkpoint);
    const std::shared_ptr<riverhorse::Device> device = open_device(given.api, given.device);
    riverhorse::check_loadable(*device, checkpoint, given.engine);
    const riverhorse::MemoryEstimate bytes =
        riverhorse::estimate_memory(checkpoint.config, given.engine, {given.engine.dtype, &checkpoint.file}, *device);
    riverhorse_memory_estimate value{};
    value.weights_bytes = bytes.weights_bytes + bytes.filters_bytes;
    value.sessions_bytes = bytes.state_bytes + bytes.cache_bytes;
    value.workspace_bytes = bytes.workspace_bytes + bytes.staging_bytes;
    value.frames_bytes = bytes.frames_bytes;
    value.total_bytes = bytes.total_bytes();
    value.available_bytes = riverhorse::available_bytes(*device, given.engine);
    riverhorse::api::write_info(estimate, value, "estimate");
  });
}

riverhorse_status riverhorse_model_load(const char* path, const riverhorse_model_options* options,
                                        riverhorse_model** model) {
  return guarded(__func__, [&] {
    require(path, "path");
    require(model, "model");
    const LoadOptions given(options);
    const riverhorse::Checkpoint checkpoint = riverhorse::load_checkpoint(path, given.checkpoint);
    *model = load(given, checkpoint,
                  [&] { return riverhorse::find_tokenizer(checkpoint.folder, checkpoint.config.vocab_size); });
  });
}

riverhorse_status riverhorse_model_load_memory(const riverhorse_model_file* files, size_t count,
                                               const riverhorse_model_options* options, riverhorse_model** model) {
  return guarded(__func__, [&] {
    if (count > 0) require(files, "files");
    require(model, "model");
    const LoadOptions given(options);
    if (given.api.config_path != nullptr) {
      fail(StatusCode::invalid_argument, "options.config_path is set: the configuration is the file config.json");
    }
    const std::vector<riverhorse::MemoryFile> read = read_files(std::span(files, count));
    const riverhorse::Checkpoint checkpoint = riverhorse::parse_checkpoint(read, given.checkpoint);
    *model = load(given, checkpoint, [&] { return riverhorse::find_tokenizer(read, checkpoint.config.vocab_size); });
  });
}

void riverhorse_model_free(riverhorse_model* model) {
  if (!riverhorse::api::may_free(__func__, model)) return;
  const riverhorse_status status = guarded(__func__, [&] { riverhorse::api::require_other_thread(*model->state); });
  if (status == RIVERHORSE_OK) delete model;
}

riverhorse_status riverhorse_model_get_info(const riverhorse_model* model, riverhorse_model_info* info) {
  return guarded(__func__, [&] {
    require(model, "model");
    ModelState& state = *model->state;
    const std::scoped_lock lock(state.mutex);
    const riverhorse::ModelConfig& config = state.engine->config();
    const riverhorse::DeviceInfo& device = state.device->info();
    riverhorse_model_info value{};
    value.dtype = riverhorse::api::to_api(state.engine->options().dtype);
    value.parameter_count = riverhorse::parameter_count(config);
    value.embedding_width = config.n_embd;
    value.layer_count = config.n_layer;
    value.attention_layer_count = static_cast<std::int64_t>(config.attn_layer_idx.size());
    value.state_size = config.ssm_d_state;
    value.vocab_size = config.vocab_size;
    value.padded_vocab_size = config.padded_vocab_size();
    value.has_tokenizer = state.tokenizer != nullptr ? 1 : 0;
    value.end_of_text = state.tokenizer != nullptr ? state.tokenizer->end_of_text() : -1;
    value.tokenizer_vocab_size = state.tokenizer != nullptr ? state.tokenizer->vocab_size() : 0;
    value.max_sessions = state.engine->options().max_sessions;
    value.device_memory_bytes = state.device->memory_usage().used_bytes;
    riverhorse::api::copy_text(value.device_id, device.id());
    riverhorse::api::copy_text(value.device_name, device.name);
    value.low_priority = riverhorse::low_priority_of(*state.device).supported ? 1 : 0;
    riverhorse::api::write_info(info, value, "info");
  });
}

riverhorse_status riverhorse_model_encode(const riverhorse_model* model, const char* text, size_t text_bytes,
                                          int special, int32_t* ids, size_t capacity, size_t* count) {
  return guarded(__func__, [&] {
    require(model, "model");
    if (text_bytes > 0) require(text, "text");
    require(count, "count");
    const riverhorse::Tokenizer& tokenizer = require_tokenizer(*model->state);
    const std::string_view view = text_bytes > 0 ? std::string_view(text, text_bytes) : std::string_view();
    const std::vector<std::int32_t> encoded = tokenizer.encode(view, special != 0);
    riverhorse::api::write_array(std::span<const std::int32_t>(encoded), ids, capacity, count);
  });
}

riverhorse_status riverhorse_model_decode(const riverhorse_model* model, const int32_t* ids, size_t count, char* text,
                                          size_t capacity, size_t* text_bytes) {
  return guarded(__func__, [&] {
    require(model, "model");
    if (count > 0) require(ids, "ids");
    require(text_bytes, "text_bytes");
    const riverhorse::Tokenizer& tokenizer = require_tokenizer(*model->state);
    const std::string decoded = tokenizer.decode(std::vector<std::int32_t>(ids, ids + count));
    riverhorse::api::write_array(std::span<const char>(decoded), text, capacity, text_bytes);
  });
}
