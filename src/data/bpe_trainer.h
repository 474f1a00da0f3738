// Learns a byte-level BPE vocabulary from text.
//
// Text is cut into words as GPT-2 does it (pretokenizer.h); a word starts as one symbol a byte. Again and again the
// neighbouring pair of symbols that occurs most often in all words, of equals the smallest (left id, then right id),
// becomes a new symbol everywhere. Sennrich, Haddow, Birch: "Neural Machine Translation of Rare Words with Subword
// Units" (2016); the work is proportional to what changes, not to the text: every pair knows where it occurs.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>

#include "data/bpe_tokenizer.h"
#include "data/pretokenizer.h"

namespace riverhorse {

inline constexpr std::int64_t kSmallestBpeVocabulary = 257;  // the bytes and <|endoftext|>
inline constexpr std::int64_t kLargestBpeVocabulary = 1 << 20;

// Takes text in any pieces that do not cut words; keeps one copy of each word. Not for several threads at once.
class BpeTrainer {
 public:
  // `text`: valid UTF-8.
  void add(std::string_view text);

  // Ids: 0 to 255 are the bytes, then the merged symbols in the order they were found, the last is <|endoftext|>.
  // Fewer than `vocab_size` tokens when no pair is left that occurs twice. The same whatever the order of the text.
  // Errors: invalid_argument for a size out of range; unsupported for more than 4 GiB of different words.
  BpeVocabulary train(std::int64_t vocab_size) const;

 private:
  Pretokenizer pretokenizer_;
  std::unordered_map<std::string, std::uint64_t> words_;  // how often each occurs
};

// The vocabulary as a tokenizer.json, which load_gpt2_tokenizer and Hugging Face's tokenizers read back.
std::string tokenizer_json(const BpeVocabulary& vocabulary);

}  // namespace riverhorse
