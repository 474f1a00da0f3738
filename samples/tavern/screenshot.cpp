#include "screenshot.h"

#include <png.h>

#include <stdexcept>

namespace tavern {

void write_png(const std::string& path, std::uint32_t width, std::uint32_t height,
               const std::vector<std::uint8_t>& pixels) {
  std::vector<std::uint8_t> rgb;
  rgb.reserve(std::size_t{3} * width * height);
  for (std::size_t i = 0; i < pixels.size(); i += 4) rgb.insert(rgb.end(), &pixels[i], &pixels[i] + 3);
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = width;
  image.height = height;
  image.format = PNG_FORMAT_RGB;
  if (png_image_write_to_file(&image, path.c_str(), 0, rgb.data(), 0, nullptr) == 0) {
    throw std::runtime_error("the screenshot " + path + " cannot be written: " + image.message);
  }
}

}  // namespace tavern
