// Preloaded, it makes a machine without a Vulkan loader: dlopen finds everything but libvulkan.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

void* dlopen(const char* name, int mode) {
  if (name != NULL && strstr(name, "libvulkan") != NULL) return NULL;
  void* (*real)(const char*, int) = (void* (*)(const char*, int))dlsym(RTLD_NEXT, "dlopen");
  return real(name, mode);
}
