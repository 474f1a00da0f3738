// A long row of tokens: packed documents, one after the other, as training and evaluation read them.
#pragma once

#include <cstdint>
#include <span>

namespace riverhorse {

class TokenSource {
 public:
  virtual ~TokenSource() = default;
  virtual std::int64_t size() const = 0;  // tokens
  // Tokens [begin, begin + out.size()); inside the row. Thread-safe.
  virtual void read(std::int64_t begin, std::span<std::int32_t> out) const = 0;
  // Where each document ends, as token counts from the start, ascending; the last is size().
  virtual std::span<const std::int64_t> document_ends() const = 0;
};

}  // namespace riverhorse
