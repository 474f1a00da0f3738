#include "api/conversation_template.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <initializer_list>

#include "base/error.h"
#include "data/text_stream.h"

namespace riverhorse::api {
namespace {

using Json = nlohmann::json;

constexpr std::size_t most_stop_strings = 16;

// Objects with known fields, each of which must be there.
class FieldReader {
 public:
  explicit FieldReader(const std::string& origin) : origin_(origin) {}

  void require_fields(const Json& object, const std::string& path, std::initializer_list<const char*> names) const {
    if (!object.is_object()) wrong(path, "an object", object);
    for (const char* name : names) {
      if (!object.contains(name)) fail(StatusCode::bad_file, "{}: field {} is missing", origin_, join(path, name));
    }
    for (const auto& [name, value] : object.items()) {
      if (std::find(names.begin(), names.end(), name) != names.end()) continue;
      fail(StatusCode::bad_file, "{}: field {} is not known; there are {}", origin_, join(path, name),
           fmt::join(names, ", "));
    }
  }

  ConversationTemplate::Frame frame(const Json& object, const char* name) const {
    const Json& value = object.at(name);
    require_fields(value, name, {"prefix", "suffix"});
    return {text(value.at("prefix"), join(name, "prefix")), text(value.at("suffix"), join(name, "suffix"))};
  }

  std::vector<std::string> stop_strings(const Json& value) const {
    if (!value.is_array()) wrong("stop", "an array of strings", value);
    if (value.size() > most_stop_strings) {
      fail(StatusCode::bad_file, "{}: field stop has {} strings; at most {} are possible", origin_, value.size(),
           most_stop_strings);
    }
    std::vector<std::string> result;
    for (const Json& each : value) {
      const std::string path = fmt::format("stop[{}]", result.size());
      result.push_back(text(each, path));
      if (result.back().empty()) fail(StatusCode::bad_file, "{}: field {} is empty", origin_, path);
      if (result.back().find('\0') != std::string::npos) {  // C strings take them on
        fail(StatusCode::bad_file, "{}: field {} has a character U+0000", origin_, path);
      }
    }
    return result;
  }

  bool truth(const Json& object, const char* name) const {
    if (!object.at(name).is_boolean()) wrong(name, "true or false", object.at(name));
    return object.at(name).get<bool>();
  }

 private:
  static std::string join(const std::string& path, const std::string& name) {
    return path.empty() ? name : path + "." + name;
  }
  [[noreturn]] void wrong(const std::string& path, const char* wanted, const Json& value) const {
    const std::string field = path.empty() ? "the template" : "field " + path;
    fail(StatusCode::bad_file, "{}: {} must be {}, not of type {}", origin_, field, wanted, value.type_name());
  }
  std::string text(const Json& value, const std::string& path) const {
    if (!value.is_string()) wrong(path, "a string", value);
    return value.get<std::string>();
  }

  const std::string& origin_;
};

struct Piece {
  std::string_view text;
  bool is_ours;  // of the template: special tokens are such
};

// Words join over the pieces, as in one text, but beside a piece that has special tokens.
std::vector<std::int32_t> encode(const Tokenizer& tokenizer, std::initializer_list<Piece> pieces) {
  std::vector<std::int32_t> ids;
  std::string plain;
  const auto add = [&](const std::vector<std::int32_t>& more) { ids.insert(ids.end(), more.begin(), more.end()); };
  const auto add_plain = [&] {
    if (!plain.empty()) add(tokenizer.encode(plain, false));
    plain.clear();
  };
  for (const Piece& piece : pieces) {
    const std::vector<std::int32_t> special =
        piece.is_ours ? tokenizer.encode(piece.text, true) : std::vector<std::int32_t>();
    if (piece.is_ours && special != tokenizer.encode(piece.text, false)) {
      add_plain();
      add(special);
    } else {
      plain += piece.text;
    }
  }
  add_plain();
  return ids;
}

}  // namespace

ConversationTemplate read_template(const Json& json, const std::string& origin) {
  const FieldReader fields(origin);
  fields.require_fields(json, "", {"system", "user", "assistant", "stop", "end_of_text"});
  ConversationTemplate form;
  form.system = fields.frame(json, "system");
  form.user = fields.frame(json, "user");
  form.assistant = fields.frame(json, "assistant");
  form.stop = fields.stop_strings(json.at("stop"));
  form.end_of_text = fields.truth(json, "end_of_text");
  return form;
}

Json template_json(const ConversationTemplate& form) {
  const auto frame = [](const ConversationTemplate::Frame& each) {
    return Json{{"prefix", each.prefix}, {"suffix", each.suffix}};
  };
  return {{"system", frame(form.system)},
          {"user", frame(form.user)},
          {"assistant", frame(form.assistant)},
          {"stop", form.stop},
          {"end_of_text", form.end_of_text}};
}

std::vector<std::int32_t> system_prompt(const ConversationTemplate& form, const Tokenizer& tokenizer,
                                        std::string_view text) {
  return encode(tokenizer, {{form.system.prefix, true}, {text, false}, {form.system.suffix, true}});
}

std::vector<std::int32_t> turn_prompt(const ConversationTemplate& form, const Tokenizer& tokenizer, bool is_first,
                                      std::string_view tail, std::string_view text) {
  std::string_view end = is_first ? std::string_view() : std::string_view(form.assistant.suffix);
  std::string_view prefix = form.user.prefix;
  const std::string both = std::string(end) + std::string(prefix);
  if (both.compare(0, tail.size(), tail) == 0) {
    const std::size_t of_end = std::min(tail.size(), end.size());
    end.remove_prefix(of_end);
    prefix.remove_prefix(tail.size() - of_end);
  }
  return encode(
      tokenizer,
      {{end, true}, {prefix, true}, {text, false}, {form.user.suffix, true}, {form.assistant.prefix, true}});
}

Reply read_reply(const ConversationTemplate& form, const Tokenizer& tokenizer, const std::int32_t* begin,
                 const std::int32_t* end) {
  Reply reply;
  std::string drawn;
  TextStream stream(form.stop);
  const auto add = [&](std::int32_t token) {
    const std::string_view bytes = token < tokenizer.vocab_size() ? tokenizer.token_bytes(token) : std::string_view();
    drawn += bytes;
    return bytes;
  };
  for (; begin != end; ++begin) {
    const std::size_t before = drawn.size();
    const std::string_view bytes = add(*begin);
    if (form.end_of_text && *begin == tokenizer.end_of_text()) {
      while (++begin != end) add(*begin);
      reply.tail = drawn.substr(before);
      break;
    }
    reply.text += stream.push(bytes);
    if (!stream.stopped()) continue;
    while (++begin != end) add(*begin);
    // Not there: a U+FFFD of the stop string was found for bytes that are no character.
    const std::size_t stop = drawn.find(form.stop[stream.stop_index()]);
    reply.tail = drawn.substr(stop == std::string::npos ? before : stop);
    break;
  }
  reply.text += stream.finish();
  return reply;
}

}  // namespace riverhorse::api
