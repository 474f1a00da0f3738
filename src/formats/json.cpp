#include "formats/json.h"

#include <set>
#include <vector>

#include "base/error.h"

namespace riverhorse {
namespace {

// Length of the well-formed UTF-8 sequence at `position`, 0 when there is none.
std::size_t utf8_sequence_length(std::string_view text, std::size_t position) {
  const auto byte = [&](std::size_t offset) -> unsigned {
    return position + offset < text.size() ? static_cast<unsigned char>(text[position + offset]) : 0u;
  };
  const auto continues = [&](std::size_t offset) { return (byte(offset) & 0xc0u) == 0x80u; };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead < 0xc2) return 0;  // a stray continuation byte, or an overlong form of ASCII
  if (lead < 0xe0) return continues(1) ? 2 : 0;
  if (lead < 0xf0) {
    const unsigned second = byte(1);
    const bool overlong = lead == 0xe0 && second < 0xa0;
    const bool surrogate = lead == 0xed && second >= 0xa0;
    return continues(1) && continues(2) && !overlong && !surrogate ? 3 : 0;
  }
  if (lead < 0xf5) {
    const unsigned second = byte(1);
    const bool overlong = lead == 0xf0 && second < 0x90;
    const bool beyond_unicode = lead == 0xf4 && second >= 0x90;
    return continues(1) && continues(2) && continues(3) && !overlong && !beyond_unicode ? 4 : 0;
  }
  return 0;
}

// Nesting is measured over the raw text, so that a parser never sees more of it than allowed. Brackets inside
// strings do not count; in malformed text the count may be off, and then the parser complains.
void check_depth(std::string_view text, const std::string& origin, int limit) {
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
      continue;
    }
    if (c == '"') in_string = true;
    if (c == '[' || c == '{') ++depth;
    if (c == ']' || c == '}') --depth;
    if (depth > limit) {
      fail(StatusCode::bad_file, "{}: JSON nested deeper than {} levels at byte {}", origin, limit, i);
    }
  }
}

}  // namespace

std::optional<std::size_t> find_invalid_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = utf8_sequence_length(text, i);
    if (length == 0) return i;
    i += length;
  }
  return std::nullopt;
}

void check_json_text(std::string_view text, const std::string& origin, const JsonLimits& limits) {
  if (text.size() > limits.size_bytes) {
    fail(StatusCode::bad_file, "{}: {} bytes of JSON, more than the limit of {}", origin, text.size(),
         limits.size_bytes);
  }
  if (const auto position = find_invalid_utf8(text)) {
    fail(StatusCode::bad_file, "{}: invalid UTF-8 at byte {} (0x{:02x})", origin, *position,
         static_cast<unsigned>(static_cast<unsigned char>(text[*position])));
  }
  check_depth(text, origin, limits.depth);
}

nlohmann::json parse_json(std::string_view text, const std::string& origin, const JsonLimits& limits) {
  check_json_text(text, origin, limits);
  using Json = nlohmann::json;
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto watch = [&](int /*depth*/, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second) {
      fail(StatusCode::bad_file, "{}: field \"{}\" occurs twice", origin, value.get<std::string>());
    }
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), watch);
  } catch (const Json::exception& error) {
    fail(StatusCode::bad_file, "{}: not valid JSON: {}", origin, json_error_text(error));
  }
}

std::string json_error_text(const nlohmann::json::exception& error) {
  const std::string_view text = error.what();
  const std::size_t tag_end = text.find("] ");
  return std::string(tag_end == std::string_view::npos ? text : text.substr(tag_end + 2));
}

}  // namespace riverhorse
