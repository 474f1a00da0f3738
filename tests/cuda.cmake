# The library of the CUDA backend, as the registry loads it. The operations and models run on it through
# riverhorse_test_on_emulated_cuda.
if(RIVERHORSE_CUDA_EMULATOR)
  riverhorse_test(cuda_library_test cuda_library_test.cpp USES riverhorse_registry LABELS cuda)
  add_library(other_cuda_library MODULE other_cuda_library.cpp)
  target_link_libraries(other_cuda_library PRIVATE riverhorse_options)
  target_compile_definitions(cuda_library_test PRIVATE REGISTRY_PROBE="$<TARGET_FILE:registry_probe>"
    EMULATED_CUDA_LIBRARY="$<TARGET_FILE:riverhorse_cuda_emulated>" OTHER_CUDA_LIBRARY="$<TARGET_FILE:other_cuda_library>")
  add_dependencies(cuda_library_test registry_probe riverhorse_cuda_emulated other_cuda_library)

  # Kernels on the emulator, apart from the library.
  foreach(name tensor_core_test fft_conv_cuda_test fft_conv_direct_test)
    riverhorse_test(${name} ${name}.cpp ${PROJECT_SOURCE_DIR}/cuda/emulator/emulator.cpp
      USES riverhorse_backend riverhorse_base fmt::fmt LABELS cuda)
    target_include_directories(${name} BEFORE PRIVATE ${PROJECT_SOURCE_DIR}/cuda/emulator)
    target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/cuda ${PROJECT_SOURCE_DIR}/src)
    target_compile_definitions(${name} PRIVATE RIVERHORSE_CUDA_EMULATED)
    target_compile_options(${name} PRIVATE -Wno-unknown-pragmas)
  endforeach()
endif()
