// riverhorse generate: text from a prompt, or from several at once.
#include <CLI/CLI.hpp>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "data/text_stream.h"
#include "data/tokenizer.h"
#include "engine/engine.h"
#include "engine/trace.h"

namespace riverhorse::cli {
namespace {

constexpr std::uint64_t prompt_limit_bytes = std::uint64_t{1} << 30;

struct GenerateOptions {
  ModelOptions model;
  DeviceChoiceOptions device;
  std::uint64_t memory_budget_bytes = 0;
  std::string trace;
  DType dtype = DType::f32;
  ConvAlgorithm conv = ConvAlgorithm::automatic;
  std::int64_t piece_tokens = 0;
  std::vector<std::string> prompts;
  std::string prompt_file;
  std::string prompt_ids;
  bool special_tokens = false;
  std::int64_t max_tokens = 128;
  bool greedy = false;
  SamplingOptions sampling;
  bool sampling_given = false;  // any option of sampling on the command line
  std::vector<std::string> logit_bias;
  std::vector<std::string> stop_strings;
  std::int64_t stop_id = -1;
  bool ignore_end = false;
  bool echo = false;
  bool output_ids = false;
  std::string session_save;
  std::string session_load;
};

template <typename T>
T parse_number(std::string_view text, const char* option) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    fail(StatusCode::invalid_argument, "{}: \"{}\" is not a number in range", option, text);
  }
  return value;
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const std::size_t end = text.find(separator);
    parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

std::vector<std::int32_t> parse_ids(const std::string& text) {
  std::vector<std::int32_t> ids;
  for (std::string_view part : split(text, ',')) {
    while (part.starts_with(' ')) part.remove_prefix(1);
    while (part.ends_with(' ')) part.remove_suffix(1);
    ids.push_back(parse_number<std::int32_t>(part, "--prompt-ids"));
  }
  return ids;
}

void parse_logit_bias(GenerateOptions& options) {
  for (const std::string& entry : options.logit_bias) {
    const std::vector<std::string_view> parts = split(entry, '=');
    if (parts.size() != 2) {
      fail(StatusCode::invalid_argument, "--logit-bias: \"{}\" is not ID=VALUE", entry);
    }
    options.sampling.logit_bias.emplace_back(parse_number<std::int32_t>(parts[0], "--logit-bias"),
                                             parse_number<float>(parts[1], "--logit-bias"));
  }
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void print(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

// What becomes of one sequence's tokens. The first sequence that has not ended prints as it goes; later ones are held
// until it is their turn, so that several texts do not mix.
class Output {
 public:
  Output(const GenerateOptions& options, const Tokenizer* tokenizer, std::int32_t end_token)
      : options_(options), tokenizer_(tokenizer), end_token_(end_token), stream_(options.stop_strings) {}

  // False when the text ends with this token.
  bool add(std::int32_t token) {
    ++count_;
    if (token == end_token_) {
      if (options_.output_ids) add_id(token);
      ended_ = true;
    } else if (options_.output_ids) {
      add_id(token);
      // Stop strings are looked for even when ids are printed, where there is a tokenizer to know the text.
      if (tokenizer_ != nullptr && !options_.stop_strings.empty()) {
        stream_.push(token_text(token));
        ended_ = stream_.stopped();
      }
    } else {
      text_ += stream_.push(token_text(token));
      ended_ = stream_.stopped();
    }
    return !ended_;
  }

  void finish() {
    if (!options_.output_ids) text_ += stream_.finish();
    text_ += '\n';
    ended_ = true;
  }

  std::string take() { return std::exchange(text_, {}); }
  bool ended() const { return ended_; }
  std::int64_t count() const { return count_; }

 private:
  void add_id(std::int32_t token) { text_ += fmt::format("{}{}", count_ > 1 ? "," : "", token); }
  std::string_view token_text(std::int32_t token) const {
    return token < tokenizer_->vocab_size() ? tokenizer_->token_bytes(token) : std::string_view{};
  }

  const GenerateOptions& options_;
  const Tokenizer* tokenizer_;
  std::int32_t end_token_;
  TextStream stream_;
  std::string text_;
  std::int64_t count_ = 0;
  bool ended_ = false;
};

struct Prompt {
  std::string text;
  std::vector<std::int32_t> ids;
};

std::vector<Prompt> read_prompts(const GenerateOptions& options, const Tokenizer* tokenizer) {
  std::vector<Prompt> prompts;
  if (!options.prompt_ids.empty()) prompts.push_back({"", parse_ids(options.prompt_ids)});
  if (!options.prompt_file.empty()) prompts.push_back({read_text_file(options.prompt_file, prompt_limit_bytes), {}});
  for (const std::string& text : options.prompts) prompts.push_back({text, {}});
  for (Prompt& prompt : prompts) {
    if (!prompt.ids.empty()) continue;
    prompt.ids = tokenizer->encode(prompt.text, options.special_tokens);
    if (!prompt.ids.empty() || !options.session_load.empty()) continue;
    if (tokenizer->end_of_text() < 0) {
      fail(StatusCode::invalid_argument, "the prompt is empty, and this tokenizer has no token to begin with");
    }
    prompt.ids.push_back(tokenizer->end_of_text());  // how a text begins, as GPT-2 was trained
  }
  if (prompts.empty() && !options.session_load.empty()) prompts.push_back({});
  return prompts;
}

void check_usage(const GenerateOptions& options) {
  const std::size_t kinds = (options.prompts.empty() ? 0u : 1u) + (options.prompt_file.empty() ? 0u : 1u) +
                            (options.prompt_ids.empty() ? 0u : 1u);
  if (kinds > 1) {
    fail(StatusCode::invalid_argument, "give one of --prompt (also several times), --prompt-file and --prompt-ids");
  }
  if (kinds == 0 && options.session_load.empty()) {
    fail(StatusCode::invalid_argument, "there is nothing to continue: give --prompt, --prompt-file or --prompt-ids");
  }
  if (options.prompts.size() > 1 && !(options.session_load.empty() && options.session_save.empty())) {
    fail(StatusCode::invalid_argument, "--session-load and --session-save go with one prompt");
  }
  if (options.greedy && options.sampling.temperature != 0.0 && options.sampling_given) {
    fail(StatusCode::invalid_argument, "--greedy and a --temperature above 0 exclude each other");
  }
}

class Generation {
 public:
  explicit Generation(const GenerateOptions& options) : options_(options) {}

  void run() {
    CheckpointOptions load;
    load.config_path = options_.model.config;
    const Checkpoint checkpoint = load_checkpoint(options_.model.model, load);
    for (const std::string& warning : checkpoint.warnings) log_warning(warning);
    find_tokenizer_for(checkpoint);
    const std::vector<Prompt> prompts = read_prompts(options_, tokenizer_.get());

    EngineOptions engine_options;
    engine_options.dtype = options_.dtype;
    engine_options.conv = options_.conv;
    engine_options.cache_folder = options_.device.cache;
    engine_options.prefill_piece_tokens = options_.piece_tokens;
    engine_options.max_sessions = static_cast<std::int64_t>(prompts.size());
    engine_options.context_tokens = 256;  // it doubles as needed
    engine_options.memory_budget_bytes = options_.memory_budget_bytes;
    engine_options.progress = progress_line("loading");
    SamplingOptions sampling = options_.sampling;
    if (tokenizer_ && !options_.output_ids) {
      sampling.vocabulary_limit = std::min(tokenizer_->vocab_size(), checkpoint.config.padded_vocab_size());
    }
    check_sampling(sampling, checkpoint.config);
    trace_ = make_trace(options_.trace);
    {
      const Trace::Span span(trace_.get(), "load");
      engine_ = std::make_unique<Engine>(open_chosen_device(options_.device), checkpoint, engine_options);
    }
    engine_->set_trace(trace_);

    for (std::size_t i = 0; i < prompts.size(); ++i) {
      sessions_.push_back(engine_->create_session(sampling));
      sampling.seed += 1;  // each text draws its own
      outputs_.emplace_back(options_, tokenizer_.get(), end_token_);
    }
    if (!options_.session_load.empty()) load_session(sampling);
    {
      const Trace::Span span(trace_.get(), "prefill");
      prefill(prompts);
    }
    {
      const Trace::Span span(trace_.get(), "decode");
      decode(prompts);
    }
    if (trace_) trace_->write(engine_->device().info());
    if (!options_.session_save.empty()) sessions_[0]->save(options_.session_save);
    report();
    if (interrupted()) fail(StatusCode::cancelled, "stopped");
  }

 private:
  void find_tokenizer_for(const Checkpoint& checkpoint) {
    const bool ids_only = options_.output_ids && options_.prompts.empty() && options_.prompt_file.empty();
    if (!ids_only || !options_.stop_strings.empty()) {
      tokenizer_ = find_tokenizer(checkpoint.folder, checkpoint.config.vocab_size);
      if (!tokenizer_) {
        fail(StatusCode::not_found,
             "{}: neither tokenizer.json nor vocab.json and merges.txt; without them use --prompt-ids and "
             "--output-ids",
             checkpoint.folder.string());
      }
    }
    end_token_ = tokenizer_ ? tokenizer_->end_of_text() : -1;
    if (options_.stop_id >= 0) end_token_ = static_cast<std::int32_t>(options_.stop_id);
    if (options_.ignore_end) end_token_ = -1;
  }

  void load_session(const SamplingOptions& sampling) {
    const LoadReport report = sessions_[0]->load(options_.session_load);
    std::fprintf(stderr, "%s: %lld tokens reused\n", options_.session_load.c_str(),
                 static_cast<long long>(report.tokens_reused));
    if (options_.sampling_given) {
      SamplingOptions given = sampling;
      given.seed = options_.sampling.seed;
      sessions_[0]->set_sampling(given);
    }
  }

  void prefill(const std::vector<Prompt>& prompts) {
    const auto start = std::chrono::steady_clock::now();
    const ProgressFunction progress = progress_line("reading the prompt");
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      sessions_[i]->append(prompts[i].ids, progress, [] { return interrupted(); });
      prompt_tokens_ += static_cast<std::int64_t>(prompts[i].ids.size());
    }
    prefill_seconds_ = seconds_since(start);
  }

  void decode(const std::vector<Prompt>& prompts) {
    engine_->prepare(static_cast<std::int64_t>(sessions_.size()), false);
    const auto start = std::chrono::steady_clock::now();
    if (options_.echo && !options_.output_ids && prompts.size() == 1) print(prompts[0].text);
    if (sessions_.size() == 1) {
      sessions_[0]->generate(options_.max_tokens, [&](std::int32_t token) {
        const bool more = outputs_[0].add(token);
        print(outputs_[0].take());
        return more && !interrupted();
      });
    } else {
      decode_together();
    }
    decode_seconds_ = seconds_since(start);
    for (std::size_t i = first_unprinted_; i < outputs_.size(); ++i) {
      outputs_[i].finish();
      print(outputs_[i].take());
    }
  }

  void decode_together() {
    std::vector<Session*> batch;
    std::vector<std::size_t> members;
    for (std::int64_t round = 0; round < options_.max_tokens && !interrupted(); ++round) {
      batch.clear();
      members.clear();
      for (std::size_t i = 0; i < sessions_.size(); ++i) {
        if (outputs_[i].ended()) continue;
        batch.push_back(sessions_[i].get());
        members.push_back(i);
      }
      if (batch.empty()) break;
      const std::vector<std::int32_t> tokens = engine_->step(batch);
      for (std::size_t j = 0; j < tokens.size(); ++j) outputs_[members[j]].add(tokens[j]);
      print(outputs_[first_unprinted_].take());
      while (first_unprinted_ + 1 < outputs_.size() && outputs_[first_unprinted_].ended()) {
        outputs_[first_unprinted_].finish();
        print(outputs_[first_unprinted_++].take());
        print(outputs_[first_unprinted_].take());
      }
    }
  }

  void report() const {
    std::int64_t drawn = 0;
    for (const Output& output : outputs_) drawn += output.count();
    const auto rate = [](std::int64_t tokens, double seconds) {
      return seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0;
    };
    const DeviceInfo& info = engine_->device().info();
    std::fprintf(stderr, "prefill %lld tokens, %.1f tokens/s; decode %lld tokens, %.1f tokens/s; %s, %s, %s\n",
                 static_cast<long long>(prompt_tokens_), rate(prompt_tokens_, prefill_seconds_),
                 static_cast<long long>(drawn), rate(drawn, decode_seconds_), info.id().c_str(), info.name.c_str(),
                 std::string(dtype_name(options_.dtype)).c_str());
  }

  const GenerateOptions& options_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::int32_t end_token_ = -1;
  std::shared_ptr<Trace> trace_;  // null: none is asked for
  std::unique_ptr<Engine> engine_;
  std::vector<std::unique_ptr<Session>> sessions_;
  std::vector<Output> outputs_;
  std::size_t first_unprinted_ = 0;
  std::int64_t prompt_tokens_ = 0;
  double prefill_seconds_ = 0;
  double decode_seconds_ = 0;
};

void add_sampling_options(CLI::App& command, GenerateOptions& options) {
  SamplingOptions& sampling = options.sampling;
  command.add_flag("--greedy", options.greedy, "Always take the likeliest token");
  command.add_option("--temperature", sampling.temperature, "0: greedy (default: 1)")->type_name("T");
  command.add_option("--top-k", sampling.top_k, "Draw from the K likeliest tokens; 0: from all (default: 50)")
      ->type_name("K");
  command.add_option("--top-p", sampling.top_p, "Draw from the likeliest tokens that make up this probability")
      ->type_name("P");
  command.add_option("--min-p", sampling.min_p, "Draw from tokens at least this likely compared with the likeliest")
      ->type_name("P");
  command.add_option("--repetition-penalty", sampling.repetition_penalty, "Weaken tokens that were seen (1: not)")
      ->type_name("F");
  command
      .add_option("--presence-penalty", sampling.presence_penalty, "Subtract from logits of tokens that were seen")
      ->type_name("F");
  command
      .add_option("--frequency-penalty", sampling.frequency_penalty,
                  "Subtract from logits of tokens as often as they were seen")
      ->type_name("F");
  command.add_option("--logit-bias", options.logit_bias, "Add VALUE to the logit of token ID; may be repeated")
      ->type_name("ID=VALUE")
      ->allow_extra_args(false);
  command.add_flag("--padded-vocabulary", sampling.padded_vocabulary,
                   "May draw the padding behind the vocabulary too, as the original's script does");
  command.add_option("--seed", sampling.seed, "The same seed draws the same text (default: 0)")->type_name("S");
}

}  // namespace

void add_generate_command(CLI::App& app) {
  auto options = std::make_shared<GenerateOptions>();
  options->sampling.temperature = 1.0;
  options->sampling.top_k = 50;
  CLI::App* command = app.add_subcommand("generate", "Continue a text");
  command->footer(
      "The text goes to stdout as it is drawn, figures go to stderr. A text ends at the tokenizer's end of text, at "
      "a\n"
      "stop string, at --stop-id, or after --max-tokens. Ctrl-C ends it cleanly, with exit status 130.");
  add_model_options(*command, options->model);
  command->add_option("-p,--prompt", options->prompts, "The text to continue; several are continued together")
      ->type_name("TEXT")
      ->allow_extra_args(false);
  command->add_option("--prompt-file", options->prompt_file, "A file with the text to continue")->type_name("FILE");
  command->add_option("--prompt-ids", options->prompt_ids, "Token ids to continue")->type_name("1,2,3");
  command->add_flag("--special-tokens", options->special_tokens,
                    "Read <|endoftext|> and its like in the prompt as the tokens they name");
  command->add_option("-n,--max-tokens", options->max_tokens, "At most so many new tokens (default: 128)")
      ->type_name("N")
      ->check(CLI::NonNegativeNumber);
  add_sampling_options(*command, *options);
  command->add_option("--stop", options->stop_strings, "End before this string; may be repeated")
      ->type_name("TEXT")
      ->allow_extra_args(false);
  command->add_option("--stop-id", options->stop_id, "End at this token (default: the tokenizer's end of text)")
      ->type_name("ID")
      ->check(CLI::NonNegativeNumber);
  command->add_flag("--ignore-end", options->ignore_end, "Go on after the end of text");
  command->add_flag("--echo", options->echo, "Print the prompt before its continuation");
  command->add_flag("--output-ids", options->output_ids,
                    "Print the new token ids, separated by commas, a line for each prompt, instead of text");
  command->add_option("--session-save", options->session_save, "Save the state after the last token to this file")
      ->type_name("FILE");
  command
      ->add_option("--session-load", options->session_load,
                   "Continue from a saved state; its sampling options hold "
                   "unless one is given")
      ->type_name("FILE");
  command->add_option("--piece", options->piece_tokens, "Tokens of the prompt read in one piece (default: chosen)")
      ->type_name("N")
      ->check(CLI::Range(1, 65536));
  add_device_options(*command, options->device);
  add_memory_budget_option(*command, options->memory_budget_bytes);
  add_trace_option(*command, options->trace);
  add_dtype_option(*command, options->dtype);
  add_conv_option(*command, options->conv);
  command->callback([options, command] {
    for (const char* name :
         {"--temperature", "--top-k", "--top-p", "--min-p", "--repetition-penalty", "--presence-penalty",
          "--frequency-penalty", "--logit-bias", "--padded-vocabulary", "--seed", "--greedy"}) {
      options->sampling_given = options->sampling_given || command->count(name) > 0;
    }
    if (options->greedy && command->count("--temperature") == 0) options->sampling.temperature = 0.0;
    parse_logit_bias(*options);
    check_usage(*options);
    Generation(*options).run();
  });
}

}  // namespace riverhorse::cli
