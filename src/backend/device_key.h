// What could change how a device computes, and how fast: this version, the device, its driver.
#pragma once

#include <string>

#include "backend/backend.h"

namespace riverhorse {

// One line, for files of the cache folder.
std::string device_key(const DeviceInfo& info);

}  // namespace riverhorse
