#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "script.h"

namespace tavern {

struct Options {
  std::string model;   // a folder; default: the model that ships
  std::string device;  // a part of its name
  std::string font;    // a TrueType file; empty: ImGui's own letters
  std::string saved_game = "tavern.save";
  std::uint32_t width = 1280, height = 720;
  double budget_us = 2000;
  std::int64_t reply_tokens = 48;
  double letters_per_second = 40;
  std::uint64_t seed = 1;
  bool headless = false;
  std::int64_t frames = 0;  // 0: until the window is closed or the script ends
  std::string screenshot;
  double measure_seconds = 0;  // of each budget; 0: it is played
  std::vector<double> budgets{250, 500, 1000, 2000, 4000, 8000};
  std::string output;  // of the measurement, as JSON
  std::vector<Command> script;
  bool has_script = false;
  bool validation = false;
  bool help = false;
};

extern const char* const usage;

// Throws std::invalid_argument for what is not understood.
Options read_options(int argc, char** argv);

}  // namespace tavern
