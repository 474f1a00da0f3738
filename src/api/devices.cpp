// Listing devices.
#include <memory>
#include <string>

#include "api/guard.h"
#include "backend/backend.h"

struct riverhorse_device_list : riverhorse::api::Handle {
  riverhorse::DeviceList list;
  std::string default_id;  // empty: there is no default
};

using riverhorse::fail;
using riverhorse::StatusCode;
using riverhorse::api::guarded;
using riverhorse::api::require;

namespace {

std::string find_default_id(const riverhorse::DeviceList& list) {
  try {
    return riverhorse::choose_device(list, "", "").id();
  } catch (const riverhorse::Error&) {
    return "";
  }
}

void require_index(std::size_t index, std::size_t count) {
  if (index >= count) fail(StatusCode::invalid_argument, "index is {}, but the list has {}", index, count);
}

}  // namespace

riverhorse_status riverhorse_list_devices(riverhorse_device_list** list) {
  return guarded(__func__, [&] {
    require(list, "list");
    auto result = std::make_unique<riverhorse_device_list>();
    result->list = riverhorse::list_devices();
    result->default_id = find_default_id(result->list);
    *list = result.release();
  });
}

void riverhorse_device_list_free(riverhorse_device_list* list) {
  if (riverhorse::api::may_free(__func__, list)) delete list;
}

size_t riverhorse_device_list_count(const riverhorse_device_list* list) {
  return riverhorse::api::is_usable(list) ? list->list.devices.size() : 0;
}

riverhorse_status riverhorse_device_list_get(const riverhorse_device_list* list, size_t index,
                                             riverhorse_device_info* info) {
  return guarded(__func__, [&] {
    require(list, "list");
    require_index(index, list->list.devices.size());
    const riverhorse::DeviceInfo& device = list->list.devices[index];
    riverhorse_device_info value{};
    riverhorse::api::copy_text(value.id, device.id());
    riverhorse::api::copy_text(value.backend, riverhorse::backend_name(device.backend));
    riverhorse::api::copy_text(value.name, device.name);
    riverhorse::api::copy_text(value.type, riverhorse::device_type_name(device.type));
    riverhorse::api::copy_text(value.driver, device.driver);
    riverhorse::api::copy_text(value.api, device.api);
    std::copy(device.uuid.begin(), device.uuid.end(), value.uuid);
    value.is_default = device.id() == list->default_id ? 1 : 0;
    value.memory_total_bytes = device.memory_total_bytes;
    value.memory_free_bytes = device.memory_free_bytes;
    riverhorse::api::write_info(info, value, "info");
  });
}

size_t riverhorse_device_list_absent_count(const riverhorse_device_list* list) {
  return riverhorse::api::is_usable(list) ? list->list.absences.size() : 0;
}

riverhorse_status riverhorse_device_list_get_absent(const riverhorse_device_list* list, size_t index,
                                                    const char** backend, const char** reason) {
  return guarded(__func__, [&] {
    require(list, "list");
    require(backend, "backend");
    require(reason, "reason");
    require_index(index, list->list.absences.size());
    const riverhorse::BackendAbsence& absence = list->list.absences[index];
    *backend = riverhorse::backend_name(absence.backend).data();  // of a literal: zero-terminated
    *reason = absence.reason.c_str();
  });
}
