# Riverhorse as a dependency: installed and found in three ways, and built as a part of another project.
if(RIVERHORSE_SANITIZE)
  message(STATUS "riverhorse: no consumer tests in a sanitized build (${RIVERHORSE_SANITIZE})")
elseif(NOT RIVERHORSE_INSTALL OR NOT RIVERHORSE_BUILD_PROGRAM)
  message(STATUS "riverhorse: no consumer tests without RIVERHORSE_INSTALL and RIVERHORSE_BUILD_PROGRAM")
else()
  set(consumer_dir ${PROJECT_BINARY_DIR}/consumer)
  set(consumer_extra "")
  foreach(option RIVERHORSE_VULKAN RIVERHORSE_WERROR RIVERHORSE_VKFFT_INCLUDE_DIR BUILD_SHARED_LIBS CMAKE_CXX_FLAGS CMAKE_C_FLAGS)
    if(DEFINED ${option} AND NOT "${${option}}" STREQUAL "")
      list(APPEND consumer_extra "-D${option}=${${option}}")
    endif()
  endforeach()
  foreach(how install find_package add_subdirectory pkg_config)
    add_test(NAME consumer_${how}
             COMMAND ${CMAKE_COMMAND} -DHOW=${how} -DBUILD_DIR=${PROJECT_BINARY_DIR} -DSOURCE_DIR=${PROJECT_SOURCE_DIR}
                     -DPREFIX=${consumer_dir}/prefix -DWORK_DIR=${consumer_dir}/${how} -DVERSION=${PROJECT_VERSION}
                     -DCONFIG=${CMAKE_BUILD_TYPE} -DC_COMPILER=${CMAKE_C_COMPILER} -DCXX_COMPILER=${CMAKE_CXX_COMPILER}
                     -DLAUNCHER=${CMAKE_CXX_COMPILER_LAUNCHER} -DPKG_CONFIG=${PKG_CONFIG_EXECUTABLE}
                     "-DEXTRA_ARGS=${consumer_extra}" -P ${CMAKE_CURRENT_SOURCE_DIR}/consumer/run.cmake)
    set_tests_properties(consumer_${how} PROPERTIES LABELS consumer TIMEOUT 1500)
  endforeach()
  set_tests_properties(consumer_add_subdirectory PROPERTIES PROCESSORS 2 COST 200)  # it compiles on all cores
  set_tests_properties(consumer_install PROPERTIES FIXTURES_SETUP installed)
  set_tests_properties(consumer_find_package consumer_pkg_config PROPERTIES FIXTURES_REQUIRED installed)

  find_package(Python3 COMPONENTS Interpreter)
  set(python none)
  if(Python3_FOUND)
    set(python ${Python3_EXECUTABLE})
  endif()
  if(Python3_FOUND)
    add_test(NAME packaging_recipes
             COMMAND ${python} ${CMAKE_CURRENT_SOURCE_DIR}/packaging_recipes_test.py ${CMAKE_COMMAND} ${PROJECT_SOURCE_DIR}
                     ${PROJECT_VERSION} ${CMAKE_C_COMPILER} ${CMAKE_CXX_COMPILER})
    set_tests_properties(packaging_recipes PROPERTIES LABELS consumer TIMEOUT 120 ENVIRONMENT PYTHONDONTWRITEBYTECODE=1)
  endif()
  add_test(NAME packages_test
           COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/packages_test.sh ${PROJECT_BINARY_DIR} ${consumer_dir}/packages
                   ${PROJECT_VERSION} ${CMAKE_COMMAND} ${CMAKE_BUILD_TYPE} ${CMAKE_C_COMPILER} ${CMAKE_CXX_COMPILER}
                   ${python})
  set_tests_properties(packages_test PROPERTIES LABELS consumer TIMEOUT 600 ENVIRONMENT "${riverhorse_one_thread}")
endif()
