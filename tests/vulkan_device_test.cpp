// The Vulkan device itself: memory, transfers, several devices at once, a lost device.
#include <filesystem>

#include "vulkan/device_impl.h"
#include "vulkan/frame_recording.h"
#include "vulkan_support.h"

namespace riverhorse {
namespace {

using test::expect_error;
using test::fetch;
using test::open_vulkan;
using test::put;
using test::VulkanTest;

std::vector<std::int32_t> counting(std::size_t count, std::int32_t first) {
  std::vector<std::int32_t> values(count);
  std::iota(values.begin(), values.end(), first);
  return values;
}

TEST_F(VulkanTest, MemoryIsZeroFilledAndKeepsWhatIsUploaded) {
  for (MemoryUse use : {MemoryUse::device, MemoryUse::upload, MemoryUse::readback}) {
    const Tensor tensor = device_->allocate_tensor(DType::i32, {1000}, use);
    for (std::int32_t value : fetch<std::int32_t>(*device_, tensor)) ASSERT_EQ(value, 0);
    const std::vector<std::int32_t> values = counting(1000, 7);
    device_->upload(tensor, std::as_bytes(std::span(values)));
    EXPECT_EQ(fetch<std::int32_t>(*device_, tensor), values);
    const std::vector<std::int32_t> part = fetch<std::int32_t>(*device_, tensor.slice(3, 5));
    EXPECT_EQ(part, counting(5, 10));
  }
}

TEST_F(VulkanTest, TransfersLargerThanTheStagingRing) {
  // Five and a half pieces: each staging buffer is used more than twice.
  const std::int64_t count = static_cast<std::int64_t>(vulkan::Transfer::piece_bytes / 4 * 11 / 2) + 3;
  const std::vector<std::int32_t> values = counting(static_cast<std::size_t>(count), -5);
  const Tensor tensor = put(*device_, DType::i32, {count}, values);
  EXPECT_EQ(fetch<std::int32_t>(*device_, tensor), values);
}

TEST_F(VulkanTest, FreedMemoryIsUsedAgainAndIsZeroAgain) {
  const std::vector<std::int32_t> ones(4096, 1);
  const Tensor before = put(*device_, DType::i32, {4096}, ones);
  Tensor middle = put(*device_, DType::i32, {4096}, ones);
  const Tensor after = put(*device_, DType::i32, {4096}, ones);
  const auto place = device_->range(middle);
  const MemoryUsage usage = device_->memory_usage();
  middle = {};
  EXPECT_EQ(device_->memory_usage().used_bytes, usage.used_bytes - 4096 * 4);
  middle = device_->allocate_tensor(DType::i32, {4000});
  EXPECT_EQ(device_->range(middle).offset, place.offset);
  EXPECT_EQ(device_->memory_usage().allocated_bytes, usage.allocated_bytes);
  for (std::int32_t value : fetch<std::int32_t>(*device_, middle)) ASSERT_EQ(value, 0);
  EXPECT_EQ(fetch<std::int32_t>(*device_, before), ones);
  EXPECT_EQ(fetch<std::int32_t>(*device_, after), ones);
}

TEST_F(VulkanTest, SlabsStayWithinTheirSizeAndAreGivenBack) {
  const MemoryUsage empty = device_->memory_usage();
  {
    std::vector<Tensor> tensors;
    std::mt19937 random(3);
    std::uniform_int_distribution<std::int64_t> size(1, 300000);
    for (int i = 0; i < 200; ++i) tensors.push_back(device_->allocate_tensor(DType::u8, {size(random)}));
    std::shuffle(tensors.begin(), tensors.end(), random);
    tensors.resize(100);
    for (int i = 0; i < 100; ++i) tensors.push_back(device_->allocate_tensor(DType::u8, {size(random)}));
    for (const Tensor& tensor : tensors) {
      const auto where = device_->range(tensor);
      EXPECT_EQ(where.offset % vulkan::MemoryPool::alignment, 0u);
      EXPECT_LE(where.offset + where.size, vulkan::MemoryPool::largest_slab);
      for (const Tensor& other : tensors) {
        if (other.buffer == tensor.buffer) continue;
        const auto there = device_->range(other);
        EXPECT_TRUE(there.buffer != where.buffer || there.offset + there.size <= where.offset ||
                    where.offset + where.size <= there.offset);
      }
    }
  }
  EXPECT_EQ(device_->memory_usage().used_bytes, empty.used_bytes);
  EXPECT_EQ(device_->memory_usage().allocated_bytes, empty.allocated_bytes);
}

TEST_F(VulkanTest, TooMuchMemoryIsRefusedWithNumbersAndAdvice) {
  const std::uint64_t used = device_->memory_usage().used_bytes;
  for (std::uint64_t size : {1ull << 42, device_->memory_free_bytes() + (1ull << 30), ~0ull}) {
    const std::string message =
        expect_error(StatusCode::out_of_memory, [&] { device_->allocate(size, MemoryUse::device); });
    EXPECT_NE(message.find("MiB are free"), std::string::npos) << message;
    EXPECT_NE(message.find("smaller model"), std::string::npos) << message;
  }
  EXPECT_EQ(device_->memory_usage().used_bytes, used);
  const Tensor tensor = put(*device_, DType::i32, {3}, counting(3, 1));
  EXPECT_EQ(fetch<std::int32_t>(*device_, tensor), counting(3, 1));
}

TEST_F(VulkanTest, TensorsOfAnotherDeviceAreRefused) {
  auto other = open_vulkan();
  const Tensor foreign = other->allocate_tensor(DType::f32, {4});
  const Tensor own = device_->allocate_tensor(DType::f32, {4});
  std::vector<float> values(4);
  expect_error(StatusCode::invalid_argument,
               [&] { device_->download(foreign, std::as_writable_bytes(std::span(values))); });
  expect_error(StatusCode::invalid_argument, [&] {
    device_->run([&](Encoder& encoder) { encoder.copy({foreign, own}); });
  });
  const Tensor foreign_too = other->allocate_tensor(DType::f32, {4});
  const auto recording = other->record([&](Encoder& encoder) { encoder.copy({foreign, foreign_too}); }, {});
  expect_error(StatusCode::invalid_argument, [&] { device_->submit(*recording); });
  expect_error(StatusCode::invalid_argument, [&] { device_->wait(1000); });
  expect_error(StatusCode::invalid_argument, [&] { device_->mapped(own); });
  EXPECT_EQ(other->validation_messages(), 0u);
}

TEST_F(VulkanTest, TwoDevicesLiveSideBySide) {
  auto other = open_vulkan();
  const auto mine = put(*device_, DType::i32, {5}, counting(5, 1));
  const auto theirs = put(*other, DType::i32, {5}, counting(5, 100));
  const auto slots = put(*device_, DType::i32, {2}, counting(2, 1));
  const auto other_slots = put(*other, DType::i32, {2}, counting(2, 1));
  for (int i = 0; i < 3; ++i) {
    device_->run([&](Encoder& encoder) { encoder.advance({slots, mine, 10}); });
    other->run([&](Encoder& encoder) { encoder.advance({other_slots, theirs, 1}); });
  }
  EXPECT_EQ(fetch<std::int32_t>(*device_, mine), (std::vector<std::int32_t>{1, 32, 33, 4, 5}));
  EXPECT_EQ(fetch<std::int32_t>(*other, theirs), (std::vector<std::int32_t>{100, 104, 105, 103, 104}));
  EXPECT_EQ(device_->validation_messages(), 0u);
  device_.reset();  // the first instance goes; the second lives on
  other->run([&](Encoder& encoder) { encoder.advance({other_slots, theirs, 1}); });
  EXPECT_EQ(fetch<std::int32_t>(*other, theirs)[1], 105);
  EXPECT_EQ(other->validation_messages(), 0u);
}

TEST_F(VulkanTest, TensorsAndRecordingsMayOutliveTheDevice) {
  const auto slots = put(*device_, DType::i32, {1}, counting(1, 0));
  const auto positions = put(*device_, DType::i32, {1}, counting(1, 0));
  auto recording = device_->record([&](Encoder& encoder) { encoder.advance({slots, positions, 1}); }, {});
  device_->submit(*recording);
  EXPECT_EQ(device_->validation_messages(), 0u);
  device_.reset();
  recording.reset();
}

std::size_t open_files() {
  return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}));
}

TEST(VulkanLifetime, OpenedAndClosedAHundredTimes) {
  DeviceOptions options = test::test_options();
  options.validation = false;  // with it, opening takes a second
  if (open_vulkan(options) == nullptr) GTEST_SKIP() << "no Vulkan device";
  const std::size_t files = open_files();
  for (int i = 0; i < 100; ++i) {
    const auto device = open_vulkan(options, false);
    const auto tensor = put(*device, DType::i32, {100}, counting(100, i));
    const auto slots = put(*device, DType::i32, {1}, counting(1, 0));
    device->run([&](Encoder& encoder) { encoder.advance({slots, tensor, 1}); });
    ASSERT_EQ(fetch<std::int32_t>(*device, tensor)[0], i + 1);
  }
  EXPECT_EQ(open_files(), files);
}

TEST(VulkanLifetime, AHundredModelsComeAndGo) {
  const auto device = open_vulkan();
  if (device == nullptr) GTEST_SKIP() << "no Vulkan device";
  const auto load = [&] {
    std::vector<Tensor> model;
    for (std::int64_t i = 1; i <= 20; ++i) model.push_back(device->allocate_tensor(DType::f32, {i, 1000}));
    device->run([&](Encoder& encoder) { encoder.copy({model[3], model[3 + 1].slice(0, 4)}); });
  };
  load();
  const MemoryUsage after_one = device->memory_usage();
  for (int i = 0; i < 99; ++i) load();
  EXPECT_EQ(device->memory_usage().allocated_bytes, after_one.allocated_bytes);
  EXPECT_EQ(device->memory_usage().used_bytes, after_one.used_bytes);
  EXPECT_EQ(device->memory_usage().peak_used_bytes, after_one.peak_used_bytes);
  EXPECT_EQ(device->validation_messages(), 0u);
}

// Runs a recording once.
class OneRun final : public FrameSource {
 public:
  explicit OneRun(std::shared_ptr<FrameRecording> recording) : recording_(std::move(recording)) {}
  Next next() override { return {recording_.get(), 0}; }
  FrameRun begin() override { return {std::exchange(recording_, nullptr), {}, {}, {}}; }

 private:
  std::shared_ptr<FrameRecording> recording_;
};

TEST_F(VulkanTest, FramesAreCutByWhatTheWorkItselfTook) {
  const Tensor from = device_->allocate_tensor(DType::f32, {1 << 20}),
               to = device_->allocate_tensor(DType::f32, {1 << 20});
  const auto work = [&](Encoder& encoder) {
    for (int i = 0; i < 64; ++i) encoder.copy({from, to});
  };
  const std::shared_ptr<Buffer> workspace = device_->allocate(1, MemoryUse::device);
  const auto queue = device_->make_frame_queue();
  // As if all work before had been far faster than its estimates.
  device_->impl().core->time_scale = 1e-6;
  const auto whole = device_->record_for_frames(work, workspace, nullptr);
  EXPECT_EQ(dynamic_cast<const vulkan::VulkanFrameRecording&>(*whole).pieces(), 1u);
  OneRun once(whole);
  ASSERT_TRUE(queue->run_here(&once));
  const auto executed = queue->poll();
  ASSERT_TRUE(executed.has_value());
  const auto cut = device_->record_for_frames(work, workspace, whole.get());
  const double pieces = dynamic_cast<const vulkan::VulkanFrameRecording&>(*cut).pieces();
  EXPECT_GE(pieces, std::min(32.0, executed->measured_us / 50 / 2)) << executed->measured_us << " us in pieces of 50";
}

TEST_F(VulkanTest, PiecesAreExpectedToTakeWhatTheirCounterpartsTook) {
  constexpr std::int64_t small = 1 << 16, large = 1 << 20;
  const Tensor from = device_->allocate_tensor(DType::f32, {2 * large}),
               to = device_->allocate_tensor(DType::f32, {2 * large});
  const auto work = [&](std::int64_t times) {
    return [&, times](Encoder& encoder) {
      encoder.copy({from.slice(0, times * small), to.slice(0, times * small)});
      encoder.copy({from.slice(0, times * large), to.slice(0, times * large)});
    };
  };
  const std::shared_ptr<Buffer> workspace = device_->allocate(1, MemoryUse::device);
  device_->impl().core->time_scale = 1e6;  // a piece an operation
  const auto known = device_->record_for_frames(work(1), workspace, nullptr);
  auto& times = dynamic_cast<vulkan::VulkanFrameRecording&>(*known);
  ASSERT_EQ(times.pieces(), 2u);
  times.add_time(0, 7000), times.add_time(1, 20000);  // the smaller one takes long for its size
  const auto twice = device_->record_for_frames(work(2), workspace, known.get());
  const auto& expected = dynamic_cast<const vulkan::VulkanFrameRecording&>(*twice);
  ASSERT_EQ(expected.pieces(), 2u);
  EXPECT_FALSE(expected.is_known(0));
  EXPECT_GT(expected.expected_us(0), 7000);
  EXPECT_LE(expected.expected_us(0), 14000) << "an operation has a part that does not grow";
  EXPECT_GT(expected.expected_us(1), 20000);
  EXPECT_LE(expected.expected_us(1), 40000);
}

TEST(VulkanFrames, ATimeOfAnotherMagnitudeCountsWhenItComesTwice) {
  vulkan::KnownTime time;
  EXPECT_FALSE(time.known());
  time.add(50);
  EXPECT_EQ(time.us(), 50);
  time.add(60);
  EXPECT_EQ(time.us(), 55) << "half of what is longer";
  time.add(45);
  EXPECT_DOUBLE_EQ(time.us(), 54) << "a tenth of what is shorter";
  time.add(30000);
  EXPECT_DOUBLE_EQ(time.us(), 54) << "another program had the device";
  time.add(54);
  time.add(30000);
  EXPECT_DOUBLE_EQ(time.us(), 54) << "and had it again, later";
  time.add(20000);
  EXPECT_DOUBLE_EQ(time.us(), 30000) << "twice in a row it is so";
  time.forget();
  EXPECT_FALSE(time.known());
}

TEST(VulkanFrames, AnOverrunCountsAtOnceAndIsForgottenSlowly) {
  vulkan::Overrun overrun;
  overrun.add(20, 60, 100);
  EXPECT_EQ(overrun.factor(), 1) << "within the budget nothing has run over";
  overrun.add(150, 300, 100);
  EXPECT_EQ(overrun.factor(), 1) << "a piece that alone is longer than the budget";
  overrun.add(100, 130, 100);
  EXPECT_DOUBLE_EQ(overrun.factor(), 1.3);
  for (int i = 0; i < 2000; ++i) overrun.add(70, 80, 100);
  EXPECT_NEAR(overrun.factor(), 1.15, 1e-9);
  overrun.add(80, 10000, 100);
  EXPECT_DOUBLE_EQ(overrun.factor(), vulkan::Overrun::most);
}

TEST(VulkanMinimal, PretendsToHaveNothingOptional) {
  DeviceOptions options = test::test_options();
  options.minimal_features = true;
  const auto device = open_vulkan(options);
  if (device == nullptr) GTEST_SKIP() << "no Vulkan device";
  const vulkan::VulkanLimits& limits = device->limits();
  EXPECT_EQ(limits.shared_bytes, 16384u);
  EXPECT_EQ(limits.invocations, 128u);
  EXPECT_EQ(limits.subgroup_size, 1u);
  EXPECT_FALSE(limits.f16_storage || limits.f16_arithmetic || limits.subgroup_size_control);
  EXPECT_TRUE(limits.cooperative_matrix.empty());
  const Support f16 = device->supports(Feature::f16);
  EXPECT_FALSE(f16.supported);
  EXPECT_NE(f16.reason.find("f32"), std::string::npos);
  // Descriptor sets and fences are what is left: many submissions, several in flight.
  const auto slots = put(*device, DType::i32, {1}, counting(1, 0));
  const auto positions = put(*device, DType::i32, {1}, counting(1, 0));
  const auto recording = device->record(
      [&](Encoder& encoder) {
        for (int i = 0; i < 300; ++i) encoder.advance({slots, positions, 1});
      },
      {});
  std::uint64_t ticket = 0;
  for (int i = 0; i < 5; ++i) {
    const std::uint64_t next = device->submit(*recording);
    EXPECT_EQ(next, ticket + 1);
    ticket = next;
  }
  device->wait(ticket - 2);
  device->wait(ticket);
  EXPECT_EQ(fetch<std::int32_t>(*device, positions)[0], 1500);
  EXPECT_EQ(device->validation_messages(), 0u);
}

TEST(VulkanLowPriority, IsWhatTheDriverOffers) {
  using vulkan::choose_low_priority;
  const std::vector<VkQueueGlobalPriorityKHR> low = {VK_QUEUE_GLOBAL_PRIORITY_LOW_KHR,
                                                     VK_QUEUE_GLOBAL_PRIORITY_MEDIUM_KHR};
  const std::vector<VkQueueGlobalPriorityKHR> high = {VK_QUEUE_GLOBAL_PRIORITY_MEDIUM_KHR,
                                                      VK_QUEUE_GLOBAL_PRIORITY_HIGH_KHR};
  const vulkan::LowPriority none = choose_low_priority({"VK_KHR_push_descriptor"}, {});
  EXPECT_EQ(none.extension, nullptr);
  EXPECT_NE(none.reason.find("VK_KHR_global_priority"), std::string::npos) << none.reason;
  EXPECT_STREQ(choose_low_priority({"VK_KHR_global_priority", "VK_EXT_global_priority"}, low).extension,
               "VK_KHR_global_priority");
  EXPECT_STREQ(choose_low_priority({"VK_EXT_global_priority"}, {}).extension, "VK_EXT_global_priority");
  const vulkan::LowPriority without = choose_low_priority({"VK_KHR_global_priority"}, high);
  EXPECT_EQ(without.extension, nullptr);
  EXPECT_NE(without.reason.find("queue family"), std::string::npos) << without.reason;
}

// Answers as a driver that grants low priority, refuses it, or lost its device.
struct PriorityDriver {
  static VkResult create(VkPhysicalDevice, const VkDeviceCreateInfo* create, const VkAllocationCallbacks*,
                         VkDevice*) {
    const auto* const priority =
        static_cast<const VkDeviceQueueGlobalPriorityCreateInfoKHR*>(create->pQueueCreateInfos->pNext);
    calls += priority == nullptr ? 'n' : 'l';
    if (priority == nullptr) {
      EXPECT_EQ(create->enabledExtensionCount, 1u);
      return VK_SUCCESS;
    }
    EXPECT_EQ(priority->sType, VK_STRUCTURE_TYPE_DEVICE_QUEUE_GLOBAL_PRIORITY_CREATE_INFO_KHR);
    EXPECT_EQ(priority->globalPriority, VK_QUEUE_GLOBAL_PRIORITY_LOW_KHR);
    EXPECT_EQ(create->enabledExtensionCount, 2u);
    EXPECT_STREQ(create->ppEnabledExtensionNames[0], "VK_KHR_push_descriptor");
    EXPECT_STREQ(create->ppEnabledExtensionNames[1], "VK_KHR_global_priority");
    EXPECT_EQ(create->pQueueCreateInfos->queueFamilyIndex, 3u);
    return answer;
  }
  static inline VkResult answer = VK_SUCCESS;
  static inline std::string calls;
};

TEST(VulkanLowPriority, ADriverThatRefusesIsAskedWithout) {
  VkDeviceQueueCreateInfo queue{};
  queue.queueFamilyIndex = 3;
  const char* extension = VK_KHR_PUSH_DESCRIPTOR_EXTENSION_NAME;
  VkDeviceCreateInfo create{};
  create.pQueueCreateInfos = &queue;
  create.enabledExtensionCount = 1;
  create.ppEnabledExtensionNames = &extension;
  Support granted;
  const auto calls = [&](const vulkan::LowPriority& low, VkResult answer, VkResult expected) {
    PriorityDriver::answer = answer;
    PriorityDriver::calls.clear();
    VkDevice device = VK_NULL_HANDLE;
    EXPECT_EQ(
        vulkan::create_with_low_priority(&PriorityDriver::create, VK_NULL_HANDLE, create, low, &device, granted),
        expected);
    return PriorityDriver::calls;
  };
  const vulkan::LowPriority low{VK_KHR_GLOBAL_PRIORITY_EXTENSION_NAME, {}};
  EXPECT_EQ(calls(low, VK_SUCCESS, VK_SUCCESS), "l");
  EXPECT_TRUE(granted.supported);
  EXPECT_EQ(calls(low, VK_ERROR_NOT_PERMITTED_KHR, VK_SUCCESS), "ln");
  EXPECT_FALSE(granted.supported);
  EXPECT_NE(granted.reason.find("VK_ERROR_NOT_PERMITTED"), std::string::npos) << granted.reason;
  EXPECT_EQ(calls(low, VK_ERROR_INITIALIZATION_FAILED, VK_SUCCESS), "ln");
  EXPECT_FALSE(granted.supported);
  EXPECT_EQ(calls(low, VK_ERROR_DEVICE_LOST, VK_ERROR_DEVICE_LOST), "l");
  EXPECT_EQ(calls({nullptr, "no such extension"}, VK_SUCCESS, VK_SUCCESS), "n");
  EXPECT_FALSE(granted.supported);
  EXPECT_EQ(granted.reason, "no such extension");
}

TEST(VulkanLowPriority, ADeviceHasItWhereItsDriverDoes) {
  const auto device = open_vulkan(test::test_options(), true, QueuePriority::low);
  if (device == nullptr) GTEST_SKIP() << "no Vulkan device";
  const Support offered = vulkan::low_priority_support(device->info());
  std::printf("low priority: %s\n", offered.supported ? "yes" : offered.reason.c_str());
  EXPECT_EQ(device->low_priority().supported, offered.supported) << device->low_priority().reason;
  EXPECT_EQ(device->low_priority().reason, offered.reason);
  const auto tensor = put(*device, DType::i32, {3}, counting(3, 5));
  EXPECT_EQ(fetch<std::int32_t>(*device, tensor), counting(3, 5));
  EXPECT_EQ(device->validation_messages(), 0u);
  EXPECT_FALSE(open_vulkan(test::test_options(), false)->low_priority().supported) << "nobody asked for it";
}

// A real loss cannot be provoked here; what follows from one is what is tested.
TEST_F(VulkanTest, ALostDeviceIsAnErrorAndNothingHangs) {
  const auto slots = put(*device_, DType::i32, {1}, counting(1, 0));
  const auto positions = put(*device_, DType::i32, {1}, counting(1, 0));
  auto recording = device_->record([&](Encoder& encoder) { encoder.advance({slots, positions, 1}); }, {});
  const std::uint64_t ticket = device_->submit(*recording);
  device_->wait(ticket);
  expect_error(StatusCode::device_lost, [&] { device_->impl().core->check_device(VK_ERROR_DEVICE_LOST, "testing"); });
  const std::string message = expect_error(StatusCode::device_lost, [&] { device_->submit(*recording); });
  EXPECT_NE(message.find("open it again"), std::string::npos) << message;
  expect_error(StatusCode::device_lost, [&] { device_->allocate(1024, MemoryUse::device); });
  std::vector<std::int32_t> value(1);
  expect_error(StatusCode::device_lost,
               [&] { device_->download(positions, std::as_writable_bytes(std::span(value))); });
  recording.reset();
  device_.reset();
  device_ = open_vulkan();  // the process lives, and another device works
  const auto again = put(*device_, DType::i32, {1}, counting(1, 5));
  EXPECT_EQ(fetch<std::int32_t>(*device_, again)[0], 5);
}

}  // namespace
}  // namespace riverhorse
