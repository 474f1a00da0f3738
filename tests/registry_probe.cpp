// Lists devices, and opens what the arguments choose: what any program does first.
#include <cstdio>

#include "backend/backend.h"
#include "base/error.h"

int main(int argc, char** argv) {
  using namespace riverhorse;
  const DeviceList list = list_devices();
  for (const DeviceInfo& each : list.devices) std::printf("device %s: %s\n", each.id().c_str(), each.name.c_str());
  for (const BackendAbsence& each : list.absences) {
    std::printf("absent %s: %s\n", std::string(backend_name(each.backend)).c_str(), each.reason.c_str());
  }
  try {
    const DeviceInfo chosen = choose_device(list, argc > 1 ? argv[1] : "", argc > 2 ? argv[2] : "");
    open_device(chosen, {});
    std::printf("opened %s\n", chosen.id().c_str());
  } catch (const Error& error) {
    std::printf("error %s\n", error.what());
  }
  return 0;
}
