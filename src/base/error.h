// Errors inside the library are exceptions of one type; nothing crosses the C API (src/api turns them into
// status codes) and the program turns them into one printed line and an exit status.
#pragma once

#include <fmt/core.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace riverhorse {

enum class StatusCode {
  ok = 0,
  invalid_argument,  // the caller asked for something that makes no sense (exit status 2 in the program)
  not_found,         // a file, device or tensor that was named does not exist
  bad_file,          // a file exists and what is in it is wrong
  unsupported,       // this backend or device cannot do it; the message says what to do instead
  out_of_memory,     // host or device
  device_lost,       // the driver gave up; the process lives
  io_error,          // reading or writing failed
  cancelled,         // the user stopped it
  internal,          // a bug in Riverhorse
};

class Error : public std::runtime_error {
 public:
  Error(StatusCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  StatusCode code() const { return code_; }

 private:
  StatusCode code_;
};

// Throws Error with a formatted message. A good message names the file, field or tensor, the value, the limit
// and what to do.
template <typename... Args>
[[noreturn]] void fail(StatusCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace riverhorse
