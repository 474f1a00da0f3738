#include "renderer.h"

#include <cstring>

namespace tavern {
namespace {

constexpr VkFormat picture_format = VK_FORMAT_R8G8B8A8_UNORM;
constexpr VkImageSubresourceRange whole_image{VK_IMAGE_ASPECT_COLOR_BIT, 0, 1, 0, 1};
constexpr VkImageSubresourceLayers whole_layer{VK_IMAGE_ASPECT_COLOR_BIT, 0, 0, 1};

// A pass that clears a picture, draws into it, and leaves it to be copied from.
VkRenderPass make_render_pass(VkDevice device) {
  VkAttachmentDescription picture{};
  picture.format = picture_format;
  picture.samples = VK_SAMPLE_COUNT_1_BIT;
  picture.loadOp = VK_ATTACHMENT_LOAD_OP_CLEAR;
  picture.storeOp = VK_ATTACHMENT_STORE_OP_STORE;
  picture.stencilLoadOp = VK_ATTACHMENT_LOAD_OP_DONT_CARE;
  picture.stencilStoreOp = VK_ATTACHMENT_STORE_OP_DONT_CARE;
  picture.finalLayout = VK_IMAGE_LAYOUT_TRANSFER_SRC_OPTIMAL;
  const VkAttachmentReference color{0, VK_IMAGE_LAYOUT_COLOR_ATTACHMENT_OPTIMAL};
  VkSubpassDescription subpass{};
  subpass.pipelineBindPoint = VK_PIPELINE_BIND_POINT_GRAPHICS;
  subpass.colorAttachmentCount = 1;
  subpass.pColorAttachments = &color;
  // The frame before may still be copied from the picture, and this one will be.
  VkSubpassDependency before{};
  before.srcSubpass = VK_SUBPASS_EXTERNAL;
  before.srcStageMask = VK_PIPELINE_STAGE_TRANSFER_BIT | VK_PIPELINE_STAGE_COLOR_ATTACHMENT_OUTPUT_BIT;
  before.srcAccessMask = VK_ACCESS_COLOR_ATTACHMENT_WRITE_BIT;
  before.dstStageMask = VK_PIPELINE_STAGE_COLOR_ATTACHMENT_OUTPUT_BIT;
  before.dstAccessMask = VK_ACCESS_COLOR_ATTACHMENT_READ_BIT | VK_ACCESS_COLOR_ATTACHMENT_WRITE_BIT;
  VkSubpassDependency after{};
  after.dstSubpass = VK_SUBPASS_EXTERNAL;
  after.srcStageMask = VK_PIPELINE_STAGE_COLOR_ATTACHMENT_OUTPUT_BIT;
  after.srcAccessMask = VK_ACCESS_COLOR_ATTACHMENT_WRITE_BIT;
  after.dstStageMask = VK_PIPELINE_STAGE_TRANSFER_BIT;
  after.dstAccessMask = VK_ACCESS_TRANSFER_READ_BIT;
  const std::array dependencies{before, after};
  VkRenderPassCreateInfo create{VK_STRUCTURE_TYPE_RENDER_PASS_CREATE_INFO};
  create.attachmentCount = 1;
  create.pAttachments = &picture;
  create.subpassCount = 1;
  create.pSubpasses = &subpass;
  create.dependencyCount = static_cast<std::uint32_t>(dependencies.size());
  create.pDependencies = dependencies.data();
  VkRenderPass pass = VK_NULL_HANDLE;
  check(vkCreateRenderPass(device, &create, nullptr, &pass), "vkCreateRenderPass");
  return pass;
}

VkImageMemoryBarrier layout_change(VkImage image, VkImageLayout from, VkImageLayout to, VkAccessFlags written,
                                   VkAccessFlags then) {
  VkImageMemoryBarrier barrier{VK_STRUCTURE_TYPE_IMAGE_MEMORY_BARRIER};
  barrier.srcAccessMask = written;
  barrier.dstAccessMask = then;
  barrier.oldLayout = from;
  barrier.newLayout = to;
  barrier.srcQueueFamilyIndex = VK_QUEUE_FAMILY_IGNORED;
  barrier.dstQueueFamilyIndex = VK_QUEUE_FAMILY_IGNORED;
  barrier.image = image;
  barrier.subresourceRange = whole_image;
  return barrier;
}

// Timestamps of a frame.
enum : std::uint32_t { picture_begin, picture_end, work_begin, work_end, timestamps };

void write_timestamp(VkCommandBuffer commands, VkQueryPool pool, std::uint32_t which) {
  vkCmdWriteTimestamp(commands, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, pool, which);
}

void begin_commands(VkCommandBuffer commands) {
  VkCommandBufferBeginInfo begin{VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO};
  begin.flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT;
  check(vkBeginCommandBuffer(commands, &begin), "vkBeginCommandBuffer");
}

}  // namespace

Renderer::Renderer(const Gpu& gpu, VkExtent2D extent) : gpu_(gpu), extent_(extent) {
  VkCommandPoolCreateInfo pool{VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO};
  pool.flags = VK_COMMAND_POOL_CREATE_TRANSIENT_BIT;
  pool.queueFamilyIndex = gpu.queue_family();
  for (Frame& frame : frames_) {
    check(vkCreateCommandPool(gpu.device, &pool, nullptr, &frame.pool), "vkCreateCommandPool");
    VkCommandBufferAllocateInfo allocate{VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO};
    allocate.commandPool = frame.pool;
    allocate.commandBufferCount = 1;
    for (VkCommandBuffer* each : {&frame.picture, &frame.work}) {
      check(vkAllocateCommandBuffers(gpu.device, &allocate, each), "vkAllocateCommandBuffers");
    }
    VkFenceCreateInfo fence{VK_STRUCTURE_TYPE_FENCE_CREATE_INFO};
    fence.flags = VK_FENCE_CREATE_SIGNALED_BIT;
    check(vkCreateFence(gpu.device, &fence, nullptr, &frame.fence), "vkCreateFence");
    VkQueryPoolCreateInfo queries{VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO};
    queries.queryType = VK_QUERY_TYPE_TIMESTAMP;
    queries.queryCount = timestamps;
    check(vkCreateQueryPool(gpu.device, &queries, nullptr, &frame.timestamps), "vkCreateQueryPool");
  }
  render_pass_ = make_render_pass(gpu.device);
  make_picture();
}

Renderer::~Renderer() {
  wait();
  free_picture();
  vkDestroyRenderPass(gpu_.device, render_pass_, nullptr);
  for (const Frame& frame : frames_) {
    vkDestroyQueryPool(gpu_.device, frame.timestamps, nullptr);
    vkDestroyFence(gpu_.device, frame.fence, nullptr);
    vkDestroyCommandPool(gpu_.device, frame.pool, nullptr);
  }
}

void Renderer::make_picture() {
  picture_ =
      gpu_.make_image(extent_, picture_format, VK_IMAGE_USAGE_COLOR_ATTACHMENT_BIT | VK_IMAGE_USAGE_TRANSFER_SRC_BIT);
  VkFramebufferCreateInfo create{VK_STRUCTURE_TYPE_FRAMEBUFFER_CREATE_INFO};
  create.renderPass = render_pass_;
  create.attachmentCount = 1;
  create.pAttachments = &picture_.view;
  create.width = extent_.width;
  create.height = extent_.height;
  create.layers = 1;
  check(vkCreateFramebuffer(gpu_.device, &create, nullptr, &framebuffer_), "vkCreateFramebuffer");
}

void Renderer::free_picture() {
  vkDestroyFramebuffer(gpu_.device, framebuffer_, nullptr);
  gpu_.free(picture_);
}

void Renderer::resize(VkExtent2D extent) {
  if (extent.width == extent_.width && extent.height == extent_.height) return;
  wait();
  free_picture();
  extent_ = extent;
  make_picture();
}

void Renderer::wait() { vkQueueWaitIdle(gpu_.queue); }

VkCommandBuffer Renderer::begin() {
  now_ = (now_ + 1) % frames_.size();
  Frame& frame = now();
  check(vkWaitForFences(gpu_.device, 1, &frame.fence, VK_TRUE, UINT64_MAX), "vkWaitForFences");
  if (frame.submitted) {
    std::array<std::uint64_t, timestamps> ticks{};
    check(vkGetQueryPoolResults(gpu_.device, frame.timestamps, 0, timestamps, sizeof ticks, ticks.data(),
                                sizeof ticks[0], VK_QUERY_RESULT_64_BIT),
          "vkGetQueryPoolResults");
    times_ = {gpu_.timestamp_ms(ticks[work_end] - ticks[work_begin]),
              gpu_.timestamp_ms(ticks[picture_end] - ticks[picture_begin]),
              last_end_ == 0 ? 0 : gpu_.timestamp_ms(ticks[picture_end] - last_end_)};
    last_end_ = ticks[picture_end];
  }
  check(vkResetCommandPool(gpu_.device, frame.pool, 0), "vkResetCommandPool");
  begin_commands(frame.picture);
  vkCmdResetQueryPool(frame.picture, frame.timestamps, 0, timestamps);
  write_timestamp(frame.picture, frame.timestamps, picture_begin);
  const VkClearValue black{};
  VkRenderPassBeginInfo begin{VK_STRUCTURE_TYPE_RENDER_PASS_BEGIN_INFO};
  begin.renderPass = render_pass_;
  begin.framebuffer = framebuffer_;
  begin.renderArea = {{0, 0}, extent_};
  begin.clearValueCount = 1;
  begin.pClearValues = &black;
  vkCmdBeginRenderPass(frame.picture, &begin, VK_SUBPASS_CONTENTS_INLINE);
  const VkViewport viewport{0, 0, static_cast<float>(extent_.width), static_cast<float>(extent_.height), 0, 1};
  const VkRect2D scissor{{0, 0}, extent_};
  vkCmdSetViewport(frame.picture, 0, 1, &viewport);
  vkCmdSetScissor(frame.picture, 0, 1, &scissor);
  return frame.picture;
}

void Renderer::finish_picture(const ShownImage* shown) {
  const Frame& frame = now();
  vkCmdEndRenderPass(frame.picture);
  if (shown != nullptr) show(frame.picture, *shown);
  write_timestamp(frame.picture, frame.timestamps, picture_end);
  check(vkEndCommandBuffer(frame.picture), "vkEndCommandBuffer");
  VkSubmitInfo submit{VK_STRUCTURE_TYPE_SUBMIT_INFO};
  submit.commandBufferCount = 1;
  submit.pCommandBuffers = &frame.picture;
  const VkPipelineStageFlags shown_from = VK_PIPELINE_STAGE_TRANSFER_BIT;
  if (shown != nullptr) {
    submit.waitSemaphoreCount = 1;
    submit.pWaitSemaphores = &shown->available;
    submit.pWaitDstStageMask = &shown_from;
    submit.signalSemaphoreCount = 1;
    submit.pSignalSemaphores = &shown->drawn;
  }
  check(vkQueueSubmit(gpu_.queue, 1, &submit, VK_NULL_HANDLE), "vkQueueSubmit");
}

VkCommandBuffer Renderer::begin_work() {
  const Frame& frame = now();
  begin_commands(frame.work);
  write_timestamp(frame.work, frame.timestamps, work_begin);
  return frame.work;
}

void Renderer::finish_work() {
  Frame& frame = now();
  write_timestamp(frame.work, frame.timestamps, work_end);
  check(vkEndCommandBuffer(frame.work), "vkEndCommandBuffer");
  check(vkResetFences(gpu_.device, 1, &frame.fence), "vkResetFences");
  VkSubmitInfo submit{VK_STRUCTURE_TYPE_SUBMIT_INFO};
  submit.commandBufferCount = 1;
  submit.pCommandBuffers = &frame.work;
  check(vkQueueSubmit(gpu_.queue, 1, &submit, frame.fence), "vkQueueSubmit");
  frame.submitted = true;
}

void Renderer::show(VkCommandBuffer commands, const ShownImage& shown) const {
  const auto writable = layout_change(shown.image, VK_IMAGE_LAYOUT_UNDEFINED, VK_IMAGE_LAYOUT_TRANSFER_DST_OPTIMAL, 0,
                                      VK_ACCESS_TRANSFER_WRITE_BIT);
  vkCmdPipelineBarrier(commands, VK_PIPELINE_STAGE_TRANSFER_BIT, VK_PIPELINE_STAGE_TRANSFER_BIT, 0, 0, nullptr, 0,
                       nullptr, 1, &writable);
  VkImageBlit blit{};
  blit.srcSubresource = blit.dstSubresource = whole_layer;
  blit.srcOffsets[1] = {static_cast<std::int32_t>(extent_.width), static_cast<std::int32_t>(extent_.height), 1};
  blit.dstOffsets[1] = {static_cast<std::int32_t>(shown.extent.width), static_cast<std::int32_t>(shown.extent.height),
                        1};
  vkCmdBlitImage(commands, picture_.image, VK_IMAGE_LAYOUT_TRANSFER_SRC_OPTIMAL, shown.image,
                 VK_IMAGE_LAYOUT_TRANSFER_DST_OPTIMAL, 1, &blit, VK_FILTER_NEAREST);
  const auto presentable = layout_change(shown.image, VK_IMAGE_LAYOUT_TRANSFER_DST_OPTIMAL,
                                         VK_IMAGE_LAYOUT_PRESENT_SRC_KHR, VK_ACCESS_TRANSFER_WRITE_BIT, 0);
  vkCmdPipelineBarrier(commands, VK_PIPELINE_STAGE_TRANSFER_BIT, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, 0, 0, nullptr,
                       0, nullptr, 1, &presentable);
}

std::vector<std::uint8_t> Renderer::read_pixels() {
  wait();
  const std::size_t bytes = std::size_t{4} * extent_.width * extent_.height;
  const Gpu::Buffer buffer = gpu_.make_buffer(bytes, VK_BUFFER_USAGE_TRANSFER_DST_BIT);
  gpu_.run_once([&](VkCommandBuffer commands) {
    VkBufferImageCopy copy{};
    copy.imageSubresource = whole_layer;
    copy.imageExtent = {extent_.width, extent_.height, 1};
    vkCmdCopyImageToBuffer(commands, picture_.image, VK_IMAGE_LAYOUT_TRANSFER_SRC_OPTIMAL, buffer.buffer, 1, &copy);
    VkMemoryBarrier barrier{VK_STRUCTURE_TYPE_MEMORY_BARRIER};
    barrier.srcAccessMask = VK_ACCESS_TRANSFER_WRITE_BIT;
    barrier.dstAccessMask = VK_ACCESS_HOST_READ_BIT;
    vkCmdPipelineBarrier(commands, VK_PIPELINE_STAGE_TRANSFER_BIT, VK_PIPELINE_STAGE_HOST_BIT, 0, 1, &barrier, 0,
                         nullptr, 0, nullptr);
  });
  std::vector<std::uint8_t> pixels(bytes);
  std::memcpy(pixels.data(), buffer.mapped, bytes);
  gpu_.free(buffer);
  return pixels;
}

}  // namespace tavern
