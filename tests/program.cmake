# The program, the C API and the self test.
riverhorse_test(selftest_test selftest_test.cpp USES riverhorse_selftest LABELS program)

riverhorse_test(api_test api_test.cpp USES riverhorse::riverhorse LABELS api)
riverhorse_test(api_wrapper_test api_wrapper_test.cpp USES riverhorse::riverhorse LABELS api)
set_target_properties(api_wrapper_test PROPERTIES CXX_STANDARD 17)

add_executable(api_c_test api_c_test.c)
set_target_properties(api_c_test PROPERTIES C_STANDARD 99 C_STANDARD_REQUIRED ON C_EXTENSIONS OFF)
target_compile_options(api_c_test PRIVATE -Wall -Wextra -Wpedantic -Wno-missing-field-initializers)
target_link_libraries(api_c_test PRIVATE riverhorse::riverhorse)
add_test(NAME api_c_test COMMAND api_c_test ${CMAKE_CURRENT_SOURCE_DIR}/golden ${CMAKE_CURRENT_BINARY_DIR})
set_tests_properties(api_c_test PROPERTIES LABELS api TIMEOUT 60)

# Tests that run the built program as a child.
if(TARGET riverhorse_program)
  foreach(name cli_test cli_model_test)
    riverhorse_test(${name} ${name}.cpp USES riverhorse_formats nlohmann_json::nlohmann_json LABELS program)
    target_compile_definitions(${name} PRIVATE RIVERHORSE_PROGRAM="$<TARGET_FILE:riverhorse_program>")
    add_dependencies(${name} riverhorse_program)
  endforeach()
endif()
