// Reading tokenizer.json (the layout of Hugging Face's tokenizers), or vocab.json with merges.txt. Nothing in these
// files is trusted; what would make the ids differ from what the file's author meant is refused by name.
#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "data/bpe_tokenizer.h"
#include "data/utf8.h"

namespace riverhorse {
namespace {

using Json = nlohmann::json;
using TokenIds = std::unordered_map<std::string, std::int32_t>;  // by the token's text in GPT-2's alphabet

constexpr std::uint64_t kLargestFileBytes = 64u << 20;  // GPT-2's tokenizer.json has 1.3 MB
constexpr std::size_t kMostTokens = 1u << 21;
constexpr std::size_t kMostAddedTokens = 1u << 16;
constexpr std::size_t kLongestTokenBytes = 1u << 12;
constexpr int kDeepestJson = 32;

// Text of a file in a message: short, and without bytes that a terminal would obey.
std::string in_quotes(std::string_view text) {
  constexpr std::size_t kLongest = 40;
  std::string result = "\"";
  for (const char letter : text.substr(0, kLongest)) {
    const auto byte = static_cast<unsigned char>(letter);
    if (byte < 0x20 || byte == 0x7F) {
      result += fmt::format("\\x{:02x}", byte);
    } else {
      result += letter;
    }
  }
  while (!result.empty() && valid_utf8_length(result, 0) != result.size())
    result.pop_back();  // a character cut in two
  return result + (text.size() > kLongest ? "...\"" : "\"");
}

// What a file holds, and how it is named in messages.
struct Source {
  std::string_view text;
  std::string name;

  template <typename... Args>
  [[noreturn]] void bad(fmt::format_string<Args...> format, Args&&... args) const {
    fail(StatusCode::bad_file, "{}: {}", name, fmt::format(format, std::forward<Args>(args)...));
  }
  template <typename... Args>
  [[noreturn]] void cannot(fmt::format_string<Args...> format, Args&&... args) const {
    fail(StatusCode::unsupported, "{}: {}", name, fmt::format(format, std::forward<Args>(args)...));
  }
};

// Parses, and refuses what a plain parse lets through: deep nesting, and a key given twice in one object (the second
// would silently win, and the first token would have lost its id).
Json parse_json(const Source& source) {
  std::vector<std::size_t> keys;  // seen in each open object
  try {
    return Json::parse(source.text, [&](int depth, Json::parse_event_t event, Json& parsed) {
      switch (event) {
        case Json::parse_event_t::object_start:
        case Json::parse_event_t::array_start:
          if (depth >= kDeepestJson) source.bad("nested more than {} deep", kDeepestJson);
          keys.push_back(0);
          break;
        case Json::parse_event_t::key: ++keys.back(); break;
        case Json::parse_event_t::object_end:
          if (parsed.size() != keys.back()) source.bad("an object has a key twice");
          keys.pop_back();
          break;
        case Json::parse_event_t::array_end: keys.pop_back(); break;
        case Json::parse_event_t::value: break;
      }
      return true;
    });
  } catch (const Json::exception& error) {
    source.bad("not valid JSON: {}", in_quotes(std::string_view(error.what()).substr(0, 200)));
  }
}

std::int32_t read_id(const Source& source, const Json& value, std::string_view what) {
  if (!value.is_number_integer()) source.bad("the id of {} is not an integer", what);
  const bool negative = !value.is_number_unsigned() && value.get<std::int64_t>() < 0;
  if (negative || value.get<std::uint64_t>() > std::numeric_limits<std::int32_t>::max()) {
    source.bad("the id of {} is out of range", what);
  }
  return value.get<std::int32_t>();
}

// {"token": id, ...} -> ids by text, and the tokens as bytes. Tokens that are also `added` may use any characters.
TokenIds read_vocab(const Source& source, const Json& vocab, const TokenIds& added, BpeVocabulary& vocabulary) {
  if (!vocab.is_object()) source.bad("the vocabulary is not an object of token: id");
  if (vocab.size() > kMostTokens) source.bad("{} tokens; the limit is {}", vocab.size(), kMostTokens);
  TokenIds ids;
  ids.reserve(vocab.size());
  for (const auto& [text, value] : vocab.items()) {
    if (text.empty()) source.bad("the vocabulary has an empty token");
    if (text.size() > kLongestTokenBytes) {
      source.bad("the token {} has {} bytes; the limit is {}", in_quotes(text), text.size(), kLongestTokenBytes);
    }
    const std::int32_t id = read_id(source, value, in_quotes(text));
    ids.emplace(text, id);
    std::string bytes;
    if (const auto found = added.find(text); found != added.end()) {
      if (found->second != id) {
        source.bad("the token {} has the id {} in the vocabulary and {} in added_tokens", in_quotes(text), id,
                   found->second);
      }
      bytes = text;
    } else if (!decode_byte_alphabet(text, bytes)) {
      source.bad("the token {} has characters outside the byte-level alphabet: not a byte-level BPE vocabulary?",
                 in_quotes(text));
    }
    vocabulary.tokens.push_back({std::move(bytes), id});
  }
  return ids;
}

void add_merge(const Source& source, const TokenIds& ids, std::string_view left, std::string_view right,
               BpeVocabulary& vocabulary) {
  const std::size_t number = vocabulary.merges.size() + 1;
  const auto id_of = [&](const std::string& text, std::string_view what) {
    const auto found = ids.find(text);
    if (found == ids.end()) source.bad("merge {}: {} {} is not in the vocabulary", number, what, in_quotes(text));
    return found->second;
  };
  if (left.empty() || right.empty()) source.bad("merge {} is not a pair of tokens", number);
  const std::int32_t left_id = id_of(std::string(left), "the token");
  const std::int32_t right_id = id_of(std::string(right), "the token");
  const std::int32_t merged_id = id_of(std::string(left) + std::string(right), "its result");
  vocabulary.merges.push_back({left_id, right_id, merged_id});
}

// "left right"
void add_merge_line(const Source& source, const TokenIds& ids, std::string_view line, BpeVocabulary& vocabulary) {
  const std::size_t space = line.find(' ');
  if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos) {
    source.bad("merge {} is {}, not two tokens with a space between", vocabulary.merges.size() + 1, in_quotes(line));
  }
  add_merge(source, ids, line.substr(0, space), line.substr(space + 1), vocabulary);
}

void read_merges_text(const Source& source, const TokenIds& ids, BpeVocabulary& vocabulary) {
  // Only the first line is a comment: "#" is a token like any other.
  const std::string_view text = source.text;
  std::size_t begin = text.starts_with("#version") ? std::min(text.find('\n'), text.size()) : 0;
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.empty()) add_merge_line(source, ids, line, vocabulary);
  }
}

void read_merges_json(const Source& source, const Json& merges, const TokenIds& ids, BpeVocabulary& vocabulary) {
  if (!merges.is_array()) source.bad("model.merges is not an array");
  for (const Json& merge : merges) {
    if (merge.is_string()) {
      add_merge_line(source, ids, merge.get_ref<const std::string&>(), vocabulary);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      add_merge(source, ids, merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>(),
                vocabulary);
    } else {
      source.bad("merge {} is neither \"left right\" nor [left, right]", vocabulary.merges.size() + 1);
    }
  }
}

// A field that is absent or null counts as `fallback`.
bool read_bool(const Source& source, const Json& object, const char* field, std::string_view where, bool fallback) {
  const auto found = object.find(field);
  if (found == object.end() || found->is_null()) return fallback;
  if (!found->is_boolean()) source.bad("{}.{} is not true or false", where, field);
  return found->get<bool>();
}

std::vector<AddedToken> read_added_tokens(const Source& source, const Json& root) {
  std::vector<AddedToken> result;
  const auto found = root.find("added_tokens");
  if (found == root.end() || found->is_null()) return result;
  if (!found->is_array()) source.bad("added_tokens is not an array");
  if (found->size() > kMostAddedTokens)
    source.bad("{} added tokens; the limit is {}", found->size(), kMostAddedTokens);
  for (const Json& entry : *found) {
    const std::string where = fmt::format("added_tokens[{}]", result.size());
    if (!entry.is_object()) source.bad("{} is not an object", where);
    if (!entry.contains("content") || !entry["content"].is_string()) source.bad("{}.content is not a string", where);
    AddedToken token;
    token.text = entry["content"].get<std::string>();
    if (token.text.empty()) source.bad("{}.content is empty", where);
    if (token.text.size() > kLongestTokenBytes)
      source.bad("{}.content is longer than {} bytes", where, kLongestTokenBytes);
    if (!entry.contains("id")) source.bad("{} has no id", where);
    token.id = read_id(source, entry["id"], where);
    token.special = read_bool(source, entry, "special", where, false);
    for (const char* flag : {"lstrip", "rstrip", "single_word"}) {
      if (read_bool(source, entry, flag, where, false)) {
        source.cannot("{} ({}) sets {}, which would drop or depend on the text around it", where,
                      in_quotes(token.text), flag);
      }
    }
    result.push_back(std::move(token));
  }
  return result;
}

// The type of a step of the pipeline; empty when there is none.
std::string step_type(const Source& source, const Json& root, const char* field) {
  const auto found = root.find(field);
  if (found == root.end() || found->is_null()) return {};
  if (!found->is_object() || !found->contains("type") || !(*found)["type"].is_string()) {
    source.bad("{} has no type", field);
  }
  return (*found)["type"].get<std::string>();
}

// Only GPT-2's pipeline gives GPT-2's ids.
void check_pipeline(const Source& source, const Json& root, const Json& model) {
  if (const auto type = model.find("type"); type != model.end() && *type != "BPE") {
    source.cannot("model.type is {}; only byte-level BPE is known", in_quotes(type->dump(-1, ' ', true)));
  }
  for (const char* field : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const auto value = model.find(field);
    if (value == model.end() || value->is_null()) continue;
    if (!value->is_string() || !value->get_ref<const std::string&>().empty()) source.cannot("model.{} is set", field);
  }
  for (const char* field : {"byte_fallback", "ignore_merges"}) {
    if (read_bool(source, model, field, "model", false)) source.cannot("model.{} is true", field);
  }
  if (const auto dropout = model.find("dropout"); dropout != model.end() && !dropout->is_null() && *dropout != 0) {
    source.cannot("model.dropout is set: the ids would be random");
  }
  if (const std::string type = step_type(source, root, "normalizer"); !type.empty()) {
    source.cannot("the normalizer {} would change the text", in_quotes(type));
  }
  if (const std::string type = step_type(source, root, "pre_tokenizer"); type != "ByteLevel") {
    source.cannot("pre_tokenizer is {}; only ByteLevel is known", type.empty() ? "absent" : in_quotes(type));
  }
  const Json& pretokenizer = root["pre_tokenizer"];
  if (read_bool(source, pretokenizer, "add_prefix_space", "pre_tokenizer", true)) {
    source.cannot("pre_tokenizer.add_prefix_space is true: decoding would not give the text back");
  }
  if (!read_bool(source, pretokenizer, "use_regex", "pre_tokenizer", true)) {
    source.cannot("pre_tokenizer.use_regex is false: these are not GPT-2's words");
  }
  if (const std::string type = step_type(source, root, "post_processor"); !type.empty() && type != "ByteLevel") {
    log_warning(fmt::format("{}: the post_processor {} is ignored: it adds tokens that a prompt here does not have",
                            source.name, in_quotes(type)));
  }
}

std::string read_file(const std::filesystem::path& path) { return read_text_file(path, kLargestFileBytes); }

Source source_of(const MemoryFile& file) {
  Source source{file.text(), file.name};
  if (source.text.size() > kLargestFileBytes) {
    source.bad("{} bytes is more than the limit of {}", source.text.size(), kLargestFileBytes);
  }
  return source;
}

std::unique_ptr<Tokenizer> parse_tokenizer_json(const Source& source) {
  const Json root = parse_json(source);
  if (!root.is_object()) source.bad("not an object");
  const auto model = root.find("model");
  if (model == root.end() || !model->is_object()) source.bad("there is no model object");
  if (!model->contains("vocab")) source.bad("there is no model.vocab");
  if (!model->contains("merges")) source.bad("there is no model.merges");
  check_pipeline(source, root, *model);
  BpeVocabulary vocabulary;
  vocabulary.source = source.name;
  vocabulary.added = read_added_tokens(source, root);
  TokenIds added;
  for (const AddedToken& token : vocabulary.added) added.emplace(token.text, token.id);
  const TokenIds ids = read_vocab(source, (*model)["vocab"], added, vocabulary);
  read_merges_json(source, (*model)["merges"], ids, vocabulary);
  return std::make_unique<BpeTokenizer>(vocabulary);
}

std::unique_ptr<Tokenizer> parse_vocab_and_merges(const Source& vocab, const Source& merges) {
  BpeVocabulary vocabulary;
  vocabulary.source = vocab.name;
  const TokenIds ids = read_vocab(vocab, parse_json(vocab), {}, vocabulary);
  read_merges_text(merges, ids, vocabulary);
  // These files do not say which tokens are special; GPT-2 has one.
  const std::string end_of_text = "<|endoftext|>";
  if (const auto found = ids.find(end_of_text); found != ids.end()) {
    vocabulary.added.push_back({end_of_text, found->second, true});
  }
  return std::make_unique<BpeTokenizer>(vocabulary);
}

}  // namespace

std::unique_ptr<Tokenizer> load_gpt2_tokenizer(const std::filesystem::path& tokenizer_json) {
  const std::string text = read_file(tokenizer_json);
  return parse_tokenizer_json({text, tokenizer_json.string()});
}

std::unique_ptr<Tokenizer> load_gpt2_tokenizer(const std::filesystem::path& vocab_json,
                                               const std::filesystem::path& merges_txt) {
  const std::string vocab = read_file(vocab_json);
  const std::string merges = read_file(merges_txt);
  return parse_vocab_and_merges({vocab, vocab_json.string()}, {merges, merges_txt.string()});
}

std::unique_ptr<Tokenizer> find_tokenizer(std::span<const MemoryFile> files, std::int64_t vocab_size) {
  const MemoryFile* const vocab = find_memory_file(files, "vocab.json");
  const MemoryFile* const merges = find_memory_file(files, "merges.txt");
  if (const MemoryFile* const json = find_memory_file(files, "tokenizer.json")) {
    return require_fitting(parse_tokenizer_json(source_of(*json)), json->name, vocab_size);
  }
  if (vocab == nullptr && merges == nullptr) return fitting_byte_tokenizer(vocab_size);
  if (vocab == nullptr || merges == nullptr) {
    fail(StatusCode::not_found, "{} is among the files, and {} is not: they are of use together only",
         vocab != nullptr ? "vocab.json" : "merges.txt", vocab != nullptr ? "merges.txt" : "vocab.json");
  }
  return require_fitting(parse_vocab_and_merges(source_of(*vocab), source_of(*merges)), vocab->name, vocab_size);
}

}  // namespace riverhorse
