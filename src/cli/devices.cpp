// riverhorse devices: every device of every backend, and for what is absent, why.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/queue_priority.h"
#include "base/error.h"
#include "cli/commands.h"

namespace riverhorse::cli {
namespace {

struct DevicesOptions {
  bool json = false;
};

std::string uuid_text(const DeviceInfo& info) {
  const bool known = std::any_of(info.uuid.begin(), info.uuid.end(), [](std::uint8_t byte) { return byte != 0; });
  if (!known) return "";
  std::string text;
  for (std::size_t i = 0; i < info.uuid.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", info.uuid[i]);
  }
  return text;
}

// The id of the device that is taken when nothing is chosen; empty when there is none.
std::string default_device_id(const DeviceList& list) {
  try {
    return choose_device(list, "", "").id();
  } catch (const Error&) {
    return "";
  }
}

void print_json(const DeviceList& list) {
  const std::string default_id = default_device_id(list);
  nlohmann::ordered_json devices = nlohmann::ordered_json::array();
  for (const DeviceInfo& info : list.devices) {
    devices.push_back({{"id", info.id()},
                       {"backend", backend_name(info.backend)},
                       {"index", info.index},
                       {"name", info.name},
                       {"type", device_type_name(info.type)},
                       {"driver", info.driver},
                       {"api", info.api},
                       {"uuid", uuid_text(info)},
                       {"memory_total_bytes", info.memory_total_bytes},
                       {"memory_free_bytes", info.memory_free_bytes},
                       {"low_priority", low_priority_support(info).supported},
                       {"default", info.id() == default_id}});
  }
  nlohmann::ordered_json absences = nlohmann::ordered_json::array();
  for (const BackendAbsence& absence : list.absences) {
    absences.push_back({{"backend", backend_name(absence.backend)}, {"reason", absence.reason}});
  }
  const nlohmann::ordered_json root = {{"devices", devices}, {"absent", absences}};
  fmt::print("{}\n", root.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
}

void print_table(const DeviceList& list) {
  const std::string default_id = default_device_id(list);
  std::size_t name_width = 0;
  for (const DeviceInfo& info : list.devices) name_width = std::max(name_width, info.name.size());
  for (const DeviceInfo& info : list.devices) {
    fmt::print("{} {:<9} {:<{}}  {:<14}  {:6.1f} GiB, {:.1f} GiB free\n", info.id() == default_id ? '*' : ' ',
               info.id(), info.name, name_width, device_type_name(info.type),
               static_cast<double>(info.memory_total_bytes) / 0x1p30,
               static_cast<double>(info.memory_free_bytes) / 0x1p30);
    std::string details = info.driver;
    if (!info.api.empty()) details += (details.empty() ? "" : "; ") + info.api;
    const std::string uuid = uuid_text(info);
    if (!uuid.empty()) details += (details.empty() ? "uuid " : "; uuid ") + uuid;
    if (low_priority_support(info).supported) details += "; queues of low priority";
    if (!details.empty()) fmt::print("            {}\n", details);
  }
  for (const BackendAbsence& absence : list.absences) {
    fmt::print("  {:<9} absent: {}\n", backend_name(absence.backend), absence.reason);
  }
  if (!default_id.empty()) fmt::print("* is used when neither --backend nor --device is given.\n");
}

}  // namespace

void add_devices_command(CLI::App& app) {
  auto options = std::make_shared<DevicesOptions>();
  CLI::App* command =
      app.add_subcommand("devices", "List every device of every backend, and why a backend is absent");
  command->add_flag("--json", options->json, "Print JSON");
  command->callback([options] {
    const DeviceList list = list_devices();
    options->json ? print_json(list) : print_table(list);
  });
}

}  // namespace riverhorse::cli
