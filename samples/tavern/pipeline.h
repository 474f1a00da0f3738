// Graphics pipelines as this program needs them: triangles without vertex buffers, over premultiplied colours.
#pragma once

#include <vulkan/vulkan.h>

#include <cstddef>
#include <cstdint>

namespace tavern {

// SPIR-V that lies in the program.
struct Shader {
  template <std::size_t count>
  Shader(const std::uint32_t (&code)[count]) : words(code), bytes(sizeof code) {}
  const std::uint32_t* words;
  std::size_t bytes;
};

VkPipeline make_pipeline(VkDevice device, VkRenderPass render_pass, VkPipelineLayout layout, Shader vertex,
                         Shader fragment);

}  // namespace tavern
