// The order and the folding of listed devices, apart from the driver so that it can be tested.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "backend/backend.h"

namespace riverhorse::vulkan {

struct ListedDevice {
  DeviceInfo info;
  bool has_pci = false;
  std::array<std::uint32_t, 4> pci{};  // domain, bus, device, function
  std::uint32_t api_version = 0;
};

// Discrete GPUs by free memory, integrated, virtual, other, software last. Of a GPU that two drivers offer (the same
// UUID or the same place on the PCI bus) the one with the newer Vulkan version stays. Sets the indices.
std::vector<DeviceInfo> rank_devices(std::vector<ListedDevice> found);

}  // namespace riverhorse::vulkan
