if(RIVERHORSE_VULKAN)
  riverhorse_test(vulkan_device_test vulkan_device_test.cpp vulkan_recording_test.cpp vulkan_cache_test.cpp
                  USES riverhorse_vulkan LABELS vulkan)
  riverhorse_test(tile_tuner_test tile_tuner_test.cpp USES ${riverhorse_engine_test_uses} LABELS vulkan)
endif()

# The registry under missing and broken drivers: a small program that lists devices, started in such surroundings.
add_executable(registry_probe registry_probe.cpp)
target_link_libraries(registry_probe PRIVATE riverhorse_options riverhorse_registry)
riverhorse_test(registry_test registry_test.cpp USES riverhorse_registry LABELS vulkan)
target_compile_definitions(registry_test PRIVATE REGISTRY_PROBE="$<TARGET_FILE:registry_probe>"
                           TEST_LIBRARIES="${CMAKE_CURRENT_BINARY_DIR}/broken_loaders")
add_dependencies(registry_test registry_probe)
if(RIVERHORSE_VULKAN)
  target_compile_definitions(registry_test PRIVATE RIVERHORSE_TEST_VULKAN)
  # A dlopen that does not find any libvulkan, and a loader of Vulkan 1.0.
  add_library(no_vulkan_loader SHARED no_vulkan_loader.c)
  target_link_libraries(no_vulkan_loader PRIVATE ${CMAKE_DL_LIBS})
  add_library(old_vulkan_loader SHARED old_vulkan_loader.c)
  target_link_libraries(old_vulkan_loader PRIVATE riverhorse_vulkan_headers)
  set_target_properties(no_vulkan_loader PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/broken_loaders
                        C_VISIBILITY_PRESET default)
  set_target_properties(old_vulkan_loader PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/broken_loaders/old
                        OUTPUT_NAME vulkan SUFFIX .so.1 C_VISIBILITY_PRESET default)
  add_dependencies(registry_test no_vulkan_loader old_vulkan_loader)

  find_program(SPIRV_VAL spirv-val)
  get_property(shader_folder GLOBAL PROPERTY RIVERHORSE_SHADER_FOLDER)
  add_test(NAME vulkan_shaders_valid COMMAND ${CMAKE_COMMAND} -DSPIRV_VAL=${SPIRV_VAL} -DFOLDER=${shader_folder}
           -P ${CMAKE_CURRENT_SOURCE_DIR}/validate_shaders/validate.cmake)
  set_tests_properties(vulkan_shaders_valid PROPERTIES LABELS vulkan)
endif()
