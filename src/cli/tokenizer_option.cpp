#include "cli/tokenizer_option.h"

#include <limits>

#include "base/error.h"

namespace riverhorse::cli {

std::unique_ptr<Tokenizer> load_named_tokenizer(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) fail(StatusCode::not_found, "there is no tokenizer {}", path.string());
  if (path.extension() == ".json" && path.filename() != "vocab.json") return load_gpt2_tokenizer(path);
  const std::filesystem::path folder = std::filesystem::is_directory(path) ? path : path.parent_path();
  std::unique_ptr<Tokenizer> tokenizer = find_tokenizer(folder, std::numeric_limits<std::int32_t>::max());
  if (tokenizer == nullptr) {
    fail(StatusCode::not_found, "{}: no tokenizer.json, nor vocab.json with merges.txt",
         folder.empty() ? "." : folder.string());
  }
  return tokenizer;
}

}  // namespace riverhorse::cli
