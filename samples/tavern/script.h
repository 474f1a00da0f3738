// Plays without a person: a text file with a command in each line, carried out frame by frame. README.md lists them.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace tavern {

struct Command {
  enum class What { say, to, wait, frames, unsay, retell, save, load, budget, overlay, screenshot, transcript };
  What what;
  std::string text;   // of say, to; the file of save, load, screenshot, transcript; "on" or "off" of overlay
  double number = 0;  // of frames, budget
  int line = 0;       // where it stands in the file
};

// Throws std::invalid_argument, which names file and line, for what is not understood.
std::vector<Command> read_script(const std::string& path);

class Script {
 public:
  explicit Script(std::vector<Command> commands) : commands_(std::move(commands)) {}
  bool is_done() const { return next_ == commands_.size() && frames_left_ == 0; }
  // At the begin of a frame: carries out commands up to one that takes time. `speaking`: somebody still speaks.
  void step(const std::function<bool()>& speaking, const std::function<void(const Command&)>& carry_out);

 private:
  std::vector<Command> commands_;
  std::size_t next_ = 0;
  std::int64_t frames_left_ = 0;
};

}  // namespace tavern
