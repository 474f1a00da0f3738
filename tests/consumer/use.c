/* The same as use.cpp, in C99. */
#include <riverhorse/riverhorse.h>
#include <stdio.h>
#include <string.h>

int main(void) {
  riverhorse_device_list* list = NULL;
  size_t index;
  int found_cpu = 0;
  printf("version %s\n", riverhorse_version());
  if (riverhorse_abi_version() != RIVERHORSE_ABI_VERSION) return 1;
  if (riverhorse_list_devices(&list) != RIVERHORSE_OK) {
    fprintf(stderr, "%s\n", riverhorse_last_error());
    return 1;
  }
  for (index = 0; index < riverhorse_device_list_count(list); ++index) {
    riverhorse_device_info info;
    memset(&info, 0, sizeof info);
    info.struct_size = sizeof info;
    if (riverhorse_device_list_get(list, index, &info) != RIVERHORSE_OK) return 1;
    printf("device %s %s\n", info.id, info.name);
    found_cpu += strcmp(info.backend, "cpu") == 0;
  }
  riverhorse_device_list_free(list);
  return found_cpu == 1 ? 0 : 1;
}
