// What every function of the C API does the same way: exceptions become status codes and a message, structs are
// read and written by their struct_size, arrays by their capacity.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <new>
#include <span>
#include <string_view>

#include "api/handle.h"
#include "base/error.h"
#include "base/log.h"
#include "riverhorse/riverhorse.h"

namespace riverhorse::api {

// The message of riverhorse_last_error() of this thread. Long messages are cut at a character.
void set_last_error(std::string_view function, std::string_view message) noexcept;
const char* last_error() noexcept;

riverhorse_status to_status(StatusCode code) noexcept;

// Runs `body`; nothing leaves but a status.
template <typename Body>
riverhorse_status guarded(const char* function, Body&& body) noexcept {
  try {
    body();
    return RIVERHORSE_OK;
  } catch (const Error& error) {
    set_last_error(function, error.what());
    return to_status(error.code());
  } catch (const std::bad_alloc&) {
    set_last_error(function, "out of host memory");
    return RIVERHORSE_OUT_OF_MEMORY;
  } catch (const std::exception& error) {
    set_last_error(function, error.what());
    return RIVERHORSE_INTERNAL;
  } catch (...) {
    set_last_error(function, "an exception of an unknown type");
    return RIVERHORSE_INTERNAL;
  }
}

inline void require(const void* pointer, const char* name) {
  if (pointer == nullptr) fail(StatusCode::invalid_argument, "{} is null", name);
}
// Of what the API made: in checked builds, that it is still there.
inline void require(const Handle* handle, const char* name) {
  if (handle == nullptr) fail(StatusCode::invalid_argument, "{} is null", name);
  if (handle->freed()) fail(StatusCode::invalid_argument, "{} was freed", name);
}
inline bool is_usable(const Handle* handle) { return handle != nullptr && !handle->freed(); }

// For the freeing functions, which return nothing: a handle that was freed already is an error in the log.
inline bool may_free(const char* function, const Handle* handle) noexcept {
  if (handle == nullptr) return false;
  if (!handle->freed()) return true;
  guarded(function, [&] {
    log_at(LogLevel::error, fmt::format("{}: the handle was freed already", function));
    fail(StatusCode::invalid_argument, "the handle was freed already");
  });
  return false;
}

template <typename Struct>
void check_struct_size(const Struct& value, const char* name) {
  constexpr std::uint32_t longest = 4096;  // more is not a struct but an uninitialised struct_size
  if (value.struct_size < sizeof(Struct) || value.struct_size > longest) {
    fail(StatusCode::invalid_argument, "{}.struct_size is {}, not the {} bytes of the struct: set it to sizeof", name,
         value.struct_size, sizeof(Struct));
  }
}

// The caller's options; all defaults for null. A caller with a newer header may pass a longer struct, as long as it
// does not use what this library does not know.
template <typename Options>
Options read_options(const Options* options, const char* name) {
  Options result{};
  result.struct_size = sizeof(Options);
  if (options == nullptr) return result;
  check_struct_size(*options, name);
  const auto* bytes = reinterpret_cast<const unsigned char*>(options);
  if (std::any_of(bytes + sizeof(Options), bytes + options->struct_size, [](unsigned char b) { return b != 0; })) {
    fail(StatusCode::unsupported, "{} sets members that this version of the library does not know", name);
  }
  std::memcpy(&result, options, sizeof(Options));
  return result;
}

// Fills the caller's struct but for its struct_size; what a longer one has beyond is left alone.
template <typename Info>
void write_info(Info* info, Info value, const char* name) {
  require(info, name);
  check_struct_size(*info, name);
  value.struct_size = info->struct_size;
  std::memcpy(info, &value, sizeof(Info));
}

// Sets *count to the number of values, and copies them unless `out` is null.
template <typename T>
void write_array(std::span<const T> values, T* out, std::size_t capacity, std::size_t* count) {
  require(count, "count");
  *count = values.size();
  if (out == nullptr) return;
  if (capacity < values.size()) {
    fail(StatusCode::invalid_argument, "the array has room for {} elements, {} are needed", capacity, values.size());
  }
  std::copy(values.begin(), values.end(), out);
}

// A zero-terminated copy, cut at a UTF-8 character when it is too long.
template <std::size_t size>
void copy_text(char (&out)[size], std::string_view text) {
  std::size_t length = std::min(text.size(), size - 1);
  while (length > 0 && length < text.size() && (static_cast<unsigned char>(text[length]) & 0xc0u) == 0x80u) --length;
  std::memcpy(out, text.data(), length);
  out[length] = '\0';
}

}  // namespace riverhorse::api
