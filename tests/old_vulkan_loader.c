// A Vulkan loader of 2016: version 1.0, so no vkEnumerateInstanceVersion.
#include <string.h>
#include <vulkan/vulkan.h>

static VKAPI_ATTR VkResult VKAPI_CALL create_instance(const VkInstanceCreateInfo* info,
                                                      const VkAllocationCallbacks* callbacks, VkInstance* instance) {
  (void)info, (void)callbacks, (void)instance;
  return VK_ERROR_INCOMPATIBLE_DRIVER;
}

VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL vk10_get(VkInstance instance,
                                                  const char* name) __asm__("vkGetInstanceProcAddr");

VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL vk10_get(VkInstance instance, const char* name) {
  (void)instance;
  return strcmp(name, "vkCreateInstance") == 0 ? (PFN_vkVoidFunction)create_instance : NULL;
}
