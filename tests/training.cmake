# Training, on every device that trains.
foreach(name training_model_test recompute_test mixed_precision_test s4d_test)
  riverhorse_test(${name} ${name}.cpp
    USES riverhorse_train riverhorse_engine riverhorse_model riverhorse_checkpoint riverhorse_registry
         nlohmann_json::nlohmann_json $<TARGET_NAME_IF_EXISTS:riverhorse_vulkan>
    LABELS training)
  if(TARGET riverhorse_vulkan)
    target_compile_definitions(${name} PRIVATE RIVERHORSE_HAS_VULKAN)
  endif()
  riverhorse_test_on_emulated_cuda(${name})
endforeach()
