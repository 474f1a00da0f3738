#include "vulkan/functions.h"

#if defined(_WIN32)
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace riverhorse::vulkan {
namespace {

// Never unloaded: drivers leave threads and exit handlers behind.
PFN_vkGetInstanceProcAddr load_loader() {
#if defined(_WIN32)
  HMODULE library = LoadLibraryA("vulkan-1.dll");
  if (library == nullptr) return nullptr;
  return reinterpret_cast<PFN_vkGetInstanceProcAddr>(
      reinterpret_cast<void*>(GetProcAddress(library, "vkGetInstanceProcAddr")));
#else
#if defined(__APPLE__)
  constexpr const char* names[] = {"libvulkan.1.dylib", "libvulkan.dylib", "libMoltenVK.dylib"};
#else
  constexpr const char* names[] = {"libvulkan.so.1", "libvulkan.so"};
#endif
  for (const char* name : names) {
    void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) continue;
    return reinterpret_cast<PFN_vkGetInstanceProcAddr>(dlsym(library, "vkGetInstanceProcAddr"));
  }
  return nullptr;
#endif
}

}  // namespace

PFN_vkGetInstanceProcAddr find_loader() {
  static const PFN_vkGetInstanceProcAddr found = load_loader();
  return found;
}

void DeviceFunctions::load(VkDevice device, PFN_vkGetDeviceProcAddr get) {
#define RIVERHORSE_LOAD(name) name = reinterpret_cast<PFN_##name>(get(device, #name));
  RIVERHORSE_VULKAN_DEVICE_FUNCTIONS(RIVERHORSE_LOAD)
#undef RIVERHORSE_LOAD
}

}  // namespace riverhorse::vulkan
