// Conversations: the turns of a session, their texts, and the states before them.
//
// Saved: "RVHTALKS" | u32 version | u32 bytes of JSON | u64 hash of the JSON and the session | JSON | saved session
// (session_file.cpp). JSON: template, turns ([user's text, reply]), tail (bytes), tokens_read.
#include "riverhorse/conversation.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "api/async.h"
#include "api/conversation_template.h"
#include "api/guard.h"
#include "api/objects.h"
#include "base/file.h"
#include "base/hash.h"
#include "formats/json.h"

using riverhorse::fail;
using riverhorse::StatusCode;
using riverhorse::api::guarded;
using riverhorse::api::ModelState;
using riverhorse::api::require;
using riverhorse::api::with_any_session;
using riverhorse::api::with_session;
using Json = nlohmann::json;

namespace {

constexpr std::int32_t default_undo_turns = 4;
constexpr std::int32_t most_undo_turns = 256;

constexpr std::string_view magic = "RVHTALKS";
constexpr std::uint32_t version = 1;
constexpr std::size_t prefix_bytes = 24;

struct Exchange {
  std::string user_text, reply;
};

}  // namespace

struct riverhorse_conversation : riverhorse::api::Handle {
  riverhorse_session* session = nullptr;  // riverhorse_conversation_free frees it
  std::size_t undo_turns = 0;

  riverhorse::api::ConversationTemplate form;
  std::vector<const char*> stop = {};  // those of `form`
  std::vector<Exchange> turns = {};
  std::string tail = {};  // what was drawn after the end of the last reply
  std::int64_t tokens_read = 0;

  // Of the open turn.
  bool is_open = false;
  std::int64_t begin = 0;
  std::vector<std::int32_t> prompt = {};

  // Before each of the last turns.
  struct Before {
    std::shared_ptr<const riverhorse::Session::Mark> state;
    std::string tail;
  };
  std::deque<Before> ring = {};

  const riverhorse::Tokenizer& tokenizer() const { return *session->model->tokenizer; }

  void set_form(riverhorse::api::ConversationTemplate other) {
    form = std::move(other);
    stop.clear();
    for (const std::string& each : form.stop) stop.push_back(each.c_str());
  }

  void require_open() const {
    if (!is_open) fail(StatusCode::invalid_argument, "no turn is open: begin one first");
  }
  void require_closed() const {
    if (is_open) fail(StatusCode::invalid_argument, "a turn is open: end it or take it back first");
  }

  // Tokens of the prompt that are in the state. Errors: invalid_argument, when the session was changed.
  std::size_t prompt_read(const riverhorse::Session& text) const {
    const std::vector<std::int32_t>& tokens = text.tokens();
    const std::size_t first = std::min(static_cast<std::size_t>(begin), tokens.size());
    const std::size_t count = std::min(tokens.size() - first, prompt.size());
    if (first != static_cast<std::size_t>(begin) ||
        !std::equal(prompt.begin(), prompt.begin() + static_cast<std::ptrdiff_t>(count),
                    tokens.begin() + static_cast<std::ptrdiff_t>(first))) {
      fail(StatusCode::invalid_argument,
           "the session's text is not that of the turn: it was changed from outside; take the turn back");
    }
    return count;
  }

  void take_back(riverhorse::Session& text, std::int64_t count) {
    if (count < 0 || static_cast<std::size_t>(count) > ring.size()) {
      fail(StatusCode::invalid_argument, "{} turns cannot be taken back: the states before {} are kept", count,
           ring.size());
    }
    if (count == 0) return;
    const Before& before = ring[ring.size() - static_cast<std::size_t>(count)];
    const std::int64_t in_state = std::max<std::int64_t>(text.position() - begin, 0);
    text.return_to(before.state);
    tail = before.tail;
    if (is_open) tokens_read += std::min(in_state, static_cast<std::int64_t>(prompt.size()));
    is_open = false;
    ring.resize(ring.size() - static_cast<std::size_t>(count));
    turns.resize(turns.size() - static_cast<std::size_t>(count));
  }

  void open_turn(riverhorse::Session& text, std::string user_text) {
    std::vector<std::int32_t> ids = riverhorse::api::turn_prompt(form, tokenizer(), turns.empty(), tail, user_text);
    Before before{undo_turns > 0 ? text.mark() : nullptr, tail};
    turns.push_back({std::move(user_text), ""});
    if (undo_turns > 0) {
      if (ring.size() == undo_turns) ring.pop_front();
      ring.push_back(std::move(before));
    }
    begin = text.position();
    prompt = std::move(ids);
    is_open = true;
  }
};

namespace {

std::string_view read_text(const char* text, std::size_t bytes, const char* name) {
  if (bytes == 0) return {};
  require(text, name);
  const std::string_view view(text, bytes);
  if (const auto position = riverhorse::find_invalid_utf8(view)) {
    fail(StatusCode::invalid_argument, "{} is not valid UTF-8: byte {} (0x{:02x})", name, *position,
         static_cast<unsigned>(static_cast<unsigned char>(view[*position])));
  }
  return view;
}

riverhorse::api::ConversationTemplate template_of(const riverhorse_conversation_options& options) {
  if ((options.template_path == nullptr) == (options.template_json == nullptr)) {
    fail(StatusCode::invalid_argument, "one of options.template_path and options.template_json is needed");
  }
  if (options.template_json != nullptr) {
    const std::string origin = "the template in memory";
    return riverhorse::api::read_template(
        riverhorse::parse_json(std::string_view(options.template_json, options.template_bytes), origin), origin);
  }
  const std::string origin = options.template_path;
  const std::string text = riverhorse::read_text_file(origin, riverhorse::JsonLimits().size_bytes);
  return riverhorse::api::read_template(riverhorse::parse_json(text, origin), origin);
}

std::size_t read_undo_turns(std::int32_t turns) {
  if (turns < -1 || turns > most_undo_turns) {
    fail(StatusCode::invalid_argument, "options.undo_turns is {}: it must be -1 (none) to {}", turns,
         most_undo_turns);
  }
  if (turns < 0) return 0;
  return static_cast<std::size_t>(turns == 0 ? default_undo_turns : turns);
}

struct SessionDeleter {
  void operator()(riverhorse_session* session) const { riverhorse_session_free(session); }
};

// Of a conversation that nobody works on but the caller.
template <typename Body>
riverhorse_status with_conversation(const char* function, riverhorse_conversation* conversation, Body&& body) {
  riverhorse_session* const session = riverhorse_conversation_get_session(conversation);
  if (session == nullptr) return guarded(function, [&] { require(conversation, "conversation"); });
  return with_session(function, session, [&](ModelState&, riverhorse::Session& text) { body(text); });
}

// Only looks, also while the session works.
template <typename Body>
riverhorse_status look_at(const char* function, const riverhorse_conversation* conversation, Body&& body) {
  const riverhorse_session* const session = riverhorse_conversation_get_session(conversation);
  if (session == nullptr) return guarded(function, [&] { require(conversation, "conversation"); });
  return with_any_session(function, session, [&](ModelState&, const riverhorse::Session&) { body(); });
}

std::string header_of(const riverhorse_conversation& conversation) {
  Json turns = Json::array();
  for (const Exchange& each : conversation.turns) turns.push_back({each.user_text, each.reply});
  const std::vector<std::uint8_t> tail(conversation.tail.begin(), conversation.tail.end());
  return Json{{"template", riverhorse::api::template_json(conversation.form)},
              {"turns", turns},
              {"tail", tail},
              {"tokens_read", conversation.tokens_read}}
      .dump();
}

struct Saved {
  riverhorse::api::ConversationTemplate form;
  std::vector<Exchange> turns;
  std::string tail;
  std::int64_t tokens_read = 0;
  std::span<const std::byte> session;
};

Saved parse_saved(std::span<const std::byte> bytes) {
  const std::string origin = "the bytes in memory";
  const auto bad = [&](const std::string& reason) {
    fail(StatusCode::bad_file, "{}: not a usable saved conversation: {}", origin, reason);
  };
  if (bytes.size() < prefix_bytes) bad(fmt::format("only {} bytes", bytes.size()));
  if (std::memcmp(bytes.data(), magic.data(), magic.size()) != 0)
    bad(fmt::format("it does not begin with {}", magic));
  std::uint32_t sizes[2];
  std::uint64_t hash = 0;
  std::memcpy(sizes, bytes.data() + magic.size(), sizeof sizes);
  std::memcpy(&hash, bytes.data() + magic.size() + sizeof sizes, sizeof hash);
  if (sizes[0] != version) bad(fmt::format("its version is {}, this library reads {}", sizes[0], version));
  const std::span<const std::byte> body = bytes.subspan(prefix_bytes);
  if (sizes[1] > body.size()) bad("it is cut short");
  if (riverhorse::hash_bytes(body, sizes[1]) != hash) bad("it is damaged or cut short (the hash differs)");

  const std::string_view text(reinterpret_cast<const char*>(body.data()), sizes[1]);
  Saved saved;
  saved.session = body.subspan(sizes[1]);
  try {
    const Json json = riverhorse::parse_json(text, origin, {.size_bytes = sizes[1]});
    saved.form = riverhorse::api::read_template(json.at("template"), origin);
    for (const Json& each : json.at("turns")) {
      saved.turns.push_back({each.at(0).get<std::string>(), each.at(1).get<std::string>()});
    }
    for (const auto byte : json.at("tail").get<std::vector<std::uint8_t>>()) {
      saved.tail.push_back(static_cast<char>(byte));
    }
    saved.tokens_read = json.at("tokens_read").get<std::int64_t>();
  } catch (const Json::exception& error) {
    bad(riverhorse::json_error_text(error));
  }
  return saved;
}

riverhorse_status get_text(const char* function, const riverhorse_conversation* conversation, std::int64_t turn,
                           std::string Exchange::*which, char* text, std::size_t capacity, std::size_t* text_bytes) {
  return look_at(function, conversation, [&] {
    require(text_bytes, "text_bytes");
    const std::vector<Exchange>& turns = conversation->turns;
    if (turn < 0 || static_cast<std::size_t>(turn) >= turns.size()) {
      fail(StatusCode::invalid_argument, "there is no turn {}: the conversation has {}, counted from 0", turn,
           turns.size());
    }
    const std::string& found = turns[static_cast<std::size_t>(turn)].*which;
    riverhorse::api::write_array(std::span<const char>(found), text, capacity, text_bytes);
  });
}

}  // namespace

riverhorse_status riverhorse_conversation_create(riverhorse_model* model,
                                                 const riverhorse_conversation_options* options,
                                                 const riverhorse_sampling_options* sampling,
                                                 riverhorse_conversation** conversation) {
  return guarded(__func__, [&] {
    require(model, "model");
    require(conversation, "conversation");
    const riverhorse_conversation_options given = riverhorse::api::read_options(options, "options");
    auto made = std::make_unique<riverhorse_conversation>();
    made->undo_turns = read_undo_turns(given.undo_turns);
    made->set_form(template_of(given));
    const std::string_view system = read_text(given.system_text, given.system_bytes, "options.system_text");
    const riverhorse::SamplingOptions drawn_by = riverhorse::api::read_sampling(sampling);
    if (model->state->tokenizer == nullptr) {
      fail(StatusCode::unsupported, "the model has no tokenizer, and a conversation is made of texts");
    }
    riverhorse::api::Turn turn(model->state);
    auto text = turn.model().engine->create_session(drawn_by);
    if (given.system_text != nullptr) {
      text->append(riverhorse::api::system_prompt(made->form, *model->state->tokenizer, system));
      made->tokens_read = text->position();
    }
    made->session = new riverhorse_session{{}, model->state, std::move(text)};
    *conversation = made.release();
  });
}

void riverhorse_conversation_free(riverhorse_conversation* conversation) {
  if (!riverhorse::api::may_free(__func__, conversation)) return;
  if (!riverhorse::api::may_free("riverhorse_conversation_free, of its session", conversation->session)) return;
  if (riverhorse::api::free_session(conversation->session)) delete conversation;
}

riverhorse_session* riverhorse_conversation_get_session(const riverhorse_conversation* conversation) {
  return riverhorse::api::is_usable(conversation) ? conversation->session : nullptr;
}

riverhorse_status riverhorse_conversation_begin_turn(riverhorse_conversation* conversation, const char* text,
                                                     size_t text_bytes) {
  return with_conversation(__func__, conversation, [&](riverhorse::Session& state) {
    conversation->require_closed();
    conversation->open_turn(state, std::string(read_text(text, text_bytes, "text")));
  });
}

riverhorse_status riverhorse_conversation_get_prompt(const riverhorse_conversation* conversation, int32_t* ids,
                                                     size_t capacity, size_t* count) {
  return look_at(__func__, conversation, [&] {
    conversation->require_open();
    riverhorse::api::write_array(std::span<const std::int32_t>(conversation->prompt), ids, capacity, count);
  });
}

riverhorse_status riverhorse_conversation_get_generate_options(const riverhorse_conversation* conversation,
                                                               riverhorse_generate_options* options) {
  return look_at(__func__, conversation, [&] {
    require(options, "options");
    riverhorse::api::check_struct_size(*options, "options");
    options->ignore_end_of_text = conversation->form.end_of_text ? 0 : 1;
    options->stop_strings = conversation->stop.data();
    options->stop_string_count = conversation->stop.size();
  });
}

riverhorse_status riverhorse_conversation_reply(riverhorse_conversation* conversation, int64_t max_tokens,
                                                riverhorse_token_callback callback, void* user,
                                                riverhorse_generate_result* result) {
  std::vector<std::int32_t> unread;
  riverhorse_status status = with_conversation(__func__, conversation, [&](riverhorse::Session& text) {
    conversation->require_open();
    const auto read = static_cast<std::ptrdiff_t>(conversation->prompt_read(text));
    unread.assign(conversation->prompt.begin() + read, conversation->prompt.end());
  });
  if (status != RIVERHORSE_OK) return status;
  riverhorse_generate_options options{};
  options.struct_size = sizeof options;
  options.max_tokens = max_tokens;
  status = riverhorse_conversation_get_generate_options(conversation, &options);
  if (status == RIVERHORSE_OK) {
    status = riverhorse_session_append(conversation->session, unread.data(), unread.size(), nullptr, nullptr);
  }
  if (status == RIVERHORSE_OK) {
    status = riverhorse_session_generate(conversation->session, &options, callback, user, result);
  }
  return status == RIVERHORSE_OK ? riverhorse_conversation_end_turn(conversation) : status;
}

riverhorse_status riverhorse_conversation_end_turn(riverhorse_conversation* conversation) {
  return with_conversation(__func__, conversation, [&](riverhorse::Session& text) {
    conversation->require_open();
    text.append({});  // ends what frames do
    const std::vector<std::int32_t>& prompt = conversation->prompt;
    const std::size_t read = conversation->prompt_read(text);
    if (read < prompt.size()) {
      fail(StatusCode::invalid_argument, "{} of the turn's {} tokens were read: read the rest or take the turn back",
           read, prompt.size());
    }
    const std::vector<std::int32_t>& tokens = text.tokens();
    const std::int32_t* const drawn = tokens.data() + static_cast<std::size_t>(conversation->begin) + prompt.size();
    riverhorse::api::Reply reply = riverhorse::api::read_reply(conversation->form, conversation->tokenizer(), drawn,
                                                               tokens.data() + tokens.size());
    conversation->turns.back().reply = std::move(reply.text);
    conversation->tail = std::move(reply.tail);
    conversation->tokens_read += static_cast<std::int64_t>(prompt.size());
    conversation->is_open = false;
  });
}

riverhorse_status riverhorse_conversation_undo(riverhorse_conversation* conversation, int64_t turns) {
  return with_conversation(__func__, conversation,
                           [&](riverhorse::Session& text) { conversation->take_back(text, turns); });
}

riverhorse_status riverhorse_conversation_regenerate(riverhorse_conversation* conversation,
                                                     const riverhorse_sampling_options* sampling) {
  return with_conversation(__func__, conversation, [&](riverhorse::Session& text) {
    std::optional<riverhorse::SamplingOptions> other;
    if (sampling != nullptr) {
      other = riverhorse::api::read_sampling(sampling);
      riverhorse::check_sampling(*other, conversation->session->model->engine->config());
    }
    if (conversation->ring.empty()) conversation->take_back(text, 1);  // says why not
    std::string user_text = conversation->turns.back().user_text;
    conversation->take_back(text, 1);
    if (other) text.set_sampling(*other);
    conversation->open_turn(text, std::move(user_text));
  });
}

riverhorse_status riverhorse_conversation_get_info(const riverhorse_conversation* conversation,
                                                   riverhorse_conversation_info* info) {
  return look_at(__func__, conversation, [&] {
    riverhorse_conversation_info value{};
    value.turn_is_open = conversation->is_open ? 1 : 0;
    value.turn_count = static_cast<std::int64_t>(conversation->turns.size());
    value.undo_count = static_cast<std::int64_t>(conversation->ring.size());
    value.tokens_read = conversation->tokens_read;
    riverhorse::api::write_info(info, value, "info");
  });
}

riverhorse_status riverhorse_conversation_get_user_text(const riverhorse_conversation* conversation, int64_t turn,
                                                        char* text, size_t capacity, size_t* text_bytes) {
  return get_text(__func__, conversation, turn, &Exchange::user_text, text, capacity, text_bytes);
}

riverhorse_status riverhorse_conversation_get_reply(const riverhorse_conversation* conversation, int64_t turn,
                                                    char* text, size_t capacity, size_t* text_bytes) {
  return get_text(__func__, conversation, turn, &Exchange::reply, text, capacity, text_bytes);
}

riverhorse_status riverhorse_conversation_save_memory(riverhorse_conversation* conversation, void* data,
                                                      size_t capacity, size_t* size) {
  return with_conversation(__func__, conversation, [&](riverhorse::Session& text) {
    require(size, "size");
    conversation->require_closed();
    const std::string header = header_of(*conversation);
    *size = prefix_bytes + header.size() + static_cast<std::size_t>(text.saved_size_bytes());
    if (data == nullptr) return;
    if (capacity < *size) {
      fail(StatusCode::invalid_argument, "there is room for {} bytes, and {} are needed", capacity, *size);
    }
    const std::vector<std::byte> session = text.save_bytes();
    const std::span<std::byte> out(static_cast<std::byte*>(data), *size);
    const std::span<std::byte> body = out.subspan(prefix_bytes);
    std::memcpy(body.data(), header.data(), header.size());
    std::copy(session.begin(), session.end(), body.begin() + static_cast<std::ptrdiff_t>(header.size()));
    const std::uint32_t sizes[] = {version, static_cast<std::uint32_t>(header.size())};
    const std::uint64_t hash = riverhorse::hash_bytes(body, sizes[1]);
    std::memcpy(out.data(), magic.data(), magic.size());
    std::memcpy(out.data() + magic.size(), sizes, sizeof sizes);
    std::memcpy(out.data() + magic.size() + sizeof sizes, &hash, sizeof hash);
  });
}

riverhorse_status riverhorse_conversation_load_memory(riverhorse_conversation* conversation, const void* data,
                                                      size_t size) {
  return with_conversation(__func__, conversation, [&](riverhorse::Session& text) {
    require(data, "data");
    Saved saved = parse_saved(std::span(static_cast<const std::byte*>(data), size));
    text.load_bytes(saved.session);
    conversation->set_form(std::move(saved.form));
    conversation->turns = std::move(saved.turns);
    conversation->tail = std::move(saved.tail);
    conversation->tokens_read = saved.tokens_read;
    conversation->ring.clear();
    conversation->is_open = false;
  });
}
