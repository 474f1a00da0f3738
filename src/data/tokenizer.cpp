#include "data/tokenizer.h"

#include <utility>

#include "base/error.h"

namespace riverhorse {
namespace {

constexpr std::int64_t kLargestByteVocabulary = 512;

bool is_there(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

}  // namespace

std::string Tokenizer::decode(const std::vector<std::int32_t>& ids) const {
  std::string text;
  for (const std::int32_t id : ids) text += token_bytes(id);
  return text;
}

std::unique_ptr<Tokenizer> fitting_byte_tokenizer(std::int64_t vocab_size) {
  if (vocab_size > kLargestByteVocabulary) return nullptr;
  std::unique_ptr<Tokenizer> tokenizer = make_byte_tokenizer();
  return tokenizer->vocab_size() <= vocab_size ? std::move(tokenizer) : nullptr;
}

std::unique_ptr<Tokenizer> find_tokenizer(const std::filesystem::path& folder, std::int64_t vocab_size) {
  const std::filesystem::path tokenizer_json = folder / "tokenizer.json";
  const std::filesystem::path vocab_json = folder / "vocab.json";
  const std::filesystem::path merges_txt = folder / "merges.txt";
  std::unique_ptr<Tokenizer> tokenizer;
  if (is_there(tokenizer_json)) {
    tokenizer = load_gpt2_tokenizer(tokenizer_json);
  } else if (is_there(vocab_json) || is_there(merges_txt)) {
    // One without the other is a mistake: loading names the file that is missing.
    tokenizer = load_gpt2_tokenizer(vocab_json, merges_txt);
  } else {
    return fitting_byte_tokenizer(vocab_size);
  }
  return require_fitting(std::move(tokenizer), folder.string(), vocab_size);
}

std::unique_ptr<Tokenizer> require_fitting(std::unique_ptr<Tokenizer> tokenizer, const std::string& source,
                                           std::int64_t vocab_size) {
  if (tokenizer->vocab_size() > vocab_size) {
    fail(StatusCode::bad_file, "the tokenizer in {} has {} ids, but the model's vocabulary has {}", source,
         tokenizer->vocab_size(), vocab_size);
  }
  return tokenizer;
}

}  // namespace riverhorse
