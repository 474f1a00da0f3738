#include "measurement.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <thread>

namespace tavern {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::nanoseconds frame_interval{1000000000 / 60};
constexpr double longest_warm_up = 1;  // seconds
constexpr double tolerance = 1.1;      // of a budget

constexpr std::array<const char*, 3> lines = {"Good evening! What news do you bring?", "And what became of the ship?",
                                              "Then tell us of the winter, my friend."};

// Somebody who has always something to ask, of each guest by themselves.
class Talker {
 public:
  Talker(Tavern& tavern, std::int64_t most_tokens) : tavern_(tavern), most_tokens_(most_tokens) {}

  // At the begin of a frame. When a text has become too long, all come to their ends, and everything begins anew.
  void talk() {
    for (std::size_t i = 0; i < tavern_.size(); ++i) {
      ending_ = ending_ || tavern_.conversation(i).position() > most_tokens_;
    }
    if (ending_ && tavern_.is_busy()) return;
    if (ending_) tavern_.begin_anew();
    ending_ = false;
    for (std::size_t i = 0; i < tavern_.size(); ++i) {
      tavern_.address(static_cast<int>(i));
      if (!tavern_.can_hear()) continue;
      tavern_.say(lines[(tavern_.conversation(i).turns().size() + i) % lines.size()]);
    }
  }

 private:
  Tavern& tavern_;
  std::int64_t most_tokens_;
  bool ending_ = false;
};

// Sleeps until the next sixtieth of a second; frames that took longer are not made up for.
class Pace {
 public:
  void wait() {
    next_ = std::max(next_ + frame_interval, Clock::now());
    std::this_thread::sleep_until(next_);
  }

 private:
  Clock::time_point next_ = Clock::now();
};

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

Percentiles percentiles(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const auto at = [&](double share) {
    const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(values.size())));
    return values[std::max<std::size_t>(rank, 1) - 1];
  };
  return {at(0.5), at(0.99), at(0.999), values.back()};
}

double tokens_per_second(const MeasuredRow& row) { return static_cast<double>(row.tokens) / row.seconds; }

double percent_within(const MeasuredRow& row) {
  return 100 * static_cast<double>(row.frames_within) / static_cast<double>(row.frames);
}

template <typename... Values>
std::string print(const char* format, Values... values) {
  char text[512];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char each : text) {
    if (each == '"' || each == '\\') result += '\\';
    result += static_cast<unsigned char>(each) < 0x20 ? ' ' : each;
  }
  return result + "\"";
}

std::string json(const char* name, const Percentiles& values) {
  return print("\"%s\": {\"p50\": %.4f, \"p99\": %.4f, \"p99_9\": %.4f, \"longest\": %.4f}", name, values.p50,
               values.p99, values.p999, values.longest);
}

}  // namespace

std::vector<MeasuredRow> measure(Tavern& tavern, const MeasureSettings& settings,
                                 const std::function<MeasuredFrame(double budget_us)>& draw_frame) {
  Talker talker(tavern, settings.most_tokens);
  Pace pace;
  const auto run = [&](double budget_us, double seconds, const std::function<void(const MeasuredFrame&)>& use) {
    const auto begin = Clock::now();
    do {
      pace.wait();
      if (budget_us > 0) talker.talk();
      use(draw_frame(budget_us));
    } while (seconds_since(begin) < seconds);
    return seconds_since(begin);
  };
  const double warm_up = std::min(longest_warm_up, settings.seconds / 2);
  const auto nothing = [](const MeasuredFrame&) {};
  const auto finish = [&] {  // so that the next row begins with the same texts
    while (tavern.is_in_flight()) draw_frame(0);
    tavern.begin_anew();
  };

  std::vector<double> budgets = {0};
  budgets.insert(budgets.end(), settings.budgets.begin(), settings.budgets.end());
  std::vector<MeasuredRow> rows;
  for (const double budget_us : budgets) {
    // What the lines need is recorded and measured before the first row that says them.
    if (rows.size() == 1) {
      run(*std::max_element(budgets.begin(), budgets.end()), warm_up, nothing);
      finish();
    }
    run(budget_us, warm_up, nothing);
    MeasuredRow row;
    row.budget_us = budget_us;
    std::vector<double> model_us, drawing_us, frame_ms, cpu_ms;
    row.seconds = run(budget_us, settings.seconds, [&](const MeasuredFrame& frame) {
      model_us.push_back(frame.model_us);
      drawing_us.push_back(frame.drawing_us);
      frame_ms.push_back(frame.since_last_ms);
      cpu_ms.push_back(frame.cpu_ms);
      row.tokens += frame.tokens;
      if (frame.model_us <= tolerance * budget_us) ++row.frames_within;
    });
    row.frames = static_cast<std::int64_t>(model_us.size());
    row.model_us = percentiles(std::move(model_us));
    row.drawing_us = percentiles(std::move(drawing_us));
    row.frame_ms = percentiles(std::move(frame_ms));
    row.cpu_ms = percentiles(std::move(cpu_ms));
    rows.push_back(row);
    finish();
  }
  return rows;
}

std::string measurement_table(const MeasuredOn& on, const std::vector<MeasuredRow>& rows) {
  std::string text = on.device + "  " + on.driver + "\n" + on.model +
                     print(", %lld parameters, %ux%u, 60 frames a second\n\n", static_cast<long long>(on.parameters),
                           on.width, on.height);
  text +=
      "              model, GPU us a frame              within  draw us  frame, ms                        CPU ms     "
      "     "
      "\n"
      "budget frames     p50     p99   p99.9  longest  1.1 x, %      p50    p50    p99  longest p99 change    p50    "
      "p99 "
      "tokens/s\n";
  for (const MeasuredRow& row : rows) {
    const bool with_model = row.budget_us > 0;
    text += with_model ? print("%6.0f", row.budget_us) : "  none";
    text += print(" %6lld", static_cast<long long>(row.frames));
    text += with_model ? print(" %7.0f %7.0f %7.0f %8.0f %9.2f", row.model_us.p50, row.model_us.p99,
                               row.model_us.p999, row.model_us.longest, percent_within(row))
                       : print(" %7s %7s %7s %8s %9s", "-", "-", "-", "-", "-");
    text += print(" %8.0f %6.2f %6.2f %8.2f", row.drawing_us.p50, row.frame_ms.p50, row.frame_ms.p99,
                  row.frame_ms.longest);
    text += with_model ? print(" %+10.2f", row.frame_ms.p99 - rows.front().frame_ms.p99) : print(" %10s", "-");
    text += print(" %6.2f %6.2f", row.cpu_ms.p50, row.cpu_ms.p99);
    text += with_model ? print(" %8.1f\n", tokens_per_second(row)) : print(" %8s\n", "-");
  }
  return text;
}

std::string measurement_json(const MeasuredOn& on, const MeasureSettings& settings,
                             const std::vector<MeasuredRow>& rows) {
  std::string text = "{\n  \"schema\": \"riverhorse-tavern-1\",\n";
  text += print("  \"seconds\": %g,\n", settings.seconds);
  text += "  \"device\": {\"name\": " + quoted(on.device) + ", \"driver\": " + quoted(on.driver) + "},\n";
  text += "  \"model\": {\"path\": " + quoted(on.model) +
          print(", \"parameters\": %lld},\n", static_cast<long long>(on.parameters));
  text += print("  \"width\": %u,\n  \"height\": %u,\n  \"frames_per_second\": 60,\n  \"rows\": [\n", on.width,
                on.height);
  for (const MeasuredRow& row : rows) {
    const bool with_model = row.budget_us > 0;
    text += "    {";
    text += with_model ? print("\"budget_us\": %g", row.budget_us) : "\"budget_us\": null";
    text += print(", \"frames\": %lld, \"seconds\": %.4f, ", static_cast<long long>(row.frames), row.seconds);
    text += json("model_us", row.model_us) + ", ";
    if (with_model) {
      text += print("\"frames_within_budget\": %lld, \"percent_within_budget\": %.3f, ",
                    static_cast<long long>(row.frames_within), percent_within(row));
    }
    text += json("drawing_us", row.drawing_us) + ", " + json("frame_ms", row.frame_ms) + ", ";
    text += print("\"frame_ms_p99_change\": %.4f, ", row.frame_ms.p99 - rows.front().frame_ms.p99);
    text += json("cpu_ms", row.cpu_ms);
    text += print(", \"tokens\": %lld, \"tokens_per_second\": %.2f}", static_cast<long long>(row.tokens),
                  tokens_per_second(row));
    text += &row == &rows.back() ? "\n" : ",\n";
  }
  return text + "  ]\n}\n";
}

}  // namespace tavern
