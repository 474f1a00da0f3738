#include <fmt/core.h>

#include "bad_files/bad_files.h"
#include "bad_files/builders.h"

namespace riverhorse::test {
namespace {

const std::string data16(16, '\x01');

BadFile with_header(const std::string& name, const std::string& header, std::vector<std::string> expected) {
  return {name, FileKind::safetensors, [header] { return safetensors_bytes(header, data16); }, std::move(expected)};
}

// One tensor "w" over the 16 bytes of data, a part of its entry replaced.
BadFile with_entry(const std::string& name, const std::string& from, const std::string& to,
                   std::vector<std::string> expected) {
  const std::string header = replaced("{" + header_entry("w", "[2,2]", 0, 16) + "}", from, to);
  return with_header(name, header, std::move(expected));
}

// A tensor "w" of 16 bytes and this dtype and shape, which the metadata calls quantised.
BadFile with_quantised(const std::string& name, const std::string& metadata, const std::string& dtype,
                       const std::string& shape, std::vector<std::string> expected) {
  const std::string entry = replaced(header_entry("w", shape, 0, 16), "F32", dtype);
  return with_header(name, "{\"__metadata__\":{" + metadata + "}," + entry + "}", std::move(expected));
}

}  // namespace

std::vector<BadFile> bad_safetensors_files() {
  std::vector<BadFile> files = {
      {"empty", FileKind::safetensors, [] { return std::string(); }, {"too few"}},
      {"seven bytes", FileKind::safetensors, [] { return std::string(7, 'x'); }, {"7 bytes are too few"}},
      {"header length only", FileKind::safetensors, [] { return little_endian(2, 8); }, {"truncated"}},
      {"header longer than the file",
       FileKind::safetensors,
       [] { return little_endian(1000, 8) + "{}"; },
       {"1000 bytes", "truncated"}},
      {"header of an exabyte",
       FileKind::safetensors,
       [] { return little_endian(std::uint64_t{1} << 60, 8) + "{}"; },
       {"limit"}},
      {"header length all ones",
       FileKind::safetensors,
       [] { return little_endian(~std::uint64_t{0}, 8) + "{}"; },
       {"limit"}},
      with_header("empty header", "", {"not valid JSON"}),
      with_header("header is no JSON", "hello", {"not valid JSON"}),
      with_header("header is an array", "[]", {"must be an object"}),
      with_header("header is a number", "7", {"must be an object"}),
      with_header("header cut in the middle", "{\"w\":{\"dtype\":\"F32\",", {"not valid JSON"}),
      with_header("header followed by garbage", "{} x", {"not valid JSON"}),
      with_header("header deeply nested", std::string(100'000, '['), {"deeper than 4 levels"}),
      with_header("invalid UTF-8 in a name", "{\"w\xff\":{}}", {"invalid UTF-8 at byte 3", "0xff"}),
      with_header("overlong UTF-8 in a name", "{\"\xc0\xaf\":{}}", {"invalid UTF-8 at byte 2"}),
      with_header("a surrogate in UTF-8", "{\"\xed\xa0\x80\":{}}", {"invalid UTF-8 at byte 2"}),
      with_header("entry is a string", "{\"w\":\"F32\"}", {"\"w\"", "a string"}),
      with_header("entry is null", "{\"w\":null}", {"\"w\"", "null"}),
      with_header("name is empty", "{\"\":{}}", {"without a name"}),
      with_header("metadata holds a number", "{\"__metadata__\":{\"a\":1}}", {"metadata \"a\""}),
      with_header("metadata holds an object", "{\"__metadata__\":{\"a\":{}}}", {"metadata \"a\""}),
      with_header("metadata twice", "{\"__metadata__\":{},\"__metadata__\":{}}", {"occurs twice"}),
      with_header("two tensors of one name",
                  "{" + header_entry("w", "[2]", 0, 8) + "," + header_entry("w", "[2]", 8, 16) + "}",
                  {"two tensors are named \"w\""}),
      with_header("tensors overlap",
                  "{" + header_entry("a", "[3]", 0, 12) + "," + header_entry("b", "[2]", 8, 16) + "}",
                  {"\"a\"", "\"b\"", "overlap"}),
      with_header("tensors on the same bytes",
                  "{" + header_entry("a", "[4]", 0, 16) + "," + header_entry("b", "[4]", 0, 16) + "}", {"overlap"}),
      with_header("a hole between tensors",
                  "{" + header_entry("a", "[1]", 0, 4) + "," + header_entry("b", "[2]", 8, 16) + "}",
                  {"\"b\"", "belong to no tensor"}),
      with_header("data after the last tensor", "{" + header_entry("a", "[1]", 0, 4) + "}",
                  {"last 12 bytes", "belong to no tensor"}),
      with_entry("offsets beyond the end", "[0,16]", "[0,160]", {"\"w\"", "out of range", "16 bytes of data"}),
      with_entry("offsets backwards", "[0,16]", "[16,0]", {"\"w\"", "backwards"}),
      with_entry("offset negative", "[0,16]", "[-4,12]", {"\"w\"", "negative"}),
      with_entry("offset is a fraction", "[0,16]", "[0,16.5]", {"\"w\"", "16.5"}),
      with_entry("offset above 63 bits", "[0,16]", "[0,9223372036854775808]", {"\"w\"", "too large"}),
      with_entry("offset above 64 bits", "[0,16]", "[0,99999999999999999999]", {"\"w\""}),
      with_entry("offset is a string", "[0,16]", "[0,\"16\"]", {"\"w\"", "a string"}),
      with_entry("one offset", "[0,16]", "[0]", {"\"w\"", "two numbers"}),
      with_entry("three offsets", "[0,16]", "[0,8,16]", {"\"w\"", "two numbers"}),
      with_entry("offsets are missing", ",\"data_offsets\":[0,16]", "", {"\"w\"", "\"data_offsets\" is missing"}),
      with_entry("shape is missing", "\"shape\":[2,2],", "", {"\"w\"", "\"shape\" is missing"}),
      with_entry("dtype is missing", "\"dtype\":\"F32\",", "", {"\"w\"", "\"dtype\" is missing"}),
      with_entry("shape too small for the data", "[2,2]", "[2,1]", {"\"w\"", "needs 8 bytes", "span 16"}),
      with_entry("shape negative", "[2,2]", "[-2,-2]", {"\"w\"", "negative"}),
      with_entry("shape product overflows", "[2,2]", "[4294967296,4294967296,2]", {"\"w\"", "too large"}),
      with_entry("shape overflows in bytes only", "[2,2]", "[4611686018427387904]", {"\"w\"", "too large"}),
      with_entry("shape overflows behind a zero", "[2,2]", "[0,4294967296,4294967296]", {"\"w\"", "too large"}),
      with_entry("shape of nine dimensions", "[2,2]", "[1,1,1,1,1,1,1,2,2]", {"\"w\"", "more than 8"}),
      with_entry("shape is nested", "[2,2]", "[[2],2]", {"\"w\""}),
      with_entry("shape given twice", "\"shape\":[2,2]", "\"shape\":[2,2],\"shape\":[2,2]",
                 {"\"w\"", "\"shape\" occurs twice"}),
      with_entry("dtype unknown", "F32", "F8_E4M3", {"\"w\"", "F8_E4M3", "not supported"}),
      with_entry("dtype is a number", "\"F32\"", "32", {"\"w\""}),
      with_entry("dtype that does not divide the data", "F32", "F64", {"\"w\"", "needs 32 bytes"}),
      with_quantised("quantised by a scheme unknown", "\"quantised.w\":\"q5\"", "U8", "[1,16]",
                     {"\"quantised.w\" is \"q5\"", "\"q8\" or \"q4\""}),
      with_quantised("quantised, of no tensor", "\"quantised.v\":\"q8\"", "U8", "[1,16]",
                     {"\"quantised.v\"", "not there"}),
      with_quantised("quantised, and floats", "\"quantised.w\":\"q8\"", "F32", "[2,2]",
                     {"\"w\"", "F32 (2, 2)", "no matrix of q8"}),
      with_quantised("quantised, and no matrix", "\"quantised.w\":\"q4\"", "U8", "[16]",
                     {"\"w\"", "U8 (16)", "no matrix of q4"}),
      with_quantised("quantised, with rows of no width", "\"quantised.w\":\"q4\"", "U8", "[1,16]",
                     {"\"w\"", "U8 (1, 16)", "no matrix of q4"}),
      with_quantised("quantised, with rows of no bytes", "\"quantised.w\":\"q8\"", "U8", "[16,1]",
                     {"no matrix of q8"}),
      with_entry("an unknown field", "\"dtype\"", "\"compression\":\"zip\",\"dtype\"", {"\"w\"", "compression"}),
  };
  // A good file, cut: always the same complaint family, wherever the cut is.
  for (const double fraction : {0.001, 0.01, 0.1, 0.3, 0.5, 0.9, 0.999}) {
    files.push_back({fmt::format("cut at {}", fraction),
                     FileKind::safetensors,
                     [fraction] {
                       const std::string whole = safetensors_bytes(small_tensors());
                       return whole.substr(0, static_cast<std::size_t>(fraction * static_cast<double>(whole.size())));
                     },
                     {}});
  }
  return files;
}

}  // namespace riverhorse::test
