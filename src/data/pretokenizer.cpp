#define PCRE2_CODE_UNIT_WIDTH 8
#include "data/pretokenizer.h"

#include <pcre2.h>

#include <algorithm>
#include <string>

#include "base/error.h"

namespace riverhorse {
namespace {

constexpr std::string_view kWhiteSpace =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

std::string pattern_text() {
  const std::string space(kWhiteSpace);
  return R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^)" + space + R"(\p{L}\p{N}]+|[)" + space + "]+(?![^" +
         space + "])|[" + space + "]+";
}

std::string pcre2_message(int error) {
  PCRE2_UCHAR buffer[256];
  const int length = pcre2_get_error_message(error, buffer, sizeof buffer);
  return length < 0 ? "PCRE2 error " + std::to_string(error) : reinterpret_cast<const char*>(buffer);
}

}  // namespace

Pretokenizer::Pretokenizer() {
  const std::string pattern = pattern_text();
  int error = 0;
  PCRE2_SIZE error_offset = 0;
  // Anchored: every character belongs to some alternative, so each word starts where the last one ended.
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &error, &error_offset, nullptr);
  if (code == nullptr) {
    fail(StatusCode::internal, "PCRE2 does not compile the word pattern at {}: {}", error_offset,
         pcre2_message(error));
  }
  jit_ = pcre2_jit_compile(code, PCRE2_JIT_COMPLETE) == 0;
  code_ = code;
}

Pretokenizer::~Pretokenizer() { pcre2_code_free(static_cast<pcre2_code*>(code_)); }

Pretokenizer::Walk::Walk(const Pretokenizer& pretokenizer, std::string_view text)
    : pretokenizer_(pretokenizer), text_(text), match_data_(pcre2_match_data_create(1, nullptr)) {
  if (match_data_ == nullptr) fail(StatusCode::out_of_memory, "no memory to match words");
}

Pretokenizer::Walk::~Walk() { pcre2_match_data_free(static_cast<pcre2_match_data*>(match_data_)); }

std::string_view Pretokenizer::Walk::next() {
  if (offset_ == text_.size()) return {};
  const auto* code = static_cast<const pcre2_code*>(pretokenizer_.code_);
  auto* match_data = static_cast<pcre2_match_data*>(match_data_);
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text_.data());
  // The text is known to be valid: checking it again at every word would cost the square of its length.
  const int count =
      pretokenizer_.jit_
          ? pcre2_jit_match(code, subject, text_.size(), offset_, PCRE2_NO_UTF_CHECK, match_data, nullptr)
          : pcre2_match(code, subject, text_.size(), offset_, PCRE2_NO_UTF_CHECK, match_data, nullptr);
  if (count < 0) fail(StatusCode::internal, "cutting text into words failed: {}", pcre2_message(count));
  const PCRE2_SIZE begin = pcre2_get_ovector_pointer(match_data)[0];
  const PCRE2_SIZE end = pcre2_get_ovector_pointer(match_data)[1];
  if (begin != offset_ || end <= begin) {
    fail(StatusCode::internal, "cutting text into words left a gap at byte {}", offset_);
  }
  offset_ = end;
  return text_.substr(begin, end - begin);
}

// Every word but a run of white space ends before white space; a run of white space, whose end depends on what
// follows it, is not cut because the character before the cut is none.
std::size_t cut_between_words(std::string_view text, std::size_t about) {
  for (std::size_t place = std::max<std::size_t>(about, 1); place < text.size(); ++place) {
    const auto before = static_cast<unsigned char>(text[place - 1]);
    if ((text[place] == ' ' || text[place] == '\n') && before > 0x20 && before < 0x7F) return place;
  }
  return text.size();
}

}  // namespace riverhorse
