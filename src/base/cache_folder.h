// Where things live that can be made again: compiled pipelines, FFT plans, results of self tests.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace riverhorse {

// From DeviceOptions::cache_folder: empty means the user's cache folder ($XDG_CACHE_HOME/riverhorse, else
// ~/.cache/riverhorse), "none" means no cache. Empty result: no cache. Makes the folder; one that cannot be made or
// written is no cache, with a debug message: a cache must never be the reason that something fails.
std::optional<std::filesystem::path> resolve_cache_folder(const std::string& option);

}  // namespace riverhorse
