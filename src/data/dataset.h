// From text files to token files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "data/document_split.h"
#include "data/token_file.h"
#include "data/tokenizer.h"

namespace riverhorse {

struct DatasetOptions {
  SplitOptions split;
  int threads = 0;  // 0: as many as the machine has; the files are the same with any number
  // Bytes of the input files. Called by the thread that waits for the result; what it throws ends the work.
  std::function<void(std::uint64_t done, std::uint64_t total)> progress;
};

// Tokenizes every document into `train`, or into `validation` where the split says so (empty when nothing is split
// off), with an end-of-text token behind each where the tokenizer has one. The files appear when both are whole.
// Errors: as TextDocuments and TokenFileWriter; invalid_argument when a part would hold no document.
void tokenize_files(const TextInputs& inputs, const Tokenizer& tokenizer, const DatasetOptions& options,
                    const std::filesystem::path& train, const std::filesystem::path& validation);

struct Dataset {
  std::unique_ptr<TokenFile> train;
  std::unique_ptr<TokenFile> validation;  // null when nothing is split off
  bool from_cache = false;                // nothing had to be tokenized
};

// The same, kept in the cache folder under a hash of the files' bytes, the options and the tokenizer: the next call
// with the same finds it there, and one with anything else never does. `cache`: as resolve_cache_folder; without a
// cache the token files lie in the folder for temporary files and are gone with the process.
Dataset open_dataset(const TextInputs& inputs, const Tokenizer& tokenizer, const DatasetOptions& options,
                     const std::string& cache = {});

}  // namespace riverhorse
