// Devices, golden models and comparisons for the model and engine tests.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/error.h"
#include "cpu/cpu_device.h"
#include "engine/engine.h"
#include "model/checkpoint.h"
#ifdef RIVERHORSE_HAS_VULKAN
#include "vulkan/device.h"
#endif

namespace riverhorse::test {

inline const std::string golden = RIVERHORSE_TEST_DATA;

// "cpu", and the id of every other device there is. Which backends have none, and why, is printed by the first test.
inline const std::vector<std::string>& device_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> found = {"cpu"};
    const DeviceList list = list_devices();
    for (const DeviceInfo& info : list.devices) {
      if (info.backend != BackendKind::cpu) found.push_back(info.id());
    }
    for (const BackendAbsence& absence : list.absences) {
      std::printf("[  NOTE    ] no %s device is tested: %s\n", std::string(backend_name(absence.backend)).c_str(),
                  absence.reason.c_str());
    }
    return found;
  }();
  return names;
}

inline std::map<std::string, std::shared_ptr<Device>>& open_devices() {
  static std::map<std::string, std::shared_ptr<Device>> open;
  return open;
}

// Closes them before main returns: drivers unload in exit handlers of their own, and a device that is destroyed after
// them may crash (these tests did at exit on NVIDIA's).
class DevicesEnd : public testing::Environment {
 public:
  void TearDown() override { open_devices().clear(); }
};
inline testing::Environment* const devices_end = testing::AddGlobalTestEnvironment(new DevicesEnd);

// Opened once a process; on Vulkan with the validation layer where it is installed.
inline std::shared_ptr<Device> device(const std::string& name) {
  std::shared_ptr<Device>& entry = open_devices()[name];
  if (entry) return entry;
  if (name == "cpu") {
    entry = open_cpu_device(cpu_device_info(), {});
    return entry;
  }
  for (const DeviceInfo& info : list_devices().devices) {
    if (info.id() != name) continue;
    DeviceOptions options;
    options.validation = info.backend == BackendKind::vulkan;
    try {
      entry = open_device(info, options);
    } catch (const Error& error) {
      std::printf("[  NOTE    ] without the validation layer: %s\n", error.what());
      options.validation = false;
      entry = open_device(info, options);
    }
  }
  return entry;
}

// The algorithms that the device's mixer can be told to use.
inline std::vector<ConvAlgorithm> conv_ways(Device& device) {
  std::vector<ConvAlgorithm> ways;
  if (device.supports(Feature::conv_chunked).supported) ways.push_back(ConvAlgorithm::chunked);
  if (device.supports(Feature::conv_fft).supported) ways.push_back(ConvAlgorithm::fft);
  return ways;
}

inline std::string safe_name(std::string name) {
  for (char& c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  }
  return name;
}

// A test that runs once on every device; fails when the validation layer had something to say during it.
class OnDevice : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    device_ = device(GetParam());
    ASSERT_NE(device_, nullptr);
    messages_before_ = messages();
  }
  void TearDown() override { EXPECT_EQ(messages(), messages_before_) << "validation messages"; }

  bool on_cpu() const { return GetParam() == "cpu"; }
  std::uint64_t messages() const {
#ifdef RIVERHORSE_HAS_VULKAN
    if (const auto* vulkan_device = dynamic_cast<const vulkan::VulkanDevice*>(device_.get())) {
      return vulkan_device->validation_messages();
    }
#endif
    return 0;
  }

  std::shared_ptr<Device> device_;
  std::uint64_t messages_before_ = 0;
};

#define RIVERHORSE_ON_EVERY_DEVICE(suite)                                                         \
  INSTANTIATE_TEST_SUITE_P(Devices, suite, testing::ValuesIn(::riverhorse::test::device_names()), \
                           [](const auto& parameter) { return ::riverhorse::test::safe_name(parameter.param); })

inline const Checkpoint& golden_checkpoint(const std::string& name, const std::string& file = "model.pt") {
  static std::map<std::string, Checkpoint> loaded;
  const std::string path = golden + "/lm/" + name + "/" + file;
  const auto found = loaded.find(path);
  if (found != loaded.end()) return found->second;
  CheckpointOptions options;
  options.config_path = golden + "/lm/" + name + "/config.json";
  return loaded.emplace(path, load_checkpoint(path, options)).first->second;
}

inline TensorFile golden_io(const std::string& name, const std::string& file = "io.safetensors") {
  return read_safetensors(golden + "/lm/" + name + "/" + file);
}

// tol_rel of manifest.json.
inline double manifest_tolerance(const std::string& file, const std::string& tensor) {
  static const nlohmann::json manifest = nlohmann::json::parse(std::ifstream(golden + "/manifest.json"));
  for (const auto& entry : manifest.at("tensors")) {
    if (entry.at("file") == file && entry.at("tensor") == tensor) return entry.at("tol_rel").get<double>();
  }
  ADD_FAILURE() << "no tolerance for " << file << " " << tensor;
  return 0;
}

inline std::vector<std::int32_t> ids_of(const HostTensor& tensor) {
  std::vector<std::int32_t> ids;
  for (const std::int64_t id : to_integers(tensor)) ids.push_back(static_cast<std::int32_t>(id));
  return ids;
}

inline std::vector<float> all_logits(Engine& engine, std::span<const std::int32_t> ids, std::int64_t batch,
                                     std::int64_t length) {
  std::vector<float> logits;
  engine.forward(ids, batch, length, [&](std::int64_t first_row, std::span<const float> piece) {
    EXPECT_EQ(first_row * engine.config().padded_vocab_size(), static_cast<std::int64_t>(logits.size()));
    logits.insert(logits.end(), piece.begin(), piece.end());
  });
  return logits;
}

// max |a - b| / max |b| over the whole tensor, the golden fixtures' measure; infinity for a NaN or another size.
inline double relative_error(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double difference = 0;
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = std::abs(static_cast<double>(a[i]) - b[i]);
    if (!(d <= difference)) difference = std::isnan(d) ? std::numeric_limits<double>::infinity() : d;
    largest = std::max(largest, std::abs(static_cast<double>(b[i])));
  }
  return difference / largest;
}

}  // namespace riverhorse::test
