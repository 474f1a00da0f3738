#include "api/token_sink.h"

#include <span>
#include <string>
#include <vector>

namespace riverhorse::api {
namespace {

constexpr std::int64_t default_max_tokens = 128;

std::vector<std::string> read_stop_strings(const riverhorse_generate_options& options, const ModelState& model) {
  std::vector<std::string> result;
  if (options.stop_string_count == 0) return result;
  require(options.stop_strings, "options.stop_strings");
  if (model.tokenizer == nullptr) {
    fail(StatusCode::unsupported, "options.stop_strings needs a tokenizer, and the model has none");
  }
  for (const char* text : std::span(options.stop_strings, options.stop_string_count)) {
    require(text, "options.stop_strings[i]");
    result.emplace_back(text);
  }
  return result;
}

std::int64_t read_limit(const riverhorse_generate_options& options) {
  if (options.max_tokens < 0) {
    fail(StatusCode::invalid_argument, "options.max_tokens is {}: it cannot be negative", options.max_tokens);
  }
  return options.max_tokens == 0 ? default_max_tokens : options.max_tokens;
}

}  // namespace

TokenSink::TokenSink(const ModelState& model, const riverhorse_generate_options& options,
                     const Cancellation& cancellation)
    : tokenizer_(model.tokenizer.get()),
      end_of_text_(tokenizer_ != nullptr ? tokenizer_->end_of_text() : -1),
      limit_(read_limit(options)),
      ignore_end_of_text_(options.ignore_end_of_text != 0),
      stream_(read_stop_strings(options, model)),
      cancellation_(cancellation) {}

bool TokenSink::cancelled() {
  if (reason_ == RIVERHORSE_STOP_MAX_TOKENS && cancellation_.wanted()) reason_ = RIVERHORSE_STOP_CANCELLED;
  return reason_ == RIVERHORSE_STOP_CANCELLED;
}

bool TokenSink::push(std::int32_t token, riverhorse_token_callback callback, void* user) {
  ++token_count_;
  const bool ended = token == end_of_text_ && !ignore_end_of_text_;
  const bool has_text = tokenizer_ != nullptr && !ended && token < tokenizer_->vocab_size();
  const std::string text = has_text ? stream_.push(tokenizer_->token_bytes(token)) : std::string();
  const bool wants_stop = callback != nullptr && callback(user, token, text.data(), text.size()) != 0;
  if (ended) {
    reason_ = RIVERHORSE_STOP_END_OF_TEXT;
  } else if (stream_.stopped()) {
    reason_ = RIVERHORSE_STOP_STRING;
  } else if (wants_stop) {
    reason_ = RIVERHORSE_STOP_CALLBACK;
  } else if (token_count_ < limit_) {
    cancelled();
  }
  return reason_ == RIVERHORSE_STOP_MAX_TOKENS;
}

void TokenSink::finish(riverhorse_token_callback callback, void* user) {
  if (finished_ || reason_ == RIVERHORSE_STOP_CALLBACK) return;
  finished_ = true;
  const std::string rest = stream_.finish();
  if (!rest.empty() && callback != nullptr) callback(user, -1, rest.data(), rest.size());
}

}  // namespace riverhorse::api
