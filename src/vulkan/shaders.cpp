#include "vulkan/shaders.h"

#include <algorithm>

#include "base/error.h"
#include "base/hash.h"

namespace riverhorse::vulkan {

const EmbeddedShader& find_shader(std::string_view name) {
  const std::span<const EmbeddedShader> all = embedded_shaders();
  const auto found =
      std::lower_bound(all.begin(), all.end(), name,
                       [](const EmbeddedShader& each, std::string_view text) { return each.name < text; });
  if (found == all.end() || found->name != name) fail(StatusCode::internal, "there is no shader named {}", name);
  return *found;
}

std::uint64_t shader_set_hash() {
  std::uint64_t hash = 0;
  for (const EmbeddedShader& each : embedded_shaders()) {
    hash = hash_bytes(std::as_bytes(std::span(each.name)), hash);
    hash = hash_bytes(std::as_bytes(each.words), hash);
  }
  return hash;
}

}  // namespace riverhorse::vulkan
