#include "script.h"

#include <cstdlib>
#include <fstream>
#include <map>
#include <stdexcept>

namespace tavern {
namespace {

enum class Takes { nothing, text, number, on_off };
struct Kind {
  Command::What what;
  Takes takes;
};

const std::map<std::string, Kind>& kinds() {
  using What = Command::What;
  static const std::map<std::string, Kind> all = {
      {"say", {What::say, Takes::text}},
      {"to", {What::to, Takes::text}},
      {"wait", {What::wait, Takes::nothing}},
      {"frames", {What::frames, Takes::number}},
      {"unsay", {What::unsay, Takes::nothing}},
      {"retell", {What::retell, Takes::nothing}},
      {"save", {What::save, Takes::text}},
      {"load", {What::load, Takes::text}},
      {"budget", {What::budget, Takes::number}},
      {"overlay", {What::overlay, Takes::on_off}},
      {"screenshot", {What::screenshot, Takes::text}},
      {"transcript", {What::transcript, Takes::text}},
  };
  return all;
}

}  // namespace

std::vector<Command> read_script(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::invalid_argument("the script " + path + " cannot be opened");
  std::vector<Command> commands;
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty() || line[0] == '#') continue;
    const std::string where = path + ":" + std::to_string(number) + ": ";
    const std::size_t space = line.find(' ');
    const std::string word = line.substr(0, space);
    const auto kind = kinds().find(word);
    if (kind == kinds().end()) {
      std::string known;
      for (const auto& each : kinds()) known += (known.empty() ? "" : ", ") + each.first;
      throw std::invalid_argument(where + "there is no command " + word + "; there are " + known);
    }
    Command command{kind->second.what, space == std::string::npos ? "" : line.substr(space + 1), 0, number};
    const std::string& rest = command.text;
    switch (kind->second.takes) {
      case Takes::nothing:
        if (!rest.empty()) throw std::invalid_argument(where + word + " stands alone, without " + rest);
        break;
      case Takes::text:
        if (rest.empty()) throw std::invalid_argument(where + word + " needs something behind it");
        break;
      case Takes::number: {
        char* end = nullptr;
        command.number = std::strtod(rest.c_str(), &end);
        if (rest.empty() || *end != '\0' || !(command.number >= 1 && command.number <= 1e9)) {
          throw std::invalid_argument(where + word + " needs a number from 1 to 1e9, not " +
                                      (rest.empty() ? "nothing" : rest));
        }
        break;
      }
      case Takes::on_off:
        if (rest != "on" && rest != "off")
          throw std::invalid_argument(where + word + " needs on or off, not " + rest);
        break;
    }
    commands.push_back(std::move(command));
  }
  return commands;
}

void Script::step(const std::function<bool()>& speaking, const std::function<void(const Command&)>& carry_out) {
  if (frames_left_ > 0 && --frames_left_ > 0) return;
  while (next_ < commands_.size()) {
    const Command& command = commands_[next_];
    if (command.what == Command::What::wait && speaking()) return;
    ++next_;
    if (command.what == Command::What::frames) {
      frames_left_ = static_cast<std::int64_t>(command.number);
      return;
    }
    if (command.what != Command::What::wait) carry_out(command);
  }
}

}  // namespace tavern
