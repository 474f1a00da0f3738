#include "cli/train_samples.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "engine/engine.h"

namespace riverhorse::cli {
namespace {

// Moderate: the likeliest token alone soon goes in circles, and all of them show a young model's noise.
constexpr double temperature = 0.8;
constexpr std::int64_t top_k = 40;

}  // namespace

TrainSamples::TrainSamples(std::shared_ptr<Device> device, const Tokenizer* tokenizer, const TrainerOptions& options,
                           std::filesystem::path run, std::int64_t step)
    : device_(std::move(device)), tokenizer_(tokenizer), options_(options), run_(std::move(run)), first_step_(step) {
  if (options_.sample_every == 0) return;
  if (tokenizer_ == nullptr) {
    fail(StatusCode::invalid_argument, "--sample-every needs a tokenizer to make text of tokens: give --tokenizer");
  }
  prompt_ = tokenizer_->encode(options_.prompt, false);
  if (!prompt_.empty()) return;
  if (tokenizer_->end_of_text() < 0) {
    fail(StatusCode::invalid_argument, "this tokenizer has no token to begin a text with: give --prompt");
  }
  prompt_.push_back(tokenizer_->end_of_text());
}

std::string TrainSamples::generate(const Checkpoint& model) const {
  EngineOptions engine_options;
  engine_options.conv = options_.conv;
  engine_options.max_sessions = 1;
  engine_options.context_tokens = static_cast<std::int64_t>(prompt_.size()) + options_.sample_tokens;
  Engine engine(device_, model, engine_options);
  SamplingOptions sampling;
  sampling.temperature = temperature;
  sampling.top_k = top_k;
  sampling.seed = static_cast<std::uint64_t>(options_.seed);
  sampling.vocabulary_limit = tokenizer_->vocab_size();
  const std::unique_ptr<Session> session = engine.create_session(sampling);
  session->append(prompt_);
  std::vector<std::int32_t> tokens;
  session->generate(options_.sample_tokens, [&](std::int32_t token) {
    if (token == tokenizer_->end_of_text()) return false;
    tokens.push_back(token);
    return true;
  });
  return tokenizer_->decode(tokens);
}

void TrainSamples::add(const Checkpoint& model, std::int64_t step) {
  nlohmann::ordered_json row;
  row["step"] = step;
  row["prompt"] = options_.prompt;
  try {
    row["text"] = generate(model);
  } catch (const Error& error) {
    if (error.code() != StatusCode::out_of_memory && error.code() != StatusCode::unsupported) throw;
    log_warning(fmt::format("no sample of step {}: {}", step, error.what()));
    return;
  }
  // A character that is cut off at the end is no valid UTF-8.
  const auto quoted = [](const nlohmann::ordered_json& json) {
    return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  };
  const bool terminal = isatty(STDERR_FILENO) != 0;
  fmt::print(stderr, "{}sample of step {}: {}\n", terminal ? "\r\033[K" : "", step, quoted(row["text"]));
  if (!log_) log_.emplace(run_ / "samples.jsonl", first_step_);
  log_->add(quoted(row) + "\n");
}

}  // namespace riverhorse::cli
