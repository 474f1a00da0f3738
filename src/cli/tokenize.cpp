// riverhorse tokenize: text files to a token file, with a tokenizer that is there or one learned from the text.
#include <CLI/CLI.hpp>
#include <chrono>
#include <filesystem>
#include <memory>
#include <string>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/tokenizer_option.h"
#include "data/bpe_trainer.h"
#include "data/dataset.h"

namespace riverhorse::cli {
namespace {

struct TokenizeOptions {
  TextInputs inputs;
  std::string tokenizer;  // a model folder, a file in one, or a tokenizer.json
  bool bytes = false;
  std::int64_t train_bpe = 0;    // tokens; 0: not
  std::string output_tokenizer;  // empty: tokenizer.json beside the output
  std::string output;
  std::string validation_output;
  SplitOptions split;
  int threads = 0;
};

// From the documents that train: those that validate stay unseen.
std::unique_ptr<Tokenizer> train_tokenizer(const TokenizeOptions& options) {
  constexpr std::size_t piece_bytes = 1 << 20;
  const ProgressFunction progress = progress_line("reading words");
  SplitDocuments documents(options.inputs, options.split);
  BpeTrainer trainer;
  TextDocument document;
  DatasetPart part{};
  while (documents.next(document, part)) {
    if (part != DatasetPart::train) continue;
    // In pieces, so that Ctrl-C is heard within a long document.
    for (std::string_view text = document.text; !text.empty();) {
      if (interrupted()) fail(StatusCode::cancelled, "stopped; nothing was written");
      const std::size_t length = cut_between_words(text, piece_bytes);
      trainer.add(text.substr(0, length));
      text.remove_prefix(length);
      if (progress) progress(documents.bytes_read() - text.size(), documents.bytes_total());
    }
  }
  const BpeVocabulary vocabulary = trainer.train(options.train_bpe);
  const auto tokens = static_cast<std::int64_t>(vocabulary.tokens.size() + vocabulary.added.size());
  if (tokens < options.train_bpe) {
    log_warning(fmt::format("the vocabulary has {} tokens, not {}: no other pair occurs twice in the text", tokens,
                            options.train_bpe));
  }
  const std::filesystem::path path = options.output_tokenizer.empty()
                                         ? std::filesystem::path(options.output).parent_path() / "tokenizer.json"
                                         : std::filesystem::path(options.output_tokenizer);
  AtomicFileWriter writer(path);
  writer.write(tokenizer_json(vocabulary));
  writer.commit();
  fmt::print("{}: {} tokens, {} merges\n", path.string(), tokens, vocabulary.merges.size());
  return std::make_unique<BpeTokenizer>(vocabulary);
}

void print_summary(const std::string& path) {
  const TokenFile file(path);
  const TokenFileHeader& header = file.header();
  fmt::print("{}: {} tokens of {} bytes, {} documents, {:.3f} bytes of text a token\n", path, header.tokens,
             header.token_bytes, header.documents,
             static_cast<double>(header.text_bytes) / static_cast<double>(header.tokens));
}

void check(const TokenizeOptions& options) {
  const int tokenizers =
      (options.tokenizer.empty() ? 0 : 1) + (options.bytes ? 1 : 0) + (options.train_bpe > 0 ? 1 : 0);
  if (tokenizers != 1) {
    fail(StatusCode::invalid_argument, "give one of --tokenizer, --bytes and --train-bpe");
  }
  if (!options.output_tokenizer.empty() && options.train_bpe == 0) {
    fail(StatusCode::invalid_argument, "--output-tokenizer is for --train-bpe");
  }
  if ((options.split.validation_percent > 0) == options.validation_output.empty()) {
    fail(StatusCode::invalid_argument, "--validation-percent and --validation-output need each other");
  }
  if (options.output == options.validation_output) {
    fail(StatusCode::invalid_argument, "--output and --validation-output are both {}", options.output);
  }
}

void run(const TokenizeOptions& options) {
  check(options);
  const auto start = std::chrono::steady_clock::now();
  const std::unique_ptr<Tokenizer> tokenizer = options.bytes           ? make_byte_tokenizer()
                                               : options.train_bpe > 0 ? train_tokenizer(options)
                                                                       : load_named_tokenizer(options.tokenizer);
  DatasetOptions dataset;
  dataset.split = options.split;
  dataset.threads = options.threads;
  dataset.progress = [progress = progress_line("tokenizing")](std::uint64_t done, std::uint64_t total) {
    if (interrupted()) fail(StatusCode::cancelled, "stopped; no token file was written");
    if (progress) progress(done, total);
  };
  TextInputs inputs = options.inputs;
  inputs.warn = options.train_bpe == 0;  // otherwise the first pass has
  tokenize_files(inputs, *tokenizer, dataset, options.output, options.validation_output);
  print_summary(options.output);
  if (!options.validation_output.empty()) print_summary(options.validation_output);
  if (const std::uint64_t rows = TokenFile(options.output).header().left_out; rows > 0) {
    fmt::print("{} rows were left out\n", rows);
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  fmt::print("{:.1f} seconds\n", seconds.count());
}

}  // namespace

void add_tokenize_command(CLI::App& app) {
  auto options = std::make_shared<TokenizeOptions>();
  CLI::App* command = app.add_subcommand("tokenize", "Turn text files into a token file for training");
  command->footer(
      "A .txt file is one document; .csv has one a row (--column), .json an array and .jsonl a line (--field).\n"
      "Patterns such as \"books/*.txt\" may be given in quotes. Rows that cannot be used are named and left out.");
  command->add_option("-i,--input", options->inputs.paths, "Text files: .txt, .csv, .json or .jsonl; patterns too")
      ->type_name("FILES")
      ->required();
  command->add_option("-o,--output", options->output, "The token file to write")->type_name("FILE")->required();
  command->add_option("--tokenizer", options->tokenizer, "A model folder, or a tokenizer.json")->type_name("PATH");
  command->add_flag("--bytes", options->bytes, "One token a byte, and one for the end of a text");
  command
      ->add_option("--train-bpe", options->train_bpe,
                   "Learn a byte-level BPE vocabulary of N tokens from the text that is for training")
      ->type_name("N")
      ->check(CLI::Range(kSmallestBpeVocabulary, kLargestBpeVocabulary));
  command
      ->add_option("--output-tokenizer", options->output_tokenizer,
                   "Where to write the vocabulary learned (default: tokenizer.json beside the output)")
      ->type_name("FILE");
  command->add_option("--column", options->inputs.column, "Column of .csv files (default: text)")->type_name("NAME");
  command->add_option("--field", options->inputs.field, "Field of .json and .jsonl files (default: text)")
      ->type_name("NAME");
  command
      ->add_option("--validation-percent", options->split.validation_percent,
                   "Share of the documents to set aside; of a single document, its end")
      ->type_name("P")
      ->check(CLI::Range(0.0, 99.9));
  command->add_option("--validation-output", options->validation_output, "The token file for them")
      ->type_name("FILE");
  command->add_option("--seed", options->split.seed, "Chooses which documents are set aside (default: 0)")
      ->type_name("N");
  command->add_option("--threads", options->threads, "Threads (default: one a core); the result is the same with any")
      ->type_name("N")
      ->check(CLI::Range(1, 1024));
  command->callback([options] { run(*options); });
}

}  // namespace riverhorse::cli
