# The program, the C API and the self test.
riverhorse_test(selftest_test selftest_test.cpp USES riverhorse_selftest LABELS program)

riverhorse_test(api_test api_test.cpp api_session_test.cpp api_generate_test.cpp api_memory_test.cpp
                         api_conversation_test.cpp USES riverhorse::riverhorse LABELS api THREADS)
# Its own threads only: ThreadSanitizer (preset tsan) does not know those of OpenMP.
riverhorse_test(api_threads_test api_threads_test.cpp api_cancel_test.cpp api_async_test.cpp api_handles_test.cpp
                USES riverhorse::riverhorse LABELS api)
target_compile_definitions(api_threads_test PRIVATE $<$<BOOL:${RIVERHORSE_CHECK_HANDLES}>:RIVERHORSE_CHECK_HANDLES>)
riverhorse_test(api_trainer_test api_trainer_test.cpp USES riverhorse::riverhorse LABELS api training)
riverhorse_test(api_wrapper_test api_wrapper_test.cpp USES riverhorse::riverhorse LABELS api)
set_target_properties(api_wrapper_test PROPERTIES CXX_STANDARD 17 DISABLE_PRECOMPILE_HEADERS ON)

add_executable(api_c_test api_c_test.c)
set_target_properties(api_c_test PROPERTIES C_STANDARD 99 C_STANDARD_REQUIRED ON C_EXTENSIONS OFF)
target_compile_options(api_c_test PRIVATE -Wall -Wextra -Wpedantic -Wno-missing-field-initializers)
target_link_libraries(api_c_test PRIVATE riverhorse::riverhorse)
add_test(NAME api_c_test COMMAND api_c_test ${CMAKE_CURRENT_SOURCE_DIR}/golden ${CMAKE_CURRENT_BINARY_DIR})
set_tests_properties(api_c_test PROPERTIES LABELS api TIMEOUT 60 ENVIRONMENT "${riverhorse_all_threads}")

# Tests that run the built program as a child.
if(TARGET riverhorse_program)
  foreach(name cli_test cli_model_test)
    riverhorse_test(${name} ${name}.cpp USES riverhorse_formats nlohmann_json::nlohmann_json LABELS program)
    target_compile_definitions(${name} PRIVATE RIVERHORSE_PROGRAM="$<TARGET_FILE:riverhorse_program>")
    add_dependencies(${name} riverhorse_program)
  endforeach()
endif()

# A second Vulkan implementation, where there is one.
if(TARGET ops_test)
  add_test(NAME swiftshader_test COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/swiftshader.sh ${PROJECT_BINARY_DIR}/swiftshader
                                         $<TARGET_FILE:ops_test>)
  set_tests_properties(swiftshader_test PROPERTIES LABELS vulkan TIMEOUT 900 SKIP_RETURN_CODE 77
                       ENVIRONMENT "${riverhorse_one_thread}")
endif()

# The README's commands run as they stand.
if(TARGET riverhorse_program)
  add_test(NAME readme_test COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/readme_test.sh $<TARGET_FILE_DIR:riverhorse_program>
                                    ${CMAKE_CURRENT_BINARY_DIR}/readme_test)
  set_tests_properties(readme_test PROPERTIES LABELS program TIMEOUT 600 ENVIRONMENT "${riverhorse_one_thread}")
endif()
