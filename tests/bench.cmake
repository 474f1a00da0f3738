# The benchmarks of long convolutions, those of peers with a Python that is none, and the pictures of their figures.
if(TARGET riverhorse_program)
  riverhorse_test(bench_cli_test bench_cli_test.cpp USES riverhorse_formats nlohmann_json::nlohmann_json LABELS program)
  target_compile_definitions(bench_cli_test PRIVATE RIVERHORSE_PROGRAM="$<TARGET_FILE:riverhorse_program>")
  add_dependencies(bench_cli_test riverhorse_program)
  riverhorse_test_on_emulated_cuda(bench_cli_test)
endif()

find_package(Python3 COMPONENTS Interpreter)
if(Python3_FOUND)
  add_test(NAME plot_bench_test COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/plot_bench_test.py
                                        ${PROJECT_SOURCE_DIR}/samples/plot_bench)
  add_test(NAME peers_test COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/peers_test.py
                                   ${CMAKE_CURRENT_SOURCE_DIR}/peers)
  set_tests_properties(plot_bench_test peers_test PROPERTIES LABELS program TIMEOUT 60)
endif()
