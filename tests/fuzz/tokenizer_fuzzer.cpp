// Tokenizer files: tokenizer.json, or vocab.json and merges.txt with a line "====" between them.
#include <limits>
#include <span>
#include <string_view>

#include "base/error.h"
#include "data/tokenizer.h"
#include "fuzz/fuzz_target.h"

namespace {

constexpr std::string_view separator = "\n====\n";

std::unique_ptr<riverhorse::Tokenizer> load(std::string_view input) {
  const auto file = [](const char* name, std::string_view text) {
    return riverhorse::MemoryFile{name, std::as_bytes(std::span(text))};
  };
  std::vector<riverhorse::MemoryFile> files;
  const std::size_t cut = input.find(separator);
  if (cut == std::string_view::npos) {
    files = {file("tokenizer.json", input)};
  } else {
    files = {file("vocab.json", input.substr(0, cut)), file("merges.txt", input.substr(cut + separator.size()))};
  }
  return riverhorse::find_tokenizer(files, std::numeric_limits<std::int32_t>::max());
}

// The 256 single-byte tokens of GPT-2 as vocab.json entries, ids 0 to 255.
std::string byte_vocabulary() {
  std::string json;
  int next_substitute = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    const int character = printable ? byte : next_substitute++;
    std::string text;
    if (character < 128) {
      text = character == '"' || character == '\\' ? std::string("\\") + static_cast<char>(character)
                                                   : std::string(1, static_cast<char>(character));
    } else {
      text = {static_cast<char>(0xc0 | character >> 6), static_cast<char>(0x80 | (character & 0x3f))};
    }
    if (!json.empty()) json += ", ";
    json += "\"" + text + "\": " + std::to_string(byte);
  }
  return json;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  try {
    const auto tokenizer = load(input);
    // What was accepted must take any text and give it back.
    const std::string text = "Hello  w\xc3\xb6rld\n\xff 123<|endoftext|>";
    if (tokenizer->decode(tokenizer->encode(text, false)) != text) __builtin_trap();
    tokenizer->decode(tokenizer->encode(text, true));
  } catch (const riverhorse::Error&) {
  }
  return 0;
}

std::vector<std::string> fuzz_seeds() {
  const std::string vocabulary =
      byte_vocabulary() + ", \"he\": 256, \"ll\": 257, \"hell\": 258, \"<|endoftext|>\": 259";
  const std::string merges = "#version: 0.2\nh e\nl l\nhe ll\n";
  const std::string json =
      R"({"version": "1.0", "added_tokens": [{"id": 259, "content": "<|endoftext|>", "special": true}],
 "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false}, "decoder": {"type": "ByteLevel"},
 "model": {"type": "BPE", "vocab": {)" +
      vocabulary + R"(}, "merges": ["h e", "l l", "he ll"]}})";
  return {json, "{" + vocabulary + "}" + std::string(separator) + merges, "{}", "{}" + std::string(separator)};
}
