// Text to token ids and back.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/memory_file.h"

namespace riverhorse {

// Immutable after loading; safe to share between threads.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  virtual std::int64_t vocab_size() const = 0;
  // Any bytes, valid UTF-8 or not. `special`: texts of special tokens ("<|endoftext|>") become their ids;
  // without it they are encoded as the plain characters they are.
  virtual std::vector<std::int32_t> encode(std::string_view text, bool special) const = 0;
  // The bytes of one token; a token may be part of a UTF-8 character. invalid_argument for an unknown id.
  virtual std::string_view token_bytes(std::int32_t id) const = 0;
  virtual std::int32_t end_of_text() const = 0;  // -1: none
  // The same for tokenizers that give the same ids for every text, different for others (but for chance).
  virtual std::uint64_t fingerprint() const = 0;
  // A place at or after `about` where a text that is valid UTF-8 can be cut so that the ids of the parts are the ids
  // of the whole (`special` false); text.size() where there is none.
  virtual std::size_t safe_cut(std::string_view text, std::size_t about) const = 0;

  std::string decode(const std::vector<std::int32_t>& ids) const;
};

// One token a byte: ids 0 to 255, and 256 for end of text.
std::unique_ptr<Tokenizer> make_byte_tokenizer();

// The same for a model of `vocab_size` tokens without a tokenizer of its own: null unless that is 257 to 512.
std::unique_ptr<Tokenizer> fitting_byte_tokenizer(std::int64_t vocab_size);

// GPT-2's byte-level BPE from `tokenizer.json`, or from `vocab.json` and `merges.txt`. Errors: bad_file.
std::unique_ptr<Tokenizer> load_gpt2_tokenizer(const std::filesystem::path& tokenizer_json);
std::unique_ptr<Tokenizer> load_gpt2_tokenizer(const std::filesystem::path& vocab_json,
                                               const std::filesystem::path& merges_txt);

// Whatever the model folder has: tokenizer.json, or vocab.json + merges.txt, or (when vocab_size is at most 512 and
// there is neither) the byte tokenizer. Null when there is nothing that fits.
std::unique_ptr<Tokenizer> find_tokenizer(const std::filesystem::path& folder, std::int64_t vocab_size);
// The same from memory, by the same names. Errors: as above; not_found for one of vocab.json and merges.txt alone.
std::unique_ptr<Tokenizer> find_tokenizer(std::span<const MemoryFile> files, std::int64_t vocab_size);

// Refuses a tokenizer, found in `source`, with more ids than the model's vocabulary has. Errors: bad_file.
std::unique_ptr<Tokenizer> require_fitting(std::unique_ptr<Tokenizer> tokenizer, const std::string& source,
                                           std::int64_t vocab_size);

}  // namespace riverhorse
