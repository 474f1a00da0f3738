# Every pipeline through AMD's shader compiler, and the engine on an AMD GPU that computes nothing: see radv_pipelines.cpp.
# Needs Mesa's RADV (mesa-vulkan-drivers) and, to record, its shim (mesa-drm-shim); a Mesa unpacked elsewhere can be named by
# RIVERHORSE_MESA_ROOT. What is missing is skipped, and the test's output says what it was.
if(RIVERHORSE_VULKAN)
  set(RIVERHORSE_MESA_ROOT "" CACHE PATH "A Mesa unpacked in a folder of its own, for the RADV tests; empty: the system's")
  add_executable(radv_pipelines radv_pipelines.cpp)
  target_link_libraries(radv_pipelines PRIVATE riverhorse_options riverhorse_engine riverhorse_model riverhorse_checkpoint
                        riverhorse_registry riverhorse_vulkan)

  if(RIVERHORSE_MESA_ROOT)
    set(mesa_root ${RIVERHORSE_MESA_ROOT})
    set(radv_search NO_DEFAULT_PATH)
  else()
    set(mesa_root "")
    set(radv_search "")
  endif()
  unset(radv_icd CACHE)
  unset(radv_shim CACHE)
  unset(radv_library CACHE)
  find_file(radv_icd NAMES radeon_icd.${CMAKE_SYSTEM_PROCESSOR}.json radeon_icd.json
            PATHS ${mesa_root}/usr/share/vulkan/icd.d NO_DEFAULT_PATH)
  find_file(radv_shim NAMES libamdgpu_noop_drm_shim.so
            PATHS ${mesa_root}/usr/lib/${CMAKE_LIBRARY_ARCHITECTURE} ${mesa_root}/usr/lib ${mesa_root}/usr/lib64 NO_DEFAULT_PATH)
  find_file(radv_library NAMES libvulkan_radeon.so
            PATHS ${mesa_root}/usr/lib/${CMAKE_LIBRARY_ARCHITECTURE} ${mesa_root}/usr/lib ${mesa_root}/usr/lib64 NO_DEFAULT_PATH)
  if(radv_icd AND radv_library)
    # The driver by its full path: a Mesa in a folder of its own is not on the library path.
    file(READ ${radv_icd} radv_json)
    string(JSON radv_json SET "${radv_json}" ICD library_path "\"${radv_library}\"")
    set(radv_icd ${CMAKE_CURRENT_BINARY_DIR}/radv_icd.json)
    file(WRITE ${radv_icd} "${radv_json}")
  endif()

  # Generations: GCN 4, GCN 5, RDNA 1, 2, 3. Mesa 22.3 does not know the last one by this name, and aborts then; its
  # compiler for gfx1100, as it calls it, is a first version that spills where Mesa 25 does not.
  set(radv_families polaris10 vega10 navi10 navi21)
  set(radv_knows_navi31 "")
  if(radv_library)
    file(STRINGS ${radv_library} radv_knows_navi31 REGEX "^NAVI31$")
  endif()
  if(radv_knows_navi31)
    list(APPEND radv_families navi31)
  else()
    message(STATUS "this RADV does not know navi31 (Mesa 23 does): no pipeline is compiled for RDNA 3")
    add_test(NAME radv_compile_navi31 COMMAND ${CMAKE_COMMAND} -E echo "SKIPPED: this RADV does not know navi31; Mesa 23 does")
    set_tests_properties(radv_compile_navi31 PROPERTIES LABELS radv SKIP_REGULAR_EXPRESSION "SKIPPED")
  endif()
  foreach(family IN LISTS radv_families)
    add_test(NAME radv_compile_${family} COMMAND radv_pipelines compile)
    set_tests_properties(radv_compile_${family} PROPERTIES LABELS radv SKIP_RETURN_CODE 77 TIMEOUT 900
                         ENVIRONMENT "VK_DRIVER_FILES=${radv_icd};VK_ICD_FILENAMES=${radv_icd};RADV_FORCE_FAMILY=${family}")
  endforeach()

  # Waves of 32, as drivers other than RADV choose on RDNA.
  add_test(NAME radv_compile_navi21_wave32 COMMAND radv_pipelines compile)
  set_tests_properties(
    radv_compile_navi21_wave32 PROPERTIES LABELS radv SKIP_RETURN_CODE 77 TIMEOUT 900
    ENVIRONMENT "VK_DRIVER_FILES=${radv_icd};VK_ICD_FILENAMES=${radv_icd};RADV_FORCE_FAMILY=navi21;RADV_PERFTEST=cswave32")

  if(radv_shim)
    add_test(NAME radv_record_navi31 COMMAND radv_pipelines record ${CMAKE_CURRENT_SOURCE_DIR}/golden/lm/h3-hybrid/model.pt)
    set_tests_properties(
      radv_record_navi31 PROPERTIES LABELS radv SKIP_RETURN_CODE 77 TIMEOUT 900
      ENVIRONMENT "VK_DRIVER_FILES=${radv_icd};VK_ICD_FILENAMES=${radv_icd};LD_PRELOAD=${radv_shim};AMDGPU_GPU_ID=navi31")
  else()
    message(STATUS "libamdgpu_noop_drm_shim.so (mesa-drm-shim) was not found: the engine is not recorded as navi31")
    add_test(NAME radv_record_navi31 COMMAND ${CMAKE_COMMAND} -E echo
             "SKIPPED: libamdgpu_noop_drm_shim.so was not found; install mesa-drm-shim (bookworm-backports, Debian 13)")
    set_tests_properties(radv_record_navi31 PROPERTIES LABELS radv SKIP_REGULAR_EXPRESSION "SKIPPED")
  endif()

  # The table of all generations, on a stand-in for the program above.
  find_package(Python3 COMPONENTS Interpreter)
  if(Python3_FOUND)
    add_test(NAME radv_table_test COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/radv_table_test.py
                                          ${CMAKE_CURRENT_SOURCE_DIR}/radv_table.py)
    set_tests_properties(radv_table_test PROPERTIES LABELS radv TIMEOUT 60)
  endif()
endif()
