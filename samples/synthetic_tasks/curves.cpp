#include "synthetic_tasks/curves.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <sstream>
#include <stdexcept>

namespace synthetic_tasks {
namespace {

constexpr double left = 50, right = 620, top = 50, bottom = 350, legend = 640;
constexpr std::array colours = {"#0072b2", "#d55e00", "#009e73", "#cc79a7"};  // told apart by the colour-blind too

double y_of(double percent) { return bottom - (bottom - top) * percent / 100; }

// The smallest of 1, 2, 5, 10, 20, ... with at most 8 steps up to `last`.
std::size_t tick_step(std::size_t last) {
  for (std::size_t power = 1;; power *= 10) {
    for (const std::size_t step : {power, 2 * power, 5 * power}) {
      if (last / step <= 8) return step;
    }
  }
}

}  // namespace

void write_curves(const std::string& path, const std::string& title, const std::vector<curve>& curves) {
  std::size_t last = 1;
  for (const curve& line : curves) last = std::max(last, line.values.size());
  const auto x_of = [&](std::size_t epoch) {
    return left + (right - left) * static_cast<double>(epoch) / static_cast<double>(last);
  };

  std::ostringstream svg;
  svg << "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 400\" font-family=\"sans-serif\" "
         "font-size=\"13\">\n<rect width=\"760\" height=\"400\" fill=\"white\"/>\n<text x=\""
      << left << "\" y=\"28\" font-size=\"16\">" << title << "</text>\n";
  for (int percent = 0; percent <= 100; percent += 20) {
    svg << "<line x1=\"" << left << "\" x2=\"" << right << "\" y1=\"" << y_of(percent) << "\" y2=\"" << y_of(percent)
        << "\" stroke=\"#ddd\"/><text x=\"" << left - 8 << "\" y=\"" << y_of(percent) + 4 << "\" text-anchor=\"end\">"
        << percent << "</text>\n";
  }
  for (std::size_t epoch = 0; epoch <= last; epoch += tick_step(last)) {
    svg << "<text x=\"" << x_of(epoch) << "\" y=\"" << bottom + 20 << "\" text-anchor=\"middle\">" << epoch
        << "</text>\n";
  }
  for (std::size_t i = 0; i < curves.size(); ++i) {
    const char* colour = colours[i % colours.size()];
    svg << "<polyline fill=\"none\" stroke-width=\"2\" stroke=\"" << colour << "\" points=\"";
    for (std::size_t epoch = 1; epoch <= curves[i].values.size(); ++epoch) {
      svg << x_of(epoch) << ',' << y_of(curves[i].values[epoch - 1]) << ' ';
    }
    svg << "\"/>\n<text x=\"" << legend << "\" y=\"" << top + 20 * static_cast<double>(i) + 10 << "\" fill=\""
        << colour << "\">" << curves[i].name << "</text>\n";
  }
  svg << "</svg>\n";

  std::ofstream file(path, std::ios::binary);
  file << svg.str();
  file.close();
  if (!file) throw std::runtime_error("cannot write " + path);
}

}  // namespace synthetic_tasks
