#include "cli/train_data.h"

#include <fmt/format.h>

#include <filesystem>

#include "base/error.h"
#include "base/log.h"
#include "cli/options.h"
#include "data/dataset.h"
#include "data/memory_tokens.h"
#include "data/text_documents.h"
#include "data/token_file.h"
#include "formats/tensor_file.h"

namespace riverhorse::cli {
namespace {

bool is_text(const std::vector<std::string>& paths) {
  if (paths.size() != 1) return true;
  std::error_code absent;
  const bool pattern =
      paths[0].find_first_of("*?[") != std::string::npos && !std::filesystem::exists(paths[0], absent);
  return pattern || is_text_file(paths[0]);
}

std::unique_ptr<TokenSource> open_token_file(const std::string& path, const Tokenizer* tokenizer,
                                             std::int64_t vocabulary) {
  auto file = std::make_unique<TokenFile>(path);
  if (file->header().vocab_size > static_cast<std::uint64_t>(vocabulary)) {
    fail(StatusCode::invalid_argument,
         "{} has tokens of a vocabulary of {}, and the model's has {}; tokenize with the model's tokenizer, or make "
         "the model with --set vocab_size={}",
         path, file->header().vocab_size, vocabulary, file->header().vocab_size);
  }
  if (tokenizer != nullptr && file->header().tokenizer_hash != tokenizer->fingerprint()) {
    log_warning(fmt::format("{} was made with another tokenizer than the one that goes into the checkpoints", path));
  }
  return file;
}

std::unique_ptr<TokenSource> open_tokens(const std::string& path, const Tokenizer* tokenizer,
                                         std::int64_t vocabulary) {
  if (!path.ends_with(".safetensors")) return open_token_file(path, tokenizer, vocabulary);
  const std::vector<std::int64_t> wide = to_integers(read_safetensors(path).at("tokens"));
  std::vector<std::int32_t> tokens(wide.size());
  for (std::size_t i = 0; i < wide.size(); ++i) {
    if (wide[i] < 0 || wide[i] >= vocabulary) {
      fail(StatusCode::bad_file, "{}: token {} of {} has id {}; the model's vocabulary is 0 to {}", path, i,
           wide.size(), wide[i], vocabulary - 1);
    }
    tokens[i] = static_cast<std::int32_t>(wide[i]);
  }
  return std::make_unique<MemoryTokens>(std::move(tokens));
}

void tell(const TokenFile& file, const char* part, bool from_cache) {
  const TokenFileHeader& header = file.header();
  log_info(fmt::format("{}: {} tokens, {} documents, {} rows left out; {} {}", part, header.tokens, header.documents,
                       header.left_out, from_cache ? "found as" : "tokenized into", file.path().string()));
}

Dataset open_text(const TrainerOptions& options, const std::vector<std::string>& paths, double validation_percent,
                  const Tokenizer* tokenizer, std::int64_t vocabulary, const std::string& cache, const char* part) {
  if (tokenizer == nullptr) {
    fail(StatusCode::invalid_argument,
         "{} is text, and there is no tokenizer for a vocabulary of {}; give --tokenizer FOLDER, or take bytes with "
         "--set vocab_size=257",
         paths[0], vocabulary);
  }
  DatasetOptions dataset;
  dataset.split = {validation_percent, static_cast<std::uint64_t>(options.seed)};
  dataset.progress = [progress = progress_line("tokenizing")](std::uint64_t done, std::uint64_t total) {
    if (interrupted()) fail(StatusCode::cancelled, "stopped while tokenizing; nothing was trained");
    if (progress) progress(done, total);
  };
  Dataset opened = open_dataset({paths, options.column, options.field}, *tokenizer, dataset, cache);
  tell(*opened.train, part, opened.from_cache);
  if (opened.validation) tell(*opened.validation, "validation data", opened.from_cache);
  return opened;
}

}  // namespace

TrainingData open_training_data(const TrainerOptions& options, const Tokenizer* tokenizer, std::int64_t vocabulary,
                                const std::string& cache) {
  const bool splits = options.validation_percent > 0;
  if (splits && !options.validation_data.empty()) {
    fail(StatusCode::invalid_argument, "--validation-percent and --validation-data exclude each other");
  }
  if (splits && !is_text(options.data)) {
    fail(StatusCode::invalid_argument,
         "--validation-percent is of documents of text, and {} holds tokens; riverhorse tokenize splits them off",
         options.data[0]);
  }
  TrainingData data;
  if (is_text(options.data)) {
    Dataset opened =
        open_text(options, options.data, options.validation_percent, tokenizer, vocabulary, cache, "training data");
    data.train = std::move(opened.train);
    data.validation = std::move(opened.validation);
  } else {
    data.train = open_tokens(options.data[0], tokenizer, vocabulary);
  }
  if (options.validation_data.empty()) return data;
  if (is_text(options.validation_data)) {
    data.validation =
        open_text(options, options.validation_data, 0, tokenizer, vocabulary, cache, "validation data").train;
  } else {
    data.validation = open_tokens(options.validation_data[0], tokenizer, vocabulary);
  }
  return data;
}

}  // namespace riverhorse::cli
