#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/hash.h"
#include "data/tokenizer.h"

namespace riverhorse {
namespace {

constexpr std::int32_t kEndOfTextId = 256;
constexpr std::string_view kEndOfText = "<|endoftext|>";

class ByteTokenizer final : public Tokenizer {
 public:
  ByteTokenizer() {
    for (std::size_t value = 0; value < bytes_.size(); ++value) bytes_[value] = static_cast<char>(value);
  }

  std::int64_t vocab_size() const override { return 257; }

  std::vector<std::int32_t> encode(std::string_view text, bool special) const override {
    std::vector<std::int32_t> ids;
    ids.reserve(text.size());
    for (std::size_t offset = 0; offset < text.size();) {
      if (special && text.substr(offset, kEndOfText.size()) == kEndOfText) {
        ids.push_back(kEndOfTextId);
        offset += kEndOfText.size();
      } else {
        ids.push_back(static_cast<unsigned char>(text[offset++]));
      }
    }
    return ids;
  }

  std::string_view token_bytes(std::int32_t id) const override {
    if (id == kEndOfTextId) return kEndOfText;
    if (id < 0 || id > kEndOfTextId) {
      fail(StatusCode::invalid_argument, "the byte tokenizer has no token {} (ids 0 to {})", id, kEndOfTextId);
    }
    return std::string_view(bytes_.data() + id, 1);
  }

  std::int32_t end_of_text() const override { return kEndOfTextId; }
  std::uint64_t fingerprint() const override { return Hash().add("one token a byte").value(); }
  std::size_t safe_cut(std::string_view text, std::size_t about) const override {
    return std::min(about, text.size());
  }

 private:
  std::array<char, 256> bytes_{};
};

}  // namespace

std::unique_ptr<Tokenizer> make_byte_tokenizer() { return std::make_unique<ByteTokenizer>(); }

}  // namespace riverhorse
