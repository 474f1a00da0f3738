#include "text_node.h"

#include <exception>
#include <utility>

#include "engine.h"

namespace rh = riverhorse_api;

namespace {

// Runs `call`; no exception may leave for Godot.
template <typename Call>
std::string message_of(const Call& call) {
  try {
    call();
    return "";
  } catch (const std::exception& error) {
    return error.what();
  }
}

template <typename Object>
Object& loaded(std::optional<Object>& object) {
  if (!object) throw std::runtime_error("there is no model: call load_model before");
  return *object;
}

const char* name_of(riverhorse_stop_reason reason) {
  switch (reason) {
    case RIVERHORSE_STOP_END_OF_TEXT: return "end of text";
    case RIVERHORSE_STOP_CANCELLED: return "cancelled";
    default: return "max tokens";
  }
}

}  // namespace

std::string TextNode::load_model(const std::string& path, const std::string& backend) {
  return message_of([&] {
    riverhorse_model_options options = rh::model_options();
    if (!backend.empty()) options.backend = backend.c_str();
    rh::model model(path, options);
    rh::session session = model.create_session();
    session_.emplace(std::move(session));  // the one before is freed, also while it runs
    model_.emplace(std::move(model));
    running_ = false;
  });
}

std::string TextNode::set_sampling(double temperature, std::int64_t seed) {
  return message_of([&] {
    riverhorse_sampling_options sampling = rh::sampling_options();
    sampling.temperature = temperature;
    sampling.top_k = 40;
    sampling.seed = static_cast<std::uint64_t>(seed);
    loaded(session_).set_sampling(sampling);
  });
}

std::string TextNode::generate(const std::string& prompt, std::int64_t max_tokens) {
  return message_of([&] {
    riverhorse_generate_options options = rh::generate_options();
    options.max_tokens = max_tokens;
    loaded(session_).start_async(loaded(model_).encode(prompt), options);
    running_ = true;
  });
}

std::string TextNode::cancel() {
  return message_of([&] { loaded(session_).cancel(); });
}

std::string TextNode::clear() {
  return message_of([&] { loaded(session_).clear(); });
}

void TextNode::process() {
  if (!running_) return;
  // Signals are emitted after the poll: who is connected may call this node again, or free it with the last one.
  std::string text, reason;
  const std::string error = message_of([&] {
    const riverhorse_poll_result result = session_->poll([&](std::int32_t, std::string_view piece) {
      text += piece;
      return true;
    });
    running_ = result.running != 0;
    if (!running_) reason = name_of(result.stop_reason);
  });
  if (!error.empty()) running_ = false;
  if (!text.empty()) emit("text_drawn", text);
  if (!error.empty()) {
    emit("failed", error);
  } else if (!reason.empty()) {
    emit("finished", reason);
  }
}

void TextNode::emit(const std::string& signal, const std::string& text) const {
  engine::Variant(object_).call("emit_signal", {signal, text});
}
