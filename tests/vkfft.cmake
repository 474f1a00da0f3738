if(RIVERHORSE_VULKAN)
  riverhorse_test(mixer_vulkan_test mixer_vulkan_test.cpp USES riverhorse_vulkan LABELS vulkan)
  riverhorse_test(vkfft_test vkfft_test.cpp USES riverhorse_vulkan LABELS vulkan)
endif()
