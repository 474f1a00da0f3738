#include "backend/device_key.h"

#include <fmt/format.h>

namespace riverhorse {

std::string device_key(const DeviceInfo& info) {
  std::string uuid;
  for (const std::uint8_t byte : info.uuid) uuid += fmt::format("{:02x}", byte);
  return fmt::format("riverhorse {} | {} | {} | {} | {} | {}", RIVERHORSE_VERSION, backend_name(info.backend),
                     info.name, info.driver, info.api, uuid);
}

}  // namespace riverhorse
