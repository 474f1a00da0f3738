#include "data/token_file.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <string_view>

#include "base/error.h"

namespace riverhorse {
namespace {

static_assert(std::endian::native == std::endian::little, "token files are mapped as they are");

constexpr std::uint64_t kMostTokens = std::uint64_t{1} << 48;  // far from where a product of sizes overflows
constexpr std::size_t kBufferBytes = 1 << 20;                  // documents are often short
constexpr std::uint64_t kDocumentEndBytes = sizeof(std::int64_t);

std::uint32_t token_width(std::uint64_t vocab_size) { return vocab_size <= 65536 ? 2 : 4; }

std::uint64_t padded(std::uint64_t bytes) { return (bytes + 7) / 8 * 8; }

template <typename Element>
void widen(const std::byte* source, std::span<std::int32_t> out) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    Element element;
    std::memcpy(&element, source + i * sizeof element, sizeof element);
    out[i] = static_cast<std::int32_t>(element);
  }
}

}  // namespace

TokenFile::TokenFile(const std::filesystem::path& path) : file_(path) {
  read_header();
  const std::uint64_t token_bytes = padded(header_.tokens * header_.token_bytes);
  tokens_ = file_.bytes().data() + sizeof header_;
  document_ends_ = {reinterpret_cast<const std::int64_t*>(tokens_ + token_bytes), header_.documents};
  check_document_ends();
}

// Only a header that agrees with the file's size is believed.
void TokenFile::read_header() {
  const std::string name = path().string();
  const std::span<const std::byte> bytes = file_.bytes();
  if (bytes.size() < sizeof header_) {
    fail(StatusCode::bad_file, "{}: {} bytes are too few for a token file", name, bytes.size());
  }
  const TokenFileHeader expected;
  std::memcpy(&header_, bytes.data(), sizeof header_);
  if (std::memcmp(header_.magic, expected.magic, sizeof expected.magic) != 0) {
    fail(StatusCode::bad_file, "{}: not a token file; make one with riverhorse tokenize", name);
  }
  if (header_.version != expected.version) {
    fail(StatusCode::bad_file, "{}: a token file of version {}; this program reads version {}: make it again", name,
         header_.version, expected.version);
  }
  if (header_.vocab_size == 0 || header_.vocab_size > std::numeric_limits<std::int32_t>::max()) {
    fail(StatusCode::bad_file, "{}: a vocabulary of {} tokens is not possible", name, header_.vocab_size);
  }
  if (header_.token_bytes != token_width(header_.vocab_size)) {
    fail(StatusCode::bad_file, "{}: tokens of {} bytes; a vocabulary of {} takes {}", name, header_.token_bytes,
         header_.vocab_size, token_width(header_.vocab_size));
  }
  if (header_.tokens == 0 || header_.documents == 0) {
    fail(StatusCode::bad_file, "{}: holds {} tokens and {} documents; there must be some of both", name,
         header_.tokens, header_.documents);
  }
  if (header_.tokens > kMostTokens || header_.documents > header_.tokens) {
    fail(StatusCode::bad_file, "{}: {} tokens in {} documents are not possible", name, header_.tokens,
         header_.documents);
  }
  const std::uint64_t expected_bytes =
      sizeof header_ + padded(header_.tokens * header_.token_bytes) + header_.documents * kDocumentEndBytes;
  if (bytes.size() != expected_bytes) {
    fail(StatusCode::bad_file, "{}: {} bytes, but its {} tokens and {} documents take {}: {}", name, bytes.size(),
         header_.tokens, header_.documents, expected_bytes,
         bytes.size() < expected_bytes ? "the file is cut short" : "there is something behind them");
  }
}

void TokenFile::check_document_ends() const {
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < document_ends_.size(); ++i) {
    if (document_ends_[i] <= begin || document_ends_[i] > size()) {
      fail(StatusCode::bad_file, "{}: document {} goes from token {} to {} of {}", path().string(), i, begin,
           document_ends_[i], size());
    }
    begin = document_ends_[i];
  }
  if (begin != size()) {
    fail(StatusCode::bad_file, "{}: the last document ends at token {} of {}", path().string(), begin, size());
  }
}

void TokenFile::read(std::int64_t begin, std::span<std::int32_t> out) const {
  const auto count = static_cast<std::int64_t>(out.size());
  if (begin < 0 || count > size() || begin > size() - count) {
    fail(StatusCode::invalid_argument, "{}: {} tokens from number {} on are not among its {}", path().string(), count,
         begin, size());
  }
  const std::byte* source = tokens_ + static_cast<std::uint64_t>(begin) * header_.token_bytes;
  header_.token_bytes == 2 ? widen<std::uint16_t>(source, out) : widen<std::uint32_t>(source, out);
  // Unsigned, so that a number beyond 31 bits is too large and not negative.
  const auto beyond = std::find_if(out.begin(), out.end(), [&](std::int32_t token) {
    return static_cast<std::uint32_t>(token) >= header_.vocab_size;
  });
  if (beyond != out.end()) {
    fail(StatusCode::bad_file, "{}: token {} is {}; the vocabulary has {}", path().string(),
         begin + (beyond - out.begin()), static_cast<std::uint32_t>(*beyond), header_.vocab_size);
  }
}

TokenFileWriter::TokenFileWriter(const std::filesystem::path& path, std::int64_t vocab_size,
                                 std::uint64_t tokenizer_hash)
    : path_(path), file_(path) {
  if (vocab_size < 1 || vocab_size > std::numeric_limits<std::int32_t>::max()) {
    fail(StatusCode::invalid_argument, "{}: a vocabulary of {} tokens is not possible", path.string(), vocab_size);
  }
  header_.vocab_size = static_cast<std::uint64_t>(vocab_size);
  header_.token_bytes = token_width(header_.vocab_size);
  header_.tokenizer_hash = tokenizer_hash;
  file_.write(std::as_bytes(std::span(&header_, 1)));  // a place for it: the counts come last
}

void TokenFileWriter::append(std::span<const std::int32_t> tokens, std::uint64_t text_bytes) {
  const std::uint64_t width = header_.token_bytes;
  const std::size_t begin = buffer_.size();
  buffer_.resize(begin + tokens.size() * width);
  std::byte* out = buffer_.data() + begin;
  for (const std::int32_t token : tokens) {
    if (static_cast<std::uint32_t>(token) >= header_.vocab_size) {
      fail(StatusCode::invalid_argument, "{}: the token {} is beyond the vocabulary of {}", path_.string(), token,
           header_.vocab_size);
    }
    std::memcpy(out, &token, width);  // little-endian: the low bytes come first
    out += width;
  }
  if (buffer_.size() >= kBufferBytes) flush();
  header_.tokens += tokens.size();
  header_.text_bytes += text_bytes;
}

void TokenFileWriter::flush() {
  file_.write(buffer_);
  buffer_.clear();
}

void TokenFileWriter::end_document() {
  const auto end = static_cast<std::int64_t>(header_.tokens);
  if (end > (document_ends_.empty() ? 0 : document_ends_.back())) document_ends_.push_back(end);
}

void TokenFileWriter::commit() {
  end_document();
  if (document_ends_.empty()) fail(StatusCode::invalid_argument, "{}: there is no token to write", path_.string());
  flush();
  header_.documents = document_ends_.size();
  const std::uint64_t token_bytes = header_.tokens * header_.token_bytes;
  file_.write(std::string_view("\0\0\0\0\0\0\0\0", padded(token_bytes) - token_bytes));
  file_.write(std::as_bytes(std::span(document_ends_)));
  file_.overwrite(0, std::as_bytes(std::span(&header_, 1)));
  file_.commit();
}

}  // namespace riverhorse
