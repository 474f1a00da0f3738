// The self test: a quick set of the operation cases on the user's device, compared with the cpu backend. It runs at
// the first use of a device and driver, because some drivers compile some shaders wrongly and the result is
// gibberish, not an error.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/queue_priority.h"

namespace riverhorse {

struct SelfTestCase {
  std::string name;       // "linear.r3_k127_m37_norm_bias.f16"
  bool supported = true;  // false: the device lacks it, `message` says what
  bool passed = false;
  double error = 0.0;  // relative, as in backend/op_cases.h
  double tolerance = 0.0;
  std::string message;  // one line: what is wrong, or lacking
};

struct SelfTestReport {
  std::vector<SelfTestCase> cases;
  int untried = 0;           // cases left when the time was up
  bool device_lost = false;  // the driver gave up on the last case
  double seconds = 0.0;

  bool passed() const;  // at least one case passed and none failed
  int passed_count() const;
  std::string first_failure() const;  // one line: operation, device, error and tolerance; empty when it passed
};

// Runs the quick cases until `seconds_limit` is over, every operation once before any of them twice. Never throws for
// what the device does wrong: that is a failed case.
SelfTestReport run_self_test(Device& device, double seconds_limit = 2.0);

struct CheckedDeviceOptions {
  std::string backend;  // as choose_device
  std::string device;
  DeviceOptions device_options;
  bool self_test = true;
  QueuePriority priority = QueuePriority::normal;
};

// Opens a device with `open` and makes sure that it computes rightly: runs the self test unless the cache folder
// remembers its verdict for this device, driver and version; when it failed, says what, and opens the device with
// minimal_features, tested as well. Errors: those of `open`; unsupported when the minimal features fail too.
using OpenFunction = std::function<std::unique_ptr<Device>(const DeviceOptions&)>;
std::unique_ptr<Device> open_tested_device(const OpenFunction& open, const DeviceOptions& options);

// Chooses a device and opens it as above; the cpu, which is what the others are compared with, is not tested.
// Errors: those of choose_device, too.
std::unique_ptr<Device> open_checked_device(const CheckedDeviceOptions& options);

// The same for a training: when nobody chose backend or device, the best one that trains (choose_training_device).
// Errors: unsupported when the chosen one does not train.
std::unique_ptr<Device> open_checked_training_device(const CheckedDeviceOptions& options);

}  // namespace riverhorse
