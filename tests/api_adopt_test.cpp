// A host lends its Vulkan device: what the model says on it, and that the host's things are as they were.
#include <array>
#include <memory>
#include <thread>

#include "api_fixture.h"
#include "api_vulkan_host.h"

namespace api_test {
namespace {

constexpr std::array<std::int32_t, 12> golden_text = {288, 373, 373, 373, 373, 373, 373, 373, 191, 191, 360, 497};
const std::vector<std::int32_t> continuation(golden_text.begin(), golden_text.end());

class ApiAdopt : public Api {
 protected:
  void SetUp() override { open({}); }
  void TearDown() override {
    close_models();
    if (host_ == nullptr) return;
    host_->close();
    EXPECT_EQ(host_->messages(), 0u);
  }

  void open(const VulkanHost::Options& options) {
    host_ = std::make_unique<VulkanHost>(options);
    if (!host_->usable()) GTEST_SKIP() << "no Vulkan device";
  }

  void close_models() {
    Api::TearDown();
    sessions_.clear();
    models_.clear();
    riverhorse_adopted_device_free(adopted_);
    adopted_ = nullptr;
  }

  riverhorse_model_options adopt() {
    const riverhorse_vulkan_device handles = host_->handles();
    if (adopted_ == nullptr) {
      EXPECT_OK(riverhorse_adopt_vulkan(&handles, &adopted_));
    }
    riverhorse_model_options options = cpu_options();
    options.backend = nullptr;
    options.skip_self_test = 1;
    options.adopted_device = adopted_;
    return options;
  }

  std::unique_ptr<VulkanHost> host_;
  riverhorse_adopted_device* adopted_ = nullptr;
};

TEST_F(ApiAdopt, SaysTheGoldenTextAndLeavesTheHostAlone) {
  std::printf("device: %s\n", host_->name());
  host_->fill(0x1234);
  riverhorse_model* model = load(hybrid_path, adopt());
  riverhorse_model_info info{};
  info.struct_size = sizeof info;
  ASSERT_OK(riverhorse_model_get_info(model, &info));
  EXPECT_STREQ(info.device_id, "vulkan:adopted");
  EXPECT_STREQ(info.device_name, host_->name());
  EXPECT_TRUE(host_->holds(0x1234));
  EXPECT_EQ(steps(session(model, prompt), 12), continuation);
  host_->fill(0x5678);  // on the same queue, in between
  riverhorse_session* second = session(model, prompt);
  EXPECT_EQ(steps(second, 6), std::vector<std::int32_t>(continuation.begin(), continuation.begin() + 6));
  EXPECT_TRUE(host_->holds(0x5678));
  close_models();
  EXPECT_TRUE(host_->holds(0x5678));
  host_->fill(0x9abc);
  EXPECT_TRUE(host_->holds(0x9abc));
}

TEST_F(ApiAdopt, UsesWhatTheHostHasEnabled) {
  riverhorse_model_options options = adopt();
  options.dtype = RIVERHORSE_DTYPE_F16;
  const bool half = host_->requirements().features.storage_buffer_16bit_access != 0;
  riverhorse_model* model = nullptr;
  EXPECT_EQ(riverhorse_model_load(hybrid_path.c_str(), &options, &model),
            half ? RIVERHORSE_OK : RIVERHORSE_UNSUPPORTED);
  if (model != nullptr) models_.push_back(model);
  const riverhorse_vulkan_features& wanted = host_->requirements().features;
  EXPECT_EQ(wanted.compute_full_subgroups, wanted.subgroup_size_control);
  EXPECT_EQ(wanted.vulkan_memory_model_device_scope, wanted.vulkan_memory_model);
  EXPECT_GT(host_->requirements().extension_count, 0u);
}

// Vulkan 1.1 with no extension and no feature: the validation layer would tell of any use of one.
TEST_F(ApiAdopt, NeedsNoFeature) {
  VulkanHost::Options plain;
  plain.api_version = VK_API_VERSION_1_1;
  plain.features = false;
  host_.reset();
  open(plain);
  riverhorse_model_options options = adopt();
  EXPECT_EQ(steps(session(load(hybrid_path, options), prompt), 12), continuation);
  options.dtype = RIVERHORSE_DTYPE_F16;
  riverhorse_model* model = nullptr;
  EXPECT_FAILS(riverhorse_model_load(hybrid_path.c_str(), &options, &model), RIVERHORSE_UNSUPPORTED, "16-bit");
}

TEST_F(ApiAdopt, TestsTheDeviceAndMeasuresTheConvolution) {
  riverhorse_model_options options = adopt();
  options.skip_self_test = 0;
  options.conv = RIVERHORSE_CONV_FFT;  // VkFFT submits to the queue itself
  EXPECT_EQ(steps(session(load(hybrid_path, options), prompt), 12), continuation);
}

TEST_F(ApiAdopt, TwoModelsRunOnOneDeviceInTwoThreads) {
  VulkanHost::Options locked;
  locked.lock = true;
  host_.reset();
  open(locked);
  const riverhorse_model_options options = adopt();
  riverhorse_session* texts[2] = {};
  for (riverhorse_session*& text : texts) text = session(load(hybrid_path, options), prompt);
  riverhorse_adopted_device_free(adopted_);  // the models keep it
  adopted_ = nullptr;
  std::vector<std::int32_t> drawn[2];
  {
    std::thread threads[2];
    for (int i = 0; i < 2; ++i) threads[i] = std::thread([&, i] { drawn[i] = steps(texts[i], 12); });
    for (int i = 0; i < 10; ++i) host_->fill(static_cast<std::uint32_t>(i));  // while they run
    for (std::thread& thread : threads) thread.join();
  }
  EXPECT_EQ(drawn[0], continuation);
  EXPECT_EQ(drawn[1], continuation);
  EXPECT_TRUE(host_->holds(9));
  EXPECT_GT(host_->locks(), 24u);
}

// Two libraries of a program's may each adopt the device: they know nothing of each other, but for the host's lock.
TEST_F(ApiAdopt, TwoEnginesThatKnowNothingOfEachOtherShareTheDevice) {
  VulkanHost::Options locked;
  locked.lock = true;
  host_.reset();
  open(locked);
  const riverhorse_model_options first = adopt();
  riverhorse_adopted_device* other = nullptr;
  const riverhorse_vulkan_device handles = host_->handles();
  ASSERT_OK(riverhorse_adopt_vulkan(&handles, &other));
  riverhorse_model_options second = first;
  second.adopted_device = other;
  riverhorse_session* kept = session(load(hybrid_path, first), prompt);
  std::vector<std::int32_t> drawn;
  std::thread thread([&] {
    for (int i = 0; i < 2; ++i) {  // one comes and goes while the other works
      riverhorse_model* model = nullptr;
      riverhorse_session* text = nullptr;
      EXPECT_OK(riverhorse_model_load(pure_path.c_str(), &second, &model));
      EXPECT_OK(riverhorse_session_create(model, nullptr, &text));
      EXPECT_OK(riverhorse_session_append(text, prompt.data(), 4, nullptr, nullptr));
      EXPECT_EQ(steps(text, 4).size(), 4u);
      riverhorse_session_free(text);
      riverhorse_model_free(model);
    }
    riverhorse_adopted_device_free(other);
  });
  drawn = steps(kept, 12);
  host_->fill(7);
  thread.join();
  EXPECT_EQ(drawn, continuation);
  const std::vector<std::int32_t> more = steps(kept, 1);
  EXPECT_EQ(more.size(), 1u) << "the other's end was not its own";
  EXPECT_TRUE(host_->holds(7));
}

// Allocations of the host's callbacks, which must all come back.
struct Counter {
  std::int64_t alive = 0;
  std::int64_t total = 0;
};

VkAllocationCallbacks counting(Counter& counter) {
  VkAllocationCallbacks callbacks{};
  callbacks.pUserData = &counter;
  callbacks.pfnAllocation = [](void* user, std::size_t size, std::size_t alignment, VkSystemAllocationScope) {
    ++static_cast<Counter*>(user)->alive;
    ++static_cast<Counter*>(user)->total;
    return std::aligned_alloc(std::max(alignment, sizeof(void*)), (size + alignment - 1) / alignment * alignment);
  };
  callbacks.pfnReallocation = [](void* user, void* old, std::size_t size, std::size_t, VkSystemAllocationScope) {
    if (old == nullptr) {
      ++static_cast<Counter*>(user)->alive;
      ++static_cast<Counter*>(user)->total;
    }
    return std::realloc(old, size);
  };
  callbacks.pfnFree = [](void* user, void* memory) {
    if (memory != nullptr) --static_cast<Counter*>(user)->alive;
    std::free(memory);
  };
  return callbacks;
}

TEST_F(ApiAdopt, LoadsAndUnloadsManyTimesWithTheHostsAllocator) {
  Counter counter;
  const VkAllocationCallbacks callbacks = counting(counter);
  VulkanHost::Options counted;
  counted.allocation_callbacks = &callbacks;
  host_.reset();
  open(counted);
  for (int i = 0; i < 100; ++i) {
    riverhorse_model_options options = adopt();
    if (i == 1) options.conv = RIVERHORSE_CONV_FFT;
    riverhorse_session* text = session(load(pure_path, options), i < 2 ? prompt : std::vector<std::int32_t>{5});
    if (i < 2) steps(text, 1);
    close_models();
    EXPECT_EQ(counter.alive, 0) << "after load " << i;
    if (counter.alive != 0) break;
  }
  EXPECT_GT(counter.total, 1000);
}

TEST_F(ApiAdopt, RefusesWhatCannotBeAdopted) {
  riverhorse_adopted_device* adopted = nullptr;
  riverhorse_vulkan_device handles = host_->handles();
  const auto refused = [&](riverhorse_status status, const char* part) {
    EXPECT_FAILS(riverhorse_adopt_vulkan(&handles, &adopted), status, part);
    handles = host_->handles();
  };
  handles.instance = nullptr;
  refused(RIVERHORSE_INVALID_ARGUMENT, "device.instance");
  handles.physical_device = nullptr;
  refused(RIVERHORSE_INVALID_ARGUMENT, "device.physical_device");
  handles.device = nullptr;
  refused(RIVERHORSE_INVALID_ARGUMENT, "device.device");
  handles.queue = nullptr;
  refused(RIVERHORSE_INVALID_ARGUMENT, "device.queue");
  handles.get_instance_proc_addr = nullptr;
  refused(RIVERHORSE_INVALID_ARGUMENT, "get_instance_proc_addr");
  handles.queue_family = 99;
  refused(RIVERHORSE_UNSUPPORTED, "queue family 99");
  handles.api_version = VK_API_VERSION_1_0;
  refused(RIVERHORSE_UNSUPPORTED, "1.1");
  handles.lock_queue = [](void*) {};
  refused(RIVERHORSE_INVALID_ARGUMENT, "unlock_queue");
  handles.extensions = nullptr;
  handles.extension_count = 1;
  refused(RIVERHORSE_INVALID_ARGUMENT, "device.extensions");
  handles.struct_size = 8;
  refused(RIVERHORSE_INVALID_ARGUMENT, "struct_size");
  EXPECT_FAILS(riverhorse_adopt_vulkan(nullptr, &adopted), RIVERHORSE_INVALID_ARGUMENT, "device");
  EXPECT_FAILS(riverhorse_adopt_vulkan(&handles, nullptr), RIVERHORSE_INVALID_ARGUMENT, "adopted");
  EXPECT_FAILS(riverhorse_vulkan_query_requirements(&handles, nullptr), RIVERHORSE_INVALID_ARGUMENT, "requirements");
  EXPECT_EQ(adopted, nullptr);

  riverhorse_model* model = nullptr;
  riverhorse_model_options options = adopt();
  options.backend = "vulkan";
  EXPECT_FAILS(riverhorse_model_load(hybrid_path.c_str(), &options, &model), RIVERHORSE_INVALID_ARGUMENT, "backend");
  options = adopt();
  options.device = "0";
  EXPECT_FAILS(riverhorse_model_load(hybrid_path.c_str(), &options, &model), RIVERHORSE_INVALID_ARGUMENT, "device");
  options = adopt();
  options.validation = 1;
  EXPECT_FAILS(riverhorse_model_load(hybrid_path.c_str(), &options, &model), RIVERHORSE_INVALID_ARGUMENT,
               "validation");
  options = adopt();
  options.low_priority = 1;
  EXPECT_FAILS(riverhorse_model_load(hybrid_path.c_str(), &options, &model), RIVERHORSE_INVALID_ARGUMENT,
               "options.low_priority is set, and so is options.adopted_device");
  options = adopt();
  options.frame_sessions = 5;
  EXPECT_FAILS(riverhorse_model_load(hybrid_path.c_str(), &options, &model), RIVERHORSE_INVALID_ARGUMENT,
               "frame_sessions is 5; it must be from 0 to max_sessions, which is 4");
  options.frame_sessions = 4;
  options.memory_budget_bytes = 1;
  EXPECT_FAILS(riverhorse_model_load(hybrid_path.c_str(), &options, &model), RIVERHORSE_OUT_OF_MEMORY,
               "sessions in frames");
  options = cpu_options();
  options.frame_sessions = 1;
  EXPECT_FAILS(riverhorse_model_load(hybrid_path.c_str(), &options, &model), RIVERHORSE_INVALID_ARGUMENT,
               "options.frame_sessions is 1 without an adopted_device");
}

// On a device of the library's own.
TEST_F(ApiAdopt, LowPriorityIsHadOrSaidToBeMissing) {
  riverhorse_model_options options = cpu_options();
  options.skip_self_test = 1;
  options.low_priority = 1;
  for (const char* backend : {"cpu", "vulkan"}) {
    std::string messages;
    riverhorse_set_log_callback(
        [](void* user, riverhorse_log_level level, const char* message) {
          if (level == RIVERHORSE_LOG_INFO) *static_cast<std::string*>(user) += message;
        },
        &messages);
    options.backend = backend;
    riverhorse_model* model = load(hybrid_path, options);
    riverhorse_set_log_callback(nullptr, nullptr);
    riverhorse_model_info info{};
    info.struct_size = sizeof info;
    ASSERT_OK(riverhorse_model_get_info(model, &info));
    EXPECT_EQ(info.low_priority == 0, messages.find("has no queue of low priority: ") != std::string::npos)
        << backend << ": " << messages;
    EXPECT_TRUE(backend != std::string("cpu") || info.low_priority == 0);
    EXPECT_EQ(steps(session(model, prompt), 12), continuation) << backend;
  }
}

}  // namespace
}  // namespace api_test
