// GPT-2's first step: cutting text into words that are then merged independently of each other.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

namespace riverhorse {

// The compiled pattern. Immutable; safe to share between threads.
//
// GPT-2's pattern is  's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+  where \s is
// Unicode's White_Space. PCRE2's own \s also takes U+180E, so the set is spelled out. Which characters are letters
// and numbers is a matter of the Unicode version of the PCRE2 in use: characters younger than it are neither.
class Pretokenizer {
 public:
  Pretokenizer();
  ~Pretokenizer();
  Pretokenizer(const Pretokenizer&) = delete;
  Pretokenizer& operator=(const Pretokenizer&) = delete;

  // Walks over one text, which must be valid UTF-8: next() returns the words from left to right; together they are
  // the whole text; empty at the end.
  class Walk {
   public:
    Walk(const Pretokenizer& pretokenizer, std::string_view text);
    ~Walk();
    Walk(const Walk&) = delete;
    Walk& operator=(const Walk&) = delete;
    std::string_view next();

   private:
    const Pretokenizer& pretokenizer_;
    std::string_view text_;
    std::size_t offset_ = 0;
    void* match_data_;
  };

 private:
  void* code_;
  bool jit_ = false;  // PCRE2 was built with its just-in-time compiler and this machine has it
};

// The first place at or after `about` (at least 1) where a text can be cut into two without changing its words:
// before a space or a line feed that follows a printable ASCII character. text.size() where there is none.
std::size_t cut_between_words(std::string_view text, std::size_t about);

}  // namespace riverhorse
