// A host that draws with the same device: two frames in flight, own command buffers and fences, as a game has them.
#pragma once

#include <algorithm>
#include <array>
#include <memory>

#include "api_fixture.h"
#include "api_vulkan_host.h"

namespace api_test {

class FrameLoop {
 public:
  explicit FrameLoop(const VulkanHost& host) : host_(host) {
    VkCommandPoolCreateInfo pool{};
    pool.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO;
    pool.flags = VK_COMMAND_POOL_CREATE_TRANSIENT_BIT;
    pool.queueFamilyIndex = host.queue_family();
    for (Frame& frame : frames_) {
      EXPECT_VK(vkCreateCommandPool(host.device(), &pool, nullptr, &frame.pool));
      VkCommandBufferAllocateInfo allocate{};
      allocate.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO;
      allocate.commandPool = frame.pool;
      allocate.commandBufferCount = 1;
      EXPECT_VK(vkAllocateCommandBuffers(host.device(), &allocate, &frame.commands));
      VkFenceCreateInfo fence{};
      fence.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO;
      fence.flags = VK_FENCE_CREATE_SIGNALED_BIT;
      EXPECT_VK(vkCreateFence(host.device(), &fence, nullptr, &frame.fence));
    }
  }
  ~FrameLoop() {
    wait();
    for (Frame& frame : frames_) {
      vkDestroyFence(host_.device(), frame.fence, nullptr);
      vkDestroyCommandPool(host_.device(), frame.pool, nullptr);
    }
  }
  FrameLoop(const FrameLoop&) = delete;
  FrameLoop& operator=(const FrameLoop&) = delete;

  VkCommandBuffer begin() {
    Frame& frame = frames_[count_ % frames_.size()];
    EXPECT_VK(vkWaitForFences(host_.device(), 1, &frame.fence, VK_TRUE, UINT64_MAX));
    EXPECT_VK(vkResetCommandPool(host_.device(), frame.pool, 0));
    VkCommandBufferBeginInfo begin{};
    begin.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO;
    begin.flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT;
    EXPECT_VK(vkBeginCommandBuffer(frame.commands, &begin));
    return frame.commands;
  }
  void submit() {
    Frame& frame = frames_[count_++ % frames_.size()];
    EXPECT_VK(vkEndCommandBuffer(frame.commands));
    EXPECT_VK(vkResetFences(host_.device(), 1, &frame.fence));
    VkSubmitInfo submit{};
    submit.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO;
    submit.commandBufferCount = 1;
    submit.pCommandBuffers = &frame.commands;
    EXPECT_VK(vkQueueSubmit(host_.queue(), 1, &submit, frame.fence));
  }
  void wait() {
    for (Frame& frame : frames_) vkWaitForFences(host_.device(), 1, &frame.fence, VK_TRUE, UINT64_MAX);
  }
  std::uint64_t count() const { return count_; }

 private:
  struct Frame {
    VkCommandPool pool = VK_NULL_HANDLE;
    VkCommandBuffer commands = VK_NULL_HANDLE;
    VkFence fence = VK_NULL_HANDLE;
  };
  const VulkanHost& host_;
  std::array<Frame, 2> frames_;
  std::uint64_t count_ = 0;
};

class ApiFrames : public Api {
 protected:
  void SetUp() override {
    host_ = std::make_unique<VulkanHost>();
    if (!host_->usable()) GTEST_SKIP() << "no Vulkan device";
    frames_ = std::make_unique<FrameLoop>(*host_);
    const riverhorse_vulkan_device handles = host_->handles();
    EXPECT_OK(riverhorse_adopt_vulkan(&handles, &adopted_));
  }
  void TearDown() override {
    if (!host_->usable()) return;
    frames_->wait();
    Api::TearDown();
    riverhorse_adopted_device_free(adopted_);
    frames_.reset();
    host_->close();
    EXPECT_EQ(host_->messages(), 0u);
  }

  riverhorse_model_options options() {
    riverhorse_model_options options = cpu_options();
    options.backend = nullptr;
    options.skip_self_test = 1;
    options.adopted_device = adopted_;
    return options;
  }

  struct Log {
    std::vector<std::int32_t> tokens;
    std::string text;
    std::size_t stop_after = SIZE_MAX;
    std::vector<double> expected_us, measured_us;
    riverhorse_poll_result last{};
  };
  static int on_token(void* user, std::int32_t token, const char* text, std::size_t bytes) {
    Log& log = *static_cast<Log*>(user);
    if (token >= 0) log.tokens.push_back(token);
    log.text.append(text, bytes);
    return log.tokens.size() >= log.stop_after ? 1 : 0;
  }

  // One frame of the host's, with work of its own before and after.
  riverhorse_record_result frame(riverhorse_session* session, double budget_us) {
    riverhorse_record_result result{};
    result.struct_size = sizeof result;
    VkCommandBuffer commands = frames_->begin();
    EXPECT_OK(riverhorse_session_record(session, commands, budget_us, &result));
    EXPECT_TRUE(result.expected_us <= budget_us || result.pieces == 1)
        << result.pieces << " pieces of " << result.expected_us << " us in a frame of " << budget_us;
    frames_->submit();
    return result;
  }

  void poll(riverhorse_session* session, Log& log) {
    log.last.struct_size = sizeof log.last;
    EXPECT_OK(riverhorse_session_poll(session, on_token, &log, &log.last));
    if (log.last.measured_us > 0) {
      log.expected_us.push_back(log.last.expected_us);
      log.measured_us.push_back(log.last.measured_us);
    }
  }

  void run(riverhorse_session* session, double budget_us, Log& log) {
    do {
      frame(session, budget_us);
      poll(session, log);
      ASSERT_LT(frames_->count(), 20000u);
    } while (log.last.running != 0);
  }

  // What a token costs, by the first frame with an unlimited budget.
  double token_us(riverhorse_session* session) {
    riverhorse_generate_options one = generate_options(1);
    EXPECT_OK(riverhorse_session_start(session, &one));
    Log log;
    const double expected = frame(session, 1e9).expected_us;
    frames_->wait();
    poll(session, log);
    EXPECT_EQ(log.tokens.size(), 1u);
    EXPECT_EQ(log.last.running, 0);
    EXPECT_EQ(log.last.frames_in_flight, 0);
    return expected;
  }

  std::unique_ptr<VulkanHost> host_;
  std::unique_ptr<FrameLoop> frames_;
  riverhorse_adopted_device* adopted_ = nullptr;
};

}  // namespace api_test
