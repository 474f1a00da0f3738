#include "backend/own_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <system_error>

namespace riverhorse {
namespace {

// Of the program, or of the shared library that this function is in.
std::filesystem::path own_folder() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&own_library_path), &info) == 0 || info.dli_fname == nullptr) return {};
  std::error_code error;
  const std::filesystem::path path = std::filesystem::canonical(info.dli_fname, error);
  return error ? std::filesystem::path() : path.parent_path();
}

}  // namespace

std::filesystem::path own_library_path(const char* variable, const char* file_name) {
  if (const char* named = std::getenv(variable); named != nullptr && *named != '\0') return named;
  const std::filesystem::path folder = own_folder();
  std::error_code error;
  for (const std::filesystem::path& each : {folder / file_name, folder.parent_path() / "lib" / file_name,
                                            folder.parent_path() / "lib" / "riverhorse" / file_name}) {
    if (std::filesystem::exists(each, error)) return each;
  }
  return {};
}

}  // namespace riverhorse
