add_library(riverhorse_bad_files STATIC bad_files/builders.cpp bad_files/safetensors_cases.cpp bad_files/pickle_cases.cpp
            bad_files/zip_cases.cpp bad_files/checkpoint_cases.cpp)
target_include_directories(riverhorse_bad_files PUBLIC ${CMAKE_CURRENT_SOURCE_DIR})
# GCC 12 warns wrongly about every "text" + std::string() + ... (its bug 105651).
target_compile_options(riverhorse_bad_files PUBLIC $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)
target_link_libraries(riverhorse_bad_files PUBLIC riverhorse_checkpoint riverhorse_options)

riverhorse_test(formats_bad_files_test formats_bad_files_test.cpp bad_files/allocation_meter.cpp
                USES riverhorse_bad_files LABELS formats)
riverhorse_test(formats_tensor_file_test formats_tensor_file_test.cpp bad_files/allocation_meter.cpp
                USES riverhorse_bad_files LABELS formats)
riverhorse_test(quantised_test quantised_test.cpp
                USES riverhorse_bad_files riverhorse_model LABELS formats)
riverhorse_test(checkpoint_test checkpoint_test.cpp USES riverhorse_bad_files LABELS formats)
riverhorse_test(config_test config_test.cpp USES riverhorse_checkpoint LABELS formats)

# Fuzz targets: replayed with fixed mutations in every build, driven by libFuzzer with Clang and RIVERHORSE_FUZZERS. For
# coverage in the code under test, configure that build with RIVERHORSE_SANITIZE=address,undefined,fuzzer-no-link.
function(riverhorse_fuzz_target name rounds)
  set(programs ${name}_replay)
  add_executable(${name}_replay fuzz/${name}_fuzzer.cpp fuzz/replay.cpp)
  add_test(NAME ${name}_fuzz_replay COMMAND ${name}_replay ${rounds})
  set_tests_properties(${name}_fuzz_replay PROPERTIES TIMEOUT 300 LABELS formats ENVIRONMENT "${riverhorse_one_thread}")
  if(RIVERHORSE_FUZZERS)
    list(APPEND programs ${name}_fuzzer)
    add_executable(${name}_fuzzer fuzz/${name}_fuzzer.cpp)
    target_link_options(${name}_fuzzer PRIVATE -fsanitize=fuzzer)
  endif()
  foreach(program IN LISTS programs)
    target_link_libraries(${program} PRIVATE riverhorse_options ${ARGN})
    target_include_directories(${program} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
    target_compile_definitions(${program} PRIVATE RIVERHORSE_TEST_DATA="${CMAKE_CURRENT_SOURCE_DIR}/golden")
  endforeach()
endfunction()
if(RIVERHORSE_FUZZERS AND NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  message(FATAL_ERROR "RIVERHORSE_FUZZERS needs Clang: configure with -DCMAKE_CXX_COMPILER=clang++")
endif()
riverhorse_fuzz_target(safetensors 20000 riverhorse_bad_files)
riverhorse_fuzz_target(pickle 20000 riverhorse_bad_files)
riverhorse_fuzz_target(config 20000 riverhorse_bad_files)
riverhorse_fuzz_target(tokenizer 2000 riverhorse_bad_files riverhorse_data)
riverhorse_fuzz_target(api 300 riverhorse::riverhorse)
foreach(target api_replay api_fuzzer)
  if(TARGET ${target})
    target_compile_definitions(${target} PRIVATE $<$<BOOL:${RIVERHORSE_CHECK_HANDLES}>:RIVERHORSE_CHECK_HANDLES>)
  endif()
endforeach()

if(RIVERHORSE_BUILD_PROGRAM)
  riverhorse_test(formats_cli_test formats_cli_test.cpp USES riverhorse_bad_files riverhorse_model LABELS formats)
  target_compile_definitions(formats_cli_test PRIVATE RIVERHORSE_PROGRAM="$<TARGET_FILE:riverhorse_program>")
  add_dependencies(formats_cli_test riverhorse_program)
endif()
