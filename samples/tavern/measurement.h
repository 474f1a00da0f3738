// tavern --measure: how the model's work and the picture share frames. Sixty frames a second in real time, for each
// of some budgets, while the guests have always something to answer.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tavern.h"

namespace tavern {

// A frame that was drawn, and the GPU times of the newest one that is done.
struct MeasuredFrame {
  double model_us = 0, drawing_us = 0;
  double since_last_ms = 0;  // from the end of the picture before to its picture's, by the GPU's clock
  double cpu_ms = 0;         // from its begin until it was submitted, by the processor's
  std::int64_t tokens = 0;   // that have come since the frame before
};

// Of sorted values, by nearest rank.
struct Percentiles {
  double p50 = 0, p99 = 0, p999 = 0, longest = 0;
};

struct MeasuredRow {
  double budget_us = 0;  // 0: without the model's work
  double seconds = 0;
  std::int64_t frames = 0;
  std::int64_t frames_within = 0;  // 1.1 x the budget
  std::int64_t tokens = 0;
  Percentiles model_us, drawing_us, frame_ms, cpu_ms;
};

struct MeasureSettings {
  double seconds = 0;            // of each budget, after a warm-up
  std::vector<double> budgets;   // microseconds; the row without the model comes before them
  std::int64_t most_tokens = 0;  // of a text: then the evening begins anew
};

// `draw_frame`: with so much of the model's work at most.
std::vector<MeasuredRow> measure(Tavern& tavern, const MeasureSettings& settings,
                                 const std::function<MeasuredFrame(double budget_us)>& draw_frame);

// What was measured on what.
struct MeasuredOn {
  std::string device, driver;
  std::string model;  // the folder
  std::int64_t parameters = 0;
  std::uint32_t width = 0, height = 0;
};

std::string measurement_table(const MeasuredOn& on, const std::vector<MeasuredRow>& rows);
std::string measurement_json(const MeasuredOn& on, const MeasureSettings& settings,
                             const std::vector<MeasuredRow>& rows);

}  // namespace tavern
