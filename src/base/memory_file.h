// Files that somebody holds in memory, in a game's archive for one.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace riverhorse {

struct MemoryFile {
  std::string name;                  // "config.json"
  std::span<const std::byte> bytes;  // somebody else's, at any address

  std::string_view text() const { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }
};

// Null: there is none of that name.
inline const MemoryFile* find_memory_file(std::span<const MemoryFile> files, std::string_view name) {
  const auto found =
      std::find_if(files.begin(), files.end(), [&](const MemoryFile& each) { return each.name == name; });
  return found == files.end() ? nullptr : &*found;
}

}  // namespace riverhorse
