set(ops_libraries riverhorse_backend riverhorse_cpu riverhorse_formats nlohmann_json::nlohmann_json)
if(TARGET riverhorse_registry)
  list(APPEND ops_libraries riverhorse_registry)
endif()
riverhorse_test(ops_test
  ops_devices.cpp direct_device.cpp ops_parity_test.cpp ops_golden.cpp ops_golden_test.cpp ops_invariants_test.cpp ops_checks_test.cpp
  attention_training_test.cpp
  training_ops_test.cpp
  mixer_ops_test.cpp
  fft_conv_ops_test.cpp
  training_golden_test.cpp
  USES ${ops_libraries} TIMEOUT 1500 LABELS ops THREADS)
if(TARGET riverhorse_registry)
  target_compile_definitions(ops_test PRIVATE RIVERHORSE_TEST_REGISTRY)
endif()
riverhorse_test_on_emulated_cuda(ops_test)
if(RIVERHORSE_VULKAN AND TARGET riverhorse_registry)
  target_compile_definitions(ops_test PRIVATE RIVERHORSE_TEST_VULKAN)
  target_link_libraries(ops_test PRIVATE riverhorse_vulkan)
endif()
