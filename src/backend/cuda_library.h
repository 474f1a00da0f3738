// The CUDA backend is a library of its own, so that the program starts where there is no CUDA: loaded at the first
// question about devices, from the file that RIVERHORSE_CUDA_LIBRARY names, else from next to this library or
// program.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/log.h"

namespace riverhorse {

// What its one exported function, riverhorse_cuda_library(), points at. C++ types cross the border, so both sides
// must come from one build: `interface_id`, a hash of the headers of the border, tells.
struct CudaLibrary {
  const char* interface_id;
  // `reason`: why a device, or every one, is not in the list. Never throws.
  std::vector<DeviceInfo> (*list_devices)(std::string& reason);
  // Errors: those of Device, and what the driver says.
  std::unique_ptr<Device> (*open_device)(const DeviceInfo& info);
  // Where the library's own messages go (base/log.h).
  void (*set_log_sink)(LogSink sink);
};

// The library, loaded once a process; null, with the reason, where it cannot be. Thread-safe.
const CudaLibrary* cuda_library(std::string& reason);

}  // namespace riverhorse
