// JSON from files that are not trusted: size, depth, UTF-8 and duplicate keys are checked before anything is
// built, and every complaint names the source and the byte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace riverhorse {

struct JsonLimits {
  std::uint64_t size_bytes = std::uint64_t{1} << 20;
  int depth = 16;  // of nested arrays and objects
};

// The first byte that does not belong to well-formed UTF-8 (overlong forms and surrogates are not); empty: none.
std::optional<std::size_t> find_invalid_utf8(std::string_view text);

// Checks size, UTF-8 and nesting of `text`, without building anything. Errors: bad_file, beginning with `origin`.
void check_json_text(std::string_view text, const std::string& origin, const JsonLimits& limits);

// check_json_text, then the document. Errors: bad_file; a key that occurs twice in one object is one.
nlohmann::json parse_json(std::string_view text, const std::string& origin, const JsonLimits& limits = {});

// What nlohmann's exception says, without its tag and quoting of unprintable input.
std::string json_error_text(const nlohmann::json::exception& error);

}  // namespace riverhorse
