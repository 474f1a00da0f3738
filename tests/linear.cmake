if(RIVERHORSE_VULKAN)
  riverhorse_test(linear_vulkan_test linear_vulkan_test.cpp USES riverhorse_vulkan LABELS vulkan)
endif()
