// The device of a measurement, as the reports for machines name it.
#pragma once

#include <nlohmann/json.hpp>

#include "backend/backend.h"

namespace riverhorse::cli {

inline nlohmann::ordered_json device_json(const DeviceInfo& info) {
  return {{"id", info.id()},       {"backend", backend_name(info.backend)},
          {"name", info.name},     {"type", device_type_name(info.type)},
          {"driver", info.driver}, {"api", info.api}};
}

}  // namespace riverhorse::cli
