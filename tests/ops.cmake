set(ops_libraries riverhorse_backend riverhorse_cpu riverhorse_formats nlohmann_json::nlohmann_json)
if(TARGET riverhorse_registry)
  list(APPEND ops_libraries riverhorse_registry)
endif()
riverhorse_test(ops_test
  ops_devices.cpp direct_device.cpp ops_parity_test.cpp ops_golden.cpp ops_golden_test.cpp ops_invariants_test.cpp ops_checks_test.cpp
  attention_training_test.cpp
  training_ops_test.cpp
  training_golden_test.cpp
  USES ${ops_libraries} TIMEOUT 1500 LABELS ops)
if(TARGET riverhorse_registry)
  target_compile_definitions(ops_test PRIVATE RIVERHORSE_TEST_REGISTRY)
endif()
# The CUDA backend's kernels on the host (cuda/emulator), through the library that the registry loads.
if(TARGET riverhorse_cuda_emulated AND TARGET riverhorse_registry)
  add_test(NAME ops_cuda_emulated COMMAND ops_test --gtest_filter=*.cuda0)
  set_tests_properties(ops_cuda_emulated PROPERTIES TIMEOUT 1500 LABELS "ops;cuda"
    ENVIRONMENT "RIVERHORSE_CUDA_LIBRARY=$<TARGET_FILE:riverhorse_cuda_emulated>")
  add_dependencies(ops_test riverhorse_cuda_emulated)
endif()
if(RIVERHORSE_VULKAN AND TARGET riverhorse_registry)
  target_compile_definitions(ops_test PRIVATE RIVERHORSE_TEST_VULKAN)
  target_link_libraries(ops_test PRIVATE riverhorse_vulkan)
endif()
