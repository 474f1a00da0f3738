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
if(TEST ops_test_cuda)
  # What compute capability 8.6 and 8.9 give a block of shared memory: other plans, fewer warps.
  add_test(NAME ops_test_cuda_99_kib COMMAND ops_test
    --gtest_filter=*h3_mixer*cuda*:mixer*cuda*:*fft_conv*cuda*:attention*cuda*)
  set_tests_properties(ops_test_cuda_99_kib PROPERTIES TIMEOUT 1500 LABELS cuda ENVIRONMENT
    "RIVERHORSE_CUDA_LIBRARY=$<TARGET_FILE:riverhorse_cuda_emulated>;RIVERHORSE_EMULATED_SHARED_MEMORY=101376;${riverhorse_one_thread}")
  # Room for the mixer's backward pass of compute capability 8.0, not for that of 9.0.
  add_test(NAME ops_test_cuda_108_kib COMMAND ops_test --gtest_filter=*h3_mixer_backward*cuda*:mixer*cuda*-*gradient*)
  set_tests_properties(ops_test_cuda_108_kib PROPERTIES TIMEOUT 1500 LABELS cuda ENVIRONMENT
    "RIVERHORSE_CUDA_LIBRARY=$<TARGET_FILE:riverhorse_cuda_emulated>;RIVERHORSE_EMULATED_SHARED_MEMORY=110592;${riverhorse_one_thread}")
endif()
if(RIVERHORSE_VULKAN AND TARGET riverhorse_registry)
  target_compile_definitions(ops_test PRIVATE RIVERHORSE_TEST_VULKAN)
  target_link_libraries(ops_test PRIVATE riverhorse_vulkan)
endif()
