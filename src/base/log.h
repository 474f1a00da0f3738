// Messages for people. The library never prints on its own: everything goes through the sink, which the
// program points at stderr and a host application at its own log. Thread-safe.
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace riverhorse {

enum class LogLevel { debug, info, warning, error };

using LogSink = std::function<void(LogLevel, std::string_view message)>;

// Replaces the process-wide sink; an empty sink drops messages. The default drops debug and info and writes
// the rest to stderr.
void set_log_sink(LogSink sink);

void log_at(LogLevel level, const std::string& message);
void log_debug(const std::string& message);
void log_info(const std::string& message);
void log_warning(const std::string& message);

}  // namespace riverhorse
