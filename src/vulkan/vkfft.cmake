# VkFFT as the target riverhorse_vkfft: a header, its glslang libraries, and a copy made here where the header needs one.
#
# 1.3.x compiles as it is. 1.2.x fills glslang's resource limits by position, and glslang 12 and later have nine fields
# (mesh shader limits) that it does not know: the copy gets values for them.
set(RIVERHORSE_VKFFT_INCLUDE_DIR "" CACHE PATH "Folder with vkFFT.h, when another than the system's is wanted")

# glslang's package file needs Threads::Threads, which the top level finds.
find_package(glslang CONFIG REQUIRED)
find_package(SPIRV-Tools-opt CONFIG REQUIRED)

unset(riverhorse_vkfft_header CACHE)
if(RIVERHORSE_VKFFT_INCLUDE_DIR)
  find_file(riverhorse_vkfft_header vkFFT.h PATHS ${RIVERHORSE_VKFFT_INCLUDE_DIR} NO_DEFAULT_PATH)
else()
  find_file(riverhorse_vkfft_header vkFFT.h PATH_SUFFIXES vkFFT)
endif()
find_path(riverhorse_glslang_include_dir glslang/Include/glslang_c_interface.h)
if(NOT riverhorse_vkfft_header OR NOT riverhorse_glslang_include_dir)
  message(FATAL_ERROR "The Vulkan backend needs VkFFT and glslang's headers: install libvkfft-dev and glslang-dev, set "
                      "RIVERHORSE_VKFFT_INCLUDE_DIR to a folder with vkFFT.h, or configure with -DRIVERHORSE_VULKAN=OFF")
endif()
get_filename_component(riverhorse_vkfft_dir ${riverhorse_vkfft_header} DIRECTORY)

file(READ ${riverhorse_vkfft_header} riverhorse_vkfft_text)
if(NOT riverhorse_vkfft_text MATCHES "VkFFTGetVersion\\(\\)[ \r\n]*{[ \r\n\t]*return ([0-9]+);")
  message(FATAL_ERROR "${riverhorse_vkfft_header} does not tell its version")
endif()
set(riverhorse_vkfft_version ${CMAKE_MATCH_1})  # 10304 is 1.3.4
if(riverhorse_vkfft_version LESS 10226 OR riverhorse_vkfft_version GREATER_EQUAL 10400)
  message(WARNING "VkFFT ${riverhorse_vkfft_version} was never tried; 1.2.26 and 1.3.4 were")
endif()

file(STRINGS ${riverhorse_glslang_include_dir}/glslang/Include/glslang_c_interface.h riverhorse_mesh_fields
     REGEX "max_mesh_output_vertices_ext")
if(riverhorse_mesh_fields AND riverhorse_vkfft_version LESS 10300
   AND NOT riverhorse_vkfft_text MATCHES "maxMeshOutputVerticesEXT")
  set(riverhorse_view_count "/* .maxMeshViewCountNV = */ 4,")
  string(REPLACE "${riverhorse_view_count}" "${riverhorse_view_count} 256, 512, 32, 1, 1, 32, 1, 1, 4,"
                 riverhorse_vkfft_text "${riverhorse_vkfft_text}")
  set(riverhorse_vkfft_dir ${CMAKE_CURRENT_BINARY_DIR}/vkfft)
  file(CONFIGURE OUTPUT ${riverhorse_vkfft_dir}/vkFFT.h CONTENT "${riverhorse_vkfft_text}" @ONLY ESCAPE_QUOTES)
  set(riverhorse_vkfft_note ", patched for this glslang")
endif()
unset(riverhorse_vkfft_text)
message(STATUS "VkFFT ${riverhorse_vkfft_version} in ${riverhorse_vkfft_header}${riverhorse_vkfft_note}")

add_library(riverhorse_vkfft INTERFACE)
target_include_directories(riverhorse_vkfft SYSTEM INTERFACE ${riverhorse_glslang_include_dir}
                                                             ${riverhorse_glslang_include_dir}/glslang/Include)
target_compile_definitions(riverhorse_vkfft INTERFACE VKFFT_BACKEND=0)
foreach(library glslang MachineIndependent GenericCodeGen OSDependent OGLCompiler SPIRV)  # some are gone in glslang 14
  if(TARGET glslang::${library})
    target_link_libraries(riverhorse_vkfft INTERFACE glslang::${library})
  endif()
endforeach()
target_link_libraries(riverhorse_vkfft INTERFACE SPIRV-Tools-opt Threads::Threads)
