# An overlay port: it builds the sources that it lies in, four folders up, and downloads none.
get_filename_component(SOURCE_PATH "${CURRENT_PORT_DIR}/../../../../.." ABSOLUTE)

vcpkg_check_features(OUT_FEATURE_OPTIONS feature_options
  FEATURES
    tools  RIVERHORSE_BUILD_PROGRAM
    vulkan RIVERHORSE_VULKAN
)
set(vulkan_options "")
if("vulkan" IN_LIST FEATURES)
  # glslang's program compiles the shaders; it had another name before its version 14.
  find_program(glslang_program NAMES glslang glslangValidator
               PATHS "${CURRENT_HOST_INSTALLED_DIR}/tools/glslang" NO_DEFAULT_PATH REQUIRED)
  find_path(vkfft_include_dir vkFFT.h PATHS "${CURRENT_INSTALLED_DIR}/include" PATH_SUFFIXES vkFFT VkFFT
            NO_DEFAULT_PATH REQUIRED)
  set(vulkan_options "-DGLSLANG_VALIDATOR=${glslang_program}" "-DRIVERHORSE_VKFFT_INCLUDE_DIR=${vkfft_include_dir}")
endif()

vcpkg_cmake_configure(
  SOURCE_PATH "${SOURCE_PATH}"
  OPTIONS
    ${feature_options}
    ${vulkan_options}
    -DRIVERHORSE_BUILD_TESTS=OFF
    -DRIVERHORSE_BUILD_SAMPLES=OFF
    -DRIVERHORSE_INSTALL=ON
    -DRIVERHORSE_CUDA=OFF
    -DRIVERHORSE_MPI=OFF
    "-DPKG_CONFIG_EXECUTABLE=${CURRENT_HOST_INSTALLED_DIR}/tools/pkgconf/pkgconf${VCPKG_HOST_EXECUTABLE_SUFFIX}"
)
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(CONFIG_PATH lib/cmake/riverhorse)
vcpkg_fixup_pkgconfig()
if("tools" IN_LIST FEATURES)
  vcpkg_copy_tools(TOOL_NAMES riverhorse AUTO_CLEAN)
endif()
if(VCPKG_LIBRARY_LINKAGE STREQUAL "static")
  # The shared library beside the static one, for programs that load it at run time, is for packages of a system.
  file(GLOB shared "${CURRENT_PACKAGES_DIR}/lib/libriverhorse.so*" "${CURRENT_PACKAGES_DIR}/debug/lib/libriverhorse.so*")
  if(shared)
    file(REMOVE ${shared})
  endif()
endif()
file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/debug/include" "${CURRENT_PACKAGES_DIR}/debug/share")
file(INSTALL "${CURRENT_PORT_DIR}/usage" DESTINATION "${CURRENT_PACKAGES_DIR}/share/${PORT}")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
