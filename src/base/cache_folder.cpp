#include "base/cache_folder.h"

#include <fmt/core.h>
#include <unistd.h>

#include <cstdlib>
#include <system_error>

#include "base/log.h"

namespace riverhorse {

std::optional<std::filesystem::path> resolve_cache_folder(const std::string& option) {
  if (option == "none") return std::nullopt;
  std::filesystem::path folder = option;
  if (folder.empty()) {
    const char* cache_home = std::getenv("XDG_CACHE_HOME");
    const char* home = std::getenv("HOME");
    if (cache_home != nullptr && cache_home[0] == '/') {
      folder = cache_home;
    } else if (home != nullptr && home[0] != '\0') {
      folder = std::filesystem::path(home) / ".cache";
    } else {
      log_debug("no cache: neither XDG_CACHE_HOME nor HOME is set");
      return std::nullopt;
    }
    folder /= "riverhorse";
  }
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error || ::access(folder.c_str(), W_OK) != 0) {
    log_debug(fmt::format("no cache: cannot write to {}", folder.string()));
    return std::nullopt;
  }
  return folder;
}

}  // namespace riverhorse
