# What `cmake --install` puts where: the library with its headers, a CMake package, a pkg-config file, the program.
# Included by the top level, when both the library and the program are known.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(riverhorse_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/riverhorse)
# Components, a package each: runtime, dev, and the plug-ins mpi and cuda (beside their targets), which the program
# looks for in the folder riverhorse of the libraries (src/backend/own_library.cpp).
install(TARGETS riverhorse EXPORT riverhorse-targets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT dev
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT runtime NAMELINK_COMPONENT dev
        RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT runtime)
if(TARGET riverhorse_shared AND NOT BUILD_SHARED_LIBS)
  # To be loaded at run time; without the name that a linker looks for, which would take it instead of the static one.
  install(TARGETS riverhorse_shared LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT runtime NAMELINK_SKIP)
endif()
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/riverhorse DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT dev)
install(EXPORT riverhorse-targets NAMESPACE riverhorse:: DESTINATION ${riverhorse_package_dir} COMPONENT dev)
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT runtime)
if(TARGET riverhorse_program)
  install(TARGETS riverhorse_program RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT runtime)
endif()
install(DIRECTORY ${PROJECT_SOURCE_DIR}/samples/models/default DESTINATION ${CMAKE_INSTALL_DATADIR}/riverhorse/models
        COMPONENT runtime PATTERN "*.svg" EXCLUDE)
install(FILES ${PROJECT_SOURCE_DIR}/samples/python/riverhorse.py
              ${PROJECT_SOURCE_DIR}/samples/python/riverhorse_conversation.py
        DESTINATION ${CMAKE_INSTALL_DATADIR}/riverhorse/python COMPONENT runtime)
install(FILES ${PROJECT_SOURCE_DIR}/samples/csharp/Riverhorse.cs ${PROJECT_SOURCE_DIR}/samples/csharp/Native.cs
              ${PROJECT_SOURCE_DIR}/samples/csharp/Conversation.cs
        DESTINATION ${CMAKE_INSTALL_DATADIR}/riverhorse/csharp COMPONENT dev)
# The licences of what is compiled in, as the distribution has them.
foreach(package libvkfft-dev glslang-dev spirv-tools nlohmann-json3-dev libcli11-dev)
  if(EXISTS /usr/share/doc/${package}/copyright)
    install(FILES /usr/share/doc/${package}/copyright DESTINATION ${CMAKE_INSTALL_DOCDIR}/third_party RENAME ${package}
            COMPONENT runtime)
  endif()
endforeach()

# A static library leaves linking its dependencies to whoever links it, so both files must name them. They are read from
# the target, so that a dependency that nobody has described here stops the configuration and not a user.
#
# riverhorse_describe_link(LINK): adds one link item of the library to the variables below.
set(riverhorse_find_dependencies "")  # lines of the CMake package
set(riverhorse_pc_requires "")        # other packages' .pc names
set(riverhorse_pc_libs "-L\${libdir} -lriverhorse")
set(riverhorse_pc_cflags "")
macro(riverhorse_describe_link link)
  set(link "${link}")
  if("${link}" MATCHES "^PkgConfig::(.+)$")
    set(module "${${CMAKE_MATCH_1}_MODULE_NAME}")
    list(APPEND riverhorse_find_dependencies "find_dependency(PkgConfig)"
         "pkg_check_modules(${CMAKE_MATCH_1} REQUIRED IMPORTED_TARGET ${module})")
    list(APPEND riverhorse_pc_requires ${module})
  elseif("${link}" STREQUAL "fmt::fmt")
    list(APPEND riverhorse_find_dependencies "find_dependency(fmt)")
    list(APPEND riverhorse_pc_requires fmt)
  elseif("${link}" STREQUAL "Threads::Threads")
    list(APPEND riverhorse_find_dependencies "find_dependency(Threads)")
    list(APPEND riverhorse_pc_libs -pthread)
  elseif("${link}" STREQUAL "nlohmann_json::nlohmann_json")  # headers only
    list(APPEND riverhorse_find_dependencies "find_dependency(nlohmann_json)")
  elseif("${link}" STREQUAL "OpenMP::OpenMP_CXX")
    list(APPEND riverhorse_find_dependencies "find_dependency(OpenMP COMPONENTS CXX)")
    list(APPEND riverhorse_pc_libs ${OpenMP_CXX_FLAGS})
  elseif("${link}" MATCHES "^(glslang|SPIRV-Tools)")
    # No reliable .pc files: archives by name, with what they need in turn.
    if("${link}" MATCHES "^glslang::")
      list(APPEND riverhorse_find_dependencies "find_dependency(Threads)" "find_dependency(glslang CONFIG)")
    elseif(TARGET ${link})
      list(APPEND riverhorse_find_dependencies "find_dependency(SPIRV-Tools CONFIG)")
      if("${link}" MATCHES "opt$")
        list(APPEND riverhorse_find_dependencies "find_dependency(SPIRV-Tools-opt CONFIG)")
      endif()
    endif()
    riverhorse_archive_names(${link} names)
    list(APPEND riverhorse_pc_libs ${names})
  elseif("${link}" MATCHES "^[-/]")
    list(APPEND riverhorse_pc_libs "${link}")
  elseif(NOT TARGET "${link}")
    list(APPEND riverhorse_pc_libs "-l${link}")
  else()
    message(FATAL_ERROR "src/api/install.cmake does not know how a user of the static library finds ${link}")
  endif()
endmacro()

# -l names of an imported library and all that it links.
function(riverhorse_archive_names link result)
  string(REGEX REPLACE "^\\$<LINK_ONLY:(.*)>$" "\\1" link "${link}")
  set(names "")
  if(NOT TARGET "${link}")
    string(REGEX REPLACE "^(-l)?(.+)$" "-l\\2" names "${link}")
  elseif(link STREQUAL "Threads::Threads")
    set(names -pthread)
  else()
    get_target_property(type ${link} TYPE)
    if(NOT type STREQUAL "INTERFACE_LIBRARY")
      get_target_property(location ${link} LOCATION)
      get_filename_component(name "${location}" NAME_WE)
      string(REGEX REPLACE "^lib" "-l" names "${name}")
    endif()
    get_target_property(used ${link} INTERFACE_LINK_LIBRARIES)
    foreach(next IN LISTS used)
      riverhorse_archive_names("${next}" more)
      list(APPEND names ${more})
    endforeach()
  endif()
  set(${result} ${names} PARENT_SCOPE)
endfunction()

get_target_property(riverhorse_type riverhorse TYPE)
if(riverhorse_type STREQUAL "STATIC_LIBRARY")
  get_target_property(riverhorse_links riverhorse LINK_LIBRARIES)
  foreach(item IN LISTS riverhorse_links)
    if(NOT item MATCHES "^\\$<BUILD_INTERFACE")
      riverhorse_describe_link("${item}")
    endif()
  endforeach()
  # The last of equal names counts when archives are linked.
  list(REVERSE riverhorse_pc_libs)
  list(REMOVE_DUPLICATES riverhorse_pc_libs)
  list(REVERSE riverhorse_pc_libs)
  list(REMOVE_DUPLICATES riverhorse_find_dependencies)
  list(REMOVE_DUPLICATES riverhorse_pc_requires)
  list(APPEND riverhorse_pc_libs -lstdc++ -lm)
  set(riverhorse_pc_cflags -DRIVERHORSE_STATIC)
endif()
list(JOIN riverhorse_find_dependencies "\n" riverhorse_find_dependencies)
list(JOIN riverhorse_pc_requires " " riverhorse_pc_requires)
list(JOIN riverhorse_pc_libs " " riverhorse_pc_libs)
file(RELATIVE_PATH riverhorse_pc_to_prefix ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})

configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/riverhorse-config.cmake.in
                              ${PROJECT_BINARY_DIR}/riverhorse-config.cmake
                              INSTALL_DESTINATION ${riverhorse_package_dir})
# Before 1.0, a minor version may change what exists.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/riverhorse-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/riverhorse-config.cmake ${PROJECT_BINARY_DIR}/riverhorse-config-version.cmake
        DESTINATION ${riverhorse_package_dir} COMPONENT dev)

configure_file(${CMAKE_CURRENT_LIST_DIR}/riverhorse.pc.in ${PROJECT_BINARY_DIR}/riverhorse.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/riverhorse.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT dev)
