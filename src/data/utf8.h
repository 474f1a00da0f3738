// UTF-8, one character at a time, for text that may be anything.
#pragma once

#include <cstddef>
#include <string_view>

namespace riverhorse {

enum class Utf8Kind {
  valid,       // one whole character
  invalid,     // bytes that no continuation can make valid; `length` is the maximal ill-formed part (at least 1)
  incomplete,  // the text ends inside what may still become a character
};

struct Utf8Step {
  Utf8Kind kind;
  std::size_t length;  // bytes, at least 1
};

// Looks at text[offset...]; offset < text.size(). Surrogates, overlong forms and values above U+10FFFF are invalid.
Utf8Step step_utf8(std::string_view text, std::size_t offset);

// Bytes of the longest valid prefix of text[offset...].
std::size_t valid_utf8_length(std::string_view text, std::size_t offset);

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace riverhorse
