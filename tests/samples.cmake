# The samples of the synthetic tasks: their data, a reduced training, and the programs themselves.
set(synthetic_tasks ${PROJECT_SOURCE_DIR}/samples/synthetic_tasks)
riverhorse_test(synthetic_tasks_test synthetic_tasks_test.cpp ${synthetic_tasks}/tasks.cpp ${synthetic_tasks}/curves.cpp
  USES riverhorse_formats nlohmann_json::nlohmann_json LABELS samples)
target_include_directories(synthetic_tasks_test PRIVATE ${PROJECT_SOURCE_DIR}/samples)

riverhorse_test(synthetic_training_test synthetic_training_test.cpp ${synthetic_tasks}/tasks.cpp
  ${synthetic_tasks}/experiment.cpp ${synthetic_tasks}/curves.cpp USES riverhorse::riverhorse LABELS samples training)
target_include_directories(synthetic_training_test PRIVATE ${PROJECT_SOURCE_DIR}/samples)
set_property(TEST synthetic_training_test APPEND PROPERTY ENVIRONMENT OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1)

# Each program with every option, and a bad one.
if(RIVERHORSE_BUILD_SAMPLES)
  foreach(sample associative_recall induction_heads)
    add_test(NAME sample_${sample}
             COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/synthetic_samples.sh $<TARGET_FILE:${sample}>)
    set_tests_properties(sample_${sample} PROPERTIES LABELS samples TIMEOUT 120)
  endforeach()
endif()
