# Riverhorse in a program with a Vulkan device of its own, and the samples that show how.
set(riverhorse_text_samples minimal_c minimal_cpp)
if(RIVERHORSE_VULKAN)
  find_package(Vulkan)
  if(Vulkan_FOUND)
    # Such programs link the Vulkan loader: a static Riverhorse must not define any of its names.
    riverhorse_test(api_adopt_test api_adopt_test.cpp USES riverhorse::riverhorse Vulkan::Vulkan LABELS api vulkan)
    riverhorse_test(api_frames_test api_frames_test.cpp api_batch_test.cpp USES riverhorse::riverhorse Vulkan::Vulkan LABELS api vulkan)
    list(APPEND riverhorse_text_samples adopt_device record_into_frame npc_batch)
  else()
    message(STATUS "riverhorse: no embedding tests: the Vulkan loader's library was not found (libvulkan-dev)")
  endif()
endif()

# They say what the program says with the same model.
if(RIVERHORSE_BUILD_SAMPLES)
  foreach(sample IN LISTS riverhorse_text_samples)
    add_test(NAME sample_${sample}
             COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/sample_text.sh $<TARGET_FILE:${sample}>
                     ${PROJECT_SOURCE_DIR}/samples/models/default)
    set_tests_properties(sample_${sample} PROPERTIES LABELS samples TIMEOUT 300 ENVIRONMENT "${riverhorse_one_thread}")
  endforeach()
endif()
