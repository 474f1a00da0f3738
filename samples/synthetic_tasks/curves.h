// Curves as one SVG file that any browser shows.
#pragma once

#include <string>
#include <vector>

namespace synthetic_tasks {

struct curve {
  std::string name;
  std::vector<double> values;  // from 0 to 100, at x = 1, 2, ...
};

// Throws std::runtime_error when the file cannot be written.
void write_curves(const std::string& path, const std::string& title, const std::vector<curve>& curves);

}  // namespace synthetic_tasks
