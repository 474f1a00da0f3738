add_library(riverhorse_bad_files STATIC bad_files/builders.cpp bad_files/safetensors_cases.cpp bad_files/pickle_cases.cpp
            bad_files/zip_cases.cpp bad_files/checkpoint_cases.cpp)
target_include_directories(riverhorse_bad_files PUBLIC ${CMAKE_CURRENT_SOURCE_DIR})
# GCC 12 warns wrongly about every "text" + std::string() + ... (its bug 105651).
target_compile_options(riverhorse_bad_files PUBLIC $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)
target_link_libraries(riverhorse_bad_files PUBLIC riverhorse_checkpoint riverhorse_options)

riverhorse_test(formats_bad_files_test formats_bad_files_test.cpp bad_files/allocation_meter.cpp
                USES riverhorse_bad_files LABELS formats)
riverhorse_test(formats_tensor_file_test formats_tensor_file_test.cpp bad_files/allocation_meter.cpp
                USES riverhorse_bad_files LABELS formats)
riverhorse_test(checkpoint_test checkpoint_test.cpp USES riverhorse_bad_files LABELS formats)
riverhorse_test(config_test config_test.cpp USES riverhorse_checkpoint LABELS formats)
