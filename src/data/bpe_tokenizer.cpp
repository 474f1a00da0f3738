#include "data/bpe_tokenizer.h"

#include <algorithm>
#include <limits>
#include <map>
#include <span>
#include <unordered_map>

#include "base/error.h"
#include "base/hash.h"
#include "data/utf8.h"

namespace riverhorse {
namespace {

constexpr std::string_view kEndOfText = "<|endoftext|>";
constexpr std::size_t kCachedWordBytes = 48;    // longer words are rarely seen twice
constexpr std::size_t kCachedWords = 1u << 16;  // about 8 MiB at most

// Bytes that stand for themselves in GPT-2's alphabet.
bool is_printable_latin1(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
}

struct ByteAlphabet {
  std::array<char32_t, 256> character{};
  std::array<int, 0x100 + 68> byte{};  // by character; -1: not in the alphabet

  ByteAlphabet() {
    byte.fill(-1);
    char32_t next = 0x100;
    for (unsigned value = 0; value < 256; ++value) {
      character[value] = is_printable_latin1(value) ? static_cast<char32_t>(value) : next++;
      byte[character[value]] = static_cast<int>(value);
    }
  }
};

const ByteAlphabet& byte_alphabet() {
  static const ByteAlphabet alphabet;
  return alphabet;
}

}  // namespace

char32_t byte_alphabet_character(unsigned char byte) { return byte_alphabet().character[byte]; }

std::string encode_byte_alphabet(std::string_view bytes) {
  std::string text;
  for (const char byte : bytes) {
    const char32_t character = byte_alphabet_character(static_cast<unsigned char>(byte));
    if (character < 0x80) {
      text.push_back(static_cast<char>(character));
    } else {
      text.push_back(static_cast<char>(0xC0 | (character >> 6)));
      text.push_back(static_cast<char>(0x80 | (character & 0x3F)));
    }
  }
  return text;
}

bool decode_byte_alphabet(std::string_view text, std::string& bytes) {
  const ByteAlphabet& alphabet = byte_alphabet();
  bytes.clear();
  for (std::size_t offset = 0; offset < text.size();) {
    const auto lead = static_cast<unsigned char>(text[offset]);
    std::uint32_t character = lead;
    if (lead >= 0x80) {  // the whole alphabet is below U+0800: two bytes at most
      if ((lead & 0xE0) != 0xC0 || offset + 1 == text.size()) return false;
      const auto second = static_cast<unsigned char>(text[offset + 1]);
      if ((second & 0xC0) != 0x80) return false;
      character = (static_cast<std::uint32_t>(lead & 0x1F) << 6) | (second & 0x3Fu);
      ++offset;
    }
    ++offset;
    if (character >= alphabet.byte.size() || alphabet.byte[character] < 0) return false;
    bytes.push_back(static_cast<char>(alphabet.byte[character]));
  }
  return true;
}

std::uint64_t fingerprint_of(const BpeVocabulary& vocabulary) {
  std::map<std::int32_t, std::string_view> tokens;
  for (const BpeVocabulary::Token& token : vocabulary.tokens) tokens.emplace(token.id, token.bytes);
  std::map<std::int32_t, const AddedToken*> added;
  for (const AddedToken& token : vocabulary.added) {
    tokens.emplace(token.id, token.text);  // files may list it in both places
    added.emplace(token.id, &token);
  }
  Hash hash;
  hash.add(tokens.size()).add(vocabulary.merges.size()).add(added.size());
  for (const auto& [id, bytes] : tokens) hash.add(id).add(bytes);
  for (const BpeVocabulary::Merge& merge : vocabulary.merges) hash.add(merge.left).add(merge.right).add(merge.merged);
  for (const auto& [id, token] : added) hash.add(id).add(token->special);
  return hash.value();
}

void BpeTokenizer::add_token(const std::string& source, std::string_view bytes, std::int32_t id) {
  Span& span = spans_[static_cast<std::size_t>(id)];
  if (span.used) fail(StatusCode::bad_file, "{}: two tokens have the id {}", source, id);
  if (arena_.size() + bytes.size() > std::numeric_limits<std::uint32_t>::max()) {
    fail(StatusCode::bad_file, "{}: the vocabulary is larger than 4 GiB", source);
  }
  span = {static_cast<std::uint32_t>(arena_.size()), static_cast<std::uint32_t>(bytes.size()), true};
  arena_ += bytes;
}

BpeTokenizer::BpeTokenizer(const BpeVocabulary& vocabulary) {
  const std::string& source = vocabulary.source;
  std::int64_t size = 0;
  const auto count_id = [&](std::int32_t id) {
    if (id < 0) fail(StatusCode::bad_file, "{}: a token has the negative id {}", source, id);
    size = std::max(size, std::int64_t{id} + 1);
  };
  for (const BpeVocabulary::Token& token : vocabulary.tokens) count_id(token.id);
  for (const AddedToken& token : vocabulary.added) count_id(token.id);
  const auto tokens = static_cast<std::int64_t>(vocabulary.tokens.size() + vocabulary.added.size());
  if (size > 2 * tokens) {
    fail(StatusCode::bad_file, "{}: ids go up to {} but there are only {} tokens", source, size - 1, tokens);
  }
  spans_.resize(static_cast<std::size_t>(size));
  byte_ids_.fill(-1);
  for (const BpeVocabulary::Token& token : vocabulary.tokens) {
    add_token(source, token.bytes, token.id);
    if (token.bytes.size() == 1) byte_ids_[static_cast<unsigned char>(token.bytes[0])] = token.id;
    if (token.bytes == kEndOfText) end_of_text_ = token.id;
  }
  for (unsigned byte = 0; byte < 256; ++byte) {
    if (byte_ids_[byte] < 0)
      fail(StatusCode::bad_file, "{}: the vocabulary has no token for the byte {:#04x}", source, byte);
  }
  for (const AddedToken& token : vocabulary.added) {
    const Span& span = spans_[static_cast<std::size_t>(token.id)];
    if (!span.used) {
      add_token(source, token.text, token.id);
    } else if (token_bytes(token.id) != token.text) {
      fail(StatusCode::bad_file, "{}: the added token \"{}\" has the id {} of another token", source, token.text,
           token.id);
    }
    if (token.text == kEndOfText) end_of_text_ = token.id;
    if (!token.special && cut_between_words(token.text, 1) < token.text.size()) cuts_between_words_ = false;
    std::vector<AddedToken>& list = added_[static_cast<unsigned char>(token.text[0])];
    for (const AddedToken& other : list) {
      if (other.text == token.text) fail(StatusCode::bad_file, "{}: \"{}\" is added twice", source, token.text);
    }
    list.push_back(token);
  }
  for (std::vector<AddedToken>& list : added_) {
    std::stable_sort(list.begin(), list.end(),
                     [](const AddedToken& a, const AddedToken& b) { return a.text.size() > b.text.size(); });
  }
  merges_.reserve(vocabulary.merges.size());
  for (std::size_t rank = 0; rank < vocabulary.merges.size(); ++rank) {
    const BpeVocabulary::Merge& merge = vocabulary.merges[rank];
    if (!merges_.insert(merge.left, merge.right, {static_cast<std::uint32_t>(rank), merge.merged})) {
      fail(StatusCode::bad_file, "{}: merge {} repeats an earlier one", source, rank);
    }
  }
  fingerprint_ = fingerprint_of(vocabulary);
}

std::size_t BpeTokenizer::safe_cut(std::string_view text, std::size_t about) const {
  return cuts_between_words_ ? cut_between_words(text, about) : text.size();
}

std::string_view BpeTokenizer::token_bytes(std::int32_t id) const {
  if (id < 0 || id >= vocab_size() || !spans_[static_cast<std::size_t>(id)].used) {
    fail(StatusCode::invalid_argument, "the tokenizer has no token {} (its vocabulary has {} ids)", id, vocab_size());
  }
  const Span& span = spans_[static_cast<std::size_t>(id)];
  return std::string_view(arena_).substr(span.offset, span.length);
}

// Scratch memory and the cache of words live for one call, so that the tokenizer itself never changes.
class BpeTokenizer::Encoding {
 public:
  Encoding(const BpeTokenizer& tokenizer, std::vector<std::int32_t>& ids) : tokenizer_(tokenizer), ids_(ids) {}

  // Any bytes without added tokens.
  void plain(std::string_view text) {
    for (std::size_t offset = 0; offset < text.size();) {
      const std::size_t length = valid_utf8_length(text, offset);
      if (length > 0) {
        Pretokenizer::Walk walk(tokenizer_.pretokenizer_, text.substr(offset, length));
        for (std::string_view piece = walk.next(); !piece.empty(); piece = walk.next()) word(piece);
        offset += length;
      }
      if (offset < text.size()) {
        const std::size_t invalid = step_utf8(text, offset).length;
        for (const char byte : text.substr(offset, invalid)) ids_.push_back(byte_id(byte));
        offset += invalid;
      }
    }
  }

 private:
  std::int32_t byte_id(char byte) const { return tokenizer_.byte_ids_[static_cast<unsigned char>(byte)]; }

  void word(std::string_view text) {
    const bool cached = text.size() <= kCachedWordBytes;
    if (cached) {
      if (const auto found = cache_.find(text); found != cache_.end()) {
        const auto first = cached_ids_.begin() + found->second.first;
        ids_.insert(ids_.end(), first, first + found->second.count);
        return;
      }
    }
    symbols_.clear();
    for (const char byte : text) symbols_.push_back(byte_id(byte));
    merger_.merge(tokenizer_.merges_, symbols_);
    ids_.insert(ids_.end(), symbols_.begin(), symbols_.end());
    if (cached && cache_.size() < kCachedWords) {
      // The text outlives this call of encode: views into it are keys enough.
      cache_.emplace(
          text, Range{static_cast<std::ptrdiff_t>(cached_ids_.size()), static_cast<std::ptrdiff_t>(symbols_.size())});
      cached_ids_.insert(cached_ids_.end(), symbols_.begin(), symbols_.end());
    }
  }

  struct Range {
    std::ptrdiff_t first, count;  // in cached_ids_
  };
  const BpeTokenizer& tokenizer_;
  std::vector<std::int32_t>& ids_;
  BpeMerger merger_;
  std::vector<std::int32_t> symbols_;
  std::unordered_map<std::string_view, Range> cache_;
  std::vector<std::int32_t> cached_ids_;
};

const AddedToken* BpeTokenizer::added_token_at(std::string_view text, std::size_t offset, bool special) const {
  for (const AddedToken& token : added_[static_cast<unsigned char>(text[offset])]) {
    if ((special || !token.special) && text.substr(offset, token.text.size()) == token.text) return &token;
  }
  return nullptr;
}

std::vector<std::int32_t> BpeTokenizer::encode(std::string_view text, bool special) const {
  if (text.size() >= std::numeric_limits<std::uint32_t>::max()) {
    fail(StatusCode::invalid_argument, "a text of {} bytes is too long to encode at once; cut it below 4 GiB",
         text.size());
  }
  std::vector<std::int32_t> ids;
  ids.reserve(text.size() / 3);
  Encoding encoding(*this, ids);
  std::size_t begin = 0;  // of the plain text not encoded yet
  for (std::size_t offset = 0; offset < text.size();) {
    const AddedToken* token = added_token_at(text, offset, special);
    if (token == nullptr) {
      ++offset;
      continue;
    }
    encoding.plain(text.substr(begin, offset - begin));
    ids.push_back(token->id);
    offset += token->text.size();
    begin = offset;
  }
  encoding.plain(text.substr(begin));
  return ids;
}

}  // namespace riverhorse
