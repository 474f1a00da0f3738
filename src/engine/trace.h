// What a device did when, operation by operation, as a file for chrome://tracing and Perfetto (JSON trace events).
//
// Two tracks: the host's, with what a command was at ("load", "prefill"), and the device's, with each submission
// ("step", "prefill of 64 tokens") and within it its operations by the device's own clock. That clock counts from an
// unknown time: a submission is put as late as it may have been, its end where the host saw it.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/backend.h"
#include "base/file.h"

namespace riverhorse {

class Trace {
 public:
  // The file is begun at once, so that a folder that cannot be written is known before the work. Errors: io_error.
  explicit Trace(std::filesystem::path path);

  double now_ms() const;  // since it was made

  // One submission that the host waited for, with the times of its operations, if they are known, and the number of
  // sequences and of tokens of each.
  void add_submission(std::string name, std::int64_t sequences, std::int64_t tokens, double submitted_ms,
                      double ended_ms, std::span<const OpTiming> operations);

  // What the host is at for as long as it lives. Those that live within another's life are drawn within it.
  class Span {
   public:
    Span(Trace* trace, std::string_view name);  // null: no event
    ~Span();
    Span(const Span&) = delete;
    Span& operator=(const Span&) = delete;

   private:
    Trace* trace_;
    std::string name_;
    double begin_ms_;
  };

  // The file appears whole, or not at all where this is never called. Errors: io_error.
  void write(const DeviceInfo& device);

 private:
  struct Event {
    bool on_device = false;
    std::string name;
    std::string category;
    double begin_ms = 0;
    double duration_ms = 0;
    std::int64_t sequences = 0;  // of a submission; 0: another event
    std::int64_t tokens = 0;
  };

  AtomicFileWriter file_;
  std::chrono::steady_clock::time_point start_;
  std::vector<Event> events_;
  double device_end_ms_ = 0;
};

}  // namespace riverhorse
