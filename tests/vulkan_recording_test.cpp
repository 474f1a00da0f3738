// Recordings: barriers where the data demands them and nowhere else, replay, submissions bounded by time, times,
// preparing on another thread.
#include <atomic>
#include <thread>

#include "vulkan/device_impl.h"
#include "vulkan/one_time_commands.h"
#include "vulkan/recording.h"
#include "vulkan_support.h"

namespace riverhorse {
namespace {

using test::fetch;
using test::open_vulkan;
using test::put;
using test::VulkanTest;

const vulkan::VulkanRecording& inner(const std::unique_ptr<Recording>& recording) {
  return dynamic_cast<const vulkan::VulkanRecording&>(*recording);
}

// A picture of no attachments, as a host may have drawn before; false: the queue cannot draw.
bool draw(const vulkan::VulkanDevice& device) {
  const std::shared_ptr<vulkan::DeviceCore>& core = device.impl().core;
  const vulkan::InstanceFunctions& instance = core->instance->functions();
  std::uint32_t count = 0;
  instance.get_queue_families(core->profile.physical_device, &count, nullptr);
  std::vector<VkQueueFamilyProperties> families(count);
  instance.get_queue_families(core->profile.physical_device, &count, families.data());
  if ((families[core->profile.queue_family].queueFlags & VK_QUEUE_GRAPHICS_BIT) == 0) return false;
  const auto find = [&]<typename F>(F& function, const char* name) {
    function = reinterpret_cast<F>(instance.get_device_proc_addr(core->device, name));
    ASSERT_NE(function, nullptr) << name;
  };
  PFN_vkCreateRenderPass create_pass = nullptr;
  PFN_vkDestroyRenderPass destroy_pass = nullptr;
  PFN_vkCreateFramebuffer create_frame = nullptr;
  PFN_vkDestroyFramebuffer destroy_frame = nullptr;
  PFN_vkCmdBeginRenderPass begin_pass = nullptr;
  PFN_vkCmdEndRenderPass end_pass = nullptr;
  find(create_pass, "vkCreateRenderPass"), find(destroy_pass, "vkDestroyRenderPass");
  find(create_frame, "vkCreateFramebuffer"), find(destroy_frame, "vkDestroyFramebuffer");
  find(begin_pass, "vkCmdBeginRenderPass"), find(end_pass, "vkCmdEndRenderPass");

  const VkSubpassDescription subpass{};
  VkRenderPassCreateInfo pass_info{};
  pass_info.sType = VK_STRUCTURE_TYPE_RENDER_PASS_CREATE_INFO;
  pass_info.subpassCount = 1;
  pass_info.pSubpasses = &subpass;
  VkRenderPass pass = VK_NULL_HANDLE;
  EXPECT_EQ(create_pass(core->device, &pass_info, nullptr, &pass), VK_SUCCESS);
  VkFramebufferCreateInfo frame_info{};
  frame_info.sType = VK_STRUCTURE_TYPE_FRAMEBUFFER_CREATE_INFO;
  frame_info.renderPass = pass;
  frame_info.width = frame_info.height = 64;
  frame_info.layers = 1;
  VkFramebuffer frame = VK_NULL_HANDLE;
  EXPECT_EQ(create_frame(core->device, &frame_info, nullptr, &frame), VK_SUCCESS);
  vulkan::OneTimeCommands own;
  own.make(core);
  const VkCommandBuffer commands = own.begin();
  VkRenderPassBeginInfo begin{};
  begin.sType = VK_STRUCTURE_TYPE_RENDER_PASS_BEGIN_INFO;
  begin.renderPass = pass;
  begin.framebuffer = frame;
  begin.renderArea.extent = {64, 64};
  begin_pass(commands, &begin, VK_SUBPASS_CONTENTS_INLINE);
  end_pass(commands);
  const VkCommandBuffer& ended = own.end();
  core->wait(core->submit_final_group(std::span(&ended, 1)));
  destroy_frame(core->device, frame, nullptr);
  destroy_pass(core->device, pass, nullptr);
  return true;
}

class VulkanRecordingTest : public VulkanTest {
 protected:
  Tensor numbers(std::int64_t count, float first) {
    std::vector<float> values(static_cast<std::size_t>(count));
    std::iota(values.begin(), values.end(), first);
    return put(*device_, DType::f32, {count}, values);
  }
  std::uint64_t barriers(const RecordFunction& function) {
    const auto recording = device_->record(function, {});
    device_->wait(device_->submit(*recording));
    return inner(recording).barriers();
  }
};

TEST_F(VulkanRecordingTest, IndependentWorkHasNoBarrier) {
  std::vector<Tensor> tensors;
  for (int i = 0; i < 8; ++i) tensors.push_back(numbers(100, static_cast<float>(i)));
  EXPECT_EQ(barriers([&](Encoder& encoder) {
              for (int i = 0; i < 4; ++i) encoder.copy({tensors[0], tensors[4 + i]});
            }),
            0u);
  for (int i = 4; i < 8; ++i) EXPECT_EQ(fetch<float>(*device_, tensors[i])[99], 99.0f);
}

TEST_F(VulkanRecordingTest, ConflictsHaveOneBarrierEach) {
  const Tensor a = numbers(100, 1), b = numbers(100, 2), c = numbers(100, 3);
  // read after write
  EXPECT_EQ(barriers([&](Encoder& encoder) { encoder.copy({a, b}), encoder.copy({b, c}); }), 1u);
  EXPECT_EQ(fetch<float>(*device_, c)[0], 1.0f);
  // write after read
  EXPECT_EQ(barriers([&](Encoder& encoder) { encoder.copy({a, b}), encoder.copy({c, a}); }), 1u);
  // write after write
  EXPECT_EQ(barriers([&](Encoder& encoder) { encoder.copy({a, b}), encoder.copy({c, b}); }), 1u);
  // one barrier settles two conflicts
  EXPECT_EQ(barriers([&](Encoder& encoder) {
              encoder.copy({a.slice(0, 64), b.slice(0, 64)});
              encoder.copy({a.slice(64, 36), c.slice(64, 36)});
              encoder.copy({b.slice(0, 64), a.slice(0, 64)});
              encoder.copy({c.slice(64, 36), a.slice(64, 36)});
            }),
            1u);
  // disjoint parts of one tensor do not conflict (256 bytes apart: ranges are bound from aligned offsets)
  EXPECT_EQ(barriers([&](Encoder& encoder) {
              encoder.copy({a.slice(0, 10), b.slice(0, 10)});
              encoder.copy({a.slice(0, 10), b.slice(64, 10)});
            }),
            0u);
}

// The counters by which workgroups find out who is the last are zero again whenever they are needed.
TEST_F(VulkanRecordingTest, WorkgroupsThatShareARowMeetInEveryReplay) {
  const std::int64_t vocabulary = 50264;
  std::vector<float> logits(static_cast<std::size_t>(vocabulary), 0.0f);
  logits[40000] = logits[50000] = 1.0f;  // the lower index wins
  SampleArgs args;
  args.logits = put(*device_, DType::f32, {1, vocabulary}, logits);
  args.slots = device_->allocate_tensor(DType::i32, {1});
  args.sampler = device_->allocate_tensor(DType::i32, {1, 16});  // zeros: greedy
  args.tokens = device_->allocate_tensor(DType::i32, {1});
  args.history = device_->allocate_tensor(DType::i32, {1, 8});
  const auto recording = device_->record([&](Encoder& encoder) { encoder.sample(args), encoder.sample(args); }, {});
  device_->submit(*recording);
  device_->wait(device_->submit(*recording));
  logits[7] = 2.0f;
  device_->upload(args.logits, std::as_bytes(std::span<const float>(logits)));
  device_->wait(device_->submit(*recording));
  const std::vector<std::int32_t> expected = {40000, 40000, 40000, 40000, 7, 7, 0, 0};
  EXPECT_EQ(fetch<std::int32_t>(*device_, args.history), expected);
}

TEST_F(VulkanRecordingTest, TransfersAndDispatchesAreOrdered) {
  // Odd byte counts go through vkCmdCopyBuffer; what comes before and after are dispatches.
  const Tensor a = numbers(100, 1), b = numbers(100, 2), c = numbers(100, 3);
  const auto bytes = [](Tensor tensor, std::int64_t count) {
    tensor.dtype = DType::u8;
    tensor.shape = {count};
    return tensor;
  };
  device_->run([&](Encoder& encoder) {
    encoder.copy({a, b});
    encoder.copy({c, a});
    encoder.copy({bytes(b, 399), bytes(c, 399)});
    encoder.copy({c, b});
    encoder.copy({bytes(a, 7), bytes(b, 7)});
  });
  const std::vector<float> result = fetch<float>(*device_, b);
  EXPECT_EQ(result[0], 3.0f);    // of c
  EXPECT_EQ(result[50], 51.0f);  // of a
}

TEST_F(VulkanRecordingTest, CopiesConvertAndReachUnalignedPlaces) {
  if (!device_->supports(Feature::f16).supported) GTEST_SKIP() << device_->supports(Feature::f16).reason;
  std::vector<float> values;
  for (std::uint32_t half = 0; half < 0x7c00; half += 37) {
    values.push_back(f16_to_float(static_cast<std::uint16_t>(half)));
    values.push_back(-values.back());
  }
  const auto count = static_cast<std::int64_t>(values.size());
  const Tensor in = put(*device_, DType::f32, {count}, values);
  const Tensor half = device_->allocate_tensor(DType::f16, {count});
  const Tensor back = device_->allocate_tensor(DType::f32, {count});
  for (std::int64_t begin : {std::int64_t{0}, std::int64_t{1}, std::int64_t{77}}) {
    device_->run([&](Encoder& encoder) {
      encoder.copy({in.slice(begin, count - begin), half.slice(0, count - begin)});
      encoder.copy({half.slice(0, count - begin), back.slice(begin, count - begin)});
    });
    EXPECT_EQ(fetch<float>(*device_, back), values) << "seen from " << begin;
  }
}

TEST_F(VulkanRecordingTest, ReplayAddsNothing) {
  const Tensor slots = put(*device_, DType::i32, {1}, std::vector<std::int32_t>{0});
  const Tensor positions = device_->allocate_tensor(DType::i32, {1}, MemoryUse::readback);
  const auto recording = device_->record([&](Encoder& encoder) { encoder.advance({slots, positions, 1}); }, {});
  device_->wait(device_->submit(*recording));
  const DeviceCounters before = device_->counters();
  for (int i = 0; i < 99; ++i) device_->submit(*recording);
  const DeviceCounters after = device_->counters();
  EXPECT_EQ(after.allocations, before.allocations);
  EXPECT_EQ(after.pipelines_created, before.pipelines_created);
  EXPECT_EQ(after.recordings, before.recordings);
  EXPECT_EQ(after.host_waits, before.host_waits);
  EXPECT_EQ(after.submissions, before.submissions + 99);
  device_->wait(100);
  EXPECT_EQ(*reinterpret_cast<const std::int32_t*>(device_->mapped(positions).data()), 100);
}

TEST_F(VulkanRecordingTest, PreparedWorkRecordsWithoutNewPipelines) {
  const Tensor a = numbers(64, 1), b = numbers(64, 1);
  const auto function = [&](Encoder& encoder) { encoder.copy({a, b}); };
  std::uint64_t done = 0, total = 0;
  std::thread other([&] {
    device_->prepare(function, [&](std::uint64_t now, std::uint64_t all) {
      EXPECT_GT(now, done);
      done = now;
      total = all;
    });
  });
  const Tensor slots = put(*device_, DType::i32, {1}, std::vector<std::int32_t>{0});
  for (int i = 0; i < 5; ++i) device_->run([&](Encoder& encoder) { encoder.advance({slots, slots, 0}); });
  other.join();
  EXPECT_EQ(done, total);
  EXPECT_GT(total, 0u);
  const std::uint64_t pipelines = device_->counters().pipelines_created;
  device_->run(function);
  EXPECT_EQ(device_->counters().pipelines_created, pipelines);
}

TEST_F(VulkanRecordingTest, TimesComeFromTheDevice) {
  if (!device_->supports(Feature::timestamps).supported)
    GTEST_SKIP() << device_->supports(Feature::timestamps).reason;
  const Tensor a = numbers(1 << 20, 1), b = numbers(1 << 20, 2);
  const Tensor slots = put(*device_, DType::i32, {1}, std::vector<std::int32_t>{0});
  const auto function = [&](Encoder& encoder) {
    encoder.copy({a, b});
    encoder.advance({slots, slots, 0});
    encoder.copy({b, a});
  };
  const auto whole = device_->record(function, {.timestamps = true});
  const auto each = device_->record(function, {.timestamps = true, .op_timestamps = true});
  const auto expect_times = [&] {
    device_->wait(device_->submit(*whole));
    EXPECT_GT(whole->total_time_ms(), 0);
    EXPECT_TRUE(whole->timings().empty());
    device_->wait(device_->submit(*each));
    const std::vector<OpTiming> timings = each->timings();
    ASSERT_EQ(timings.size(), 3u);
    EXPECT_EQ(timings[0].name, "copy");
    EXPECT_EQ(timings[1].name, "advance");
    EXPECT_EQ(timings[2].name, "copy");
    double sum = 0;
    for (const OpTiming& timing : timings) sum += timing.time_ms;
    // Each operation's time is its own: four megabytes that are copied take longer than a sum, and most of all.
    EXPECT_GT(timings[0].time_ms, timings[1].time_ms);
    EXPECT_GT(timings[2].time_ms, timings[1].time_ms);
    EXPECT_GT(sum, each->total_time_ms() / 2);
    EXPECT_LE(sum, each->total_time_ms() * 1.01);
  };
  expect_times();
  // lavapipe's clock goes another way once something was drawn.
  if (!draw(dynamic_cast<const vulkan::VulkanDevice&>(*device_))) GTEST_SKIP() << "the queue has no graphics";
  expect_times();
}

TEST(VulkanSubmission, IsBoundedByMeasuredTime) {
  constexpr int copies = 64;
  DeviceOptions options = test::test_options();
  options.validation = false;  // times are measured
  struct Outcome {
    double total_ms;
    std::size_t segments;
    std::uint64_t groups;
  };
  const auto run = [&](double limit_ms) {
    options.submission_limit_ms = limit_ms;
    const auto device = open_vulkan(options);
    const Tensor a = device->allocate_tensor(DType::f32, {1 << 18});
    const Tensor b = device->allocate_tensor(DType::f32, {1 << 18});
    const auto recording = device->record(
        [&](Encoder& encoder) {
          for (int i = 0; i < copies; ++i) encoder.copy({i % 2 == 0 ? a : b, i % 2 == 0 ? b : a});
        },
        {.timestamps = true});
    for (int i = 0; i < 4; ++i) device->wait(device->submit(*recording));
    device->wait(device->submit(*recording));  // grouped by what was measured
    const Outcome outcome{recording->total_time_ms(), inner(recording).segment_count(),
                          inner(recording).groups_of_last_submission()};
    std::printf("limit %g ms: %zu segments, %llu submissions, %.3f ms in all\n", limit_ms, outcome.segments,
                static_cast<unsigned long long>(outcome.groups), outcome.total_ms);
    return outcome;
  };
  const auto device = open_vulkan(options);
  if (device == nullptr) GTEST_SKIP() << "no Vulkan device";
  if (!device->supports(Feature::timestamps).supported) GTEST_SKIP() << device->supports(Feature::timestamps).reason;
  const Outcome free = run(1e6);
  EXPECT_EQ(free.segments, 1u);
  EXPECT_EQ(free.groups, 1u);
  // An eighth of that time a submission; the factor of 2 and more is for the noise of a shared machine.
  const Outcome bounded = run(free.total_ms / 8);
  EXPECT_GE(bounded.segments, bounded.groups);
  EXPECT_GE(bounded.groups, 3u);
  // Cut finely while nothing was known, and joined again by what was measured.
  const Outcome ample = run(free.total_ms * 10);
  EXPECT_EQ(ample.groups, 1u);
}

}  // namespace
}  // namespace riverhorse
