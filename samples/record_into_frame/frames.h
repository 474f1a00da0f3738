// An application's frames, without the drawing: command buffers that are submitted in turn.
#pragma once

#include <array>

#include "adopt_device/host_device.h"

// Two frames in flight, each with a command pool, its buffer and a fence, as renderers have them.
class Frames {
 public:
  explicit Frames(const HostDevice& host) : host_(host) {
    VkCommandPoolCreateInfo pool{VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO};
    pool.flags = VK_COMMAND_POOL_CREATE_TRANSIENT_BIT;
    pool.queueFamilyIndex = host.lent.queue_family;
    VkCommandBufferAllocateInfo allocate{VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO};
    allocate.commandBufferCount = 1;
    VkFenceCreateInfo fence{VK_STRUCTURE_TYPE_FENCE_CREATE_INFO};
    fence.flags = VK_FENCE_CREATE_SIGNALED_BIT;
    for (std::size_t i = 0; i < pools_.size(); ++i) {
      check(vkCreateCommandPool(host.device, &pool, nullptr, &pools_[i]), "vkCreateCommandPool");
      allocate.commandPool = pools_[i];
      check(vkAllocateCommandBuffers(host.device, &allocate, &commands_[i]), "vkAllocateCommandBuffers");
      check(vkCreateFence(host.device, &fence, nullptr, &fences_[i]), "vkCreateFence");
    }
  }
  ~Frames() {
    wait();
    for (VkFence fence : fences_) vkDestroyFence(host_.device, fence, nullptr);
    for (VkCommandPool pool : pools_) vkDestroyCommandPool(host_.device, pool, nullptr);
  }
  Frames(const Frames&) = delete;
  Frames& operator=(const Frames&) = delete;

  VkCommandBuffer begin() {
    now_ = (now_ + 1) % commands_.size();
    check(vkWaitForFences(host_.device, 1, &fences_[now_], VK_TRUE, UINT64_MAX), "vkWaitForFences");
    check(vkResetCommandPool(host_.device, pools_[now_], 0), "vkResetCommandPool");
    VkCommandBufferBeginInfo begin{VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO};
    begin.flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT;
    check(vkBeginCommandBuffer(commands_[now_], &begin), "vkBeginCommandBuffer");
    return commands_[now_];
  }
  void submit() {
    check(vkEndCommandBuffer(commands_[now_]), "vkEndCommandBuffer");
    check(vkResetFences(host_.device, 1, &fences_[now_]), "vkResetFences");
    VkSubmitInfo submit{VK_STRUCTURE_TYPE_SUBMIT_INFO};
    submit.commandBufferCount = 1;
    submit.pCommandBuffers = &commands_[now_];
    check(vkQueueSubmit(host_.queue, 1, &submit, fences_[now_]), "vkQueueSubmit");
  }
  void wait() { vkWaitForFences(host_.device, 2, fences_.data(), VK_TRUE, UINT64_MAX); }

 private:
  const HostDevice& host_;
  std::array<VkCommandPool, 2> pools_{};
  std::array<VkCommandBuffer, 2> commands_{};
  std::array<VkFence, 2> fences_{};
  std::size_t now_ = 0;
};
