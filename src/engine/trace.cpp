#include "engine/trace.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

namespace riverhorse {

namespace {

constexpr int host_track = 1;
constexpr int device_track = 2;

nlohmann::ordered_json name_event(const char* what, int track, const std::string& name) {
  return {{"ph", "M"}, {"pid", 1}, {"tid", track}, {"name", what}, {"args", {{"name", name}}}};
}

}  // namespace

Trace::Trace(std::filesystem::path path) : file_(std::move(path)), start_(std::chrono::steady_clock::now()) {}

double Trace::now_ms() const {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start_).count();
}

void Trace::add_submission(std::string name, std::int64_t sequences, std::int64_t tokens, double submitted_ms,
                           double ended_ms, std::span<const OpTiming> operations) {
  double length_ms = operations.empty() ? ended_ms - submitted_ms : 0;
  for (const OpTiming& each : operations) length_ms = std::max(length_ms, each.start_ms + each.time_ms);
  const double begin_ms = std::max(device_end_ms_, ended_ms - length_ms);
  events_.push_back({true, std::move(name), "submission", begin_ms, length_ms, sequences, tokens});
  for (const OpTiming& each : operations) {
    events_.push_back({true, each.name, "operation", begin_ms + each.start_ms, each.time_ms});
  }
  device_end_ms_ = begin_ms + length_ms;
}

Trace::Span::Span(Trace* trace, std::string_view name)
    : trace_(trace), name_(name), begin_ms_(trace != nullptr ? trace->now_ms() : 0) {}

Trace::Span::~Span() {
  if (trace_ == nullptr) return;
  trace_->events_.push_back({false, name_, "host", begin_ms_, trace_->now_ms() - begin_ms_});
}

void Trace::write(const DeviceInfo& device) {
  // Begun earlier comes first, and of two that begin together the one around the other.
  std::vector<Event> events = events_;
  std::stable_sort(events.begin(), events.end(), [](const Event& a, const Event& b) {
    return a.begin_ms != b.begin_ms ? a.begin_ms < b.begin_ms : a.duration_ms > b.duration_ms;
  });
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  list.push_back(name_event("process_name", host_track, "riverhorse"));
  list.push_back(name_event("thread_name", host_track, "host"));
  list.push_back(name_event("thread_name", device_track, device.id() + " " + device.name));
  for (const Event& event : events) {
    nlohmann::ordered_json entry = {{"ph", "X"},
                                    {"pid", 1},
                                    {"tid", event.on_device ? device_track : host_track},
                                    {"cat", event.category},
                                    {"name", event.name},
                                    {"ts", event.begin_ms * 1e3},
                                    {"dur", event.duration_ms * 1e3}};
    if (event.sequences > 0) entry["args"] = {{"sequences", event.sequences}, {"tokens", event.tokens}};
    list.push_back(std::move(entry));
  }
  const nlohmann::ordered_json root = {{"displayTimeUnit", "ms"},
                                       {"otherData", {{"device", device.id()}, {"driver", device.driver}}},
                                       {"traceEvents", std::move(list)}};
  file_.write(root.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  file_.commit();
}

}  // namespace riverhorse
