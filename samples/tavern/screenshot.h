#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tavern {

// Writes (height, width, 4) bytes as a PNG file without their alpha. Throws when the file cannot be written.
void write_png(const std::string& path, std::uint32_t width, std::uint32_t height,
               const std::vector<std::uint8_t>& pixels);

}  // namespace tavern
