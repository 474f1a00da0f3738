// What one character and the player say to each other. A session of the model is the character's memory: the story so
// far as its state, so that nothing is ever read twice. What the player says is read, and the reply drawn, in the
// application's frames.
#pragma once

#include <cstdint>
#include <riverhorse/riverhorse.hpp>
#include <string>
#include <vector>

#include "characters.h"

namespace tavern {

struct Turn {
  std::string said;           // by the player
  std::string reply;          // by the character, as far as it has come
  std::int64_t begin = 0;     // position of the session before the player's words
  bool closed_quote = false;  // the reply ended with the quotation mark, which is in the state
};

class Conversation {
 public:
  Conversation(const riverhorse_api::model& model, const Character& character, std::uint64_t seed);

  const Character& character() const { return *character_; }
  const std::vector<Turn>& turns() const { return turns_; }
  bool is_replying() const { return replying_; }
  std::int64_t position() const { return session_.position(); }

  // For the batch that records its work.
  const riverhorse_api::session& session() const { return session_; }

  // The player says something; it is read and answered in frames. `reply_tokens`: at most so many.
  void say(const std::string& text, std::int64_t reply_tokens);
  // What earlier frames have brought; returns the number of new tokens.
  std::int64_t poll();

  // Unsaid: the last reply and what it answered. False when there is none, or while frames with its work are in
  // flight.
  bool rewind();
  // The last reply again, with other random numbers.
  bool retell(std::int64_t reply_tokens);

  // The state of the model and the text; for saved_game.h. Not while replying.
  std::vector<unsigned char> save_state() { return session_.save_bytes(); }
  void restore(const std::vector<unsigned char>& state, std::vector<Turn> turns);

 private:
  // Reads what the player said last, and answers.
  void answer(std::int64_t reply_tokens);
  riverhorse_sampling_options sampling(std::uint64_t seed) const;

  const riverhorse_api::model* model_;
  const Character* character_;
  std::uint64_t seed_;
  riverhorse_api::session session_;
  std::vector<Turn> turns_;
  bool replying_ = false;
  std::int64_t tokens_seen_ = 0;
};

}  // namespace tavern
