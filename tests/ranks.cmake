# Trainings on several ranks. Under mpirun, as root too, and with more ranks than cores.
set(riverhorse_mpi_environment OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 ${riverhorse_one_thread})
add_executable(communicator_test communicator_test.cpp)
target_link_libraries(communicator_test PRIVATE riverhorse_train riverhorse_registry)
riverhorse_compile_as_test(communicator_test)
target_precompile_headers(communicator_test REUSE_FROM riverhorse_test_headers)
foreach(ranks 2 3)
  add_test(NAME communicator_test_fork_${ranks} COMMAND communicator_test)
  set_tests_properties(communicator_test_fork_${ranks} PROPERTIES TIMEOUT 120 LABELS ranks
    ENVIRONMENT "RIVERHORSE_TEST_FORK=1;RIVERHORSE_TEST_RANKS=${ranks};${riverhorse_one_thread}")
endforeach()
riverhorse_test(ranks_traffic_test ranks_traffic_test.cpp USES riverhorse_train riverhorse_cpu nlohmann_json::nlohmann_json
                LABELS ranks training)
set(mpiexec "")
if(TARGET riverhorse_mpi)
  set(mpiexec ${MPIEXEC_EXECUTABLE})
  add_dependencies(communicator_test riverhorse_mpi)
  foreach(ranks 2 3)
    add_test(NAME communicator_test_${ranks} COMMAND ${MPIEXEC_EXECUTABLE} --oversubscribe -np ${ranks}
                                                     $<TARGET_FILE:communicator_test>)
    set_tests_properties(communicator_test_${ranks} PROPERTIES TIMEOUT 120 LABELS ranks
      ENVIRONMENT "RIVERHORSE_TEST_RANKS=${ranks};${riverhorse_mpi_environment}")
  endforeach()
endif()
if(TARGET riverhorse_program)
  riverhorse_test(ranks_cli_test ranks_cli_test.cpp USES riverhorse_formats nlohmann_json::nlohmann_json
                  LABELS program training ranks TIMEOUT 1500)
  target_compile_definitions(ranks_cli_test PRIVATE RIVERHORSE_PROGRAM="$<TARGET_FILE:riverhorse_program>"
                             RIVERHORSE_MPIEXEC="${mpiexec}")
  add_dependencies(ranks_cli_test riverhorse_program)
  if(RIVERHORSE_CUDA_EMULATOR)
    target_compile_definitions(ranks_cli_test PRIVATE EMULATED_CUDA_LIBRARY="$<TARGET_FILE:riverhorse_cuda_emulated>")
    add_dependencies(ranks_cli_test riverhorse_cuda_emulated)
  endif()
  if(TARGET riverhorse_mpi)
    add_dependencies(ranks_cli_test riverhorse_mpi)
  endif()
endif()
