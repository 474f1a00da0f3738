// Byte-level BPE as GPT-2 does it, over a vocabulary that somebody has read and checked (tokenizer_files.cpp).
//
// How text becomes ids:
//   1. Added tokens are cut out (see AddedToken); what lies between them is encoded by itself.
//   2. Each maximal run of valid UTF-8 is cut into words by GPT-2's pattern, and each word is merged by rank.
//   3. Bytes that are not valid UTF-8 are one token each, so that decode(encode(x)) == x for any bytes. OpenAI's
//      encoder never sees such bytes: Python decodes them to U+FFFD first, and they are lost. A run of valid text
//      ends where invalid bytes begin, as if the text ended there.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/bpe_merger.h"
#include "data/pretokenizer.h"
#include "data/tokenizer.h"

namespace riverhorse {

// A token that is matched as a whole before anything else.
struct AddedToken {
  std::string text;  // bytes, not empty
  std::int32_t id = 0;
  bool special = true;  // matched only when the caller asks for special tokens; otherwise always
};

struct BpeVocabulary {
  struct Token {
    std::string bytes;
    std::int32_t id = 0;
  };
  struct Merge {
    std::int32_t left = 0, right = 0, merged = 0;  // ids; the rank is the index
  };
  std::string source;  // the file's name, for messages
  std::vector<Token> tokens;
  std::vector<Merge> merges;
  std::vector<AddedToken> added;
};

class BpeTokenizer final : public Tokenizer {
 public:
  // Errors: bad_file when ids repeat, are negative or leave more gaps than there are tokens, when a byte has no
  // token, or when a pair merges twice. Merges must be between ids of the vocabulary already.
  explicit BpeTokenizer(const BpeVocabulary& vocabulary);

  std::int64_t vocab_size() const override { return static_cast<std::int64_t>(spans_.size()); }
  std::vector<std::int32_t> encode(std::string_view text, bool special) const override;
  std::string_view token_bytes(std::int32_t id) const override;
  std::int32_t end_of_text() const override { return end_of_text_; }
  std::uint64_t fingerprint() const override { return fingerprint_; }
  std::size_t safe_cut(std::string_view text, std::size_t about) const override;

 private:
  struct Span {
    std::uint32_t offset = 0;
    std::uint32_t length = 0;
    bool used = false;  // false: a gap in the numbering
  };
  class Encoding;  // one call of encode
  void add_token(const std::string& source, std::string_view bytes, std::int32_t id);
  // The added token that starts at text[offset], the longest of several; null if there is none.
  const AddedToken* added_token_at(std::string_view text, std::size_t offset, bool special) const;

  Pretokenizer pretokenizer_;
  MergeTable merges_;
  std::string arena_;        // the bytes of all tokens
  std::vector<Span> spans_;  // by id
  std::array<std::int32_t, 256> byte_ids_{};
  std::array<std::vector<AddedToken>, 256> added_;  // by first byte, longest first
  std::int32_t end_of_text_ = -1;
  std::uint64_t fingerprint_ = 0;
  bool cuts_between_words_ = true;  // no token that is always matched reaches from one word into the next
};

// Of a vocabulary as files give it: the order of `tokens` does not matter.
std::uint64_t fingerprint_of(const BpeVocabulary& vocabulary);

// GPT-2 writes every byte as one printable character: the printable ones of Latin-1 as themselves, the other 68 in
// order as U+0100, U+0101, ... Returns false when `text` has other characters (then `bytes` is unspecified).
bool decode_byte_alphabet(std::string_view text, std::string& bytes);
// The character of one byte.
char32_t byte_alphabet_character(unsigned char byte);
// The characters of some bytes as UTF-8: what decode_byte_alphabet reads.
std::string encode_byte_alphabet(std::string_view bytes);

}  // namespace riverhorse
