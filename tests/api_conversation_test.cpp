// Conversations: riverhorse/conversation.h, in C and through the C++ layer.
#include <riverhorse/conversation.h>

#include <array>
#include <cstring>
#include <fstream>
#include <iterator>
#include <riverhorse/riverhorse.hpp>
#include <string_view>
#include <thread>

#include "api_fixture.h"

namespace api_test {
namespace {

namespace rh = riverhorse_api;

const std::string host = R"({"system": {"prefix": "", "suffix": "\n"}, "user": {"prefix": "G:", "suffix": "\n"},
 "assistant": {"prefix": "H:", "suffix": "\n"}, "stop": ["\n"], "end_of_text": true})";

// The models babble; from few characters they babble text, and line ends, by equal chances.
struct Babble {
  explicit Babble(const std::vector<int>& tokens, std::uint64_t seed) {
    for (const int token : tokens) bias.push_back({token, 500.0f});
    sampling.temperature = 1.5;
    sampling.seed = seed;
    sampling.logit_bias = bias.data();
    sampling.logit_bias_count = bias.size();
  }
  std::vector<riverhorse_logit_bias> bias;
  riverhorse_sampling_options sampling = sampling_options();
};
const std::vector<int> letters = {'a', 'b', 'c', 'd', '\n'};

riverhorse_conversation_options conversation_options(const std::string& form, std::string_view system = "It is late.",
                                                     int undo_turns = 0) {
  riverhorse_conversation_options options{};
  options.struct_size = sizeof options;
  options.template_json = form.data();
  options.template_bytes = form.size();
  options.system_text = system.data();
  options.system_bytes = system.size();
  options.undo_turns = undo_turns;
  return options;
}

int collect(void* user, std::int32_t, const char* text, std::size_t text_bytes) {
  static_cast<std::string*>(user)->append(text, text_bytes);
  return 0;
}

class Conversation : public Api {
 protected:
  void TearDown() override {
    for (riverhorse_conversation* each : conversations_) riverhorse_conversation_free(each);
    Api::TearDown();
  }

  riverhorse_conversation* converse(riverhorse_model* model, const riverhorse_conversation_options& options,
                                    const riverhorse_sampling_options& sampling) {
    riverhorse_conversation* result = nullptr;
    EXPECT_OK(riverhorse_conversation_create(model, &options, &sampling, &result));
    conversations_.push_back(result);
    return result;
  }

  // What the callback was given.
  static std::string reply(riverhorse_conversation* conversation, std::int64_t max_tokens = 12) {
    std::string text;
    EXPECT_OK(riverhorse_conversation_reply(conversation, max_tokens, collect, &text, nullptr));
    return text;
  }

  static std::string say(riverhorse_conversation* conversation, std::string_view text, std::int64_t max_tokens = 12) {
    EXPECT_OK(riverhorse_conversation_begin_turn(conversation, text.data(), text.size()));
    return reply(conversation, max_tokens);
  }

  static riverhorse_conversation_info info_of(const riverhorse_conversation* conversation) {
    riverhorse_conversation_info info{};
    info.struct_size = sizeof info;
    EXPECT_OK(riverhorse_conversation_get_info(conversation, &info));
    return info;
  }

  template <typename Get>
  static std::string text_of(Get get, const riverhorse_conversation* conversation, std::int64_t turn) {
    std::size_t size = 0;
    EXPECT_OK(get(conversation, turn, nullptr, 0, &size));
    std::string text(size, '\0');
    EXPECT_OK(get(conversation, turn, text.data(), text.size(), &size));
    return text;
  }

  static std::vector<std::int32_t> prompt_of(const riverhorse_conversation* conversation) {
    std::size_t count = 0;
    EXPECT_OK(riverhorse_conversation_get_prompt(conversation, nullptr, 0, &count));
    std::vector<std::int32_t> ids(count);
    EXPECT_OK(riverhorse_conversation_get_prompt(conversation, ids.data(), ids.size(), &count));
    return ids;
  }

  static std::vector<unsigned char> save(riverhorse_conversation* conversation) {
    std::size_t size = 0;
    EXPECT_OK(riverhorse_conversation_save_memory(conversation, nullptr, 0, &size));
    std::vector<unsigned char> bytes(size);
    EXPECT_OK(riverhorse_conversation_save_memory(conversation, bytes.data(), bytes.size(), &size));
    return bytes;
  }

  static std::vector<std::int32_t> all_tokens(const riverhorse_conversation* conversation) {
    return tokens_of(riverhorse_conversation_get_session(conversation));
  }

  std::vector<riverhorse_conversation*> conversations_;
};

std::vector<std::int32_t> bytes_of(std::string_view text) {
  std::vector<std::int32_t> ids;
  for (const char each : text) ids.push_back(static_cast<unsigned char>(each));
  return ids;
}

TEST_F(Conversation, ReadsWhatIsNewAndSaysWhatASessionSays) {
  riverhorse_model* model = load(hybrid_path);
  const Babble babble(letters, 3);
  riverhorse_conversation* conversation = converse(model, conversation_options(host), babble.sampling);
  EXPECT_EQ(info_of(conversation).tokens_read, 12) << "the system text and its line end";

  riverhorse_session* by_hand = session(model, bytes_of("It is late.\n"), &babble.sampling);
  const std::vector<const char*> stop = {"\n"};
  riverhorse_generate_options options = generate_options(12);
  options.stop_strings = stop.data();
  options.stop_string_count = 1;
  options.ignore_end_of_text = 0;

  const std::vector<std::string> said = {"Who are you?", "", "Un caf\xC3\xA9, please", "So long"};
  std::int64_t drawn = 0, read = 12;
  int ended = 0;
  riverhorse_stop_reason reason = RIVERHORSE_STOP_STRING;  // of the turn before: is its line end in the state?
  for (std::size_t turn = 0; turn < said.size(); ++turn) {
    const std::string new_text =
        (turn == 0 || reason == RIVERHORSE_STOP_STRING ? "" : "\n") + std::string("G:") + said[turn] + "\nH:";
    const std::vector<std::int32_t> ids = bytes_of(new_text);
    ASSERT_OK(riverhorse_session_append(by_hand, ids.data(), ids.size(), nullptr, nullptr));
    std::string expected;
    riverhorse_generate_result result{};
    result.struct_size = sizeof result;
    ASSERT_OK(riverhorse_session_generate(by_hand, &options, collect, &expected, &result));
    reason = result.stop_reason;
    ended += reason == RIVERHORSE_STOP_STRING ? 1 : 0;
    drawn += result.token_count;
    read += static_cast<std::int64_t>(ids.size());

    EXPECT_EQ(say(conversation, said[turn]), expected) << turn;
    EXPECT_EQ(all_tokens(conversation), tokens_of(by_hand)) << turn;
    const riverhorse_conversation_info info = info_of(conversation);
    EXPECT_EQ(info.tokens_read, read) << "no more than the new text";
    EXPECT_EQ(riverhorse_session_position(riverhorse_conversation_get_session(conversation)), read + drawn);
    EXPECT_EQ(info.turn_count, static_cast<std::int64_t>(turn) + 1);
    EXPECT_EQ(text_of(riverhorse_conversation_get_user_text, conversation, info.turn_count - 1), said[turn]);
    EXPECT_EQ(text_of(riverhorse_conversation_get_reply, conversation, info.turn_count - 1), expected);
  }
  EXPECT_GT(ended, 0) << "choose another seed: both ends of a reply are to be there";
  EXPECT_LT(ended, 4);
}

TEST_F(Conversation, TakesTurnsBackAndSaysThemAnew) {
  riverhorse_model* model = load(hybrid_path);
  const Babble babble(letters, 3), other(letters, 4);
  riverhorse_conversation* conversation = converse(model, conversation_options(host, "Late.", 2), babble.sampling);
  say(conversation, "one");
  const std::vector<std::int32_t> after_one = all_tokens(conversation);
  const std::string two = say(conversation, "two");
  const std::vector<std::int32_t> after_two = all_tokens(conversation);
  const std::string three = say(conversation, "three");
  const std::vector<std::int32_t> after_three = all_tokens(conversation);
  EXPECT_EQ(info_of(conversation).undo_count, 2);
  EXPECT_FAILS(riverhorse_conversation_undo(conversation, 3), RIVERHORSE_INVALID_ARGUMENT, "before 2 are kept");
  EXPECT_EQ(all_tokens(conversation), after_three);

  const std::int64_t read = info_of(conversation).tokens_read;
  ASSERT_OK(riverhorse_conversation_undo(conversation, 2));
  EXPECT_EQ(all_tokens(conversation), after_one);
  EXPECT_EQ(info_of(conversation).tokens_read, read) << "nothing is read again";
  EXPECT_EQ(info_of(conversation).turn_count, 1);
  EXPECT_FAILS(riverhorse_conversation_undo(conversation, 1), RIVERHORSE_INVALID_ARGUMENT, "before 0 are kept");
  EXPECT_FAILS(riverhorse_conversation_regenerate(conversation, nullptr), RIVERHORSE_INVALID_ARGUMENT,
               "before 0 are kept");
  EXPECT_EQ(say(conversation, "two"), two) << "the random numbers went back too";
  EXPECT_EQ(say(conversation, "three"), three);
  EXPECT_EQ(all_tokens(conversation), after_three);

  ASSERT_OK(riverhorse_conversation_regenerate(conversation, nullptr));
  EXPECT_EQ(reply(conversation), three);
  ASSERT_OK(riverhorse_conversation_regenerate(conversation, &other.sampling));
  EXPECT_EQ(info_of(conversation).turn_is_open, 1);
  const std::string anew = reply(conversation);
  EXPECT_NE(anew, three) << "another seed";
  EXPECT_EQ(text_of(riverhorse_conversation_get_reply, conversation, 2), anew);
  EXPECT_EQ(text_of(riverhorse_conversation_get_user_text, conversation, 2), "three");
  riverhorse_sampling_options wrong = sampling_options();
  wrong.top_k = -1;
  EXPECT_FAILS(riverhorse_conversation_regenerate(conversation, &wrong), RIVERHORSE_INVALID_ARGUMENT, "top_k");
  EXPECT_EQ(info_of(conversation).turn_is_open, 0);

  // A turn that has only begun, and one that was partly read.
  ASSERT_OK(riverhorse_conversation_undo(conversation, 1));
  ASSERT_OK(riverhorse_conversation_begin_turn(conversation, "x", 1));
  EXPECT_FAILS(riverhorse_conversation_begin_turn(conversation, "y", 1), RIVERHORSE_INVALID_ARGUMENT,
               "a turn is open");
  const std::vector<std::int32_t> prompt = prompt_of(conversation);
  riverhorse_session* const text = riverhorse_conversation_get_session(conversation);
  ASSERT_OK(riverhorse_session_append(text, prompt.data(), 2, nullptr, nullptr));
  EXPECT_FAILS(riverhorse_conversation_end_turn(conversation), RIVERHORSE_INVALID_ARGUMENT, "2 of the turn's");
  const std::int64_t before = info_of(conversation).tokens_read;
  ASSERT_OK(riverhorse_conversation_undo(conversation, 1));
  EXPECT_EQ(info_of(conversation).tokens_read, before + 2);
  EXPECT_EQ(all_tokens(conversation), after_two);
  // The session is changed from outside.
  ASSERT_OK(riverhorse_conversation_begin_turn(conversation, "x", 1));
  ASSERT_OK(riverhorse_session_rewind(text, 3, nullptr));
  EXPECT_FAILS(riverhorse_conversation_reply(conversation, 4, nullptr, nullptr, nullptr), RIVERHORSE_INVALID_ARGUMENT,
               "changed from outside");
  ASSERT_OK(riverhorse_conversation_undo(conversation, 1));
  EXPECT_EQ(say(conversation, "three"), anew) << "the seed is that of the last regenerate";

  riverhorse_conversation* without = converse(model, conversation_options(host, "", -1), babble.sampling);
  say(without, "one");
  EXPECT_FAILS(riverhorse_conversation_undo(without, 1), RIVERHORSE_INVALID_ARGUMENT, "before 0 are kept");
}

TEST_F(Conversation, GoesOnAfterSavingAndLoading) {
  riverhorse_model* model = load(hybrid_path);
  const Babble babble({'a', 'b', '\n', 0xC3}, 5), other(letters, 6);
  riverhorse_conversation* conversation = converse(model, conversation_options(host), babble.sampling);
  say(conversation, "one");
  say(conversation, "zw\xC3\xB6lf");
  const std::vector<unsigned char> saved = save(conversation);
  const std::vector<std::int32_t> tokens = all_tokens(conversation);
  const std::string next = say(conversation, "three");

  std::string form = host;
  form.replace(form.find("G:"), 2, "Other:");
  riverhorse_conversation* loaded = converse(model, conversation_options(form, "x"), other.sampling);
  say(loaded, "what is replaced");
  ASSERT_OK(riverhorse_conversation_load_memory(loaded, saved.data(), saved.size()));
  EXPECT_EQ(all_tokens(loaded), tokens);
  EXPECT_EQ(save(loaded), saved);
  EXPECT_EQ(info_of(loaded).turn_count, 2);
  EXPECT_EQ(info_of(loaded).undo_count, 0);
  EXPECT_EQ(text_of(riverhorse_conversation_get_user_text, loaded, 1), "zw\xC3\xB6lf");
  EXPECT_EQ(text_of(riverhorse_conversation_get_reply, loaded, 0),
            text_of(riverhorse_conversation_get_reply, conversation, 0));
  EXPECT_EQ(say(loaded, "three"), next) << "template, sampling, random numbers and the end of the last reply";
  EXPECT_EQ(all_tokens(loaded), all_tokens(conversation));
  EXPECT_EQ(info_of(loaded).tokens_read, info_of(conversation).tokens_read);

  const auto refuse = [&](riverhorse_conversation* victim, const std::vector<unsigned char>& bytes,
                          const char* part) {
    const std::vector<unsigned char> before = save(victim);
    EXPECT_FAILS(riverhorse_conversation_load_memory(victim, bytes.data(), bytes.size()), RIVERHORSE_BAD_FILE, part);
    EXPECT_EQ(save(victim), before) << "a failure leaves the conversation as it was";
  };
  for (const std::size_t length :
       {std::size_t{1}, std::size_t{23}, std::size_t{24}, saved.size() / 2, saved.size() - 1}) {
    refuse(loaded, {saved.begin(), saved.begin() + static_cast<std::ptrdiff_t>(length)}, "not a usable");
  }
  for (const std::size_t byte : {std::size_t{3}, std::size_t{8}, std::size_t{12}, std::size_t{20}, std::size_t{40},
                                 saved.size() / 2, saved.size() - 1}) {
    std::vector<unsigned char> damaged = saved;
    damaged[byte] ^= 4;
    refuse(loaded, damaged, "not a usable");
  }
  std::size_t size = 0;
  ASSERT_OK(riverhorse_session_save_memory(riverhorse_conversation_get_session(loaded), nullptr, 0, &size));
  std::vector<unsigned char> of_a_session(size);
  ASSERT_OK(riverhorse_session_save_memory(riverhorse_conversation_get_session(loaded), of_a_session.data(),
                                           of_a_session.size(), &size));
  refuse(loaded, of_a_session, "does not begin with RVHTALKS");
  riverhorse_conversation* foreign = converse(load(pure_path), conversation_options(host), other.sampling);
  refuse(foreign, saved, "model");

  std::vector<unsigned char> small(10);
  EXPECT_FAILS(riverhorse_conversation_save_memory(loaded, small.data(), small.size(), &size),
               RIVERHORSE_INVALID_ARGUMENT, "room");
  ASSERT_OK(riverhorse_conversation_begin_turn(loaded, "x", 1));
  EXPECT_FAILS(riverhorse_conversation_save_memory(loaded, nullptr, 0, &size), RIVERHORSE_INVALID_ARGUMENT,
               "a turn is open");
  ASSERT_OK(riverhorse_conversation_load_memory(loaded, saved.data(), saved.size()));
  EXPECT_EQ(save(loaded), saved) << "the open turn is gone";
}

TEST_F(Conversation, RepliesOnTheLibrarysThread) {
  riverhorse_model_options small_pieces = cpu_options();
  small_pieces.prefill_piece_tokens = 4;
  riverhorse_model* model = load(hybrid_path, small_pieces);
  const Babble babble(letters, 3);
  riverhorse_conversation* blocking = converse(model, conversation_options(host), babble.sampling);
  riverhorse_conversation* conversation = converse(model, conversation_options(host), babble.sampling);
  riverhorse_session* const text = riverhorse_conversation_get_session(conversation);
  for (const std::string_view line : {"Who are you?", "And now?"}) {
    const std::string expected = say(blocking, line);
    ASSERT_OK(riverhorse_conversation_begin_turn(conversation, line.data(), line.size()));
    riverhorse_generate_options options = generate_options(12);
    ASSERT_OK(riverhorse_conversation_get_generate_options(conversation, &options));
    EXPECT_EQ(options.max_tokens, 12);
    EXPECT_EQ(options.ignore_end_of_text, 0);
    const std::vector<std::int32_t> ids = prompt_of(conversation);
    ASSERT_OK(riverhorse_session_start_async(text, ids.data(), ids.size(), &options, nullptr, nullptr));
    EXPECT_FAILS(riverhorse_conversation_end_turn(conversation), RIVERHORSE_INVALID_ARGUMENT, "poll until");
    EXPECT_FAILS(riverhorse_conversation_undo(conversation, 1), RIVERHORSE_INVALID_ARGUMENT, "poll until");
    EXPECT_EQ(info_of(conversation).turn_is_open, 1) << "while it runs";
    riverhorse_poll_result result{};
    result.struct_size = sizeof result;
    std::string told;
    do {
      std::this_thread::yield();
      ASSERT_OK(riverhorse_session_poll(text, collect, &told, &result));
    } while (result.running != 0);
    ASSERT_OK(riverhorse_conversation_end_turn(conversation));
    EXPECT_EQ(told, expected);
    EXPECT_EQ(all_tokens(conversation), all_tokens(blocking));
    EXPECT_EQ(text_of(riverhorse_conversation_get_reply, conversation, info_of(conversation).turn_count - 1),
              expected);
    EXPECT_EQ(info_of(conversation).tokens_read, info_of(blocking).tokens_read);
  }
  // Ended while it is being read: reply goes on from there.
  const std::string line = "A line of some length";
  const std::string expected = say(blocking, line);
  ASSERT_OK(riverhorse_conversation_begin_turn(conversation, line.data(), line.size()));
  const std::vector<std::int32_t> ids = prompt_of(conversation);
  EXPECT_FAILS(riverhorse_session_append(
                   text, ids.data(), ids.size(), [](void*, std::uint64_t, std::uint64_t) { return 1; }, nullptr),
               RIVERHORSE_CANCELLED, "");
  EXPECT_EQ(reply(conversation), expected);
  EXPECT_EQ(all_tokens(conversation), all_tokens(blocking));
}

TEST_F(Conversation, KeepsTextsValidAndSpecialTokensToTheTemplate) {
  riverhorse_model* model = load(hybrid_path);
  std::string form = host;
  form.replace(form.find(R"("suffix": "\n"}, "stop")"), 14, R"("suffix": "<|endoftext|>")");
  form.replace(form.find(R"(["\n"])"), 6, "[]");
  // Half characters, and the end of text.
  const Babble babble({0xC3, 0xA9, 'a', 256}, 3);
  riverhorse_conversation* conversation = converse(model, conversation_options(form), babble.sampling);
  const std::string line = "<|endoftext|>";
  bool ended = false, replaced = false;
  for (int turn = 0; turn < 4; ++turn) {
    ASSERT_OK(riverhorse_conversation_begin_turn(conversation, line.data(), line.size()));
    const std::vector<std::int32_t> ids = prompt_of(conversation);
    const std::vector<std::int32_t> so_far = all_tokens(conversation);
    const bool has_end = so_far.back() == 256;
    ended = ended || has_end;
    std::vector<std::int32_t> expected = bytes_of("G:" + line + "\nH:");
    if (turn > 0 && !has_end) expected.insert(expected.begin(), 256);
    EXPECT_EQ(ids, expected) << "the template's end of text once, the user's as characters";
    const std::string told = reply(conversation, 6);
    EXPECT_EQ(text_of(riverhorse_conversation_get_reply, conversation, turn), told);
    replaced = replaced || told.find("\xEF\xBF\xBD") != std::string::npos;
    EXPECT_EQ(told.find("endoftext"), std::string::npos);
  }
  EXPECT_TRUE(ended && replaced) << "choose another seed";
  EXPECT_OK(riverhorse_conversation_load_memory(conversation, save(conversation).data(), save(conversation).size()));

  EXPECT_FAILS(riverhorse_conversation_begin_turn(conversation, "a\xC3z", 3), RIVERHORSE_INVALID_ARGUMENT,
               "text is not valid UTF-8: byte 1");
  EXPECT_EQ(info_of(conversation).turn_is_open, 0);
  riverhorse_conversation* none = nullptr;
  const riverhorse_conversation_options bad = conversation_options(form, "\xFF");
  EXPECT_FAILS(riverhorse_conversation_create(model, &bad, nullptr, &none), RIVERHORSE_INVALID_ARGUMENT,
               "options.system_text is not valid UTF-8");
}

TEST_F(Conversation, RefusesTemplates) {
  riverhorse_model* model = load(hybrid_path);
  riverhorse_conversation* none = nullptr;
  const auto refuse = [&](const std::string& part, const std::string& by, const char* message) {
    std::string form = host;
    ASSERT_NE(form.find(part), std::string::npos) << part;
    form.replace(form.find(part), part.size(), by);
    const riverhorse_conversation_options options = conversation_options(form);
    EXPECT_FAILS(riverhorse_conversation_create(model, &options, nullptr, &none), RIVERHORSE_BAD_FILE, message);
  };
  refuse(R"("stop": ["\n"],)", "", "field stop is missing");
  refuse(R"("prefix": "G:", )", "", "field user.prefix is missing");
  refuse(R"("suffix": "\n"}, "stop")", R"("suffx": "\n"}, "stop")", "field assistant.suffix is missing");
  refuse(R"("prefix": "G:")", R"("prefix": "G:", "name": "x")", "field user.name is not known");
  refuse(R"("stop")", R"("stops": [], "stop")", "field stops is not known");
  refuse(R"("prefix": "H:")", R"("prefix": 5)", "field assistant.prefix must be a string, not of type number");
  refuse(R"(["\n"])", R"("\n")", "field stop must be an array of strings");
  refuse(R"(["\n"])", R"(["\n", ""])", "field stop[1] is empty");
  refuse(R"(["\n"])", R"(["a\u0000b"])", "field stop[0] has a character U+0000");
  refuse(R"(["\n"])", R"(["\n", 7])", "field stop[1] must be a string");
  refuse(R"(["\n"])", R"(["1","1","1","1","1","1","1","1","1","1","1","1","1","1","1","1","1"])",
         "field stop has 17 strings");
  refuse("true", "1", "field end_of_text must be true or false");
  refuse("true}", "true", "the template in memory");
  refuse(host, "[]", "the template must be an object");
  refuse("G:", "\xFF", "invalid UTF-8");

  const std::string path = temporary_path("template.json");
  std::ofstream(path) << R"({"system": {}})";
  riverhorse_conversation_options options{};
  options.struct_size = sizeof options;
  EXPECT_FAILS(riverhorse_conversation_create(model, &options, nullptr, &none), RIVERHORSE_INVALID_ARGUMENT,
               "template_path");
  options.template_path = path.c_str();
  EXPECT_FAILS(riverhorse_conversation_create(model, &options, nullptr, &none), RIVERHORSE_BAD_FILE,
               path + ": field user is missing");
  std::filesystem::remove(path);
  EXPECT_FAILS(riverhorse_conversation_create(model, &options, nullptr, &none), RIVERHORSE_NOT_FOUND, path);
  std::ofstream(path) << host;
  riverhorse_conversation* conversation = converse(model, options, sampling_options());
  EXPECT_EQ(info_of(conversation).tokens_read, 0) << "no system text";
  say(conversation, "from an empty text");
  std::filesystem::remove(path);
  options = conversation_options(host, "", 257);
  EXPECT_FAILS(riverhorse_conversation_create(model, &options, nullptr, &none), RIVERHORSE_INVALID_ARGUMENT,
               "undo_turns is 257");
  EXPECT_EQ(none, nullptr);
}

TEST_F(Conversation, RefusesNullAndWhatIsNotThere) {
  riverhorse_conversation* conversation =
      converse(load(pure_path), conversation_options(host), Babble(letters, 1).sampling);
  std::size_t count = 0;
  EXPECT_FAILS(riverhorse_conversation_get_prompt(conversation, nullptr, 0, &count), RIVERHORSE_INVALID_ARGUMENT,
               "no turn is open");
  EXPECT_FAILS(riverhorse_conversation_end_turn(conversation), RIVERHORSE_INVALID_ARGUMENT, "no turn is open");
  EXPECT_FAILS(riverhorse_conversation_reply(conversation, 1, nullptr, nullptr, nullptr), RIVERHORSE_INVALID_ARGUMENT,
               "no turn is open");
  EXPECT_FAILS(riverhorse_conversation_get_reply(conversation, 0, nullptr, 0, &count), RIVERHORSE_INVALID_ARGUMENT,
               "there is no turn 0");
  EXPECT_FAILS(riverhorse_conversation_get_user_text(conversation, -1, nullptr, 0, &count),
               RIVERHORSE_INVALID_ARGUMENT, "there is no turn -1");
  EXPECT_EQ(riverhorse_conversation_get_session(nullptr), nullptr);
  riverhorse_conversation_free(nullptr);
  for (const riverhorse_status status :
       {riverhorse_conversation_begin_turn(nullptr, "x", 1), riverhorse_conversation_end_turn(nullptr),
        riverhorse_conversation_get_prompt(nullptr, nullptr, 0, &count),
        riverhorse_conversation_get_generate_options(nullptr, nullptr),
        riverhorse_conversation_reply(nullptr, 1, nullptr, nullptr, nullptr),
        riverhorse_conversation_undo(nullptr, 1), riverhorse_conversation_regenerate(nullptr, nullptr),
        riverhorse_conversation_get_info(nullptr, nullptr),
        riverhorse_conversation_get_reply(nullptr, 0, nullptr, 0, &count),
        riverhorse_conversation_save_memory(nullptr, nullptr, 0, &count),
        riverhorse_conversation_load_memory(nullptr, "x", 1)}) {
    EXPECT_EQ(status, RIVERHORSE_INVALID_ARGUMENT);
    EXPECT_NE(std::strstr(riverhorse_last_error(), "conversation is null"), nullptr);
  }
  // From a callback of its own it can neither be used nor freed.
  ASSERT_OK(riverhorse_conversation_begin_turn(conversation, "x", 1));
  ASSERT_OK(riverhorse_conversation_reply(
      conversation, 2,
      [](void* user, std::int32_t, const char*, std::size_t) {
        auto* const itself = static_cast<riverhorse_conversation*>(user);
        EXPECT_EQ(riverhorse_conversation_undo(itself, 1), RIVERHORSE_INVALID_ARGUMENT);
        riverhorse_conversation_free(itself);
        return 0;
      },
      conversation, nullptr));
  EXPECT_EQ(info_of(conversation).turn_count, 1);
}

TEST(ConversationWrapper, DoesWhatTheReadmeShows) {
  const std::string path = temporary_path("host.json");
  std::ofstream(path) << host;
  std::string said;
  const rh::token_function on_token = [&](std::int32_t, std::string_view text) {
    said += text;
    return true;
  };
  const Babble babble(letters, 3), others(letters, 4);
  const riverhorse_sampling_options &sampling = babble.sampling, &other_seed = others.sampling;
  const rh::model model(hybrid_path, cpu_options());
  std::vector<unsigned char> saved;
  {
    const std::string host_json = path;
    // README
    riverhorse_conversation_options options = rh::conversation_options();
    options.template_path = host_json.c_str();
    options.system_text = "A guest enters.", options.system_bytes = 15;
    rh::conversation conversation(model, options, sampling);

    conversation.say("Is there a hippopotamus in the river?", 48, on_token);  // reads this line and no other
    conversation.say("How far is it?", 48, on_token);
    conversation.regenerate(other_seed);  // the same question ...
    conversation.reply(48, on_token);     // ... and another answer
    conversation.undo(2);                 // as if nothing had been said
    saved = conversation.save_bytes();    // load_bytes() goes on from here, in another run of the program too

    conversation.begin_turn("Good evening!");  // or without waiting
    conversation.session().start_async(conversation.prompt(), conversation.generate_options());
    while (conversation.session().poll(on_token).running != 0) std::this_thread::yield();
    conversation.end_turn();
    said = conversation.reply_text(0);
    // end
    EXPECT_EQ(conversation.info().turn_count, 1);
    rh::conversation moved = std::move(conversation);
    moved.load_bytes(saved);
    EXPECT_EQ(moved.info().turn_count, 0);
    moved.say("Good evening!");
    EXPECT_EQ(moved.user_text(0), "Good evening!");
    EXPECT_EQ(moved.reply_text(0), said);
    EXPECT_GT(moved.session().position(), 0);
  }
  std::filesystem::remove(path);
}

// The lines between the marks above, in README.md without what makes a test of them.
TEST(ConversationWrapper, IsWhatTheReadmeShows) {
  const auto read = [](const std::string& path) {
    std::ifstream file(path);
    EXPECT_TRUE(file) << path;
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  const std::string source = read(RIVERHORSE_SOURCE_DIR "/tests/api_conversation_test.cpp"),
                    readme = read(RIVERHORSE_SOURCE_DIR "/README.md");
  const std::size_t begin = source.find("    // README\n"), end = source.find("    // end\n");
  ASSERT_LT(begin, end);
  std::string shown;
  for (std::size_t at = source.find('\n', begin) + 1; at < end;) {
    const std::size_t next = source.find('\n', at) + 1;
    shown += source.substr(source[at] == ' ' ? at + 4 : at, next - (source[at] == ' ' ? at + 4 : at));
    at = next;
  }
  EXPECT_NE(readme.find("```cpp\n" + shown + "```\n"), std::string::npos) << shown;
}

}  // namespace
}  // namespace api_test
