// The self test, on devices that compute rightly, wrongly, and not at all: the verdict, the fall-back to the safer
// shaders, what is remembered, and what the user is told.
#include "engine/selftest.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/log.h"

namespace riverhorse {
namespace {

std::unique_ptr<Device> open_cpu() {
  DeviceInfo cpu;
  cpu.backend = BackendKind::cpu;
  return open_device(cpu, {});
}

enum class Fault { none, wrong_numbers, error, lost };

// The cpu behind the mask of a GPU, with a fault in what it gives back.
class FaultyDevice final : public Device {
 public:
  FaultyDevice(Fault fault, std::string driver) : inner_(open_cpu()), fault_(fault) {
    info_ = inner_->info();
    info_.backend = BackendKind::vulkan;
    info_.name = "Faulty GPU";
    info_.driver = std::move(driver);
  }
  const DeviceInfo& info() const override { return info_; }
  Support supports(Feature feature) const override { return inner_->supports(feature); }
  std::shared_ptr<Buffer> allocate(std::uint64_t size, MemoryUse use) override { return inner_->allocate(size, use); }
  MemoryUsage memory_usage() const override { return inner_->memory_usage(); }
  std::uint64_t memory_free_bytes() const override { return inner_->memory_free_bytes(); }
  std::uint64_t max_tensor_bytes() const override { return inner_->max_tensor_bytes(); }
  void upload(const Tensor& tensor, std::span<const std::byte> bytes) override { inner_->upload(tensor, bytes); }
  void download(const Tensor& tensor, std::span<std::byte> bytes) override {
    inner_->download(tensor, bytes);
    // Every float twice as large: exponent + 1 in the middle of the tensor.
    if (fault_ == Fault::wrong_numbers && bytes.size() >= 64) bytes[bytes.size() / 8 * 4 + 3] ^= std::byte{0x21};
  }
  std::span<std::byte> mapped(const Tensor& tensor) override { return inner_->mapped(tensor); }
  void prepare(const RecordFunction& function, const ProgressFunction& progress) override {
    inner_->prepare(function, progress);
  }
  std::unique_ptr<Recording> record(const RecordFunction& function, const RecordOptions& options) override {
    if (fault_ == Fault::error) fail(StatusCode::internal, "the compiler of this driver crashed");
    return inner_->record(function, options);
  }
  std::uint64_t submit(Recording& recording) override {
    if (fault_ == Fault::lost) fail(StatusCode::device_lost, "the device was lost");
    return inner_->submit(recording);
  }
  void wait(std::uint64_t ticket) override { inner_->wait(ticket); }
  DeviceCounters counters() const override { return inner_->counters(); }

 private:
  std::unique_ptr<Device> inner_;
  Fault fault_;
  DeviceInfo info_;
};

class SelfTest : public testing::Test {
 protected:
  void SetUp() override {
    cache_ = std::filesystem::path(testing::TempDir()) / ("selftest_test_" + std::to_string(getpid()));
    std::filesystem::remove_all(cache_);
    options_.cache_folder = cache_.string();
    set_log_sink([this](LogLevel level, std::string_view message) {
      (level == LogLevel::warning ? warnings_ : infos_) += std::string(message) + "\n";
    });
  }
  void TearDown() override {
    set_log_sink({});
    std::filesystem::remove_all(cache_);
  }

  // `full` and `minimal`: the fault without and with minimal_features.
  OpenFunction opens(Fault full, Fault minimal, const std::string& driver = "driver 1") {
    return [this, full, minimal, driver](const DeviceOptions& options) {
      opened_.push_back(options.minimal_features);
      return std::make_unique<FaultyDevice>(options.minimal_features ? minimal : full, driver);
    };
  }
  int tests_run() const {
    int count = 0;
    for (std::size_t at = 0; (at = infos_.find("before its first use", at)) != std::string::npos; ++at) ++count;
    return count;
  }

  std::filesystem::path cache_;
  DeviceOptions options_;
  std::string warnings_, infos_;
  std::vector<bool> opened_;
};

TEST_F(SelfTest, PassesOnADeviceThatComputesRightly) {
  FaultyDevice device(Fault::none, "driver 1");
  const SelfTestReport report = run_self_test(device, 60.0);
  EXPECT_TRUE(report.passed()) << report.first_failure();
  EXPECT_GT(report.passed_count(), 10);
  EXPECT_EQ(report.untried, 0);
  EXPECT_EQ(report.first_failure(), "");
}

TEST_F(SelfTest, FindsWrongNumbers) {
  FaultyDevice device(Fault::wrong_numbers, "driver 1");
  const SelfTestReport report = run_self_test(device, 60.0);
  EXPECT_FALSE(report.passed());
  EXPECT_FALSE(report.first_failure().empty());
  EXPECT_FALSE(report.device_lost);
}

TEST_F(SelfTest, FindsErrorsAndStopsWhenTheDeviceIsLost) {
  FaultyDevice failing(Fault::error, "driver 1");
  const SelfTestReport report = run_self_test(failing, 60.0);
  EXPECT_FALSE(report.passed());
  EXPECT_GT(report.cases.size(), 1u) << "an error of one operation does not end the test";
  EXPECT_NE(report.first_failure().find("the compiler of this driver crashed"), std::string::npos);

  FaultyDevice lost(Fault::lost, "driver 1");
  const SelfTestReport lost_report = run_self_test(lost, 60.0);
  EXPECT_TRUE(lost_report.device_lost);
  EXPECT_EQ(lost_report.cases.size(), 1u);
}

TEST_F(SelfTest, TriesEveryOperationBeforeTheTimeIsUpTwice) {
  FaultyDevice device(Fault::none, "driver 1");
  const SelfTestReport hurried = run_self_test(device, 0.0);
  const SelfTestReport whole = run_self_test(device, 60.0);
  EXPECT_EQ(hurried.cases.size() + static_cast<std::size_t>(hurried.untried), whole.cases.size());
  // The first cases are all of different operations (or dtypes).
  std::vector<std::string> seen;
  for (const SelfTestCase& result : whole.cases) {
    const std::string kind =
        result.name.substr(0, result.name.find('.')) + result.name.substr(result.name.rfind('.'));
    if (std::find(seen.begin(), seen.end(), kind) != seen.end()) break;
    seen.push_back(kind);
  }
  EXPECT_GE(seen.size(), 10u);
}

TEST_F(SelfTest, RunsOnceForADeviceAndDriver) {
  open_tested_device(opens(Fault::none, Fault::none), options_);
  EXPECT_EQ(tests_run(), 1);
  open_tested_device(opens(Fault::none, Fault::none), options_);
  EXPECT_EQ(tests_run(), 1) << "the verdict is remembered";
  open_tested_device(opens(Fault::none, Fault::none, "driver 2"), options_);
  EXPECT_EQ(tests_run(), 2) << "a new driver is tested again";
  // A damaged file is no verdict.
  for (const auto& entry : std::filesystem::directory_iterator(cache_)) std::ofstream(entry.path()) << "{\"key\": 1";
  open_tested_device(opens(Fault::none, Fault::none), options_);
  EXPECT_EQ(tests_run(), 3);
  options_.cache_folder = "none";
  open_tested_device(opens(Fault::none, Fault::none), options_);
  EXPECT_EQ(tests_run(), 4);
  EXPECT_EQ(warnings_, "");
  EXPECT_EQ(opened_, std::vector<bool>(5, false));
}

TEST_F(SelfTest, FallsBackToTheSaferShadersAndSaysSo) {
  for (int use = 0; use < 2; ++use) {  // measured, then remembered
    warnings_.clear();
    opened_.clear();
    const auto device = open_tested_device(opens(Fault::wrong_numbers, Fault::none), options_);
    EXPECT_EQ(opened_, (std::vector<bool>{false, true}));
    EXPECT_NE(device, nullptr);
    EXPECT_NE(warnings_.find("Faulty GPU"), std::string::npos) << warnings_;
    EXPECT_NE(warnings_.find("driver 1"), std::string::npos) << warnings_;
    EXPECT_NE(warnings_.find("safer shaders"), std::string::npos) << warnings_;
  }
  EXPECT_EQ(tests_run(), 2) << "once with, once without the optional features";
}

TEST_F(SelfTest, RefusesADeviceThatComputesWronglyInEveryWay) {
  const auto refused = [&](const OpenFunction& open) {
    try {
      open_tested_device(open, options_);
      return std::string("opened");
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), StatusCode::unsupported);
      return std::string(error.what());
    }
  };
  const std::string message = refused(opens(Fault::wrong_numbers, Fault::error));
  EXPECT_NE(message.find("Faulty GPU"), std::string::npos) << message;
  EXPECT_NE(message.find("--backend cpu"), std::string::npos) << message;
  EXPECT_NE(message.find("the compiler of this driver crashed"), std::string::npos) << message;
  options_.minimal_features = true;
  EXPECT_NE(refused(opens(Fault::none, Fault::error)).find("safest shaders"), std::string::npos);
}

TEST_F(SelfTest, ADeviceThatWasLostIsNotRemembered) {
  EXPECT_THROW(open_tested_device(opens(Fault::lost, Fault::lost), options_), Error);
  const int before = tests_run();
  EXPECT_THROW(open_tested_device(opens(Fault::lost, Fault::lost), options_), Error);
  EXPECT_EQ(tests_run(), 2 * before);
}

TEST_F(SelfTest, TheCpuNeedsNoTest) {
  CheckedDeviceOptions options;
  options.backend = "cpu";
  options.device_options = options_;
  EXPECT_EQ(open_checked_device(options)->info().backend, BackendKind::cpu);
  EXPECT_EQ(tests_run(), 0);
}

}  // namespace
}  // namespace riverhorse
