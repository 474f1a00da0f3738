// A language model inside the frames of an application: so many microseconds of GPU time a frame, recorded into the
// application's own command buffer, submitted by it, and read a frame later. The frames here draw nothing.
//   record_into_frame MODEL PROMPT [BUDGET_US]
#include <array>
#include <cstdio>
#include <cstdlib>
#include <riverhorse/riverhorse.hpp>
#include <string_view>

#include "adopt_device/host_device.h"

namespace rh = riverhorse_api;

namespace {

// Two frames in flight, each with a command buffer and a fence, as renderers have them.
class Frames {
 public:
  explicit Frames(const HostDevice& host) : host_(host) {
    VkCommandPoolCreateInfo pool{VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO};
    pool.flags = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT;
    pool.queueFamilyIndex = host.lent.queue_family;
    check(vkCreateCommandPool(host.device, &pool, nullptr, &pool_), "vkCreateCommandPool");
    VkCommandBufferAllocateInfo allocate{VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO};
    allocate.commandPool = pool_;
    allocate.commandBufferCount = static_cast<std::uint32_t>(commands_.size());
    check(vkAllocateCommandBuffers(host.device, &allocate, commands_.data()), "vkAllocateCommandBuffers");
    VkFenceCreateInfo fence{VK_STRUCTURE_TYPE_FENCE_CREATE_INFO};
    fence.flags = VK_FENCE_CREATE_SIGNALED_BIT;
    for (VkFence& each : fences_) check(vkCreateFence(host.device, &fence, nullptr, &each), "vkCreateFence");
  }
  ~Frames() {
    wait();
    for (VkFence fence : fences_) vkDestroyFence(host_.device, fence, nullptr);
    vkDestroyCommandPool(host_.device, pool_, nullptr);
  }
  Frames(const Frames&) = delete;
  Frames& operator=(const Frames&) = delete;

  VkCommandBuffer begin() {
    now_ = (now_ + 1) % commands_.size();
    check(vkWaitForFences(host_.device, 1, &fences_[now_], VK_TRUE, UINT64_MAX), "vkWaitForFences");
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
  VkCommandPool pool_ = VK_NULL_HANDLE;
  std::array<VkCommandBuffer, 2> commands_{};
  std::array<VkFence, 2> fences_{};
  std::size_t now_ = 0;
};

void run(const char* path, const char* prompt, double budget_us) {
  const HostDevice host;
  const rh::adopted_device adopted(host.lent);
  riverhorse_model_options options = rh::model_options();
  options.adopted_device = adopted.get();
  const rh::model model(path, options);
  rh::session session = model.create_session();
  session.enqueue(prompt);  // read in frames too

  riverhorse_generate_options length = rh::generate_options();
  length.max_tokens = 32;
  session.start(length);  // when all is read
  Frames frames(host);
  int frame_count = 0;
  double longest_us = 0;
  riverhorse_poll_result result{};
  do {
    VkCommandBuffer commands = frames.begin();
    // ... the application's own drawing ...
    session.record(commands, budget_us);  // outside a render pass
    frames.submit();
    ++frame_count;
    result = session.poll([](std::int32_t, std::string_view text) {  // of frames that are done
      std::fwrite(text.data(), 1, text.size(), stdout);
      return true;
    });
    if (result.measured_us > longest_us) longest_us = result.measured_us;
  } while (result.running != 0);
  std::printf("\n");
  std::fprintf(stderr, "%lld tokens in %d frames of %.0f us; the longest took %.0f us\n",
               static_cast<long long>(result.token_count), frame_count, budget_us, longest_us);
}

}  // namespace

int main(int argc, char** argv) {
  const double budget_us = argc == 4 ? std::atof(argv[3]) : 2000;
  if (argc < 3 || argc > 4 || !(budget_us > 0)) {
    std::fprintf(stderr, "usage: %s MODEL PROMPT [BUDGET_US]\n", argv[0]);
    return 2;
  }
  try {
    run(argv[1], argv[2], budget_us);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
