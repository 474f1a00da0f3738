// Token files: text that has been through a tokenizer, as training maps it into memory.
//
// All numbers are little-endian. 64 bytes of header (TokenFileHeader), then the tokens, padded with zeros to a
// multiple of 8 bytes, then a 64-bit token count for each document: where it ends.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "base/file.h"
#include "data/token_source.h"

namespace riverhorse {

struct TokenFileHeader {
  char magic[8] = {'R', 'H', 'T', 'O', 'K', 'E', 'N', 'S'};
  std::uint32_t version = 1;
  std::uint32_t token_bytes = 2;     // 2 (uint16) for a vocabulary of up to 65,536, otherwise 4 (uint32)
  std::uint64_t tokenizer_hash = 0;  // Tokenizer::fingerprint()
  std::uint64_t tokens = 0;
  std::uint64_t documents = 0;
  std::uint64_t text_bytes = 0;  // that the tokens stand for, without the end-of-text tokens
  std::uint64_t left_out = 0;    // bad rows of the files that the text came from
  std::uint64_t vocab_size = 0;  // every token is below it
};
static_assert(sizeof(TokenFileHeader) == 64);

// A file mapped read-only. Immutable; safe to share between threads.
class TokenFile final : public TokenSource {
 public:
  // Checks everything but the tokens, which are checked as they are read. Errors: not_found, io_error, bad_file.
  explicit TokenFile(const std::filesystem::path& path);

  const TokenFileHeader& header() const { return header_; }
  const std::filesystem::path& path() const { return file_.path(); }

  std::int64_t size() const override { return static_cast<std::int64_t>(header_.tokens); }
  // Errors: invalid_argument when the range is not inside the row; bad_file for a token beyond the vocabulary.
  void read(std::int64_t begin, std::span<std::int32_t> out) const override;
  std::span<const std::int64_t> document_ends() const override { return document_ends_; }

 private:
  void read_header();
  void check_document_ends() const;

  MappedFile file_;
  TokenFileHeader header_;
  const std::byte* tokens_ = nullptr;
  std::span<const std::int64_t> document_ends_;
};

// Writes documents one after the other; the file appears, whole, with commit(). Holds 8 bytes a document in memory.
class TokenFileWriter {
 public:
  // `vocab_size`: at least 1. Errors: io_error when the folder cannot be written.
  TokenFileWriter(const std::filesystem::path& path, std::int64_t vocab_size, std::uint64_t tokenizer_hash);

  // More tokens of the document in hand, which stand for `text_bytes` bytes. Errors: invalid_argument for a token
  // beyond the vocabulary; io_error.
  void append(std::span<const std::int32_t> tokens, std::uint64_t text_bytes);
  // Ends the document in hand; one without a token leaves no trace.
  void end_document();
  void set_left_out(std::uint64_t rows) { header_.left_out = rows; }
  const TokenFileHeader& header() const { return header_; }
  // Errors: invalid_argument when there is no token; io_error.
  void commit();

 private:
  void flush();

  std::filesystem::path path_;
  AtomicFileWriter file_;
  TokenFileHeader header_;
  std::vector<std::int64_t> document_ends_;
  std::vector<std::byte> buffer_;  // tokens not written yet
};

}  // namespace riverhorse
