// The tokenizer that --tokenizer names.
#pragma once

#include <filesystem>
#include <memory>

#include "data/tokenizer.h"

namespace riverhorse::cli {

// `path`: a model folder, a file in one, or a tokenizer.json of any name. Errors: not_found, bad_file.
std::unique_ptr<Tokenizer> load_named_tokenizer(const std::filesystem::path& path);

}  // namespace riverhorse::cli
