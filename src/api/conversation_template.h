// The words around what is said in a conversation, and what of it a model reads.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"

namespace riverhorse::api {

struct ConversationTemplate {
  struct Frame {
    std::string prefix, suffix;
  };
  Frame system, user, assistant;
  std::vector<std::string> stop;
  bool end_of_text = false;  // ends a reply
};

// Strict: every field, and no other. Errors: bad_file, beginning with `origin` and naming the field.
ConversationTemplate read_template(const nlohmann::json& json, const std::string& origin);
nlohmann::json template_json(const ConversationTemplate& form);

// The tokens of system.prefix, `text`, system.suffix.
std::vector<std::int32_t> system_prompt(const ConversationTemplate& form, const Tokenizer& tokenizer,
                                        std::string_view text);

// The tokens from the end of a reply (unless the turn is the first) to the beginning of the next. `tail` is what was
// drawn after the end of that reply; it is left out where it is the beginning of what comes.
std::vector<std::int32_t> turn_prompt(const ConversationTemplate& form, const Tokenizer& tokenizer, bool is_first,
                                      std::string_view tail, std::string_view text);

struct Reply {
  std::string text;  // valid UTF-8
  std::string tail;  // the bytes drawn after its end: a stop string and what follows, or an end-of-text token
};
Reply read_reply(const ConversationTemplate& form, const Tokenizer& tokenizer, const std::int32_t* begin,
                 const std::int32_t* end);

}  // namespace riverhorse::api
