// The cpu backend: the oracle that every other backend is compared with, and the fallback where there is no GPU.
// Plain loops over fp32 tensors in host memory, parallel by OpenMP, GEMM by OpenBLAS. A recording is a list of
// closures; submit runs them before it returns.
#pragma once

#include <memory>

#include "backend/backend.h"

namespace riverhorse {

DeviceInfo cpu_device_info();
std::unique_ptr<Device> open_cpu_device(const DeviceInfo& info, const DeviceOptions& options);

}  // namespace riverhorse
