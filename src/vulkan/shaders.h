// The SPIR-V that the build made of shaders/, embedded.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace riverhorse::vulkan {

struct EmbeddedShader {
  std::string_view name;  // "<stem>" or "<stem>.<variant>"
  std::span<const std::uint32_t> words;
};

std::span<const EmbeddedShader> embedded_shaders();  // sorted by name

// Errors: internal when there is no shader of this name.
const EmbeddedShader& find_shader(std::string_view name);

// Changes whenever any embedded shader does.
std::uint64_t shader_set_hash();

}  // namespace riverhorse::vulkan
