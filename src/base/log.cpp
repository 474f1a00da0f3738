#include "base/log.h"

#include <fmt/core.h>

#include <cstdio>
#include <mutex>
#include <utility>

namespace riverhorse {
namespace {

std::mutex& sink_mutex() {
  static std::mutex mutex;
  return mutex;
}

LogSink& sink() {
  static LogSink instance = [](LogLevel level, std::string_view message) {
    if (level == LogLevel::warning || level == LogLevel::error) fmt::print(stderr, "riverhorse: {}\n", message);
  };
  return instance;
}

void log(LogLevel level, const std::string& message) {
  LogSink copy;
  {
    std::scoped_lock lock(sink_mutex());
    copy = sink();
  }
  if (copy) copy(level, message);
}

}  // namespace

void set_log_sink(LogSink new_sink) {
  std::scoped_lock lock(sink_mutex());
  sink() = std::move(new_sink);
}

void log_at(LogLevel level, const std::string& message) { log(level, message); }
void log_debug(const std::string& message) { log(LogLevel::debug, message); }
void log_info(const std::string& message) { log(LogLevel::info, message); }
void log_warning(const std::string& message) { log(LogLevel::warning, message); }

}  // namespace riverhorse
