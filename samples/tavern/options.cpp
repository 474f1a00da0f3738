#include "options.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <map>
#include <set>
#include <stdexcept>

namespace tavern {

const char* const usage =
    "usage: tavern [options]\n"
    "  --model FOLDER      the model that speaks (default: the one that ships)\n"
    "  --device NAME       a part of the Vulkan device's name (default: the best)\n"
    "  --budget US         microseconds of GPU time a frame for the model, 1 to 1000000 (default: 2000)\n"
    "  --reply-tokens N    longest reply, 1 to 1024 (default: 48)\n"
    "  --letters N         letters a second that they speak, 1 to 100000 (default: 40)\n"
    "  --seed N            of their replies (default: 1)\n"
    "  --saved-game FILE   of the buttons Save and Load (default: tavern.save)\n"
    "  --size WxH          of the window or picture, 160x120 to 7680x4320 (default: 1280x720)\n"
    "  --font FILE         a TrueType font\n"
    "  --headless          without a window, with a clock of 60 frames a second\n"
    "  --frames N          ends after N frames\n"
    "  --script FILE       plays without a person: commands, a line each (README.md)\n"
    "  --screenshot FILE   the last frame, as PNG\n"
    "  --measure SECONDS   without a window: frame times at each of some budgets, 0.1 to 600 seconds each\n"
    "  --budgets LIST      of --measure, microseconds, 1 to 1000000 (default: 250,500,1000,2000,4000,8000)\n"
    "  --output FILE       of --measure: its figures as JSON, too\n"
    "  --validation        with Vulkan's validation layer; a message makes the exit status 1\n"
    "  --help              this text\n";

namespace {

// 0.1, and 8 without decimals.
std::string plain(double value) {
  std::string text = std::to_string(value);
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text;
}

double number(const std::string& option, const std::string& text, double least, double most) {
  char* end = nullptr;
  errno = 0;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0' || errno != 0 || !(value >= least && value <= most)) {
    throw std::invalid_argument(option + " needs a number from " + plain(least) + " to " + plain(most) + ", not " +
                                (text.empty() ? "nothing" : text));
  }
  return value;
}

std::vector<double> read_budgets(const std::string& text) {
  std::vector<double> budgets;
  std::size_t begin = 0;
  while (begin <= text.size()) {
    const std::size_t comma = std::min(text.find(',', begin), text.size());
    budgets.push_back(number("each of --budgets", text.substr(begin, comma - begin), 1, 1e6));
    begin = comma + 1;
  }
  return budgets;
}

void read_size(const std::string& text, Options& options) {
  const std::size_t cross = text.find('x');
  if (cross == std::string::npos) throw std::invalid_argument("--size needs WIDTHxHEIGHT, as 1280x720, not " + text);
  options.width = static_cast<std::uint32_t>(number("the width of --size", text.substr(0, cross), 160, 7680));
  options.height = static_cast<std::uint32_t>(number("the height of --size", text.substr(cross + 1), 120, 4320));
}

}  // namespace

Options read_options(int argc, char** argv) {
  Options options;
  options.model = TAVERN_DEFAULT_MODEL;
  // The font that was there when this was built may be gone.
  if (std::ifstream(TAVERN_DEFAULT_FONT)) options.font = TAVERN_DEFAULT_FONT;

  using Text = const std::string&;
  const std::map<std::string, std::function<void(Text)>> with_value = {
      {"--model", [&](Text text) { options.model = text; }},
      {"--device", [&](Text text) { options.device = text; }},
      {"--font", [&](Text text) { options.font = text; }},
      {"--saved-game", [&](Text text) { options.saved_game = text; }},
      {"--screenshot", [&](Text text) { options.screenshot = text; }},
      {"--measure", [&](Text text) { options.measure_seconds = number("--measure", text, 0.1, 600); }},
      {"--budgets", [&](Text text) { options.budgets = read_budgets(text); }},
      {"--output", [&](Text text) { options.output = text; }},
      {"--size", [&](Text text) { read_size(text, options); }},
      {"--budget", [&](Text text) { options.budget_us = number("--budget", text, 1, 1e6); }},
      {"--letters", [&](Text text) { options.letters_per_second = number("--letters", text, 1, 1e5); }},
      {"--reply-tokens",
       [&](Text text) { options.reply_tokens = static_cast<std::int64_t>(number("--reply-tokens", text, 1, 1024)); }},
      {"--seed",
       [&](Text text) { options.seed = static_cast<std::uint64_t>(number("--seed", text, 0, 4294967295.0)); }},
      {"--frames", [&](Text text) { options.frames = static_cast<std::int64_t>(number("--frames", text, 1, 1e9)); }},
      {"--script", [&](Text text) { options.script = read_script(text), options.has_script = true; }},
  };
  const std::map<std::string, bool*> flags = {
      {"--headless", &options.headless}, {"--validation", &options.validation}, {"--help", &options.help}};
  std::set<std::string> given;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    given.insert(option);
    if (const auto flag = flags.find(option); flag != flags.end()) {
      *flag->second = true;
    } else if (const auto found = with_value.find(option); found != with_value.end()) {
      if (++i == argc) throw std::invalid_argument(option + " needs a value");
      found->second(argv[i]);
    } else {
      throw std::invalid_argument("there is no option " + option);
    }
  }
  if (options.measure_seconds > 0) {
    options.headless = true;
    for (const char* other : {"--budget", "--frames", "--script", "--screenshot"}) {
      if (given.count(other) == 0) continue;
      throw std::invalid_argument(std::string("--measure plays by itself, without ") + other);
    }
    return options;
  }
  for (const char* other : {"--budgets", "--output"}) {
    if (given.count(other) != 0)
      throw std::invalid_argument(std::string(other) + " is of --measure, which is not there");
  }
  if (options.headless && options.frames == 0 && !options.has_script && !options.help) {
    throw std::invalid_argument("--headless needs --frames or --script: nobody could end it");
  }
  return options;
}

}  // namespace tavern
