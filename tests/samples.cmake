# The samples: the synthetic tasks (their data, a reduced training, the programs), and the corpus of the default model.
set(synthetic_tasks ${PROJECT_SOURCE_DIR}/samples/synthetic_tasks)
riverhorse_test(synthetic_tasks_test synthetic_tasks_test.cpp ${synthetic_tasks}/tasks.cpp ${synthetic_tasks}/curves.cpp
  USES riverhorse_formats nlohmann_json::nlohmann_json LABELS samples)
target_include_directories(synthetic_tasks_test PRIVATE ${PROJECT_SOURCE_DIR}/samples)

riverhorse_test(synthetic_training_test synthetic_training_test.cpp ${synthetic_tasks}/tasks.cpp
  ${synthetic_tasks}/experiment.cpp ${synthetic_tasks}/curves.cpp USES riverhorse::riverhorse LABELS samples training)
target_include_directories(synthetic_training_test PRIVATE ${PROJECT_SOURCE_DIR}/samples)

# The corpus of the model that ships: its readers.
find_package(Python3 COMPONENTS Interpreter)
if(Python3_FOUND)
  add_test(NAME default_model_corpus_test
           COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/default_model_corpus_test.py
                   ${PROJECT_SOURCE_DIR}/samples/train_default_model)
  set_tests_properties(default_model_corpus_test PROPERTIES LABELS samples TIMEOUT 60)
endif()

# Each program with every option, and a bad one.
if(RIVERHORSE_BUILD_SAMPLES)
  foreach(sample associative_recall induction_heads)
    add_test(NAME sample_${sample}
             COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/synthetic_samples.sh $<TARGET_FILE:${sample}>)
    set_tests_properties(sample_${sample} PROPERTIES LABELS samples TIMEOUT 120)
  endforeach()
endif()
