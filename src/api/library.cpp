// Versions, errors and the log.
#include <cstdio>

#include "api/guard.h"
#include "base/log.h"

namespace riverhorse::api {
namespace {

constexpr std::size_t message_capacity = 2048;
// Not allocated, so that running out of memory can be reported.
thread_local char message_buffer[message_capacity] = "";

}  // namespace

void set_last_error(std::string_view function, std::string_view message) noexcept {
  const int length = std::snprintf(message_buffer, message_capacity, "%.*s: %.*s", static_cast<int>(function.size()),
                                   function.data(), static_cast<int>(message.size()), message.data());
  if (length < static_cast<int>(message_capacity)) return;
  std::size_t end = message_capacity - 1;  // cut: leave no part of a character
  while (end > 0 && (static_cast<unsigned char>(message_buffer[end - 1]) & 0xc0u) == 0x80u) --end;
  if (end > 0 && (static_cast<unsigned char>(message_buffer[end - 1]) & 0x80u) != 0) --end;
  message_buffer[end] = '\0';
}

const char* last_error() noexcept { return message_buffer; }

riverhorse_status to_status(StatusCode code) noexcept {
  switch (code) {
    case StatusCode::ok: return RIVERHORSE_OK;
    case StatusCode::invalid_argument: return RIVERHORSE_INVALID_ARGUMENT;
    case StatusCode::not_found: return RIVERHORSE_NOT_FOUND;
    case StatusCode::bad_file: return RIVERHORSE_BAD_FILE;
    case StatusCode::unsupported: return RIVERHORSE_UNSUPPORTED;
    case StatusCode::out_of_memory: return RIVERHORSE_OUT_OF_MEMORY;
    case StatusCode::device_lost: return RIVERHORSE_DEVICE_LOST;
    case StatusCode::io_error: return RIVERHORSE_IO_ERROR;
    case StatusCode::cancelled: return RIVERHORSE_CANCELLED;
    case StatusCode::internal: return RIVERHORSE_INTERNAL;
  }
  return RIVERHORSE_INTERNAL;
}

}  // namespace riverhorse::api

const char* riverhorse_version(void) { return RIVERHORSE_VERSION; }

uint32_t riverhorse_abi_version(void) { return RIVERHORSE_ABI_VERSION; }

const char* riverhorse_status_name(riverhorse_status status) {
  switch (status) {
    case RIVERHORSE_OK: return "ok";
    case RIVERHORSE_INVALID_ARGUMENT: return "invalid_argument";
    case RIVERHORSE_NOT_FOUND: return "not_found";
    case RIVERHORSE_BAD_FILE: return "bad_file";
    case RIVERHORSE_UNSUPPORTED: return "unsupported";
    case RIVERHORSE_OUT_OF_MEMORY: return "out_of_memory";
    case RIVERHORSE_DEVICE_LOST: return "device_lost";
    case RIVERHORSE_IO_ERROR: return "io_error";
    case RIVERHORSE_CANCELLED: return "cancelled";
    case RIVERHORSE_INTERNAL: return "internal";
  }
  return "unknown";
}

const char* riverhorse_last_error(void) { return riverhorse::api::last_error(); }

void riverhorse_set_log_callback(riverhorse_log_callback callback, void* user) {
  riverhorse::api::guarded(__func__, [&] {
    if (callback == nullptr) {
      riverhorse::set_log_sink({});
      return;
    }
    riverhorse::set_log_sink([callback, user](riverhorse::LogLevel level, std::string_view message) {
      callback(user, static_cast<riverhorse_log_level>(level), std::string(message).c_str());
    });
  });
}
