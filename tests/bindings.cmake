# The library from other languages, loaded as a shared one (samples/python, samples/csharp).
if(TARGET riverhorse_shared)
  find_package(Python3 COMPONENTS Interpreter)
  if(Python3_FOUND)
    set(backends cpu)
    if(RIVERHORSE_VULKAN)
      list(APPEND backends vulkan)
    endif()
    foreach(backend IN LISTS backends)
      add_test(NAME python_binding_${backend}
               COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/python_binding_test.py ${backend}
                       $<TARGET_FILE:riverhorse_shared> ${CMAKE_C_COMPILER} ${PROJECT_SOURCE_DIR})
      list(APPEND bindings python_binding_${backend})
    endforeach()
    add_test(NAME sample_python
             COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/sample_text.sh ${PROJECT_SOURCE_DIR}/samples/python/generate.py
                     ${PROJECT_SOURCE_DIR}/samples/models/default)
    list(APPEND bindings sample_python)
    find_program(RIVERHORSE_MCS mcs)
    find_program(RIVERHORSE_MONO mono)
    mark_as_advanced(RIVERHORSE_MCS RIVERHORSE_MONO)
    add_test(NAME csharp_binding
             COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/csharp_binding_test.py ${RIVERHORSE_MCS}
                     ${RIVERHORSE_MONO} $<TARGET_FILE:riverhorse_shared> ${CMAKE_C_COMPILER} ${PROJECT_SOURCE_DIR}
                     ${PROJECT_VERSION})
    set_tests_properties(csharp_binding PROPERTIES SKIP_RETURN_CODE 77)
    list(APPEND bindings csharp_binding)
    set_tests_properties(${bindings} PROPERTIES LABELS samples TIMEOUT 300
      ENVIRONMENT "RIVERHORSE_LIBRARY=$<TARGET_FILE:riverhorse_shared>;PYTHONDONTWRITEBYTECODE=1;${riverhorse_one_thread}")
  else()
    message(STATUS "riverhorse: no Python: samples/python and samples/csharp are not tested")
  endif()
else()
  message(STATUS "riverhorse: no shared library in a sanitized build: samples/python and samples/csharp are not tested")
endif()
