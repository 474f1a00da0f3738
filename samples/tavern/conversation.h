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
  // `batch`: that records its work. What frames need is prepared here, and the character's story read.
  Conversation(const riverhorse_api::model& model, const Character& character, std::uint64_t seed,
               riverhorse_api::batch& batch);

  const Character& character() const { return *character_; }
  const std::vector<Turn>& turns() const { return turns_; }
  bool is_replying() const { return replying_; }    // there is more to come
  bool is_in_flight() const { return in_flight_; }  // frames with its work may be
  bool is_busy() const { return replying_ || in_flight_; }
  std::int64_t position() const { return session_.position(); }

  // The player says something; it is read and answered in frames. `reply_tokens`: at most so many. Waits for nothing,
  // but not while replying.
  void say(const std::string& text, std::int64_t reply_tokens);
  // Work was recorded into a frame: ours may be in it.
  void recorded() { in_flight_ = is_busy(); }
  // What earlier frames have brought; returns the number of new tokens.
  std::int64_t poll();

  // These wait for the device, and are for moments when no frame is in flight. Unsaid: the last reply and what it
  // answered; what was said since the newest copy of the state is read again. False when there is none.
  bool rewind();
  // The last reply again, with other random numbers.
  bool retell(std::int64_t reply_tokens);
  // Back to the story that it began with, in the middle of a reply, too.
  void begin_anew();

  // The state of the model and the text; for saved_game.h.
  std::vector<unsigned char> save_state();
  void restore(const std::vector<unsigned char>& state, std::vector<Turn> turns);

 private:
  void return_to(std::int64_t position);
  // Reads what the player said last, and answers.
  void answer(std::int64_t reply_tokens);
  riverhorse_sampling_options sampling(std::uint64_t seed) const;

  const riverhorse_api::model* model_;
  const Character* character_;
  std::uint64_t seed_;
  riverhorse_api::session session_;
  std::vector<Turn> turns_;
  std::int64_t story_tokens_;
  bool replying_ = false;
  bool in_flight_ = false;
  std::int64_t tokens_seen_ = 0;
};

}  // namespace tavern
