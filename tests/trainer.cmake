# The trainer, on the cpu.
foreach(name trainer_parts_test tensorboard_test checkpoint_folder_test moment_shards_test trainer_test)
  riverhorse_test(${name} ${name}.cpp USES riverhorse_train riverhorse_cpu nlohmann_json::nlohmann_json
                  LABELS training)
endforeach()

find_package(Python3 COMPONENTS Interpreter)
if(Python3_FOUND)
  add_test(NAME plot_training_test COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/plot_training_test.py
                                           ${PROJECT_SOURCE_DIR}/samples/plot_training)
  set_tests_properties(plot_training_test PROPERTIES LABELS training TIMEOUT 60)
endif()

if(TARGET riverhorse_program)
  foreach(name train_cli_test train_data_cli_test train_options_cli_test)
    riverhorse_test(${name} ${name}.cpp USES riverhorse_formats riverhorse_data nlohmann_json::nlohmann_json
                    LABELS program training)
    target_compile_definitions(${name} PRIVATE RIVERHORSE_PROGRAM="$<TARGET_FILE:riverhorse_program>")
    add_dependencies(${name} riverhorse_program)
  endforeach()
  if(RIVERHORSE_CUDA_EMULATOR)
    target_compile_definitions(train_options_cli_test PRIVATE EMULATED_CUDA_LIBRARY="$<TARGET_FILE:riverhorse_cuda_emulated>")
    add_dependencies(train_options_cli_test riverhorse_cuda_emulated)
  endif()
endif()
