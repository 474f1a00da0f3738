# From text files to token files.
foreach(name token_file_test text_documents_test dataset_test bpe_trainer_test)
  riverhorse_test(${name} ${name}.cpp USES riverhorse_data LABELS data)
endforeach()

if(TARGET riverhorse_program)
  riverhorse_test(tokenize_cli_test tokenize_cli_test.cpp USES riverhorse_data LABELS program)
  target_compile_definitions(tokenize_cli_test PRIVATE RIVERHORSE_PROGRAM="$<TARGET_FILE:riverhorse_program>")
  add_dependencies(tokenize_cli_test riverhorse_program)
endif()
