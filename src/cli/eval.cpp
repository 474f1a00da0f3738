// riverhorse eval: how well a model knows given texts.
#include <CLI/CLI.hpp>
#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/eval_report.h"
#include "cli/options.h"
#include "data/dataset.h"
#include "engine/evaluation.h"
#include "engine/evaluation_tasks.h"

namespace riverhorse::cli {
namespace {

struct EvalOptions {
  ModelOptions model;
  DeviceChoiceOptions device;
  std::uint64_t memory_budget_bytes = 0;
  DType dtype = DType::f32;
  ConvAlgorithm conv = ConvAlgorithm::automatic;
  std::string task = "text";
  TextInputs data;
  TextLossOptions text;  // batch and limit of every task
  bool json = false;
};

std::vector<std::filesystem::path> data_files(const std::vector<std::string>& names) {
  std::vector<std::filesystem::path> files;
  for (const std::string& name : names) {
    std::error_code error;
    if (std::filesystem::is_regular_file(name, error)) {
      files.emplace_back(name);
    } else {
      for (const std::filesystem::path& file : find_text_files({name})) files.push_back(file);
    }
  }
  return files;
}

ProgressFunction interruptible_progress(const std::string& what) {
  return [progress = progress_line(what)](std::uint64_t done, std::uint64_t total) {
    if (interrupted()) fail(StatusCode::cancelled, "stopped; there is no result");
    if (progress) progress(done, total);
  };
}

class Evaluation {
 public:
  explicit Evaluation(const EvalOptions& options) : options_(options), files_(data_files(options.data.paths)) {}

  void run() {
    CheckpointOptions load;
    load.config_path = options_.model.config;
    const Checkpoint checkpoint = load_checkpoint(options_.model.model, load);
    for (const std::string& warning : checkpoint.warnings) log_warning(warning);
    tokenizer_ = find_tokenizer(checkpoint.folder, checkpoint.config.vocab_size);
    open_data(checkpoint);
    EngineOptions engine_options;
    engine_options.dtype = options_.dtype;
    engine_options.conv = options_.conv;
    engine_options.cache_folder = options_.device.cache;
    engine_options.max_sessions = 1;
    engine_options.context_tokens = 1;  // Engine::forward has states of its own
    engine_options.memory_budget_bytes = options_.memory_budget_bytes;
    engine_options.forward_tokens = std::max<std::int64_t>(1, options_.text.window);  // at least
    engine_options.progress = progress_line("loading");
    Engine engine(open_chosen_device(options_.device), checkpoint, engine_options);

    EvalReport report;
    report.task = options_.task;
    report.model = options_.model.model;
    report.device = engine.device().info();
    report.dtype = options_.dtype;
    for (const auto& source : sources_) report.rows_left_out += source->header().left_out;
    evaluate(engine, report);
    const std::string text = options_.json ? eval_json(report) : eval_table(report);
    std::fwrite(text.data(), 1, text.size(), stdout);
  }

 private:
  // Everything is read and checked before the model is loaded.
  void open_data(const Checkpoint& checkpoint) {
    for (const std::filesystem::path& file : files_) {
      if (options_.task == "text" && !is_text_file(file)) {
        sources_.push_back(open_token_file(file, checkpoint));
        continue;
      }
      if (tokenizer_ == nullptr) {
        fail(StatusCode::not_found,
             "{} is text, and {} has neither tokenizer.json nor vocab.json and merges.txt; put them there{}",
             file.string(), checkpoint.folder.string(), options_.task == "text" ? ", or give a token file" : "");
      }
      if (options_.task == "text") sources_.push_back(open_text(file));
      if (options_.task == "lambada") last_words_.push_back(read_last_word_rows(file, options_.text.limit));
      if (options_.task == "choice") choices_.push_back(read_choice_rows(file, options_.text.limit));
    }
  }

  std::unique_ptr<TokenFile> open_text(const std::filesystem::path& file) const {
    TextInputs inputs = options_.data;
    inputs.paths = {file.string()};
    DatasetOptions dataset;
    dataset.progress = interruptible_progress("tokenizing");
    return open_dataset(inputs, *tokenizer_, dataset, options_.device.cache).train;
  }

  std::unique_ptr<TokenFile> open_token_file(const std::filesystem::path& file, const Checkpoint& checkpoint) const {
    auto tokens = std::make_unique<TokenFile>(file);
    if (tokenizer_ != nullptr && tokens->header().tokenizer_hash != tokenizer_->fingerprint()) {
      fail(StatusCode::bad_file,
           "{} was made with another tokenizer than that of {}; make it again with riverhorse tokenize --tokenizer",
           file.string(), checkpoint.folder.string());
    }
    const std::int64_t vocabulary = checkpoint.config.padded_vocab_size();
    if (tokens->header().vocab_size > static_cast<std::uint64_t>(vocabulary)) {
      fail(StatusCode::bad_file, "{} has tokens of a vocabulary of {}, and the model's has {}", file.string(),
           tokens->header().vocab_size, vocabulary);
    }
    return tokens;
  }

  void evaluate(Engine& engine, EvalReport& report) const {
    TextLossOptions options = options_.text;
    if (options_.task == "text") {
      evaluate_files(report, [&](std::size_t i, const ProgressFunction& progress) {
        options.progress = progress;
        return evaluate_loss(engine, *sources_[i], tokenizer_.get(), options);
      });
      report.notes = text_notes();
    } else if (options_.task == "lambada") {
      evaluate_files(report, [&](std::size_t i, const ProgressFunction& progress) {
        options.progress = progress;
        return evaluate_last_words(engine, *tokenizer_, last_words_[i], options);
      });
      report.notes = {"right: every token of the last word is the greedy choice; perplexity: of the word"};
    } else {
      evaluate_files(report, [&](std::size_t i, const ProgressFunction& progress) {
        options.progress = progress;
        return evaluate_choices(engine, *tokenizer_, choices_[i], options);
      });
      report.notes = {
          "right: the answer has the largest log-probability of the choices; by byte: divided by its bytes"};
    }
  }

  // A row for each file and one for all. `evaluate(i, progress)` gives the result of file i.
  template <typename Evaluate>
  void evaluate_files(EvalReport& report, const Evaluate& evaluate) const {
    using Result = std::invoke_result_t<Evaluate, std::size_t, const ProgressFunction&>;
    std::optional<Result> total;
    double total_seconds = 0;
    for (std::size_t i = 0; i < files_.size(); ++i) {
      const auto start = std::chrono::steady_clock::now();
      const Result result = evaluate(i, interruptible_progress("scoring " + files_[i].string()));
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
      report.files.push_back({files_[i].string(), metrics_of(result, seconds.count())});
      total = total ? * total += result : result;
      total_seconds += seconds.count();
    }
    report.total.metrics = metrics_of(*total, total_seconds);
  }

  std::vector<std::string> text_notes() const {
    const TextLossOptions& text = options_.text;
    std::vector<std::string> notes;
    notes.push_back(text.packed ? "all documents of a file as one text, the state carried from one to the next"
                                : "each document from its own start");
    if (text.window > 0) notes.push_back(fmt::format("in windows of {} tokens, {} apart", text.window, text.stride));
    notes.push_back("the first token of a text has no context and is not scored");
    notes.push_back(tokenizer_ ? "bytes: of the scored tokens, decoded; an end of text has none"
                               : "bytes: not known, as the model has no tokenizer to decode the tokens with");
    return notes;
  }

  const EvalOptions& options_;
  std::vector<std::filesystem::path> files_;
  std::unique_ptr<Tokenizer> tokenizer_;
  // One a file, of the task at hand.
  std::vector<std::unique_ptr<TokenFile>> sources_;
  std::vector<std::vector<LastWordRow>> last_words_;
  std::vector<std::vector<ChoiceRow>> choices_;
};

void check_usage(const CLI::App& command, EvalOptions& options) {
  if (options.task != "text") {
    for (const char* name : {"--column", "--field", "--packed", "--window", "--stride"}) {
      if (command.count(name) > 0) {
        fail(StatusCode::invalid_argument, "{} is not for --task {}", name, options.task);
      }
    }
  }
  TextLossOptions& text = options.text;
  if (text.stride > 0 && text.window == 0) fail(StatusCode::invalid_argument, "--stride needs --window");
  if (text.window > 0 && text.stride == 0) text.stride = text.window / 2;
  if (text.window > 0 && text.stride >= text.window) {
    fail(StatusCode::invalid_argument, "--stride is {}; it must be from 1 to {}, below the window", text.stride,
         text.window - 1);
  }
}

}  // namespace

void add_eval_command(CLI::App& app) {
  auto options = std::make_shared<EvalOptions>();
  CLI::App* command = app.add_subcommand("eval", "Measure how well a model knows given texts");
  command->footer(
      "Without --task, loss (nats a token), perplexity and bits per byte of texts: .txt, .csv, .json and .jsonl as\n"
      "tokenize reads them, or token files. Each document is read from its start, the state carried to its end.\n"
      "--task lambada reads {\"text\": ...} a line: is the last word what the model would say? --task choice reads\n"
      "{\"context\": ..., \"choices\": [...], \"answer\": INDEX} a line: is the right choice the likeliest?");
  add_model_options(*command, options->model);
  command->add_option("-d,--data", options->data.paths, "Text files, patterns, or token files")
      ->type_name("FILES")
      ->required();
  command->add_option("--task", options->task, "lambada or choice (default: loss and perplexity of the texts)")
      ->type_name("NAME")
      ->check(CLI::IsMember({"lambada", "choice"}));
  command->add_option("--column", options->data.column, "Column of .csv files (default: text)")->type_name("NAME");
  command->add_option("--field", options->data.field, "Field of .json and .jsonl files (default: text)")
      ->type_name("NAME");
  command->add_flag("--packed", options->text.packed,
                    "All documents of a file as one text, instead of each from its own start");
  command
      ->add_option("--window", options->text.window, "Score in windows of N tokens (default: the whole text at once)")
      ->type_name("N")
      ->check(CLI::Range(2, 1 << 30));
  command->add_option("--stride", options->text.stride, "Tokens from one window to the next (default: half a window)")
      ->type_name("N")
      ->check(CLI::Range(1, 1 << 30));
  command->add_option("--limit", options->text.limit, "Only the first N documents or rows of each file")
      ->type_name("N")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 40));
  command->add_option("--batch", options->text.batch, "Texts read together (default: 8)")
      ->type_name("N")
      ->check(CLI::Range(1, 65536));
  command->add_flag("--json", options->json, "Print JSON");
  add_device_options(*command, options->device);
  add_memory_budget_option(*command, options->memory_budget_bytes);
  add_dtype_option(*command, options->dtype);
  add_conv_option(*command, options->conv);
  command->callback([options, command] {
    check_usage(*command, *options);
    Evaluation(*options).run();
  });
}

}  // namespace riverhorse::cli
