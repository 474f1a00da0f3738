#include "vulkan/one_time_commands.h"

#include <utility>

namespace riverhorse::vulkan {

void OneTimeCommands::make(std::shared_ptr<DeviceCore> core) {
  core_ = std::move(core);
  const DeviceFunctions& vk = core_->table;
  VkCommandPoolCreateInfo create{};
  create.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO;
  create.flags = VK_COMMAND_POOL_CREATE_TRANSIENT_BIT;
  create.queueFamilyIndex = core_->profile.queue_family;
  core_->check_device(vk.vkCreateCommandPool(core_->device, &create, core_->allocator, &pool_),
                      "creating a command pool");
  VkCommandBufferAllocateInfo allocate{};
  allocate.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO;
  allocate.commandPool = pool_;
  allocate.commandBufferCount = 1;
  core_->check_device(vk.vkAllocateCommandBuffers(core_->device, &allocate, &commands_),
                      "allocating a command buffer");
}

OneTimeCommands::~OneTimeCommands() {
  if (core_ != nullptr) core_->table.vkDestroyCommandPool(core_->device, pool_, core_->allocator);
}

VkCommandBuffer OneTimeCommands::begin() {
  const DeviceFunctions& vk = core_->table;
  core_->check_device(vk.vkResetCommandPool(core_->device, pool_, 0), "resetting a command pool");
  VkCommandBufferBeginInfo begin{};
  begin.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO;
  begin.flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT;
  core_->check_device(vk.vkBeginCommandBuffer(commands_, &begin), "beginning a command buffer");
  return commands_;
}

const VkCommandBuffer& OneTimeCommands::end() {
  core_->check_device(core_->table.vkEndCommandBuffer(commands_), "ending a command buffer");
  return commands_;
}

}  // namespace riverhorse::vulkan
