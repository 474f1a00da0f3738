# The library of the CUDA backend, as the registry loads it. The operations and models run on it through
# riverhorse_test_on_emulated_cuda.
if(RIVERHORSE_CUDA_EMULATOR)
  riverhorse_test(cuda_library_test cuda_library_test.cpp USES riverhorse_registry LABELS cuda)
  add_library(other_cuda_library MODULE other_cuda_library.cpp)
  target_link_libraries(other_cuda_library PRIVATE riverhorse_options)
  target_compile_definitions(cuda_library_test PRIVATE REGISTRY_PROBE="$<TARGET_FILE:registry_probe>"
    EMULATED_CUDA_LIBRARY="$<TARGET_FILE:riverhorse_cuda_emulated>" OTHER_CUDA_LIBRARY="$<TARGET_FILE:other_cuda_library>")
  add_dependencies(cuda_library_test registry_probe riverhorse_cuda_emulated other_cuda_library)

  # Kernels of its own on the emulator.
  riverhorse_test(tensor_core_test tensor_core_test.cpp ${PROJECT_SOURCE_DIR}/cuda/emulator/emulator.cpp
    USES riverhorse_base fmt::fmt LABELS cuda)
  target_include_directories(tensor_core_test BEFORE PRIVATE ${PROJECT_SOURCE_DIR}/cuda/emulator)
  target_include_directories(tensor_core_test PRIVATE ${PROJECT_SOURCE_DIR}/cuda ${PROJECT_SOURCE_DIR}/src)
  target_compile_definitions(tensor_core_test PRIVATE RIVERHORSE_CUDA_EMULATED)
endif()
