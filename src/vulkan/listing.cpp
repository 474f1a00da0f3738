#include "vulkan/listing.h"

#include <algorithm>
#include <iterator>

#include "base/error.h"
#include "vulkan/device.h"
#include "vulkan/profile.h"

namespace riverhorse::vulkan {
namespace {

int rank(DeviceType type) {
  switch (type) {
    case DeviceType::discrete_gpu: return 0;
    case DeviceType::integrated_gpu: return 1;
    case DeviceType::virtual_gpu: return 2;
    case DeviceType::software: return 4;
    default: return 3;
  }
}

bool same_gpu(const ListedDevice& a, const ListedDevice& b) {
  const auto known = [](const DeviceInfo& info) {
    return std::any_of(info.uuid.begin(), info.uuid.end(), [](std::uint8_t byte) { return byte != 0; });
  };
  if (known(a.info) && a.info.uuid == b.info.uuid && a.info.type == b.info.type) return true;
  return a.has_pci && b.has_pci && a.pci == b.pci;
}

}  // namespace

std::vector<DeviceInfo> rank_devices(std::vector<ListedDevice> found) {
  std::vector<ListedDevice> kept;
  for (ListedDevice& each : found) {
    const auto twin =
        std::find_if(kept.begin(), kept.end(), [&](const ListedDevice& one) { return same_gpu(one, each); });
    if (twin == kept.end()) {
      kept.push_back(std::move(each));
    } else if (each.api_version > twin->api_version) {
      *twin = std::move(each);
    }
  }
  std::stable_sort(kept.begin(), kept.end(), [](const ListedDevice& a, const ListedDevice& b) {
    if (rank(a.info.type) != rank(b.info.type)) return rank(a.info.type) < rank(b.info.type);
    return a.info.memory_free_bytes > b.info.memory_free_bytes;
  });
  std::vector<DeviceInfo> list;
  for (ListedDevice& each : kept) {
    each.info.index = static_cast<int>(list.size());
    list.push_back(std::move(each.info));
  }
  return list;
}

std::vector<DeviceInfo> list_vulkan_devices(std::string& reason) {
  reason.clear();
  try {
    const Instance instance(false);
    std::vector<ListedDevice> found;
    for (VkPhysicalDevice each : instance.physical_devices()) {
      try {
        const DeviceProfile profile = query_profile(instance, each, false);
        ListedDevice listed{describe(instance, profile), profile.has_pci, {}, profile.properties.apiVersion};
        std::copy(std::begin(profile.pci), std::end(profile.pci), listed.pci.begin());
        found.push_back(std::move(listed));
      } catch (const Error& error) {
        reason = error.what();  // stands if no other device is better
      }
    }
    if (!found.empty()) reason.clear();
    if (found.empty() && reason.empty()) {
      reason =
          "the Vulkan loader works, and its drivers show no device; install the driver of your GPU (Debian, Ubuntu: "
          "mesa-vulkan-drivers or the NVIDIA driver)";
    }
    return rank_devices(std::move(found));
  } catch (const Error& error) {
    reason = error.what();
    return {};
  }
}

}  // namespace riverhorse::vulkan
