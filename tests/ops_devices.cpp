#include "ops_devices.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

#include "base/error.h"
#include "cpu/cpu_device.h"
#ifdef RIVERHORSE_TEST_VULKAN
#include "vulkan/device.h"
#endif

namespace riverhorse::test {

namespace {

struct Opened {
  std::vector<std::unique_ptr<Device>> devices;
  std::unique_ptr<Device> cpu;
};

Opened& opened() {
  static Opened instance;
  return instance;
}

#ifdef RIVERHORSE_TEST_REGISTRY
std::uint64_t validation_messages([[maybe_unused]] Device& device) {
#ifdef RIVERHORSE_TEST_VULKAN
  if (const auto* vulkan = dynamic_cast<vulkan::VulkanDevice*>(&device)) return vulkan->validation_messages();
#endif
  return 0;
}

// Every device but the cpu; those of Vulkan a second time with minimal features.
void add_listed_devices(std::vector<TestDevice>& list) {
  const DeviceList found = list_devices();
  for (const BackendAbsence& absence : found.absences) {
    std::printf("no %s device: %s\n", std::string(backend_name(absence.backend)).c_str(), absence.reason.c_str());
  }
  for (const DeviceInfo& info : found.devices) {
    if (info.backend == BackendKind::cpu) continue;
    const bool vulkan = info.backend == BackendKind::vulkan;
    const std::string name = fmt::format("{}{}", backend_name(info.backend), info.index);
    std::printf("%s is %s, %s\n", name.c_str(), info.name.c_str(), info.driver.c_str());
    for (const bool minimal : {false, true}) {
      if (minimal && !vulkan) continue;
      opened().devices.push_back(nullptr);
      const std::size_t index = opened().devices.size() - 1;
      const auto open = [info, minimal, vulkan, index]() -> Device& {
        std::unique_ptr<Device>& device = opened().devices[index];
        if (!device) {
          DeviceOptions options;
          options.minimal_features = minimal;
          options.validation = vulkan;
          try {
            device = open_device(info, options);
          } catch (const Error& error) {
            std::printf("WITHOUT VALIDATION: %s\n", error.what());
            options.validation = false;
            device = open_device(info, options);
          }
        }
        return *device;
      };
      const auto messages = [open] { return validation_messages(open()); };
      list.push_back({name + (minimal ? "_minimal" : ""), open, messages});
    }
  }
}
#endif

class FunctionTest : public testing::Test {
 public:
  explicit FunctionTest(std::function<void()> body) : body_(std::move(body)) {}
  void TestBody() override { body_(); }

 private:
  std::function<void()> body_;
};

}  // namespace

Device& cpu_device() {
  if (!opened().cpu) opened().cpu = open_cpu_device(cpu_device_info(), {});
  return *opened().cpu;
}

const std::vector<TestDevice>& test_devices() {
  static const std::vector<TestDevice> list = [] {
    std::vector<TestDevice> devices;
    devices.push_back({"cpu", []() -> Device& { return cpu_device(); }, [] { return std::uint64_t{0}; }});
#ifdef RIVERHORSE_TEST_REGISTRY
    add_listed_devices(devices);
#endif
    return devices;
  }();
  return list;
}

void close_test_devices() {
  opened().devices.clear();
  opened().cpu.reset();
}

void register_test(const std::string& suite, const std::string& name, std::function<void()> body) {
  testing::RegisterTest(suite.c_str(), name.c_str(), nullptr, nullptr, __FILE__, __LINE__,
                        [body]() -> testing::Test* { return new FunctionTest(body); });
}

void register_for_device(const TestDevice& device, const std::string& suite, const std::string& name,
                         const DeviceTest& test) {
  register_test(suite, name + "." + device.name, [device, test] {
    Device& opened_device = device.open();
    const std::uint64_t before = device.validation_messages();
    test(opened_device);
    EXPECT_EQ(device.validation_messages(), before) << "messages of the validation layer (printed above)";
  });
}

void register_for_devices(const std::string& suite, const std::string& name, const DeviceTest& test) {
  for (const TestDevice& device : test_devices()) register_for_device(device, suite, name, test);
}

void register_for_training(const std::string& suite, const std::string& name, const DeviceTest& test) {
  register_for_devices(suite, name, [test](Device& device) {
    const Support support = device.supports(Feature::training);
    if (!support.supported) GTEST_SKIP() << support.reason;
    test(device);
  });
}

double max_error(const std::vector<float>& values, const std::vector<float>& expected) {
  if (values.size() != expected.size()) return std::numeric_limits<double>::infinity();
  double error = 0, largest = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double difference = std::abs(static_cast<double>(values[i]) - expected[i]);
    if (std::isnan(difference)) return std::numeric_limits<double>::infinity();
    error = std::max(error, difference);
    largest = std::max(largest, std::abs(static_cast<double>(expected[i])));
  }
  return largest > 0 ? error / largest : error;
}

}  // namespace riverhorse::test

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  std::printf("seed %llu\n", static_cast<unsigned long long>(riverhorse::test::test_seed));
  riverhorse::test::register_parity_tests();
  riverhorse::test::register_golden_tests();
  riverhorse::test::register_invariant_tests();
  riverhorse::test::register_attention_training_tests();
  riverhorse::test::register_training_tests();
  riverhorse::test::register_mixer_tests();
  riverhorse::test::register_fft_conv_tests();
  riverhorse::test::register_training_golden_tests();
  const int result = RUN_ALL_TESTS();
  riverhorse::test::close_test_devices();
  return result;
}
