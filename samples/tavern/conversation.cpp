#include "conversation.h"

#include <array>
#include <stdexcept>
#include <utility>

namespace tavern {

namespace rh = riverhorse_api;

Conversation::Conversation(const rh::model& model, const Character& character, std::uint64_t seed, rh::batch& batch)
    : model_(&model), character_(&character), seed_(seed), session_(model.create_session(sampling(seed))) {
  batch.add(session_);
  session_.enqueue(model.encode(character.story));  // slow the first time: here, and not where the player speaks
  session_.checkpoint();                            // reads it, without frames
  story_tokens_ = session_.position();
}

riverhorse_sampling_options Conversation::sampling(std::uint64_t seed) const {
  riverhorse_sampling_options options = rh::sampling_options();
  options.temperature = character_->temperature;
  options.top_p = 0.9;
  options.repetition_penalty = 1.05;
  options.seed = seed;
  options.vocabulary_limit = model_->info().tokenizer_vocab_size;
  return options;
}

void Conversation::say(const std::string& text, std::int64_t reply_tokens) {
  Turn turn;
  turn.said = text;
  turn.begin = session_.position();
  turns_.push_back(std::move(turn));
  answer(reply_tokens);
}

void Conversation::answer(std::int64_t reply_tokens) {
  const bool quote_is_open = turns_.size() > 1 && !turns_[turns_.size() - 2].closed_quote;
  session_.enqueue(model_->encode(std::string(quote_is_open ? "\"" : "") + "\n\n\"" + turns_.back().said +
                                  "\" said the stranger.\n\n" + "And " + character_->called + " answered, \""));
  const std::array<const char*, 2> ends{"\"", "\n"};
  riverhorse_generate_options options = rh::generate_options();
  options.max_tokens = reply_tokens;
  options.stop_strings = ends.data();
  options.stop_string_count = ends.size();
  session_.start(options);
  replying_ = true;
  tokens_seen_ = 0;
}

std::int64_t Conversation::poll() {
  if (!is_busy()) return 0;
  Turn& turn = turns_.back();
  const riverhorse_poll_result result = session_.poll([&](std::int32_t, std::string_view text) {
    turn.reply += text;
    return true;
  });
  replying_ = result.running != 0;
  if (!replying_) turn.closed_quote = result.stop_reason == RIVERHORSE_STOP_STRING;
  // Work that was recorded beyond the end must leave the device before the session can do anything but go on.
  in_flight_ = result.frames_in_flight > 0;
  return result.token_count - std::exchange(tokens_seen_, result.token_count);
}

// A copy of the state is made where the device is waited for anyway, never for what is said.
void Conversation::return_to(std::int64_t position) {
  if (session_.rewind(position) > 0) session_.checkpoint();
}

bool Conversation::rewind() {
  if (is_busy() || turns_.empty()) return false;
  return_to(turns_.back().begin);
  turns_.pop_back();
  return true;
}

bool Conversation::retell(std::int64_t reply_tokens) {
  if (is_busy() || turns_.empty()) return false;
  Turn& turn = turns_.back();
  return_to(turn.begin);
  session_.set_sampling(sampling(++seed_));
  turn.reply.clear();
  answer(reply_tokens);
  return true;
}

void Conversation::begin_anew() {
  if (in_flight_) throw std::logic_error("a conversation cannot begin anew while frames with its work are in flight");
  replying_ = false;
  return_to(story_tokens_);
  turns_.clear();
}

std::vector<unsigned char> Conversation::save_state() {
  std::vector<unsigned char> state = session_.save_bytes();
  session_.checkpoint();
  return state;
}

void Conversation::restore(const std::vector<unsigned char>& state, std::vector<Turn> turns) {
  if (is_busy()) throw std::logic_error("a conversation cannot be restored while a reply is being drawn");
  session_.load_bytes(state);
  session_.checkpoint();
  turns_ = std::move(turns);
}

}  // namespace tavern
