if(RIVERHORSE_VULKAN)
  riverhorse_test(vulkan_device_test vulkan_device_test.cpp USES riverhorse_vulkan LABELS vulkan)
endif()
