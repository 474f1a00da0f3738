# A host program with a Vulkan device of its own. It links the Vulkan loader, as hosts do: a static Riverhorse must not
# define any of the loader's names.
if(RIVERHORSE_VULKAN)
  find_package(Vulkan)
  if(Vulkan_FOUND)
    riverhorse_test(api_adopt_test api_adopt_test.cpp USES riverhorse::riverhorse Vulkan::Vulkan LABELS api vulkan)
    if(RIVERHORSE_BUILD_SAMPLES)
      add_test(NAME sample_adopt_device
               COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/sample_text.sh $<TARGET_FILE:adopt_device>
                       ${PROJECT_SOURCE_DIR}/samples/models/default)
      set_tests_properties(sample_adopt_device PROPERTIES LABELS samples TIMEOUT 300
                           ENVIRONMENT "${riverhorse_one_thread}")
    endif()
  else()
    message(STATUS "riverhorse: no embedding tests: the Vulkan loader's library was not found (libvulkan-dev)")
  endif()
endif()
