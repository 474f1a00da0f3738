#include "data/utf8.h"

#include <cstdint>
#include <cstring>

namespace riverhorse {

Utf8Step step_utf8(std::string_view text, std::size_t offset) {
  const auto byte_at = [&](std::size_t index) { return static_cast<unsigned char>(text[index]); };
  const unsigned lead = byte_at(offset);
  if (lead < 0x80) return {Utf8Kind::valid, 1};
  // The second byte has a narrower range after some lead bytes: this is what rules out overlong forms (E0, F0),
  // surrogates (ED) and values above U+10FFFF (F4).
  std::size_t length = 0;
  unsigned second_low = 0x80, second_high = 0xBF;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    if (lead == 0xE0) second_low = 0xA0;
    if (lead == 0xED) second_high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    if (lead == 0xF0) second_low = 0x90;
    if (lead == 0xF4) second_high = 0x8F;
  } else {
    return {Utf8Kind::invalid, 1};
  }
  for (std::size_t index = 1; index < length; ++index) {
    if (offset + index == text.size()) return {Utf8Kind::incomplete, index};
    const unsigned low = index == 1 ? second_low : 0x80;
    const unsigned high = index == 1 ? second_high : 0xBF;
    const unsigned byte = byte_at(offset + index);
    if (byte < low || byte > high) return {Utf8Kind::invalid, index};
  }
  return {Utf8Kind::valid, length};
}

std::size_t valid_utf8_length(std::string_view text, std::size_t offset) {
  std::size_t end = offset;
  while (end < text.size()) {
    // Eight ASCII bytes at a time: most text is that.
    std::uint64_t eight = 0;
    if (text.size() - end >= sizeof eight) {
      std::memcpy(&eight, text.data() + end, sizeof eight);
      if ((eight & 0x8080808080808080u) == 0) {
        end += sizeof eight;
        continue;
      }
    }
    const Utf8Step step = step_utf8(text, end);
    if (step.kind != Utf8Kind::valid) break;
    end += step.length;
  }
  return end - offset;
}

}  // namespace riverhorse
