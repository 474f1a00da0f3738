# The samples of the synthetic tasks: their data, a reduced training, and the programs themselves.
set(synthetic_tasks ${PROJECT_SOURCE_DIR}/samples/synthetic_tasks)
riverhorse_test(synthetic_tasks_test synthetic_tasks_test.cpp ${synthetic_tasks}/tasks.cpp ${synthetic_tasks}/curves.cpp
  USES riverhorse_formats nlohmann_json::nlohmann_json LABELS samples)
target_include_directories(synthetic_tasks_test PRIVATE ${PROJECT_SOURCE_DIR}/samples)
