# cmake -DHOW=... -P run.cmake: builds and runs one consumer; stops at the first thing that fails.
#   install           installs the build tree BUILD_DIR to PREFIX
#   find_package      the project of that name, against PREFIX
#   add_subdirectory  the project of that name, against SOURCE_DIR
#   pkg_config        use.cpp and use.c with a compiler and pkg-config only, against PREFIX
# Also: WORK_DIR (emptied first), VERSION (expected), CONFIG, C_COMPILER, CXX_COMPILER, LAUNCHER, EXTRA_ARGS.
function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status STREQUAL "0")
    list(JOIN ARGV " " line)
    message(FATAL_ERROR "failed (${status}): ${line}\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

# The program must print the version and the cpu.
function(run_consumer program)
  run(${program})
  message(STATUS "${program}:\n${output}")
  if(NOT output MATCHES "version ${VERSION}\n" OR NOT output MATCHES "device cpu")
    message(FATAL_ERROR "no version ${VERSION} or no cpu in the output")
  endif()
endfunction()

file(REMOVE_RECURSE ${WORK_DIR})
file(MAKE_DIRECTORY ${WORK_DIR})
set(compilers -DCMAKE_C_COMPILER=${C_COMPILER} -DCMAKE_CXX_COMPILER=${CXX_COMPILER} -DCMAKE_BUILD_TYPE=${CONFIG})

if(HOW STREQUAL "install")
  file(REMOVE_RECURSE ${PREFIX})
  run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${PREFIX})
  run(${PREFIX}/bin/riverhorse --version)
  if(NOT output MATCHES "${VERSION}")
    message(FATAL_ERROR "the installed program says: ${output}")
  endif()
elseif(HOW STREQUAL "find_package")
  run(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR}/find_package -B ${WORK_DIR} ${compilers} -DCMAKE_PREFIX_PATH=${PREFIX})
  run(${CMAKE_COMMAND} --build ${WORK_DIR})
  run_consumer(${WORK_DIR}/consumer)
  run_consumer(${WORK_DIR}/consumer_c)
  # A later version than there is must not be found.
  file(WRITE ${WORK_DIR}/later/CMakeLists.txt "cmake_minimum_required(VERSION 3.25)\nproject(later LANGUAGES C CXX)\n"
       "find_package(riverhorse 99 CONFIG QUIET)\nif(riverhorse_FOUND)\n  message(FATAL_ERROR found)\nendif()\n")
  run(${CMAKE_COMMAND} -S ${WORK_DIR}/later -B ${WORK_DIR}/later/build ${compilers} -DCMAKE_PREFIX_PATH=${PREFIX})
elseif(HOW STREQUAL "add_subdirectory")
  # The options of the build that is tested; the same compiler lines, so that a compiler cache has them already.
  run(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR}/add_subdirectory -B ${WORK_DIR} ${compilers}
      -DRIVERHORSE_SOURCE_DIR=${SOURCE_DIR} -DCMAKE_C_COMPILER_LAUNCHER=${LAUNCHER} -DCMAKE_CXX_COMPILER_LAUNCHER=${LAUNCHER}
      ${EXTRA_ARGS})
  run(${CMAKE_COMMAND} --build ${WORK_DIR} --parallel --target consumer)
  run_consumer(${WORK_DIR}/consumer)
elseif(HOW STREQUAL "pkg_config")
  file(GLOB_RECURSE pc ${PREFIX}/riverhorse.pc)
  get_filename_component(pc_dir "${pc}" DIRECTORY)
  set(ENV{PKG_CONFIG_PATH} ${pc_dir})
  run(${PKG_CONFIG} --modversion riverhorse)
  if(NOT output MATCHES "^${VERSION}")
    message(FATAL_ERROR "riverhorse.pc has the version ${output}")
  endif()
  run(${PKG_CONFIG} --cflags --libs riverhorse)
  string(STRIP "${output}" flags)
  separate_arguments(flags UNIX_COMMAND "${flags}")
  run(${CXX_COMPILER} -std=c++17 ${CMAKE_CURRENT_LIST_DIR}/use.cpp -o ${WORK_DIR}/consumer ${flags})
  run(${C_COMPILER} -std=c99 -Wall -Wextra -Wpedantic -Werror ${CMAKE_CURRENT_LIST_DIR}/use.c -o ${WORK_DIR}/consumer_c ${flags})
  set(ENV{LD_LIBRARY_PATH} ${pc_dir}/..)  # for a shared library in a place of its own
  run_consumer(${WORK_DIR}/consumer)
  run_consumer(${WORK_DIR}/consumer_c)
else()
  message(FATAL_ERROR "HOW=${HOW}?")
endif()
