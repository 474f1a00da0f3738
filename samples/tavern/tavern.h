// The game without its picture: who is there, what they say, and how their faces move while they say it.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "conversation.h"
#include "scene.h"

namespace tavern {

class Tavern {
 public:
  struct Settings {
    std::uint64_t seed = 1;
    std::int64_t reply_tokens = 48;
    double letters_per_second = 40;  // how fast they speak, once the words are there
  };
  static constexpr int everyone = -1;

  Tavern(const riverhorse_api::model& model, const Settings& settings);

  std::size_t size() const { return conversations_.size(); }
  const Conversation& conversation(std::size_t i) const { return conversations_[i]; }
  // Whom the player addresses: an index, or everyone.
  int addressed() const { return addressed_; }
  void address(int who) { addressed_ = who; }

  // To whom is addressed, who must have answered before. The others may be speaking, and it waits for nothing.
  void say(const std::string& text);
  bool can_hear() const;  // whom is addressed
  // As if nothing had been said. Whoever speaks is cut short, but no frame may be in flight.
  void begin_anew();
  // These are for moments when nobody is_busy().
  bool rewind();  // unsaid: the last exchange with whom is addressed; false when there is none
  bool retell();  // their last replies again, in other words
  void save(const std::string& path);
  void load(const std::string& path);
  bool is_busy() const;       // a reply is being drawn, or frames with it may be in flight
  bool is_in_flight() const;  // such frames may be
  bool is_speaking() const;   // or is not spoken to its end

  // Of a frame: work for the replies, within one budget; what came of earlier frames, in tokens; and time.
  void record(VkCommandBuffer commands, double budget_us);
  std::int64_t poll();
  void advance(double seconds);

  std::vector<Guest> guests() const;
  // What is in their speech bubble: as much of the last reply as they have spoken.
  std::string spoken(std::size_t i) const;
  // All that was said, as text.
  std::string transcript() const;

 private:
  struct Face {
    double spoken_letters = 0;
    double next_blink = 1;  // seconds from now
    double blink = 0;       // 1: shut
    double gaze = 0, wanted_gaze = 0, next_gaze = 0;
    double mouth = 0;
    double phase = 0;  // of the nod
  };

  std::vector<std::size_t> listeners() const;
  void move_face(std::size_t i, double seconds);
  bool is_silent(std::size_t i) const;

  Settings settings_;
  std::vector<Conversation> conversations_;
  riverhorse_api::batch batch_;  // of them all: who replies at the same time takes one step together
  std::vector<Face> faces_;
  int addressed_ = everyone;
  std::mt19937 random_{7};
};

}  // namespace tavern
