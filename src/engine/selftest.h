// The self test: a quick set of the operation cases on the user's device, compared with the cpu backend. It runs at
// the first use of a device and driver, because some drivers compile some shaders wrongly and the result is
// gibberish, not an error.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace riverhorse {

struct SelfTestCase {
  std::string name;    // "linear f16 (7, 127) x (129, 127)"
  double error = 0.0;  // max |device - cpu| / max |cpu|; infinity for NaN
  double tolerance = 0.0;
  bool passed = true;
  std::string message;  // why not, when it failed by an error
};

struct SelfTestReport {
  std::vector<SelfTestCase> cases;
  std::vector<std::string> skipped;  // what the device does not support, with the reason
  double seconds = 0.0;

  bool passed() const;
  std::string first_failure() const;  // one line: which operation, its error and tolerance; empty when it passed
};

// Runs the quick cases for about `seconds_limit` (the rest is listed as skipped). Never throws for what the device
// does wrong: that is a failed case.
SelfTestReport run_self_test(Device& device, double seconds_limit = 2.0);

struct CheckedDeviceOptions {
  std::string backend;  // as choose_device
  std::string device;
  DeviceOptions device_options;
  bool self_test = true;
};

// Chooses and opens a device that computes rightly: runs the self test unless the cache folder remembers its result
// for this device, driver and version; when it fails, logs what failed and opens the device with minimal_features,
// tested as well. Errors: as choose_device and open_device; unsupported when the minimal features fail too.
std::unique_ptr<Device> open_checked_device(const CheckedDeviceOptions& options);

}  // namespace riverhorse
