#include "pipeline.h"

#include <array>

#include "adopt_device/host_device.h"  // check()

namespace tavern {
namespace {

VkShaderModule make_module(VkDevice device, Shader shader) {
  VkShaderModuleCreateInfo create{VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO};
  create.codeSize = shader.bytes;
  create.pCode = shader.words;
  VkShaderModule module = VK_NULL_HANDLE;
  check(vkCreateShaderModule(device, &create, nullptr, &module), "vkCreateShaderModule");
  return module;
}

VkPipelineShaderStageCreateInfo stage(VkShaderStageFlagBits which, VkShaderModule module) {
  VkPipelineShaderStageCreateInfo info{VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO};
  info.stage = which;
  info.module = module;
  info.pName = "main";
  return info;
}

}  // namespace

VkPipeline make_pipeline(VkDevice device, VkRenderPass render_pass, VkPipelineLayout layout, Shader vertex,
                         Shader fragment) {
  const VkShaderModule vertex_module = make_module(device, vertex);
  const VkShaderModule fragment_module = make_module(device, fragment);
  const std::array stages{stage(VK_SHADER_STAGE_VERTEX_BIT, vertex_module),
                          stage(VK_SHADER_STAGE_FRAGMENT_BIT, fragment_module)};
  const VkPipelineVertexInputStateCreateInfo no_vertices{VK_STRUCTURE_TYPE_PIPELINE_VERTEX_INPUT_STATE_CREATE_INFO};
  VkPipelineInputAssemblyStateCreateInfo assembly{VK_STRUCTURE_TYPE_PIPELINE_INPUT_ASSEMBLY_STATE_CREATE_INFO};
  assembly.topology = VK_PRIMITIVE_TOPOLOGY_TRIANGLE_LIST;
  VkPipelineViewportStateCreateInfo viewport{VK_STRUCTURE_TYPE_PIPELINE_VIEWPORT_STATE_CREATE_INFO};
  viewport.viewportCount = 1;
  viewport.scissorCount = 1;
  VkPipelineRasterizationStateCreateInfo rasterisation{VK_STRUCTURE_TYPE_PIPELINE_RASTERIZATION_STATE_CREATE_INFO};
  rasterisation.polygonMode = VK_POLYGON_MODE_FILL;
  rasterisation.cullMode = VK_CULL_MODE_NONE;
  rasterisation.lineWidth = 1;
  VkPipelineMultisampleStateCreateInfo samples{VK_STRUCTURE_TYPE_PIPELINE_MULTISAMPLE_STATE_CREATE_INFO};
  samples.rasterizationSamples = VK_SAMPLE_COUNT_1_BIT;
  VkPipelineColorBlendAttachmentState blend{};  // colours come multiplied by their alpha: 0 adds light
  blend.blendEnable = VK_TRUE;
  blend.srcColorBlendFactor = blend.srcAlphaBlendFactor = VK_BLEND_FACTOR_ONE;
  blend.dstColorBlendFactor = blend.dstAlphaBlendFactor = VK_BLEND_FACTOR_ONE_MINUS_SRC_ALPHA;
  blend.colorWriteMask =
      VK_COLOR_COMPONENT_R_BIT | VK_COLOR_COMPONENT_G_BIT | VK_COLOR_COMPONENT_B_BIT | VK_COLOR_COMPONENT_A_BIT;
  VkPipelineColorBlendStateCreateInfo blending{VK_STRUCTURE_TYPE_PIPELINE_COLOR_BLEND_STATE_CREATE_INFO};
  blending.attachmentCount = 1;
  blending.pAttachments = &blend;
  const std::array dynamic{VK_DYNAMIC_STATE_VIEWPORT, VK_DYNAMIC_STATE_SCISSOR};
  VkPipelineDynamicStateCreateInfo dynamic_state{VK_STRUCTURE_TYPE_PIPELINE_DYNAMIC_STATE_CREATE_INFO};
  dynamic_state.dynamicStateCount = static_cast<std::uint32_t>(dynamic.size());
  dynamic_state.pDynamicStates = dynamic.data();

  VkGraphicsPipelineCreateInfo create{VK_STRUCTURE_TYPE_GRAPHICS_PIPELINE_CREATE_INFO};
  create.stageCount = static_cast<std::uint32_t>(stages.size());
  create.pStages = stages.data();
  create.pVertexInputState = &no_vertices;
  create.pInputAssemblyState = &assembly;
  create.pViewportState = &viewport;
  create.pRasterizationState = &rasterisation;
  create.pMultisampleState = &samples;
  create.pColorBlendState = &blending;
  create.pDynamicState = &dynamic_state;
  create.layout = layout;
  create.renderPass = render_pass;
  VkPipeline pipeline = VK_NULL_HANDLE;
  const VkResult result = vkCreateGraphicsPipelines(device, VK_NULL_HANDLE, 1, &create, nullptr, &pipeline);
  vkDestroyShaderModule(device, vertex_module, nullptr);
  vkDestroyShaderModule(device, fragment_module, nullptr);
  check(result, "vkCreateGraphicsPipelines");
  return pipeline;
}

}  // namespace tavern
