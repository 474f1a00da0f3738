#include "backend/own_library.h"

#include <dlfcn.h>
#include <link.h>

#include <cstdlib>
#include <string>
#include <system_error>

namespace riverhorse {
namespace {

// Of the program, or of the shared library that this function is in.
std::filesystem::path own_folder() {
  Dl_info info{};
  void* entry = nullptr;
  if (dladdr1(reinterpret_cast<const void*>(&own_library_path), &info, &entry, RTLD_DL_LINKMAP) == 0) return {};
  // A program has no name there, and in `info` the one by which it was started, which may have been found in PATH.
  const std::string name = static_cast<const link_map*>(entry)->l_name;
  std::error_code error;
  const std::filesystem::path path = std::filesystem::canonical(name.empty() ? "/proc/self/exe" : name, error);
  return error ? std::filesystem::path() : path.parent_path();
}

}  // namespace

std::filesystem::path own_library_path(const char* variable, const char* file_name) {
  if (const char* named = std::getenv(variable); named != nullptr && *named != '\0') return named;
  const std::filesystem::path folder = own_folder();
  if (folder.empty()) return {};
  const std::filesystem::path prefix = folder.parent_path();
  std::error_code error;
  // As it is built, beside an installed shared library, and beside an installed program.
  for (const std::filesystem::path& each :
       {folder, folder / "riverhorse", prefix / RIVERHORSE_LIBRARY_FOLDER / "riverhorse",
        prefix / "lib" / "riverhorse", prefix / "lib"}) {
    if (std::filesystem::exists(each / file_name, error)) return each / file_name;
  }
  return {};
}

}  // namespace riverhorse
