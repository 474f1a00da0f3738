# Scores of texts, and riverhorse eval.
riverhorse_test(evaluation_test evaluation_test.cpp USES riverhorse_evaluation ${riverhorse_engine_test_uses}
                nlohmann_json::nlohmann_json)
if(TARGET riverhorse_vulkan)
  target_compile_definitions(evaluation_test PRIVATE RIVERHORSE_HAS_VULKAN)
endif()

if(TARGET riverhorse_program)
  riverhorse_test(eval_cli_test eval_cli_test.cpp USES riverhorse_formats nlohmann_json::nlohmann_json LABELS program)
  target_compile_definitions(eval_cli_test PRIVATE RIVERHORSE_PROGRAM="$<TARGET_FILE:riverhorse_program>")
  add_dependencies(eval_cli_test riverhorse_program)
endif()
