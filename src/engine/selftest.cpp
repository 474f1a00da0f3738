// What a run does: the quick cases of the operation table, one of each operation first, then the next of each, until
// the time is up, so that on a slow device every operation is still tried. The verdict is kept in the cache folder
// under everything that could change it: the version of this library, the device, its driver, and whether the
// optional features were in use.
#include "engine/selftest.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <exception>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "backend/device_key.h"
#include "backend/op_cases.h"
#include "base/cache_folder.h"
#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"

namespace riverhorse {
namespace {

constexpr std::uint64_t self_test_seed = 20;

// The operations that are hardest to compile come first, because a slow device may not get through the list.
constexpr std::array<std::string_view, 8> hard_operations = {"linear",  "out_mlp",   "h3_block",       "h3_mixer",
                                                             "h3_step", "attention", "attention_step", "discretize"};

// One of each operation and dtype, then the second of each, ...
std::vector<OpCase> interleaved(std::vector<OpCase> cases) {
  std::map<std::string, int> seen;
  std::vector<std::pair<std::ptrdiff_t, OpCase>> ranked;
  for (OpCase& op_case : cases) {
    const int round = seen[op_case.op + std::string(dtype_name(op_case.dtype))]++;
    const auto hardness =
        std::find(hard_operations.begin(), hard_operations.end(), op_case.op) - hard_operations.begin();
    ranked.emplace_back(round * 100 + hardness, std::move(op_case));
  }
  std::stable_sort(ranked.begin(), ranked.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  cases.clear();
  for (auto& [rank, op_case] : ranked) cases.push_back(std::move(op_case));
  return cases;
}

SelfTestCase run_case(Device& device, Device& oracle, const OpCase& op_case) {
  SelfTestCase result;
  result.name = op_case.id();
  const CaseResult parity = run_parity(device, oracle, op_case, self_test_seed);
  result.supported = parity.supported;
  result.passed = parity.passed;
  result.error = parity.relative_error;
  result.tolerance = parity.tolerance;
  result.message = parity.message;
  return result;
}

std::unique_ptr<Device> open_oracle() {
  DeviceInfo cpu;
  cpu.backend = BackendKind::cpu;
  return open_device(cpu, {});
}

// ------------------------------------------------------------------------------------------- remembered verdicts

struct Verdict {
  bool passed = false;
  std::string failure;
};

std::string verdict_key(const DeviceInfo& info, bool minimal_features) {
  return fmt::format("{} | {}", device_key(info), minimal_features ? "minimal" : "full");
}

// The hash is for the file's name only: the key itself is in the file and compared.
std::filesystem::path verdict_path(const std::filesystem::path& folder, const std::string& key) {
  return folder / fmt::format("selftest-{:016x}.json", hash_bytes(std::as_bytes(std::span(key))));
}

std::optional<Verdict> remembered_verdict(const std::filesystem::path& path, const std::string& key) {
  try {
    const nlohmann::json json = nlohmann::json::parse(read_text_file(path, 1u << 16));
    if (json.at("key").get<std::string>() != key) return std::nullopt;
    return Verdict{json.at("passed").get<bool>(), json.at("failure").get<std::string>()};
  } catch (const std::exception&) {  // absent, damaged, of another version: the test runs again
    return std::nullopt;
  }
}

void remember_verdict(const std::filesystem::path& path, const std::string& key, const Verdict& verdict) {
  const nlohmann::ordered_json json = {{"key", key}, {"passed", verdict.passed}, {"failure", verdict.failure}};
  try {
    AtomicFileWriter file(path);
    file.write(json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
    file.commit();
  } catch (const Error& error) {
    log_debug(fmt::format("the result of the self test is not kept: {}", error.what()));
  }
}

Verdict verdict_of(Device& device, const DeviceOptions& options) {
  const std::string key = verdict_key(device.info(), options.minimal_features);
  const auto folder = resolve_cache_folder(options.cache_folder);
  std::filesystem::path path;
  if (folder) {
    path = verdict_path(*folder, key);
    if (const auto verdict = remembered_verdict(path, key)) return *verdict;
  }
  log_info(
      fmt::format("testing {} ({}) before its first use with this driver", device.info().id(), device.info().name));
  const SelfTestReport report = run_self_test(device);
  const Verdict verdict{report.passed(), report.first_failure()};
  if (verdict.passed) {
    log_info(fmt::format("self test passed: {} cases in {:.1f} s", report.passed_count(), report.seconds));
  }
  if (folder && !report.device_lost) remember_verdict(path, key, verdict);
  return verdict;
}

// The cpu, which is what the others are compared with, is not tested.
std::unique_ptr<Device> open_info(const DeviceInfo& info, const CheckedDeviceOptions& options) {
  if (!options.self_test || info.backend == BackendKind::cpu) {
    return open_device(info, options.device_options, options.priority);
  }
  return open_tested_device(
      [&](const DeviceOptions& device_options) { return open_device(info, device_options, options.priority); },
      options.device_options);
}

}  // namespace

bool SelfTestReport::passed() const {
  return passed_count() > 0 &&
         std::all_of(cases.begin(), cases.end(), [](const SelfTestCase& c) { return c.passed || !c.supported; });
}

int SelfTestReport::passed_count() const {
  return static_cast<int>(
      std::count_if(cases.begin(), cases.end(), [](const SelfTestCase& c) { return c.supported && c.passed; }));
}

std::string SelfTestReport::first_failure() const {
  for (const SelfTestCase& result : cases) {
    if (result.supported && !result.passed) return result.message.empty() ? result.name : result.message;
  }
  return passed_count() > 0 ? "" : "no operation could be tested";
}

SelfTestReport run_self_test(Device& device, double seconds_limit) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto elapsed = [start] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  const std::unique_ptr<Device> oracle = open_oracle();
  SelfTestReport report;
  for (const OpCase& op_case : interleaved(op_cases(CaseSet::quick))) {
    if (elapsed() > seconds_limit) {
      ++report.untried;
      continue;
    }
    SelfTestCase result;
    try {
      result = run_case(device, *oracle, op_case);
    } catch (const Error& error) {
      result.name = op_case.id();
      result.passed = false;
      result.error = std::numeric_limits<double>::infinity();
      result.message = fmt::format("{}: {}", result.name, error.what());
      report.device_lost = error.code() == StatusCode::device_lost;
    }
    report.cases.push_back(std::move(result));
    if (report.device_lost) break;
  }
  report.seconds = elapsed();
  return report;
}

std::unique_ptr<Device> open_tested_device(const OpenFunction& open, const DeviceOptions& options) {
  std::unique_ptr<Device> device = open(options);
  const std::string name =
      fmt::format("{} ({}, {})", device->info().id(), device->info().name, device->info().driver);
  const Verdict verdict = verdict_of(*device, options);
  if (verdict.passed) return device;

  constexpr const char* advice = "update the driver, choose another device, or use --backend cpu";
  if (options.minimal_features) {
    fail(StatusCode::unsupported, "{} computes wrongly even with the safest shaders: {}; {}", name, verdict.failure,
         advice);
  }
  device.reset();
  DeviceOptions safer = options;
  safer.minimal_features = true;
  device = open(safer);
  const Verdict safer_verdict = verdict_of(*device, safer);
  if (!safer_verdict.passed) {
    fail(StatusCode::unsupported, "{} computes wrongly: {}; and with the safest shaders: {}; {}", name,
         verdict.failure, safer_verdict.failure, advice);
  }
  log_warning(
      fmt::format("{} computes wrongly: {}. The safer shaders pass and are used instead; they are slower. A "
                  "newer driver may help.",
                  name, verdict.failure));
  return device;
}

std::unique_ptr<Device> open_checked_device(const CheckedDeviceOptions& options) {
  return open_info(choose_device(list_devices(), options.backend, options.device), options);
}

std::unique_ptr<Device> open_checked_training_device(const CheckedDeviceOptions& options) {
  const auto training = [&](const DeviceInfo& info) {
    try {
      return open_device(info, options.device_options)->supports(Feature::training);
    } catch (const Error& error) {
      return Support{false, error.what()};
    }
  };
  const DeviceInfo info = choose_training_device(list_devices(), options.backend, options.device, training);
  std::unique_ptr<Device> device = open_info(info, options);
  const Support support = device->supports(Feature::training);
  if (support.supported) return device;
  fail(StatusCode::unsupported, "{} ({}) cannot train: {}; without --backend and --device, one that does is taken",
       info.id(), info.name, support.reason);
}

}  // namespace riverhorse
