# The forward pass, the engine and its sessions, on every device there is.
set(riverhorse_engine_test_uses riverhorse_engine riverhorse_model riverhorse_checkpoint riverhorse_registry
    riverhorse_data)
if(TARGET riverhorse_vulkan)
  list(APPEND riverhorse_engine_test_uses riverhorse_vulkan)
endif()
foreach(name model_golden_test engine_session_test engine_sampling_test invariants_test default_model_test conv_choice_test
        quantised_model_test engine_memory_test)
  riverhorse_test(${name} ${name}.cpp USES ${riverhorse_engine_test_uses} nlohmann_json::nlohmann_json)
  if(TARGET riverhorse_vulkan)
    target_compile_definitions(${name} PRIVATE RIVERHORSE_HAS_VULKAN)
  endif()
endforeach()
# Sessions are the same code on every backend, and an emulated device is slow.
foreach(name model_golden_test engine_sampling_test invariants_test conv_choice_test quantised_model_test engine_memory_test)
  riverhorse_test_on_emulated_cuda(${name})
endforeach()

riverhorse_test(initialization_test initialization_test.cpp USES riverhorse_model riverhorse_checkpoint riverhorse_formats
                nlohmann_json::nlohmann_json)
