if(RIVERHORSE_VULKAN)
  riverhorse_test(mixer_vulkan_test mixer_vulkan_test.cpp USES riverhorse_vulkan riverhorse_cpu LABELS vulkan TIMEOUT 900)
  riverhorse_test(vkfft_test vkfft_test.cpp USES riverhorse_vulkan LABELS vulkan)
endif()
