// What an outside C++ program does first: which version is this, and which devices are there?
#include <cstdio>
#include <riverhorse/riverhorse.hpp>

int main() {
  std::printf("version %s\n", riverhorse_version());
  riverhorse_device_list* list = nullptr;
  if (riverhorse_list_devices(&list) != RIVERHORSE_OK) {
    std::fprintf(stderr, "%s\n", riverhorse_last_error());
    return 1;
  }
  int found_cpu = 0;
  for (std::size_t index = 0; index < riverhorse_device_list_count(list); ++index) {
    riverhorse_device_info info = {};
    info.struct_size = sizeof info;
    if (riverhorse_device_list_get(list, index, &info) != RIVERHORSE_OK) return 1;
    std::printf("device %s %s\n", info.id, info.name);
    found_cpu += info.backend[0] == 'c' && info.backend[1] == 'p';
  }
  riverhorse_device_list_free(list);
  return found_cpu == 1 ? 0 : 1;
}
